//! Pages of enrollments and registrations (Spec provisioning §9.5).

use std::ops::ControlFlow;

use data_encoding::BASE64URL_NOPAD;
use holdfast_model::json::quoted;
use holdfast_net::http_api::Reply;
use http::HeaderMap;
use serde_json::Value;

use super::super::error::ApiError;
use super::super::json::Fields;

const PAGE_SIZE: &str = "x-ms-max-item-count";
const CONTINUATION: &str = "x-ms-continuation";
/// SDKs need it, and in this case of letters.
const ITEM_TYPE: &str = "x-ms-item-type";

/// Items of a page unless the client says how many.
const DEFAULT_PAGE: usize = 100;

/// Most items of a page.
const MAX_PAGE: usize = 1000;

/// Collections that a query may name: the path says which one it is of.
const COLLECTIONS: [&str; 3] = ["enrollments", "enrollmentGroups", "deviceRegistrations"];

/// Which page is read.
pub(super) struct Page {
    /// The id of the last item of the page before.
    pub(super) after: Option<String>,
    most: usize,
    items: Vec<String>,
    last: Option<String>,
    has_more: bool,
}

impl Page {
    /// Reads the headers.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let header = |name: &str| {
            let value = headers.get(name).map(|value| value.to_str().unwrap_or("?"));
            value.filter(|text| !text.is_empty())
        };
        let most = match header(PAGE_SIZE) {
            None => DEFAULT_PAGE,
            Some(text) => {
                let invalid = || ApiError::invalid(format!("{PAGE_SIZE} must be a number"));
                let number: i64 = text.trim().parse().map_err(|_| invalid())?;
                // 0 and -1 mean that the client has no wish.
                usize::try_from(number)
                    .ok()
                    .filter(|most| *most > 0)
                    .unwrap_or(DEFAULT_PAGE)
            }
        };
        let after = match header(CONTINUATION) {
            None => None,
            Some(text) => {
                let id = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
                let id = id.and_then(|id| String::from_utf8(id).ok());
                let invalid = || ApiError::invalid(format!("{CONTINUATION} is none that this service has given"));
                Some(id.ok_or_else(invalid)?)
            }
        };
        Ok(Self {
            after,
            most: most.min(MAX_PAGE),
            items: Vec::new(),
            last: None,
            has_more: false,
        })
    }

    /// Takes an item, unless the page is full.
    pub(super) fn take(&mut self, id: &str, document: &Value) -> ControlFlow<()> {
        if self.items.len() == self.most {
            self.has_more = true;
            return ControlFlow::Break(());
        }
        self.items.push(document.to_string());
        self.last = Some(id.to_ascii_lowercase());
        ControlFlow::Continue(())
    }

    /// The answer. Without a next page the header is absent: clients loop on its presence.
    pub(super) fn reply(self, item_type: &str) -> Reply {
        let reply = Reply::array(&self.items)
            .header(ITEM_TYPE, item_type)
            .header(PAGE_SIZE, &self.items.len().to_string());
        match self.last.filter(|_| self.has_more) {
            Some(last) => reply.header(CONTINUATION, &BASE64URL_NOPAD.encode(last.as_bytes())),
            None => reply,
        }
    }
}

/// Checks the text of a query: `*`, or `SELECT *` with or without `FROM` one of the collections.
pub(super) fn check(body: Option<&Fields<'_>>) -> Result<(), ApiError> {
    let text = match body {
        Some(fields) => fields.text("query")?.unwrap_or("*"),
        None => "*",
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let is = |word: &str, wanted: &str| word.eq_ignore_ascii_case(wanted);
    let is_known = match words.as_slice() {
        [] | ["*"] => true,
        [select, "*"] => is(select, "SELECT"),
        [select, "*", from, name] => {
            is(select, "SELECT") && is(from, "FROM") && COLLECTIONS.iter().any(|known| is(known, name))
        }
        _ => false,
    };
    if is_known {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "the query {} is not supported: this version reads SELECT * with or without FROM {}, without conditions",
        quoted(text),
        COLLECTIONS.join(", ")
    )))
}
