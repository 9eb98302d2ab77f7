//! Takes secrets out of texts that leave the machine. Pure.
//!
//! Why although none should be there: people put keys into URLs and arguments, and a log line of a library is not ours.

/// What a secret follows. Its end is the first character that no such secret has.
const BEFORE: &[&str] = &[
    "sharedaccesskey=",
    "accountkey=",
    "sig=",
    "signature=",
    "password=",
    "passwd=",
    "secret=",
    "token=",
    "?code=",
    "&code=",
    "apikey=",
    "api_key=",
    "bearer ey",
    "authorization: basic ",
];
/// What replaces it.
const HIDDEN: &str = "(hidden)";
/// Keys whose whole value is hidden but for the first word of a list: arguments of programs.
const ARGUMENTS: &[&str] = &["key_command", "command"];

/// `text` without what looks like a key, a token, or a password in a URL.
pub(super) fn redact(text: &str) -> String {
    let mut in_pem = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        // A certificate is no secret; a key in the same form is, and neither helps.
        let begins = !in_pem && line.contains("-----BEGIN");
        in_pem = (in_pem || begins) && !line.contains("-----END");
        if begins {
            out.push_str(HIDDEN);
            out.push('\n');
        } else if !in_pem && !line.contains("-----END") {
            out.push_str(&redact_line(line));
        }
    }
    out
}

/// A configuration in TOML: also without the arguments of programs and the queries of URLs.
pub(super) fn redact_config(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            let key = line.split('=').next().unwrap_or_default().trim();
            match key {
                key if ARGUMENTS.contains(&key) => without_arguments(line),
                _ => redact_line(&without_queries(line)),
            }
        })
        .collect()
}

fn is_of_secret(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+/=%-_.~:".contains(c)
}

fn redact_line(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    while at < line.len() {
        let next = BEFORE
            .iter()
            .filter_map(|before| Some((lower[at..].find(before)? + at, before.len())))
            .min();
        let Some((found, length)) = next else { break };
        let begin = found + length;
        let end = line[begin..]
            .find(|c| !is_of_secret(c))
            .map_or(line.len(), |end| begin + end);
        out.push_str(&line[at..begin]);
        if end > begin {
            out.push_str(HIDDEN);
        }
        at = end;
    }
    out.push_str(&line[at..]);
    without_user_information(&out)
}

/// `scheme://user:password@host` without what precedes the `@`.
fn without_user_information(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || "/?#\"'<>,".contains(c))
            .unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(sign) => {
                out.push_str(HIDDEN);
                rest = &after[sign..];
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

/// URLs without their queries.
fn without_queries(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let end = rest[at..]
            .find(|c: char| c.is_whitespace() || "\"',".contains(c))
            .map_or(rest.len(), |end| at + end);
        let url = &rest[..end];
        match url[at..].find('?') {
            Some(query) => {
                out.push_str(&url[..=at + query]);
                out.push_str(HIDDEN);
            }
            None => out.push_str(url),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// `key = ["program", "argument"]` without the arguments.
fn without_arguments(line: &str) -> String {
    let mut parts = line.splitn(3, '"');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(before), Some(program), Some(after)) if after.contains('"') => {
            format!("{before}\"{program}\", \"{HIDDEN}\"]\n")
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tokens_and_passwords_are_hidden_and_the_rest_stays() {
        for (text, expected) in [
            ("nothing to hide: 12 = 12\n", "nothing to hide: 12 = 12\n"),
            (
                "HostName=h;SharedAccessKeyName=owner;SharedAccessKey=AAEC/+w=;x\n",
                "HostName=h;SharedAccessKeyName=owner;SharedAccessKey=(hidden);x\n",
            ),
            ("sr=h&sig=a%2Bb%3D&se=1", "sr=h&sig=(hidden)&se=1"),
            (
                "authorization: Bearer eyJh.eyJz.c2ln end",
                "authorization: Bearer ey(hidden) end",
            ),
            ("bearer tokens of an issuer", "bearer tokens of an issuer"),
            ("to http://h/x?code=abc", "to http://h/x?code=(hidden)"),
            ("code=404001 reason=\"token\"", "code=404001 reason=\"token\""),
            (
                "a\n-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\nb\n",
                "a\n(hidden)\nb\n",
            ),
            (
                "to https://me:pw@host/path and amqp://host",
                "to https://(hidden)@host/path and amqp://host",
            ),
            ("key=SHAREDACCESSKEY=abc", "key=SHAREDACCESSKEY=(hidden)"),
            ("ends with sig=", "ends with sig="),
            ("ü SharedAccessKey=ä", "ü SharedAccessKey=ä"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn a_configuration_loses_arguments_and_queries() {
        let text = "key_command = [\"/bin/kms\", \"--pin\", \"1234\"]\nkey_command = []\nwebhook = \"https://h/x?code=1&k=v\"\nlisten = [\"[::]:8883\"]\n";
        let expected = "key_command = [\"/bin/kms\", \"(hidden)\"]\nkey_command = []\nwebhook = \"https://h/x?(hidden)\"\nlisten = [\"[::]:8883\"]\n";
        assert_eq!(redact_config(text), expected);
        assert_eq!(
            redact_config("key_command = [\"/bin/cat\"]\n"),
            "key_command = [\"/bin/cat\"]\n"
        );
    }
}
