//! Requests about queues and their answers, as they go between nodes.

use holdfast_cluster::transport::CallError;
use holdfast_model::{GenerationId, IdentityId, UnixMillis};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::cloud_queue_answer::Outcome;

use super::api::{CloudQueueError, Feedback, ListedMessage};
use super::feedback::FeedbackStatus;
use super::message::CloudMessage;
use super::queue::{DeadLetterReason, Full, Queued};
use crate::rpc::codec::{check_text, decode_identity, encode_module, refused};

pub(crate) fn done() -> proto::CloudQueueAnswer {
    proto::CloudQueueAnswer {
        outcome: Outcome::Done.into(),
        ..proto::CloudQueueAnswer::default()
    }
}

pub(crate) fn outcome(outcome: Outcome) -> proto::CloudQueueAnswer {
    proto::CloudQueueAnswer {
        outcome: outcome.into(),
        ..proto::CloudQueueAnswer::default()
    }
}

pub(crate) fn full(full: &Full, now: UnixMillis) -> proto::CloudQueueAnswer {
    proto::CloudQueueAnswer {
        count: u32::try_from(full.depth).unwrap_or(u32::MAX),
        oldest_age_ms: now.0.saturating_sub(full.oldest.0),
        ..outcome(Outcome::Full)
    }
}

/// The device whose queue it is; empty for a module's.
pub(crate) fn encode_device(identity: &IdentityId) -> String {
    match identity.module {
        None => identity.device.as_str().to_owned(),
        Some(_) => String::new(),
    }
}

/// The module whose queue it is.
pub(crate) fn encode_module_name(identity: &IdentityId) -> Option<proto::ModuleName> {
    identity.module.as_ref().map(|_| proto::ModuleName {
        device: identity.device.as_str().to_owned(),
        module: encode_module(identity),
    })
}

/// Whose queue it is.
pub(crate) fn decode_owner(device: &str, module: Option<&proto::ModuleName>) -> Result<IdentityId, CallError> {
    match module {
        None => decode_identity(device, ""),
        Some(name) if device.is_empty() && !name.module.is_empty() => decode_identity(&name.device, &name.module),
        Some(_) => Err(refused("a queue of a module without its name")),
    }
}

/// The error that an answer is, if it is one.
pub(crate) fn check(answer: &proto::CloudQueueAnswer) -> Result<(), CloudQueueError> {
    match answer.outcome() {
        Outcome::Done => Ok(()),
        Outcome::Full => Err(CloudQueueError::Full {
            depth: answer.count,
            oldest_age_ms: answer.oldest_age_ms,
        }),
        Outcome::Gone => Err(CloudQueueError::Gone),
        Outcome::Unreadable => Err(CloudQueueError::Unreadable),
        Outcome::LockLost => Err(CloudQueueError::LockLost),
        Outcome::Unspecified => Err(CloudQueueError::Unknown),
    }
}

/// A message of a list; `message` in its stored form, without body.
pub(crate) fn listed(
    queued: &Queued,
    is_locked: bool,
    dead: Option<(DeadLetterReason, UnixMillis)>,
    message: Vec<u8>,
) -> proto::CloudQueueListed {
    proto::CloudQueueListed {
        sequence: queued.sequence,
        bytes: queued.bytes,
        enqueued_ms: queued.enqueued.0,
        expires_ms: queued.expires.0,
        deliveries: queued.deliveries,
        locked: is_locked,
        dead_reason: dead.map_or(0, |(reason, _)| reason.number()),
        dead_at_ms: dead.map_or(0, |(_, at)| at.0),
        message: message.into(),
    }
}

pub(crate) fn decode_listed(listed: proto::CloudQueueListed) -> Option<ListedMessage> {
    let dead = match listed.dead_reason {
        0 => None,
        number => Some((DeadLetterReason::from_number(number)?, UnixMillis(listed.dead_at_ms))),
    };
    Some(ListedMessage {
        sequence: listed.sequence,
        bytes: listed.bytes,
        enqueued: UnixMillis(listed.enqueued_ms),
        expires: UnixMillis(listed.expires_ms),
        deliveries: listed.deliveries,
        is_locked: listed.locked,
        dead,
        message: CloudMessage::decode(&listed.message)?,
    })
}

pub(crate) fn encode_feedback(feedback: &Feedback) -> proto::FeedbackRecord {
    proto::FeedbackRecord {
        device: encode_device(&feedback.identity),
        generation: feedback.generation.0.to_string(),
        number: feedback.number,
        message_id: feedback.message_id.clone(),
        status: feedback.status.number(),
        at_ms: feedback.at.0,
        module: encode_module_name(&feedback.identity),
    }
}

pub(crate) fn decode_feedback(record: proto::FeedbackRecord) -> Result<Feedback, CallError> {
    Ok(Feedback {
        identity: decode_owner(&record.device, record.module.as_ref())?,
        generation: GenerationId(check_text(&record.generation)?.into()),
        number: record.number,
        message_id: record.message_id,
        status: FeedbackStatus::from_number(record.status).ok_or_else(|| refused("an unknown feedback status"))?,
        at: UnixMillis(record.at_ms),
    })
}
