//! Paging parameters of a query (Spec rest §1.1).

use holdfast_model::limits::MAX_LIST_DEVICES;
pub(super) use holdfast_net::http_api::query;
use http::Uri;

use super::error::ApiError;

/// The size of a page that a query parameter asks for: a number outside 1 to the maximum counts as the maximum, as the
/// cloud has it, and so does an absent parameter.
///
/// # Errors
/// 400004 for a text that is not a whole number.
pub(super) fn page_size(uri: &Uri, name: &str) -> Result<usize, ApiError> {
    let Some(text) = query(uri, name) else {
        return Ok(MAX_LIST_DEVICES);
    };
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::invalid(format!("{name} must be a whole number")));
    }
    // A number too large for the type is outside the range too.
    let size = text
        .parse::<usize>()
        .ok()
        .filter(|size| (1..=MAX_LIST_DEVICES).contains(size));
    Ok(size.unwrap_or(MAX_LIST_DEVICES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_out_of_range_count_as_the_maximum() {
        let size = |query: &str| page_size(&Uri::try_from(format!("/devices?{query}")).unwrap(), "top");
        for (query, expected) in [
            ("", 1000),
            ("top=1", 1),
            ("top=1000", 1000),
            ("top=1001", 1000),
            ("top=0", 1000),
            ("top=-1", 1000),
            ("TOP=2147483647", 1000),
            ("top=99999999999999999999999999", 1000),
        ] {
            assert_eq!(size(query).unwrap(), expected, "{query}");
        }
        for query in ["top=", "top=x", "top=1.5", "top=-", "top=0x10"] {
            assert_eq!(size(query).unwrap_err().code.number(), 400_004, "{query}");
        }
    }
}
