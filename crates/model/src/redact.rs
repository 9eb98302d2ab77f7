//! Takes secrets out of a peer's text before the hub repeats it in a log, the audit log or an error.
//!
//! Why: people put a connection string where a user name or a device id belongs, and a record of the refusal gives its key to the
//! readers of logs.
//! Invariant: finds what says that it is a secret (`SharedAccessKey=…`, `sig=…`), in any case, plain or percent-encoded. A bare
//! key in the place of an id cannot be told from an id.

use std::borrow::Cow;

/// Names that a secret follows, in lower case.
const NAMES: [&str; 4] = ["sharedaccesskey", "sharedaccesssignature", "sig", "accountkey"];

/// Fewer characters are no secret, but part of a sentence about one.
const MIN_SECRET: usize = 8;

/// `text` with `…` in the place of each secret.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let lower = text.to_ascii_lowercase();
    let mut out = String::new();
    let mut kept = 0;
    let mut from = 0;
    while let Some((start, end)) = next_secret(&lower, from) {
        out.push_str(&text[kept..start]);
        out.push('…');
        kept = end;
        from = end;
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[kept..]);
    Cow::Owned(out)
}

/// The next secret at or behind `from`: where it starts and ends. Offsets hold for the text in any case.
fn next_secret(lower: &str, mut from: usize) -> Option<(usize, usize)> {
    loop {
        let (at, sign) = ["=", "%3d"]
            .into_iter()
            .filter_map(|sign| Some((from + lower[from..].find(sign)?, sign)))
            .min()?;
        let start = at + sign.len();
        let is_name = |name: &&str| {
            let before = lower[..at].strip_suffix(*name);
            before.is_some_and(|before| !before.ends_with(|c: char| c.is_ascii_alphanumeric()) || encoded(before))
        };
        if NAMES.iter().any(is_name) {
            let is_end = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ';' | '&' | '"' | '\'' | ',');
            let length = lower[start..].find(is_end).unwrap_or(lower.len() - start);
            // An encoded separator ends an encoded secret.
            let encoded = ["%3b", "%26"]
                .into_iter()
                .filter_map(|end| lower[start..start + length].find(end));
            let length = encoded.min().unwrap_or(length);
            if length >= MIN_SECRET {
                return Some((start, start + length));
            }
        }
        from = start;
    }
}

/// Whether the text ends with a percent-encoded character, whose digits are no part of a name.
fn encoded(text: &str) -> bool {
    text.len() >= 3 && text.as_bytes()[text.len() - 3] == b'%'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_and_the_rest_stays() {
        for (text, expected) in [
            (
                "HostName=h;DeviceId=d;SharedAccessKey=AAECAwQFBgcICQ==;x=1",
                "HostName=h;DeviceId=d;SharedAccessKey=…;x=1",
            ),
            (
                "SharedAccessSignature sr=h%2Fdevices%2Fd&sig=AAECAwQFBgcICQ%3D%3D&se=1",
                "SharedAccessSignature sr=h%2Fdevices%2Fd&sig=…&se=1",
            ),
            (
                "/devices/HostName%3Dh%3BSHAREDACCESSKEY%3DAAECAwQFBgcICQ%3D%3D%3Bx",
                "/devices/HostName%3Dh%3BSHAREDACCESSKEY%3D…%3Bx",
            ),
            (
                "sharedAccessKey=AAECAwQFBgcICQ sig=0123456789",
                "sharedAccessKey=… sig=…",
            ),
            ("the signature (sig) is missing", "the signature (sig) is missing"),
            ("SharedAccessKey= is missing", "SharedAccessKey= is missing"),
            ("mysig=0123456789", "mysig=0123456789"),
            ("grüße;SharedAccessKey=AAECAwQFBgcICQ;ä", "grüße;SharedAccessKey=…;ä"),
        ] {
            assert_eq!(redact(text), expected);
        }
        assert!(matches!(redact("a device"), Cow::Borrowed(_)));
    }
}
