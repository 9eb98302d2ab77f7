//! Back ends: calls about identities through any node, recorded in the checker's form.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_chaos::history::{Answer, Call, Operation, RightsChange};
use holdfast_model::ErrorCode;
use holdfast_registry::{
    Authentication, AuthenticationWrite, Identity, IdentityContent, IdentityWrite, IfMatch, RegistryError, Status,
    WriteOperation,
};
use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::shared::{Access, Shared};
use holdfast_simulation::identity;

/// How long a back end waits for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Identities that only back ends know, few so that calls meet.
pub(crate) const NAMES: [&str; 2] = ["r0", "r1"];

fn pause(rng: &mut SmallRng, millis: std::ops::Range<u64>) -> impl Future<Output = ()> + use<> {
    tokio::time::sleep(Duration::from_millis(rng.random_range(millis)))
}

/// The outcome of a call.
enum Ended {
    Answered(Answer),
    /// The node says that nothing was done.
    NotDone,
    Unknown,
}

/// Makes random calls about [`NAMES`] until the end.
pub(crate) async fn call_at_random(shared: Rc<Shared>, number: u64, mut rng: SmallRng) {
    let mut tag = number * 1_000_000;
    let mut etags: BTreeMap<&str, String> = BTreeMap::new();
    while !shared.ending.get() {
        pause(&mut rng, 20..400).await;
        let Some(access) = shared.any(&mut rng) else { continue };
        let name = NAMES[rng.random_range(0..NAMES.len())];
        tag += 1;
        // Mostly the last one seen, so that some match.
        let if_match = if rng.random_bool(0.7) {
            etags.get(name).cloned()
        } else {
            None
        };
        let call = match rng.random_range(0..10) {
            0..2 => Call::Create { tag },
            2..5 => Call::Update { tag, if_match },
            5..7 => Call::Delete { if_match },
            _ => Call::Get,
        };
        let asked = shared.now();
        let ended = ask(&access, name, &call).await;
        let (what, answer) = match ended {
            Ended::Answered(answer) => (kind(&answer), Some(answer)),
            Ended::NotDone => {
                shared.note(format!("back end {number}: {name} via {}: not done", access.node));
                continue;
            }
            Ended::Unknown => ("unknown", None),
        };
        shared.note(format!(
            "back end {number}: {} {name} via {}: {what}",
            verb(&call),
            access.node
        ));
        if let Some(Answer::Written { etag } | Answer::Found { etag, .. }) = &answer {
            etags.insert(name, etag.clone());
        }
        let operation = Operation {
            key: name.to_owned(),
            node: u32::try_from(access.node.get()).unwrap(),
            call,
            asked,
            answered: shared.now(),
            answer,
        };
        shared.history.borrow_mut().operations.push(operation);
    }
}

fn verb(call: &Call) -> &'static str {
    match call {
        Call::Create { .. } => "create",
        Call::Update { .. } => "update",
        Call::Delete { .. } => "delete",
        Call::Get => "get",
    }
}

fn kind(answer: &Answer) -> &'static str {
    match answer {
        Answer::Written { .. } => "written",
        Answer::Found { .. } => "found",
        Answer::Deleted => "deleted",
        Answer::Absent => "absent",
        Answer::Exists => "exists",
        Answer::Mismatch => "mismatch",
    }
}

fn condition(if_match: Option<&String>) -> IfMatch {
    if_match.map_or(IfMatch::Any, |etag| IfMatch::ETag(etag.clone()))
}

async fn ask(access: &Access, name: &str, call: &Call) -> Ended {
    let content = |tag: u64| IdentityContent {
        status_reason: Some(tag.to_string()),
        ..IdentityContent::default()
    };
    let operation = match call {
        Call::Create { tag } => WriteOperation::Create(content(*tag)),
        Call::Update { tag, if_match } => WriteOperation::Update(condition(if_match.as_ref()), content(*tag)),
        Call::Delete { if_match } => WriteOperation::Delete(condition(if_match.as_ref())),
        Call::Get => return ended(within(access, access.registry.get(&identity(name))).await, found),
    };
    let id = identity(name);
    let write = access.registry.write(IdentityWrite { id, operation });
    ended(within(access, write).await, |written| match written.identity {
        Some(identity) => Answer::Written {
            etag: identity.etag.0.clone(),
        },
        None => Answer::Deleted,
    })
}

async fn within<T>(access: &Access, call: impl Future<Output = T>) -> Option<T> {
    let answer = tokio::time::timeout(CALL_TIMEOUT, access.call(call)).await;
    answer.ok().flatten()
}

fn found(identity: Option<std::sync::Arc<Identity>>) -> Answer {
    match identity {
        Some(identity) => Answer::Found {
            etag: identity.etag.0.clone(),
            tag: identity.status_reason.as_ref().unwrap().parse().unwrap(),
        },
        None => Answer::Absent,
    }
}

fn ended<T>(outcome: Option<Result<T, RegistryError>>, answer: impl FnOnce(T) -> Answer) -> Ended {
    match outcome {
        None | Some(Err(RegistryError::OutcomeUnknown | RegistryError::State(_))) => Ended::Unknown,
        Some(Ok(done)) => Ended::Answered(answer(done)),
        Some(Err(RegistryError::Rejected(rejection))) => match rejection.code {
            ErrorCode::DeviceNotFound => Ended::Answered(Answer::Absent),
            ErrorCode::DeviceAlreadyExists => Ended::Answered(Answer::Exists),
            ErrorCode::PreconditionFailed => Ended::Answered(Answer::Mismatch),
            code => panic!("no such call is rejected so: {code}"),
        },
        Some(Err(RegistryError::Unavailable { .. } | RegistryError::Overloaded | RegistryError::DiskFull)) => {
            Ended::NotDone
        }
        Some(Err(error)) => panic!("no such call fails so: {error}"),
    }
}

/// Takes rights away from `device` and gives them back, again and again, and leaves it with them.
pub(crate) async fn revoke_at_random(shared: Rc<Shared>, device: String, mut rng: SmallRng) {
    let keys = loop {
        if let Some(identity) = read(&shared, &device, &mut rng).await.flatten() {
            let Authentication::Sas(keys) = &identity.authentication else {
                panic!()
            };
            break keys.clone();
        }
        pause(&mut rng, 20..100).await;
    };
    // A write with unknown outcome may still be applied after the state that is read now.
    let mut is_open = false;
    loop {
        pause(&mut rng, 100..1_500).await;
        let Some(now) = read(&shared, &device, &mut rng).await else {
            continue;
        };
        let is_allowed = now.as_ref().is_some_and(|identity| identity.status == Status::Enabled);
        let ending = shared.ending.get();
        if ending && is_allowed && !is_open {
            return;
        }
        let allowed = ending || !is_allowed;
        let content = IdentityContent {
            status: if allowed { Status::Enabled } else { Status::Disabled },
            authentication: Some(AuthenticationWrite::Sas(Some(keys.clone()))),
            ..IdentityContent::default()
        };
        let etag = now.map(|identity| IfMatch::ETag(identity.etag.0.clone()));
        let operation = match etag {
            None => WriteOperation::Create(content),
            Some(etag) if !allowed && rng.random_bool(0.3) => WriteOperation::Delete(etag),
            Some(etag) => WriteOperation::Update(etag, content),
        };
        let Some(access) = shared.any(&mut rng) else { continue };
        let asked = shared.now();
        let write = access.registry.write(IdentityWrite {
            id: identity(&device),
            operation,
        });
        shared.changing.borrow_mut().insert(device.clone());
        let outcome = ended(within(&access, write).await, |_| Answer::Deleted);
        shared.changing.borrow_mut().remove(&device);
        let answered = match outcome {
            Ended::Answered(Answer::Deleted) => Some(shared.now()),
            // Another write came first: this one was not applied.
            Ended::Answered(_) | Ended::NotDone => continue,
            Ended::Unknown => None,
        };
        let known = answered.is_some();
        // With this one done, an older one finds another tag.
        is_open = !known;
        shared.note(format!(
            "{device} via {}: allowed {allowed}, known {known}",
            access.node
        ));
        shared.history.borrow_mut().changes.push(RightsChange {
            device: device.clone(),
            allowed,
            asked,
            answered,
        });
    }
}

/// The identity as it is now; `None` = no node answers.
async fn read(shared: &Shared, device: &str, rng: &mut SmallRng) -> Option<Option<std::sync::Arc<Identity>>> {
    let access = shared.any(rng)?;
    within(&access, access.registry.get(&identity(device))).await?.ok()
}
