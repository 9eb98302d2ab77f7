//! Saved queries: queries under a name.
//!
//! Invariants: names are unique in any case of letters; their number is bounded; a text is stored as it came: whether it is a
//! query is checked before it is proposed, and again by each version that evaluates it.

use holdfast_model::ErrorCode;
use holdfast_model::limits::MAX_SAVED_QUERIES;
use holdfast_proto::registry::v1::put_saved_query::Condition;
use holdfast_proto::registry::v1::{EntryAnswer, PutSavedQuery, RemoveSavedQuery, SavedQueryRecord};

use super::rejection::Rejection;
use super::{Stop, Work, layout};

const RECORD_VERSION: u32 = 1;

pub(super) fn put(work: &mut Work<'_>, command: &PutSavedQuery) -> Result<EntryAnswer, Stop> {
    exists(work)?;
    let key = layout::saved_query(&command.name);
    let stored: Option<SavedQueryRecord> = work.view.message(&key)?;
    match (command.condition(), &stored) {
        (Condition::Absent, Some(stored)) => {
            let text = format!("saved query '{}' already exists", stored.name);
            return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
        }
        (Condition::Present, None) => {
            let text = format!("saved query '{}' does not exist", command.name);
            return Err(Rejection::new(ErrorCode::PreconditionFailed, text).into());
        }
        (Condition::Present, Some(stored)) => check_etag(stored, command.if_match.as_deref())?,
        (Condition::Any | Condition::Absent, _) => {}
    }
    if stored.is_none() && work.view.keys(&layout::saved_queries())?.len() >= MAX_SAVED_QUERIES {
        let text = format!("the hub has its maximum of {MAX_SAVED_QUERIES} saved queries: delete one that is not used");
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    let record = SavedQueryRecord {
        version: RECORD_VERSION,
        name: command.name.clone(),
        query: command.query.clone(),
        description: command.description.clone(),
        etag: command.etag.clone(),
        created_ms: stored.as_ref().map_or(work.time_ms, |stored| stored.created_ms),
        updated_ms: work.time_ms,
    };
    work.view.put_message(key, &record);
    work.saved_queries_changed = true;
    Ok(EntryAnswer {
        created: stored.is_none(),
        saved_query: Some(record),
        ..EntryAnswer::default()
    })
}

pub(super) fn remove(work: &mut Work<'_>, command: &RemoveSavedQuery) -> Result<EntryAnswer, Stop> {
    exists(work)?;
    let key = layout::saved_query(&command.name);
    let Some(stored) = work.view.message::<SavedQueryRecord>(&key)? else {
        let text = format!("saved query '{}' does not exist", command.name);
        return Err(Rejection::new(ErrorCode::GenericNotFound, text).into());
    };
    check_etag(&stored, command.if_match.as_deref())?;
    work.view.delete(key);
    work.saved_queries_changed = true;
    Ok(EntryAnswer::default())
}

fn exists(work: &Work<'_>) -> Result<(), Stop> {
    match work.view.contains(layout::SETTINGS)? {
        true => Ok(()),
        false => Err(Rejection::new(ErrorCode::IotHubNotFound, "the hub has not been created").into()),
    }
}

fn check_etag(stored: &SavedQueryRecord, expected: Option<&str>) -> Result<(), Rejection> {
    match expected {
        Some(expected) if expected != stored.etag => {
            let text = format!("saved query '{}' has changed: its ETag is {}", stored.name, stored.etag);
            Err(Rejection::new(ErrorCode::PreconditionFailed, text))
        }
        _ => Ok(()),
    }
}
