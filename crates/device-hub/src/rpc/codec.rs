//! Encodes and decodes calls between gateways and owners. Input is checked: a peer may send anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_auth::KeyFingerprint;
use holdfast_auth::x509::{CertificateFingerprints, IssuerId, PathCertificate, Serial};
use holdfast_cluster::transport::CallError;
use holdfast_model::limits::MAX_CHAIN_CERTIFICATES;
use holdfast_model::{DeviceId, GenerationId, IdentityId, Incarnation, ModuleId, NodeId, SessionKey, Term, UnixMillis};
use holdfast_proto::cluster::v1::session_attached::Outcome;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_spans::TraceContext;
use prost::Message;

use crate::Protocol;
use crate::api::session::CloseReason;
use crate::device_state::Subscriptions;
use crate::downlink::credit::Credit;
use crate::downlink::delivery::{
    Delivery, DeliveryError, DeliveryId, DeliveryKind, DeliveryOutcome, DeliveryTag, OnSessionChange, Settlement,
};
use crate::downlink::receive::{ReceivedDeliveries, ReceivedDelivery};
use crate::downlink::report::{ReportedCredit, ReportedSettlement};
use crate::downlink::term::{DeliveryAnswer, SessionDeliveries};
use crate::gateway::session_table::{Activity, AttachReply};
use crate::methods::call::MethodAnswer;
use crate::methods::pending::{MethodCallId, MethodResult};
use crate::owner::state_writer::ChangeError;
use crate::owner::subscriptions::{SubscriptionAction, SubscriptionAnswer, SubscriptionRequest};
use crate::session_types::{OwnerError, SessionCertificate, SessionInfo, SessionNumber};

/// The version of bodies and answers.
const VERSION: u8 = 1;

/// The most sessions of one call; a session has at most some 700 bytes.
pub(crate) const MAX_ITEMS: usize = 1000;

/// The longest generation id, policy name and refused identity.
const MAX_TEXT: usize = 260;

/// A message behind its version byte.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(VERSION);
    // A vector grows: there is always capacity.
    message.encode_raw(&mut bytes);
    bytes.into()
}

/// The message in `bytes`.
pub(crate) fn decode<M: Message + Default>(bytes: &Bytes) -> Result<M, CallError> {
    let (&version, rest) = bytes.split_first().ok_or_else(|| refused("an empty message"))?;
    if version != VERSION {
        return Err(refused(&format!(
            "version {version} of session messages is not known here; update this node"
        )));
    }
    M::decode(rest).map_err(|error| refused(&format!("a session message cannot be decoded: {error}")))
}

pub(crate) fn refused(reason: &str) -> CallError {
    CallError::Refused(reason.into())
}

pub(crate) fn check_count(count: usize) -> Result<(), CallError> {
    if count > MAX_ITEMS {
        return Err(refused(&format!("{count} sessions in one call; at most {MAX_ITEMS}")));
    }
    Ok(())
}

pub(crate) fn check_text(text: &str) -> Result<&str, CallError> {
    if text.len() > MAX_TEXT {
        return Err(refused("a text is too long"));
    }
    Ok(text)
}

pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

pub(crate) fn decode_identity(device: &str, module: &str) -> Result<IdentityId, CallError> {
    let device = DeviceId::parse(device).map_err(|error| refused(&format!("a device id: {error}")))?;
    if module.is_empty() {
        return Ok(IdentityId::device(device));
    }
    let module = ModuleId::parse(module).map_err(|error| refused(&format!("a module id: {error}")))?;
    Ok(IdentityId::module(device, module))
}

/// The module's id; empty for the device itself.
pub(crate) fn encode_module(identity: &IdentityId) -> String {
    identity
        .module
        .as_ref()
        .map(|module| module.as_str().to_owned())
        .unwrap_or_default()
}

/// An identity whose connection is queried, and its generation as the calling node knows it.
pub(crate) type QueriedIdentity = (IdentityId, Option<GenerationId>);

pub(crate) fn encode_queried((identity, generation): &QueriedIdentity) -> proto::SessionIdentity {
    proto::SessionIdentity {
        device: identity.device.as_str().to_owned(),
        module: encode_module(identity),
        generation: generation.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

pub(crate) fn decode_queried(queried: &proto::SessionIdentity) -> Result<QueriedIdentity, CallError> {
    let generation = check_text(&queried.generation)?;
    let generation = (!generation.is_empty()).then(|| GenerationId(Arc::from(generation)));
    Ok((decode_identity(&queried.device, &queried.module)?, generation))
}

/// A session as a gateway reports it to an owner.
pub(crate) fn encode_item(
    info: &SessionInfo,
    key: SessionKey,
    number: Option<SessionNumber>,
    credit: Credit,
) -> proto::SessionItem {
    proto::SessionItem {
        key: key.0,
        device: info.identity.device.as_str().to_owned(),
        module: encode_module(&info.identity),
        generation: info.generation.to_string(),
        key_fingerprint: Bytes::copy_from_slice(&info.key.0),
        policy: info.policy.as_deref().unwrap_or_default().to_owned(),
        protocol: info.protocol.number(),
        since_ms: info.since.0,
        expires_ms: info.expires.map_or(0, |time| time.0),
        number_term: number.map_or(0, |number| number.term.get()),
        number_node: number.map_or(0, |number| number.node.get()),
        number_counter: number.map_or(0, |number| number.counter),
        credit: (credit != Credit::default()).then(|| encode_counters(credit)),
        certificate: info.certificate.as_deref().map(encode_certificate),
        address: info.address.map(|address| address.to_string()).unwrap_or_default(),
        trace: Bytes::new(),
    }
}

fn encode_certificate(certificate: &SessionCertificate) -> proto::SessionCertificate {
    proto::SessionCertificate {
        sha1: Bytes::copy_from_slice(&certificate.fingerprints.sha1),
        sha256: Bytes::copy_from_slice(&certificate.fingerprints.sha256),
        ca_sha256: certificate.ca.map(|ca| Bytes::copy_from_slice(&ca)).unwrap_or_default(),
        path: certificate
            .path
            .iter()
            .map(|part| proto::SessionPathCertificate {
                sha256: Bytes::copy_from_slice(&part.sha256),
                issuer: Bytes::copy_from_slice(&part.issuer.0),
                serial: Bytes::copy_from_slice(part.serial.as_bytes()),
            })
            .collect(),
        epoch: certificate
            .epoch
            .map(|epoch| Bytes::copy_from_slice(&epoch))
            .unwrap_or_default(),
    }
}

/// The certificate of a reported session.
pub(crate) fn decode_certificate(certificate: &proto::SessionCertificate) -> Result<SessionCertificate, CallError> {
    let length = |_| refused("a digest of a certificate has another length");
    let ca = &certificate.ca_sha256;
    Ok(SessionCertificate {
        fingerprints: CertificateFingerprints {
            sha1: certificate.sha1[..].try_into().map_err(length)?,
            sha256: certificate.sha256[..].try_into().map_err(length)?,
        },
        ca: match ca.is_empty() {
            true => None,
            false => Some(ca[..].try_into().map_err(length)?),
        },
        path: decode_path(&certificate.path)?,
        epoch: match certificate.epoch.is_empty() {
            true => None,
            false => Some(certificate.epoch[..].try_into().map_err(length)?),
        },
    })
}

fn decode_path(path: &[proto::SessionPathCertificate]) -> Result<Box<[PathCertificate]>, CallError> {
    if path.len() > MAX_CHAIN_CERTIFICATES {
        return Err(refused("a path is longer than any chain"));
    }
    let length = |_| refused("a digest of a certificate has another length");
    path.iter()
        .map(|part| {
            Ok(PathCertificate {
                sha256: part.sha256[..].try_into().map_err(length)?,
                issuer: IssuerId(part.issuer[..].try_into().map_err(length)?),
                serial: Serial::from_bytes(&part.serial).ok_or_else(|| refused("a serial number has 21 bytes"))?,
            })
        })
        .collect()
}

/// Why a session is closed, from the two flags of a call.
pub(crate) fn decode_close_reason(revoked: bool, certificate_revoked: bool) -> CloseReason {
    match (revoked, certificate_revoked) {
        (true, true) => CloseReason::CertificateRevoked,
        (true, false) => CloseReason::Revoked,
        (false, _) => CloseReason::TakenOver,
    }
}

/// The session that a gateway reports.
pub(crate) fn decode_info(item: &proto::SessionItem) -> Result<Arc<SessionInfo>, CallError> {
    let key = <[u8; 8]>::try_from(&item.key_fingerprint[..]).map_err(|_| refused("a fingerprint has 8 bytes"))?;
    let protocol = Protocol::from_number(item.protocol).ok_or_else(|| refused("an unknown protocol"))?;
    let policy = check_text(&item.policy)?;
    Ok(Arc::new(SessionInfo {
        identity: decode_identity(&item.device, &item.module)?,
        generation: GenerationId(Arc::from(check_text(&item.generation)?)),
        key: KeyFingerprint(key),
        certificate: match &item.certificate {
            Some(certificate) => Some(Box::new(decode_certificate(certificate)?)),
            None => None,
        },
        policy: (!policy.is_empty()).then(|| Arc::from(policy)),
        protocol,
        address: item.address.parse().ok(),
        since: UnixMillis(item.since_ms),
        expires: (item.expires_ms > 0).then_some(UnixMillis(item.expires_ms)),
    }))
}

pub(crate) fn decode_number(item: &proto::SessionItem) -> SessionNumber {
    SessionNumber {
        term: Term(item.number_term),
        node: NodeId(item.number_node),
        counter: item.number_counter,
    }
}

/// Names a session that ends, or is waited for.
pub(crate) fn encode_ended(identity: &IdentityId, key: SessionKey) -> proto::SessionEnded {
    proto::SessionEnded {
        key: key.0,
        device: identity.device.as_str().to_owned(),
        module: encode_module(identity),
    }
}

pub(crate) fn decode_session(session: Option<&proto::SessionEnded>) -> Result<(IdentityId, SessionKey), CallError> {
    let session = session.ok_or_else(|| refused("no session is named"))?;
    Ok((
        decode_identity(&session.device, &session.module)?,
        SessionKey(session.key),
    ))
}

fn encode_counters(credit: Credit) -> proto::SessionCredit {
    proto::SessionCredit {
        granted_messages: credit.granted_messages,
        granted_bytes: credit.granted_bytes,
        used_messages: credit.used_messages,
        used_bytes: credit.used_bytes,
        kinds: credit.kinds,
    }
}

/// A session's credit; none from versions that do not know it.
pub(crate) fn decode_counters(credit: Option<&proto::SessionCredit>) -> Credit {
    credit.map_or(Credit::default(), |credit| Credit {
        granted_messages: credit.granted_messages,
        granted_bytes: credit.granted_bytes,
        used_messages: credit.used_messages,
        used_bytes: credit.used_bytes,
        kinds: credit.kinds,
    })
}

pub(crate) fn encode_credit(report: &ReportedCredit) -> proto::SessionCreditReport {
    proto::SessionCreditReport {
        session: Some(encode_ended(&report.info.identity, report.key)),
        credit: Some(encode_counters(report.credit.read())),
    }
}

pub(crate) fn encode_request_activity((_, activity): &(SessionKey, Activity)) -> proto::RequestActivity {
    let identity = &activity.info.identity;
    proto::RequestActivity {
        device: identity.device.as_str().to_owned(),
        module: identity
            .module
            .as_ref()
            .map_or_else(String::new, |module| module.as_str().to_owned()),
        generation: activity.info.generation.0.to_string(),
        at_ms: activity.at.0,
    }
}

pub(crate) fn encode_activity((key, activity): &(SessionKey, Activity)) -> proto::SessionActivity {
    proto::SessionActivity {
        session: Some(encode_ended(&activity.info.identity, *key)),
        at_ms: activity.at.0,
    }
}

pub(crate) fn encode_settlement(report: &ReportedSettlement) -> proto::SessionSettlement {
    proto::SessionSettlement {
        session: Some(encode_ended(&report.info.identity, report.key)),
        delivery: report.id.0,
        settlement: report.settlement.number(),
    }
}

/// The deliveries of one session in a call.
pub(crate) fn encode_deliveries(session: &SessionDeliveries) -> proto::SessionDeliveries {
    let deliveries = session.items.iter().map(|item| proto::SessionDelivery {
        id: item.id.0,
        sequence: item.sequence,
        kind: item.delivery.kind.number(),
        head: item.delivery.head.to_string(),
        body: item.delivery.body.clone(),
        trace: TraceContext::to_wire(item.delivery.trace),
    });
    proto::SessionDeliveries {
        session: Some(encode_ended(&session.identity, session.address.key)),
        deliveries: deliveries.collect(),
    }
}

pub(crate) fn decode_deliveries(session: proto::SessionDeliveries) -> Result<ReceivedDeliveries, CallError> {
    let (identity, key) = decode_session(session.session.as_ref())?;
    let items = session.deliveries.into_iter().map(|item| {
        Ok(ReceivedDelivery {
            tag: DeliveryTag(item.sequence),
            id: DeliveryId(item.id),
            kind: DeliveryKind::from_number(item.kind).ok_or_else(|| refused("an unknown kind of delivery"))?,
            head: item.head.into(),
            body: item.body,
            trace: TraceContext::from_wire(&item.trace),
        })
    });
    Ok(ReceivedDeliveries {
        identity,
        key,
        items: items.collect::<Result<_, CallError>>()?,
    })
}

/// The deliveries of one session, for this node itself.
pub(crate) fn receive_locally(session: &SessionDeliveries) -> ReceivedDeliveries {
    let items = session.items.iter().map(|item| ReceivedDelivery {
        tag: DeliveryTag(item.sequence),
        id: item.id,
        kind: item.delivery.kind,
        head: Arc::clone(&item.delivery.head),
        body: item.delivery.body.clone(),
        trace: item.delivery.trace,
    });
    ReceivedDeliveries {
        identity: session.identity.clone(),
        key: session.address.key,
        items: items.collect(),
    }
}

pub(crate) fn encode_delivery_answers(answers: Vec<Vec<DeliveryAnswer>>) -> proto::SessionDeliverAnswer {
    use proto::session_delivery_answers::Outcome;
    let sessions = answers.into_iter().map(|answers| proto::SessionDeliveryAnswers {
        outcomes: answers
            .into_iter()
            .map(|answer| {
                i32::from(match answer {
                    DeliveryAnswer::Accepted => Outcome::Accepted,
                    DeliveryAnswer::NoCapacity => Outcome::NoCapacity,
                    DeliveryAnswer::Gone => Outcome::Gone,
                })
            })
            .collect(),
    });
    proto::SessionDeliverAnswer {
        sessions: sessions.collect(),
    }
}

pub(crate) fn decode_delivery_answers(answer: &proto::SessionDeliverAnswer) -> Vec<Vec<DeliveryAnswer>> {
    use proto::session_delivery_answers::Outcome;
    let sessions = answer.sessions.iter().map(|session| {
        let outcomes = session.outcomes().map(|outcome| match outcome {
            Outcome::Accepted => DeliveryAnswer::Accepted,
            Outcome::NoCapacity => DeliveryAnswer::NoCapacity,
            // An outcome of a later version: the next report of the gateway decides.
            Outcome::Gone | Outcome::Unspecified => DeliveryAnswer::Gone,
        });
        outcomes.collect()
    });
    sessions.collect()
}

pub(crate) fn encode_subscription_request(request: &SubscriptionRequest) -> proto::SessionSubscriptionRequest {
    use proto::session_subscription_request::Action;
    let (action, channels) = match request.action {
        SubscriptionAction::Load => (Action::Load, 0),
        SubscriptionAction::Store(subscriptions) => (Action::Store, subscriptions.0.into()),
        SubscriptionAction::Discard => (Action::Discard, 0),
    };
    proto::SessionSubscriptionRequest {
        session: Some(encode_ended(&request.identity, request.key)),
        action: action.into(),
        channels,
    }
}

pub(crate) fn decode_subscription_request(
    request: &proto::SessionSubscriptionRequest,
) -> Result<SubscriptionRequest, CallError> {
    use proto::session_subscription_request::Action;
    let (identity, key) = decode_session(request.session.as_ref())?;
    let action = match request.action() {
        Action::Load => SubscriptionAction::Load,
        Action::Store => SubscriptionAction::Store(decode_channels(request.channels)?),
        Action::Discard => SubscriptionAction::Discard,
        Action::Unspecified => return Err(refused("an unknown action on subscriptions")),
    };
    Ok(SubscriptionRequest { identity, key, action })
}

fn decode_channels(channels: u32) -> Result<Subscriptions, CallError> {
    let channels = u16::try_from(channels).map_err(|_| refused("unknown channels of subscriptions"))?;
    Ok(Subscriptions(channels))
}

pub(crate) fn encode_subscription_answer(answer: SubscriptionAnswer) -> proto::SessionSubscriptionAnswer {
    use proto::session_subscription_answer::Outcome;
    let (outcome, stored) = match answer {
        SubscriptionAnswer::Done(stored) => (Outcome::Done, stored),
        SubscriptionAnswer::Gone => (Outcome::Gone, None),
        SubscriptionAnswer::Busy => (Outcome::Busy, None),
    };
    proto::SessionSubscriptionAnswer {
        outcome: outcome.into(),
        channels: stored.map(|stored| stored.0.into()),
    }
}

pub(crate) fn decode_subscription_answer(answer: &proto::SessionSubscriptionAnswer) -> SubscriptionAnswer {
    use proto::session_subscription_answer::Outcome;
    match (answer.outcome(), answer.channels.map(decode_channels)) {
        (Outcome::Done, None) => SubscriptionAnswer::Done(None),
        (Outcome::Done, Some(Ok(stored))) => SubscriptionAnswer::Done(Some(stored)),
        (Outcome::Gone, _) => SubscriptionAnswer::Gone,
        // Also an outcome of a later version: asking again is always safe.
        _ => SubscriptionAnswer::Busy,
    }
}

/// A delivery for the owner of the identity's partition, which waits up to `timeout` for its outcome.
pub(crate) fn encode_send(
    identity: &IdentityId,
    delivery: &Delivery,
    timeout: Duration,
    trace: Option<TraceContext>,
) -> proto::SessionSend {
    proto::SessionSend {
        device: identity.device.as_str().to_owned(),
        module: encode_module(identity),
        kind: delivery.kind.number(),
        redeliver: delivery.on_session_change == OnSessionChange::Redeliver,
        head: delivery.head.to_string(),
        body: delivery.body.clone(),
        wait_ms: millis(timeout),
        trace: TraceContext::to_wire(trace),
    }
}

pub(crate) fn decode_send(send: &proto::SessionSend) -> Result<(IdentityId, Delivery), CallError> {
    let delivery = Delivery {
        kind: DeliveryKind::from_number(send.kind).ok_or_else(|| refused("an unknown kind of delivery"))?,
        on_session_change: match send.redeliver {
            true => OnSessionChange::Redeliver,
            false => OnSessionChange::Return,
        },
        head: send.head.as_str().into(),
        body: send.body.clone(),
        trace: TraceContext::from_wire(&send.trace),
    };
    Ok((decode_identity(&send.device, &send.module)?, delivery))
}

pub(crate) fn encode_sent(outcome: Result<DeliveryOutcome, DeliveryError>) -> proto::session_answer::Answer {
    use proto::session_send_answer::Outcome;
    let mut answer = proto::SessionSendAnswer::default();
    let outcome = match outcome {
        Ok(DeliveryOutcome::Settled(Settlement::Accepted)) => Outcome::Accepted,
        Ok(DeliveryOutcome::Settled(Settlement::Rejected)) => Outcome::Rejected,
        Ok(DeliveryOutcome::Settled(Settlement::Released)) => Outcome::Released,
        Ok(DeliveryOutcome::NotDelivered) => Outcome::NotDelivered,
        Ok(DeliveryOutcome::Unknown) => Outcome::MaybeDelivered,
        Err(DeliveryError::Unsettled) => Outcome::Unsettled,
        Err(DeliveryError::NotConnected) => Outcome::NotConnected,
        Err(DeliveryError::NotListening) => Outcome::NotListening,
        Err(DeliveryError::QueueFull { messages, bytes }) => {
            answer.queued_messages = messages as u64;
            answer.queued_bytes = bytes as u64;
            Outcome::QueueFull
        }
        Err(DeliveryError::NoOwner | DeliveryError::Busy) => return encode_error(OwnerError::NotOwner),
        Err(DeliveryError::Unknown) => Outcome::Unspecified,
    };
    answer.set_outcome(outcome);
    proto::session_answer::Answer::Send(answer)
}

pub(crate) fn decode_sent(answer: &proto::SessionSendAnswer) -> Result<DeliveryOutcome, DeliveryError> {
    use proto::session_send_answer::Outcome;
    let size = |size| usize::try_from(size).unwrap_or(usize::MAX);
    Ok(match answer.outcome() {
        Outcome::Accepted => DeliveryOutcome::Settled(Settlement::Accepted),
        Outcome::Rejected => DeliveryOutcome::Settled(Settlement::Rejected),
        Outcome::Released => DeliveryOutcome::Settled(Settlement::Released),
        Outcome::NotDelivered => DeliveryOutcome::NotDelivered,
        Outcome::MaybeDelivered => DeliveryOutcome::Unknown,
        Outcome::Unsettled => return Err(DeliveryError::Unsettled),
        Outcome::NotConnected => return Err(DeliveryError::NotConnected),
        Outcome::NotListening => return Err(DeliveryError::NotListening),
        Outcome::QueueFull => {
            return Err(DeliveryError::QueueFull {
                messages: size(answer.queued_messages),
                bytes: size(answer.queued_bytes),
            });
        }
        // An outcome of a later version.
        Outcome::Unspecified => return Err(DeliveryError::Unknown),
    })
}

pub(crate) fn encode_method_result(
    id: MethodCallId,
    identity: &IdentityId,
    result: &MethodResult,
) -> proto::MethodResult {
    use proto::method_result::Outcome;
    let mut message = proto::MethodResult {
        incarnation: id.incarnation.get(),
        counter: id.counter,
        device: identity.device.as_str().to_owned(),
        module: encode_module(identity),
        ..proto::MethodResult::default()
    };
    let outcome = match result {
        MethodResult::Answered(answer) => {
            message.status = answer.status;
            message.payload = answer.payload.clone();
            Outcome::Answered
        }
        MethodResult::TooMany => Outcome::TooMany,
        MethodResult::Disconnected => Outcome::Disconnected,
    };
    message.set_outcome(outcome);
    message
}

/// The result of a call of `node`.
pub(crate) fn decode_method_result(
    node: NodeId,
    message: proto::MethodResult,
) -> Result<(MethodCallId, IdentityId, MethodResult), CallError> {
    use proto::method_result::Outcome;
    let id = MethodCallId {
        node,
        incarnation: Incarnation(message.incarnation),
        counter: message.counter,
    };
    let identity = decode_identity(&message.device, &message.module)?;
    let result = match message.outcome() {
        Outcome::Answered => MethodResult::Answered(MethodAnswer {
            status: message.status,
            payload: message.payload,
        }),
        Outcome::TooMany => MethodResult::TooMany,
        Outcome::Disconnected => MethodResult::Disconnected,
        Outcome::Unspecified => return Err(refused("an unknown outcome of a method call")),
    };
    Ok((id, identity, result))
}

pub(crate) fn encode_attached(outcome: Outcome, number: Option<SessionNumber>) -> proto::SessionAttached {
    proto::SessionAttached {
        outcome: outcome.into(),
        number_term: number.map_or(0, |number| number.term.get()),
        number_node: number.map_or(0, |number| number.node.get()),
        number_counter: number.map_or(0, |number| number.counter),
    }
}

pub(crate) fn decode_attached(attached: &proto::SessionAttached) -> AttachReply {
    let number = SessionNumber {
        term: Term(attached.number_term),
        node: NodeId(attached.number_node),
        counter: attached.number_counter,
    };
    match attached.outcome() {
        Outcome::Ready => AttachReply::Ready(number),
        Outcome::Waiting => AttachReply::Waiting(number),
        Outcome::Revoked => AttachReply::Revoked,
        Outcome::Busy => AttachReply::Retry(OwnerError::Busy),
        Outcome::Unspecified => AttachReply::Retry(OwnerError::LinkLost),
    }
}

pub(crate) fn encode_error(error: OwnerError) -> proto::session_answer::Answer {
    use proto::session_error::Cause;
    let cause = match error {
        OwnerError::NotOwner => Cause::NotOwner,
        OwnerError::LinkLost => Cause::LinkLost,
        OwnerError::StaleIncarnation => Cause::StaleIncarnation,
        OwnerError::Busy => Cause::Busy,
    };
    proto::session_answer::Answer::Error(proto::SessionError { cause: cause.into() })
}

pub(crate) fn encode_change_error(error: ChangeError) -> proto::session_answer::Answer {
    use proto::session_error::Cause;
    let cause = match error {
        ChangeError::NotOwner => Cause::NotOwner,
        ChangeError::Busy => Cause::Busy,
        ChangeError::DiskFull => Cause::DiskFull,
        ChangeError::TooLarge => Cause::TooLarge,
        ChangeError::Unknown => Cause::OutcomeUnknown,
    };
    proto::session_answer::Answer::Error(proto::SessionError { cause: cause.into() })
}

pub(crate) fn decode_change_error(error: &proto::SessionError) -> ChangeError {
    use proto::session_error::Cause;
    match error.cause() {
        Cause::NotOwner => ChangeError::NotOwner,
        Cause::Busy => ChangeError::Busy,
        Cause::DiskFull => ChangeError::DiskFull,
        Cause::TooLarge => ChangeError::TooLarge,
        Cause::LinkLost | Cause::StaleIncarnation | Cause::OutcomeUnknown | Cause::Unspecified => ChangeError::Unknown,
    }
}

pub(crate) fn decode_error(error: &proto::SessionError) -> OwnerError {
    use proto::session_error::Cause;
    match error.cause() {
        Cause::NotOwner => OwnerError::NotOwner,
        Cause::StaleIncarnation => OwnerError::StaleIncarnation,
        Cause::Busy => OwnerError::Busy,
        // Also a cause of a later version, or of another request: a report of all sessions is always safe.
        Cause::LinkLost | Cause::Unspecified | Cause::DiskFull | Cause::TooLarge | Cause::OutcomeUnknown => {
            OwnerError::LinkLost
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::IdentityId;

    use super::*;

    fn some_info() -> SessionInfo {
        SessionInfo {
            identity: IdentityId::module(DeviceId::parse("d").unwrap(), ModuleId::parse("m").unwrap()),
            generation: GenerationId(Arc::from("638400000000000001")),
            key: KeyFingerprint([1, 2, 3, 4, 5, 6, 7, 8]),
            certificate: Some(Box::new(SessionCertificate {
                fingerprints: CertificateFingerprints::of(b"a certificate"),
                ca: Some([7; 32]),
                path: Box::new([PathCertificate {
                    sha256: [8; 32],
                    issuer: IssuerId([9; 32]),
                    serial: Serial::of(&[1, 2, 3]),
                }]),
                epoch: Some([3; 16]),
            })),
            policy: Some(Arc::from("device")),
            protocol: Protocol::AmqpWs,
            address: Some(([192, 0, 2, 7], 4711).into()),
            since: UnixMillis(7),
            expires: None,
        }
    }

    #[test]
    fn a_session_is_decoded_as_it_was_encoded() {
        let sent = some_info();
        let credit = Credit {
            granted_messages: 1,
            granted_bytes: 2,
            used_messages: 3,
            used_bytes: 4,
            kinds: 0x305,
        };
        let item = encode_item(
            &sent,
            SessionKey(9),
            Some(SessionNumber {
                term: Term(3),
                node: NodeId(7),
                counter: 4,
            }),
            credit,
        );
        let request = proto::SessionSync {
            items: vec![item],
            ..proto::SessionSync::default()
        };
        let got: proto::SessionSync = decode(&encode(&request)).unwrap();
        assert_eq!(*decode_info(&got.items[0]).unwrap(), sent);
        assert_eq!(decode_counters(got.items[0].credit.as_ref()), credit);
        assert_eq!(
            decode_number(&got.items[0]),
            SessionNumber {
                term: Term(3),
                node: NodeId(7),
                counter: 4
            }
        );
    }

    #[test]
    fn malformed_messages_are_refused() {
        for bytes in [&b""[..], b"\x00", b"\x02rest", b"\x01\xff\xff\xff", b"\x01\x0a\x05ab"] {
            let got = decode::<proto::SessionRequest>(&Bytes::copy_from_slice(bytes));
            assert!(matches!(got, Err(CallError::Refused(_))), "{bytes:?}");
        }
        let good = encode_item(&some_info(), SessionKey(1), None, Credit::default());
        let broken: [fn(&mut proto::SessionItem); 8] = [
            |item| item.certificate.get_or_insert_default().sha1 = Bytes::from_static(b"short"),
            |item| item.certificate.get_or_insert_default().ca_sha256 = Bytes::from_static(&[0; 33]),
            |item| item.device = String::new(),
            |item| item.device = "a/b".to_owned(),
            |item| item.module = "x".repeat(500),
            |item| item.key_fingerprint = Bytes::from_static(b"short"),
            |item| item.protocol = 77,
            |item| item.policy = "x".repeat(10_000),
        ];
        for break_it in broken {
            let mut item = good.clone();
            break_it(&mut item);
            assert!(matches!(decode_info(&item), Err(CallError::Refused(_))), "{item:?}");
        }
        assert!(check_count(MAX_ITEMS).is_ok() && check_count(MAX_ITEMS + 1).is_err());
    }
}
