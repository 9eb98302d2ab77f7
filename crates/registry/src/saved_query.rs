//! Saved queries as the rest of the node sees them (docs/query.md, "Saved queries").
//!
//! Not here: whether a text is a query (`service-api`, before it is saved), its evaluation (`device-hub`).

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_model::limits::{MAX_SAVED_QUERY_BYTES, MAX_SAVED_QUERY_DESCRIPTION_CHARS, MAX_SAVED_QUERY_NAME_CHARS};
use holdfast_model::{ErrorCode, UnixMillis};
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::put_saved_query::Condition;

use crate::settings::check_name;
use crate::state::Rejection;
use crate::write::IfMatch;

/// A query under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedQuery {
    /// The name, as it was written with the last change.
    pub name: String,
    /// The text.
    pub query: String,
    /// For people.
    pub description: Option<String>,
    /// Changes with every write.
    pub etag: String,
    /// When it was created.
    pub created: UnixMillis,
    /// When it was last written.
    pub updated: UnixMillis,
}

/// All saved queries, by their names in lower case.
pub type SavedQueries = BTreeMap<String, Arc<SavedQuery>>;

/// A write of a saved query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedQueryWrite {
    /// The name.
    pub name: String,
    /// The text, already checked to be a query.
    pub query: String,
    /// For people.
    pub description: Option<String>,
    /// The condition of the write.
    pub condition: SavedQueryCondition,
}

/// The condition of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SavedQueryCondition {
    /// Whether it exists or not.
    Any,
    /// It must not exist.
    Absent,
    /// It must exist.
    Present(IfMatch),
}

impl SavedQueryWrite {
    /// Checks the values that need no state.
    pub(crate) fn check(&self) -> Result<(), Rejection> {
        let invalid = |text: String| Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
        check_name("saved query", &self.name, MAX_SAVED_QUERY_NAME_CHARS)?;
        if self.query.len() > MAX_SAVED_QUERY_BYTES {
            return invalid(format!("a saved query has at most {MAX_SAVED_QUERY_BYTES} bytes"));
        }
        let description = self.description.as_ref();
        if description.is_some_and(|text| text.chars().count() > MAX_SAVED_QUERY_DESCRIPTION_CHARS) {
            return invalid(format!(
                "the description has more than {MAX_SAVED_QUERY_DESCRIPTION_CHARS} characters"
            ));
        }
        Ok(())
    }

    pub(crate) fn to_proto(&self, etag: String) -> proto::PutSavedQuery {
        let (condition, if_match) = match &self.condition {
            SavedQueryCondition::Any => (Condition::Any, None),
            SavedQueryCondition::Absent => (Condition::Absent, None),
            SavedQueryCondition::Present(IfMatch::Any) => (Condition::Present, None),
            SavedQueryCondition::Present(IfMatch::ETag(etag)) => (Condition::Present, Some(etag.clone())),
        };
        proto::PutSavedQuery {
            name: self.name.clone(),
            query: self.query.clone(),
            description: self.description.clone(),
            condition: condition.into(),
            if_match,
            etag,
        }
    }
}

impl From<proto::SavedQueryRecord> for SavedQuery {
    fn from(record: proto::SavedQueryRecord) -> Self {
        Self {
            name: record.name,
            query: record.query,
            description: record.description,
            etag: record.etag,
            created: UnixMillis(record.created_ms),
            updated: UnixMillis(record.updated_ms),
        }
    }
}
