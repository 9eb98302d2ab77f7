//! The owner's decisions about one twin: from the stored value and a request to the effects and the answer.
//!
//! Why pure: the state writer decides requests of one partition in the order of the log, between two rounds
//! (`owner::state_writer`).
//! Invariants: a request that is refused has no effect; a write has exactly one event.

use holdfast_model::{GenerationId, IdentityId, ModuleId, UnixMillis};
use holdfast_registry::TwinSeed;
use serde_json::{Map, Value, json};

use super::document::{Twin, with_version};
use super::history::{self, TwinVersion};
use super::limits::{SectionName, TwinRefusal};
use super::patch::{SectionWrite, WriteMode, parse_reported};
use super::stored::UnreadableTwin;

/// A checked write to tags and desired properties.
#[derive(Debug, Clone)]
pub(crate) struct CheckedWrite {
    pub(crate) mode: WriteMode,
    pub(crate) tags: Option<SectionWrite>,
    pub(crate) desired: Option<SectionWrite>,
    /// Only if the twin has this tag.
    pub(crate) if_etag: Option<String>,
}

/// What a write leads to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    pub(crate) twin: Twin,
    /// Versions of the history by number: the value to store, or `None` to remove.
    pub(crate) history: Vec<(u64, Option<Vec<u8>>)>,
    /// `None`: the event has the whole twin.
    patches: Option<Patches>,
    /// For the device, if the desired properties were written: their version and the body.
    pub(crate) notification: Option<(u64, Value)>,
}

/// What a write has merged, as its event tells it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Patches {
    tags: Option<Map<String, Value>>,
    desired: Option<Map<String, Value>>,
    reported: Option<Map<String, Value>>,
}

/// A change event (Spec query-and-routing §14).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TwinEvent {
    pub(crate) operation: &'static str,
    pub(crate) body: Value,
}

const UPDATE: &str = "updateTwin";
const REPLACE: &str = "replaceTwin";

impl Written {
    /// The change event. Built only for readers that want it: it has the metadata of every written property.
    pub(crate) fn event(&self, identity: &IdentityId) -> TwinEvent {
        match &self.patches {
            Some(patches) => {
                let (tags, desired) = (patches.tags.as_ref(), patches.desired.as_ref());
                TwinEvent {
                    operation: UPDATE,
                    body: self.twin.patch_event(tags, desired, patches.reported.as_ref()),
                }
            }
            None => TwinEvent {
                operation: REPLACE,
                body: whole(&self.twin, identity),
            },
        }
    }
}

/// The twin of a stored value; without one the empty twin, or the one given with the creation of the identity.
pub(crate) fn current(
    stored: Option<&[u8]>,
    identity: &IdentityId,
    generation: &GenerationId,
    seed: Option<&TwinSeed>,
) -> Result<Twin, UnreadableTwin> {
    if let Some(value) = stored {
        return Twin::decode(value);
    }
    let mut twin = Twin::empty(generation);
    if let Some(seed) = seed {
        let read = |section, text: &Option<String>| {
            let text = text.as_deref()?;
            let write = SectionWrite::parse(section, WriteMode::Replace, text);
            write.inspect_err(|error| ignored(identity, error)).ok()
        };
        let tags = read(SectionName::Tags, &seed.tags);
        let desired = read(SectionName::Desired, &seed.desired);
        if (tags.is_some() || desired.is_some())
            && let Err(error) = twin.write(tags, desired, twin.desired.root.stamp.time)
        {
            ignored(identity, &error);
        }
        if let Some(text) = &seed.reported {
            let time = twin.reported.root.stamp.time;
            let reported = parse_reported(text.as_bytes()).and_then(|reported| twin.report(reported, time));
            if let Err(error) = reported {
                ignored(identity, &error);
            }
        }
    }
    Ok(twin)
}

/// Only a version that did not check it can have taken it.
fn ignored(identity: &IdentityId, error: &TwinRefusal) {
    tracing::warn!(%identity, %error, "content that was given with the creation of the twin is not valid; it is left out");
}

/// Checks the condition of a request.
pub(crate) fn check_condition(twin: &Twin, if_etag: Option<&str>) -> Result<(), TwinRefusal> {
    match if_etag {
        Some(etag) if etag != twin.etag() => Err(TwinRefusal::ETag(twin.etag())),
        _ => Ok(()),
    }
}

/// A write of a back end.
pub(crate) fn write(
    mut twin: Twin,
    mut write: CheckedWrite,
    now: UnixMillis,
    history_limit: u64,
) -> Result<Written, TwinRefusal> {
    check_condition(&twin, write.if_etag.as_deref())?;
    let is_patch = write.mode == WriteMode::Merge;
    if is_patch {
        // A device merges what it is sent: a section that is emptied is sent as one null per key.
        write.tags = write.tags.map(|tags| tags.into_merge_of(&twin.tags));
        write.desired = write.desired.map(|desired| match desired {
            SectionWrite::Merge(_) => desired,
            SectionWrite::Replace(_) => desired.into_merge_of(&twin.desired.root.to_map()),
        });
    }
    let patch = |write: &Option<SectionWrite>| match write {
        Some(SectionWrite::Merge(patch)) => Some(patch.clone()),
        Some(SectionWrite::Replace(_)) | None => None,
    };
    let (tags, desired) = (patch(&write.tags), patch(&write.desired));
    let writes_desired = write.desired.is_some();
    let before = twin.version;
    let kept = (history_limit > 0).then(|| TwinVersion::of(&twin).encode());
    twin.write(write.tags, write.desired, now)?;
    let mut history: Vec<_> = kept.into_iter().map(|value| (before, Some(value))).collect();
    let removed = history::removed(&mut twin, history_limit);
    history.extend(
        removed
            .filter(|version| *version != before || history_limit == 0)
            .map(|version| (version, None)),
    );
    let notification = writes_desired.then(|| {
        let version = twin.desired.version;
        let body = match &desired {
            Some(patch) => with_version(patch.clone(), version),
            None => twin.desired_view(),
        };
        (version, body)
    });
    let patches = is_patch.then(|| Patches {
        tags,
        desired,
        reported: None,
    });
    Ok(Written {
        twin,
        history,
        patches,
        notification,
    })
}

/// A device's patch of its reported properties; `if_version`: the version that they must have.
pub(crate) fn report(
    mut twin: Twin,
    patch: Map<String, Value>,
    if_version: Option<u64>,
    now: UnixMillis,
) -> Result<Written, TwinRefusal> {
    let found = twin.reported.version;
    if let Some(expected) = if_version.filter(|expected| *expected != found) {
        return Err(TwinRefusal::Version { found, expected });
    }
    twin.report(patch.clone(), now)?;
    Ok(Written {
        twin,
        history: Vec::new(),
        patches: Some(Patches {
            reported: Some(patch),
            ..Patches::default()
        }),
        notification: None,
    })
}

/// The body of the event of a replaced twin.
pub(crate) fn whole(twin: &Twin, identity: &IdentityId) -> Value {
    let mut body = Map::new();
    body.insert("deviceId".to_owned(), json!(identity.device.as_str()));
    if let Some(module) = identity.module.as_ref().map(ModuleId::as_str) {
        body.insert("moduleId".to_owned(), json!(module));
    }
    body.insert("etag".to_owned(), json!(twin.etag()));
    body.insert("version".to_owned(), json!(twin.version));
    if !twin.tags.is_empty() {
        body.insert("tags".to_owned(), Value::Object(twin.tags.clone()));
    }
    body.insert("properties".to_owned(), twin.properties());
    Value::Object(body)
}
