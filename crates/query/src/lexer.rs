//! Text to tokens.
//!
//! Invariant: there are at most as many tokens as characters, and the text was measured before.

use crate::error::quoted;
use crate::limits::MAX_QUERY_CHARACTERS;
use crate::{Position, QueryError, QueryErrorKind};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A keyword, or a part of a path.
    Word(&'a str),
    /// `[[name]]`, or `$name`: a part of a path, never a keyword.
    Name(&'a str),
    /// A number, as written and as its value.
    Number(&'a str, f64),
    /// A string without its quotes and escapes.
    String(String),
    /// An operator or a bracket.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

impl Token<'_> {
    /// For a message.
    pub(crate) fn found(&self) -> String {
        match self {
            Token::Word(text) | Token::Name(text) | Token::Number(text, _) => quoted(text),
            Token::String(text) => format!("the string {}", quoted(text)),
            Token::Symbol(text) => quoted(text),
            Token::End => "the end of the query".to_owned(),
        }
    }
}

/// Longer ones first.
const SYMBOLS: [&str; 18] = [
    "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ",", ".", "+", "-", "*", "/", "%",
];

struct Lexer<'a> {
    rest: &'a str,
    position: Position,
}

/// All tokens, the last of them [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token<'_>, Position)>, QueryError> {
    // Four bytes are the longest character, so that a text of megabytes is not even counted.
    if text.len() > 4 * MAX_QUERY_CHARACTERS || text.chars().count() > MAX_QUERY_CHARACTERS {
        return Err(QueryError::new(Position::START, QueryErrorKind::TooLong));
    }
    let mut lexer = Lexer {
        rest: text,
        position: Position::START,
    };
    let mut tokens = Vec::new();
    loop {
        let spaces = lexer.rest.len() - lexer.rest.trim_start().len();
        lexer.take(spaces);
        let position = lexer.position;
        let token = lexer
            .token()
            .map_err(|(position, kind)| QueryError::new(position, kind))?;
        let end = token == Token::End;
        tokens.push((token, position));
        if end {
            return Ok(tokens);
        }
    }
}

fn begins_word(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn continues_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

type Failure = (Position, QueryErrorKind);

impl<'a> Lexer<'a> {
    /// Removes `bytes` from the front; they end at a character.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        for c in taken.chars() {
            if c == '\n' {
                self.position.line += 1;
                self.position.column = 1;
            } else {
                self.position.column += 1;
            }
        }
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn token(&mut self) -> Result<Token<'a>, Failure> {
        let mut characters = self.rest.chars();
        let Some(first) = characters.next() else {
            return Ok(Token::End);
        };
        let second = characters.next();
        if begins_word(first) {
            return Ok(Token::Word(self.take_while(continues_word)));
        }
        if first == '$' && second.is_some_and(continues_word) {
            let whole = self.rest;
            self.take(1);
            let length = 1 + self.take_while(continues_word).len();
            return Ok(Token::Name(&whole[..length]));
        }
        if first.is_ascii_digit() || (first == '.' && second.is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        match first {
            '\'' | '"' => self.string(first),
            '[' if second == Some('[') => self.escaped_name(),
            _ => {
                let symbol = SYMBOLS.iter().find(|symbol| self.rest.starts_with(**symbol));
                let symbol = symbol.ok_or((self.position, QueryErrorKind::Character(first)))?;
                self.take(symbol.len());
                Ok(Token::Symbol(symbol))
            }
        }
    }

    fn number(&mut self) -> Result<Token<'a>, Failure> {
        let (start, whole) = (self.position, self.rest);
        if let Some(digits) = whole.strip_prefix("0x").or_else(|| whole.strip_prefix("0X")) {
            let digits = &digits[..digits.find(|c| !continues_word(c)).unwrap_or(digits.len())];
            let text = self.take(2 + digits.len());
            // 52 bits are exact; more would be rounded without a word.
            return match u64::from_str_radix(digits, 16) {
                Ok(value) if value < 1 << 53 => Ok(Token::Number(text, value as f64)),
                _ => Err((start, QueryErrorKind::Number(quoted(text)))),
            };
        }
        self.take_while(|c| c.is_ascii_digit());
        // A dot that is not followed by a digit is not the number's.
        if self
            .rest
            .strip_prefix('.')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        {
            self.take(1);
            self.take_while(|c| c.is_ascii_digit());
        }
        if let Some(exponent) = self.rest.strip_prefix(['e', 'E']) {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.starts_with(|c: char| c.is_ascii_digit()) {
                self.take(1 + exponent.len() - digits.len());
                self.take_while(|c| c.is_ascii_digit());
            }
        }
        // `2nd` is neither a number nor a name.
        self.take_while(continues_word);
        let text = &whole[..whole.len() - self.rest.len()];
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Token::Number(text, value)),
            _ => Err((start, QueryErrorKind::Number(quoted(text)))),
        }
    }

    fn string(&mut self, quote: char) -> Result<Token<'a>, Failure> {
        let start = self.position;
        self.take(1);
        let mut value = String::new();
        loop {
            value.push_str(self.take_while(|c| c != quote && c != '\\'));
            let Some(next) = self.rest.chars().next() else {
                return Err((start, QueryErrorKind::OpenString));
            };
            if next == quote {
                self.take(1);
                return Ok(Token::String(value));
            }
            let escape = (self.position, QueryErrorKind::Escape);
            value.push(self.escape().ok_or(escape)?);
        }
    }

    /// The character of an escape; two escapes for one outside of the basic plane, as in JSON.
    fn escape(&mut self) -> Option<char> {
        let kind = self.rest.chars().nth(1)?;
        if kind != 'u' {
            self.take(1 + kind.len_utf8());
            return ['\'', '"', '\\'].contains(&kind).then_some(kind);
        }
        let first = self.code_unit()?;
        if (0xD800..0xDC00).contains(&first) {
            let second = self.code_unit().filter(|unit| (0xDC00..0xE000).contains(unit))?;
            return char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00));
        }
        char::from_u32(first)
    }

    fn code_unit(&mut self) -> Option<u32> {
        let digits = self.rest.strip_prefix("\\u")?.get(..4)?;
        let value = digits.bytes().try_fold(0, |value, digit| {
            char::from(digit).to_digit(16).map(|digit| value * 16 + digit)
        })?;
        self.take(6);
        Some(value)
    }

    fn escaped_name(&mut self) -> Result<Token<'a>, Failure> {
        let start = self.position;
        self.take(2);
        let end = self.rest.find("]]").ok_or((start, QueryErrorKind::OpenName))?;
        let name = self.take(end);
        self.take(2);
        if name.is_empty() {
            return Err((start, QueryErrorKind::EmptyName));
        }
        Ok(Token::Name(name))
    }
}
