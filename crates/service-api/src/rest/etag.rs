//! `If-Match` in all the forms that SDKs send (Spec rest §1.4).

use holdfast_registry::IfMatch;
use http::HeaderMap;
use http::header::{IF_MATCH, IF_NONE_MATCH};

use super::error::ApiError;

/// The condition of a request; `None` without the header.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, ApiError> {
    let Some(value) = headers.get(IF_MATCH) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| ApiError::invalid("If-Match must be ASCII text"))?;
    Ok(Some(parse(text)))
}

/// Whether the request is to create only: `If-None-Match: *`.
pub(super) fn must_create(headers: &HeaderMap) -> Result<bool, ApiError> {
    let Some(value) = headers.get(IF_NONE_MATCH) else {
        return Ok(false);
    };
    match value.to_str().map(parse) {
        Ok(IfMatch::Any) => Ok(true),
        Ok(IfMatch::ETag(_)) | Err(_) => Err(ApiError::invalid("If-None-Match must be *")),
    }
}

/// Strips `W/`, then one pair of quotes, or two where old clients doubled them. `*` in any of these means any.
pub(super) fn parse(text: &str) -> IfMatch {
    let mut text = text.trim();
    if let Some(rest) = text.strip_prefix("W/") {
        text = rest;
    }
    for _ in 0..2 {
        match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(inner) => text = inner,
            None => break,
        }
    }
    if text == "*" {
        IfMatch::Any
    } else {
        IfMatch::ETag(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_sdks_send_means_the_same() {
        for form in ["abc", "\"abc\"", "W/\"abc\"", "\"\"abc\"\"", " \"abc\" "] {
            assert_eq!(parse(form), IfMatch::ETag("abc".to_owned()), "{form}");
        }
        for form in ["*", "\"*\"", "W/\"*\""] {
            assert_eq!(parse(form), IfMatch::Any, "{form}");
        }
        for form in ["\"", "\"abc", "abc\"", ""] {
            assert_eq!(parse(form), IfMatch::ETag(form.to_owned()), "{form}");
        }
    }
}
