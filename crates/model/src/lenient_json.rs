//! Rewrites relaxed JSON to strict JSON, where its meaning is unambiguous (Spec rest §1.5).
//!
//! Why: the cloud reads bodies with Json.NET, and tutorials and clients that are copied widely rely on it: unquoted names,
//! single quotes, trailing commas, comments.
//! Invariants: a strict text is not changed but for raw control characters in strings; the result is as deep as the input
//! and at most six times as long; anything else stays as it is, for the strict parser to refuse.
//! Not here: `NaN`, `undefined`, hexadecimal numbers and `new Date(…)`, which Json.NET reads too and JSON cannot store.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::CharIndices;

/// The strict text of `relaxed`; `None` when a comment or a string does not end.
#[must_use]
pub fn to_strict(relaxed: &str) -> Option<String> {
    let mut rewriter = Rewriter {
        text: relaxed,
        rest: relaxed.char_indices().peekable(),
        strict: String::with_capacity(relaxed.len() + 16),
        last: '\0',
    };
    rewriter.run()?;
    Some(rewriter.strict)
}

struct Rewriter<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
    strict: String,
    /// The last character outside strings that is neither space nor comment; a quote represents a string.
    last: char,
}

impl Rewriter<'_> {
    fn run(&mut self) -> Option<()> {
        while let Some((at, c)) = self.rest.next() {
            match c {
                '"' | '\'' => self.string(c)?,
                '/' => self.comment()?,
                ',' if self.is_trailing(at + 1)? => {}
                c if is_name(c) => self.word(at, c)?,
                c => {
                    self.strict.push(c);
                    if !c.is_whitespace() {
                        self.last = c;
                    }
                }
            }
        }
        Some(())
    }

    fn string(&mut self, quote: char) -> Option<()> {
        self.strict.push('"');
        loop {
            match self.rest.next()?.1 {
                c if c == quote => break,
                '\\' => match self.rest.next()?.1 {
                    '\'' => self.strict.push('\''),
                    escaped => self.strict.extend(['\\', escaped]),
                },
                '"' => self.strict.push_str("\\\""),
                c if c.is_ascii_control() && c != '\x7f' => {
                    // Writing to a string cannot fail.
                    let _ = write!(self.strict, "\\u{:04x}", u32::from(c));
                }
                c => self.strict.push(c),
            }
        }
        self.strict.push('"');
        self.last = '"';
        Some(())
    }

    /// Skips a comment whose first `/` has been read.
    fn comment(&mut self) -> Option<()> {
        match self.rest.peek() {
            Some((_, '/')) => while self.rest.next().is_some_and(|(_, c)| c != '\n') {},
            Some((_, '*')) => {
                self.rest.next();
                loop {
                    if self.rest.next()?.1 == '*' && self.rest.next_if(|(_, c)| *c == '/').is_some() {
                        break;
                    }
                }
            }
            _ => self.strict.push('/'),
        }
        // Words on both sides of a comment stay two words.
        self.strict.push(' ');
        Some(())
    }

    /// Copies a literal, number or name; a name before a colon in an object gets its quotes.
    fn word(&mut self, at: usize, first: char) -> Option<()> {
        let mut end = at + first.len_utf8();
        while let Some((at, c)) = self.rest.next_if(|(_, c)| is_name(*c)) {
            end = at + c.len_utf8();
        }
        let word = &self.text[at..end];
        let is_field = matches!(self.last, '{' | ',') && next_token(&self.text[end..])? == Some(':');
        if is_field {
            self.strict.extend(['"']);
            self.strict.push_str(word);
            self.strict.push('"');
        } else {
            self.strict.push_str(word);
        }
        self.last = 'w';
        Some(())
    }

    /// Whether the comma before `at` follows a value and ends an object or array.
    fn is_trailing(&self, at: usize) -> Option<bool> {
        let follows_value = !matches!(self.last, '\0' | '{' | '[' | ',' | ':');
        Some(follows_value && matches!(next_token(&self.text[at..])?, Some('}' | ']')))
    }
}

/// Characters of unquoted names, as Json.NET takes them; numbers and literals consist of them too.
fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The first character that is neither space nor comment; `None` when a comment does not end.
fn next_token(mut text: &str) -> Option<Option<char>> {
    loop {
        text = text.trim_start();
        if let Some(line) = text.strip_prefix("//") {
            text = line.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(block) = text.strip_prefix("/*") {
            text = block.split_once("*/")?.1;
        } else {
            return Some(text.chars().next());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(relaxed: &str) -> String {
        let strict = to_strict(relaxed).unwrap();
        serde_json::from_str::<serde_json::Value>(&strict)
            .map_or_else(|_| format!("invalid: {strict}"), |value| value.to_string())
    }

    #[test]
    fn the_forms_of_json_net_mean_what_their_writers_mean() {
        for (relaxed, expected) in [
            (r#"{deviceId: "x"}"#, r#"{"deviceId":"x"}"#),
            (r#"{'deviceId': 'x'}"#, r#"{"deviceId":"x"}"#),
            (r#"{"deviceId":"x",}"#, r#"{"deviceId":"x"}"#),
            (r#"{"deviceId":"x" /* c */}"#, r#"{"deviceId":"x"}"#),
            ("{// c\n $a_1:[1,2,/**/],// d", "invalid"),
            ("{// c\n $a_1:[1,2,/**/],}// d", r#"{"$a_1":[1,2]}"#),
            (r#"{'a"b':'it\'s',"c":"it\'s"}"#, r#"{"a\"b":"it's","c":"it's"}"#),
            ("{a:'1\n2'}", r#"{"a":"1\n2"}"#),
            (
                r#"{true:true,null:null,1:-1.5e3}"#,
                r#"{"true":true,"null":null,"1":-1500.0}"#,
            ),
            (r#"{"a":"x // y, } /* z"}"#, r#"{"a":"x // y, } /* z"}"#),
            (r#"{ä:"ö"}"#, r#"{"ä":"ö"}"#),
        ] {
            let actual = strict(relaxed);
            assert!(
                actual == expected || (expected == "invalid" && actual.starts_with(expected)),
                "{relaxed}: {actual}"
            );
        }
    }

    #[test]
    fn ambiguous_texts_stay_invalid() {
        for relaxed in [
            "[,]",
            "[1,,]",
            "{,}",
            "[a]",
            "{a}",
            "{a:b}",
            "{a:1 b:2}",
            "[a:1]",
            "{a:NaN}",
            "{a:0x10}",
            "{a:undefined}",
            "tr/**/ue",
            "{a:,}",
        ] {
            assert!(strict(relaxed).starts_with("invalid"), "{relaxed}: {}", strict(relaxed));
        }
        for unfinished in ["'", "\"", "/*", "{a /*", "'\\"] {
            assert_eq!(to_strict(unfinished), None, "{unfinished}");
        }
    }

    #[test]
    fn strict_texts_stay_as_they_are() {
        let text = r#"{"a":[1,2.5e-3,true,false,null,"x\\\"'y\u0041"],"b":{}, "c" : [ ] }"#;
        assert_eq!(to_strict(text).as_deref(), Some(text));
    }
}
