//! Changes of linked hubs (Spec provisioning §8.1).
//!
//! Invariants: host names are unique in any case; their number is bounded; a key that is not given stays.

use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{EntryAnswer, LinkedHubRecord, PutLinkedHub, RemoveLinkedHub};

use super::provisioning::{check_etag, check_founded};
use super::rejection::Rejection;
use super::{Stop, Work, layout};

const RECORD_VERSION: u32 = 1;

/// Most linked hubs (Spec provisioning §10.2).
const MAX_LINKED_HUBS: usize = 50;

/// Applies every command about linked hubs; `None` for other commands.
pub(super) fn change(work: &mut Work<'_>, command: &Command) -> Option<Result<EntryAnswer, Stop>> {
    Some(match command {
        Command::PutLinkedHub(command) => put(work, command),
        Command::RemoveLinkedHub(command) => remove(work, command),
        _ => return None,
    })
}

fn put(work: &mut Work<'_>, command: &PutLinkedHub) -> Result<EntryAnswer, Stop> {
    check_founded(work)?;
    let mut record = command
        .hub
        .clone()
        .ok_or_else(|| Rejection::new(ErrorCode::ArgumentNull, "the hub is missing"))?;
    let key = layout::linked_hub(&record.host_name);
    let before = work.view.message::<LinkedHubRecord>(&key)?;
    match &before {
        Some(before) if command.creates => {
            let text = format!("hub '{}' is linked: send its ETag, or *, in If-Match", before.host_name);
            return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
        }
        Some(before) => check_etag("the linked hub", &before.etag, command.if_match.as_deref())?,
        None if command.if_match.is_some() => {
            let text = format!("hub '{}' is not linked", record.host_name);
            return Err(Rejection::new(ErrorCode::PreconditionFailed, text).into());
        }
        None if work.view.keys(&layout::linked_hubs())?.len() >= MAX_LINKED_HUBS => {
            let text = format!("at most {MAX_LINKED_HUBS} hubs can be linked");
            return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
        }
        None => {}
    }
    if record.sealed_key.is_empty() && !record.policy.is_empty() {
        let same = before.as_ref().filter(|before| before.policy == record.policy);
        let missing = || {
            Rejection::new(
                ErrorCode::ArgumentInvalid,
                "the connection string has no key, and none is stored",
            )
        };
        record.sealed_key = same.ok_or_else(missing)?.sealed_key.clone();
    }
    record.version = RECORD_VERSION;
    record.created_ms = before.as_ref().map_or(work.time_ms, |before| before.created_ms);
    record.updated_ms = work.time_ms;
    work.view.put_message(key, &record);
    work.linked_hubs_changed = true;
    Ok(EntryAnswer {
        created: before.is_none(),
        ..EntryAnswer::default()
    })
}

fn remove(work: &mut Work<'_>, command: &RemoveLinkedHub) -> Result<EntryAnswer, Stop> {
    let key = layout::linked_hub(&command.host_name);
    let Some(before) = work.view.message::<LinkedHubRecord>(&key)? else {
        let text = format!("hub '{}' is not linked", command.host_name);
        return Err(Rejection::new(ErrorCode::GenericNotFound, text).into());
    };
    check_etag("the linked hub", &before.etag, command.if_match.as_deref())?;
    work.view.delete(key);
    work.linked_hubs_changed = true;
    Ok(EntryAnswer::default())
}
