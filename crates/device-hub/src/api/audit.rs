//! Refusals with their reasons, and changes with their authors.
//!
//! Records go to the tracing target `audit`; the last refusals of an identity also stay in memory for `diagnose`.
//! A flood of refusals is counted, not written, so that it cannot fill the disk: per source and identity, then over all. Addresses are kept, tokens and keys never, also
//! where a client has put them into a name.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_model::{ErrorCode, NodeId, RefusalReason, UnixMillis, redact};
use holdfast_tasks::sync::Mutex;
use metrics::Counter;

use super::config::DeviceHubConfig;
use super::connect_request::{ConnectRequest, Denied, Protocol, Refusal};
use super::offered::Offered;
use super::refusal_limiter::{RefusalLimiter, Suppressed};

/// Refusals remembered per identity.
const REFUSALS_PER_IDENTITY: usize = 8;

/// Longest identity text that is kept; longer ones cannot exist and are cut.
const MAX_IDENTITY_CHARS: usize = 257;

/// The attempted operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening a device session.
    Connect,
    /// Publishing a message.
    Publish,
    /// Subscribing.
    Subscribe,
    /// A call of the service API.
    Service,
    /// Reading events.
    ReadEvents,
    /// Keeping a device session.
    Session,
    /// Registering with the provisioning service.
    Register,
}

impl Operation {
    /// The word in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Service => "service",
            Self::ReadEvents => "read_events",
            Self::Session => "session",
            Self::Register => "register",
        }
    }

    /// Its number in calls between nodes.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Connect => 1,
            Self::Publish => 2,
            Self::Subscribe => 3,
            Self::Service => 4,
            Self::ReadEvents => 5,
            Self::Session => 6,
            Self::Register => 7,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Connect,
            2 => Self::Publish,
            3 => Self::Subscribe,
            4 => Self::Service,
            5 => Self::ReadEvents,
            6 => Self::Session,
            7 => Self::Register,
            _ => return None,
        })
    }
}

/// A remembered refusal.
#[derive(Debug, Clone)]
pub struct AuditRecord {
    /// When it happened.
    pub time: UnixMillis,
    /// The attempted operation.
    pub operation: Operation,
    /// The number that was sent to the peer.
    pub code: ErrorCode,
    /// The cause.
    pub reason: RefusalReason,
    /// The protocol of the connection.
    pub protocol: Protocol,
    /// The network address of the peer.
    pub address: SocketAddr,
    /// The exact event, where the reason alone is not exact.
    pub detail: Option<Arc<str>>,
    /// The credential that was offered; `None` for the end of a connection that had begun.
    pub offered: Option<Arc<Offered>>,
    /// The gateway, in a diagnosis.
    pub node: Option<NodeId>,
}

/// A connection that the hub ended, or did not let begin.
#[derive(Debug)]
pub struct EndedConnection<'a> {
    /// The attempted operation.
    pub operation: Operation,
    /// The identity that the client claimed to be; empty when it had claimed none.
    pub identity: &'a str,
    /// The protocol of the connection.
    pub protocol: Protocol,
    /// The network address of the peer.
    pub address: SocketAddr,
    /// Number and reason.
    pub refusal: Refusal,
    /// The packet or topic, the rule, and the section of the specification. Printable text.
    pub detail: String,
}

#[derive(Default)]
struct Ring {
    by_identity: HashMap<String, VecDeque<AuditRecord>>,
    /// Identities in the order of their first refusal; the oldest is forgotten first.
    order: VecDeque<String>,
    second: u64,
    written: u32,
    suppressed: u64,
    limiter: RefusalLimiter,
}

/// A refusal that is not about credentials: a request that a known client must not or cannot make.
#[derive(Debug, Clone, Copy)]
pub struct RefusedRequest<'a> {
    /// The attempted operation.
    pub operation: Operation,
    /// The principal, as far as it is known.
    pub identity: &'a str,
    /// The protocol of its connection.
    pub protocol: Protocol,
    /// Its network address.
    pub address: SocketAddr,
    /// The number that the client was sent.
    pub code: ErrorCode,
    /// The reason, a word.
    pub reason: &'a str,
    /// The text that the client was sent.
    pub text: &'a str,
}

/// The audit log of a node.
pub struct Audit {
    ring: Mutex<Ring>,
    max_identities: usize,
    max_per_second: u32,
    refusals: Vec<(RefusalReason, Counter)>,
}

impl Audit {
    pub(crate) fn new(config: &DeviceHubConfig) -> Self {
        let refusals = RefusalReason::ALL
            .iter()
            .map(|reason| (*reason, crate::metrics::refusals(reason.as_str())))
            .collect();
        Self {
            ring: Mutex::default(),
            max_identities: config.max_refusal_identities,
            max_per_second: config.max_audit_refusals_per_second,
            refusals,
        }
    }

    /// A device or module was refused.
    pub fn refused(&self, operation: Operation, request: &ConnectRequest<'_>, denied: Denied, now: UnixMillis) {
        let identity = match request.module {
            Some(module) => format!("{}/{module}", request.device),
            None => request.device.to_owned(),
        };
        let record = AuditRecord {
            time: now,
            operation,
            code: denied.refusal.code,
            reason: denied.refusal.reason,
            protocol: request.protocol,
            address: request.address,
            detail: denied.detail,
            offered: Some(Arc::new(Offered::of(request))),
            node: None,
        };
        self.count(denied.refusal.reason);
        self.record("refused", &identity, &record);
    }

    /// A client that called itself `identity` was refused; `detail` is exact where the reason alone is not.
    pub fn refused_attestation(
        &self,
        identity: &str,
        protocol: Protocol,
        address: SocketAddr,
        denied: Denied,
        now: UnixMillis,
    ) {
        let record = AuditRecord {
            time: now,
            operation: Operation::Register,
            code: denied.refusal.code,
            reason: denied.refusal.reason,
            protocol,
            address,
            detail: denied.detail,
            offered: None,
            node: None,
        };
        self.count(denied.refusal.reason);
        self.record("refused", identity, &record);
    }

    /// A client that called itself `identity` was refused.
    pub fn refused_identity(
        &self,
        operation: Operation,
        identity: &str,
        protocol: Protocol,
        address: SocketAddr,
        refusal: Refusal,
        now: UnixMillis,
    ) {
        let record = AuditRecord {
            time: now,
            operation,
            code: refusal.code,
            reason: refusal.reason,
            protocol,
            address,
            detail: None,
            offered: None,
            node: None,
        };
        self.count(refusal.reason);
        self.record("refused", identity, &record);
    }

    /// The hub ended a connection.
    pub fn ended(&self, ended: EndedConnection<'_>, now: UnixMillis) {
        let record = AuditRecord {
            time: now,
            operation: ended.operation,
            code: ended.refusal.code,
            reason: ended.refusal.reason,
            protocol: ended.protocol,
            address: ended.address,
            detail: Some(ended.detail.into()),
            offered: None,
            node: None,
        };
        // The end of an accepted connection is no refusal; the front end counts it.
        if record.operation == Operation::Connect {
            self.count(record.reason);
        }
        self.record("connection_ended", ended.identity, &record);
    }

    fn count(&self, reason: RefusalReason) {
        if let Some((_, counter)) = self.refusals.iter().find(|(known, _)| *known == reason) {
            counter.increment(1);
        }
    }

    fn record(&self, event: &'static str, identity: &str, record: &AuditRecord) {
        let identity = shown_identity(identity);
        self.ring
            .lock()
            .remember(&identity, record.clone(), self.max_identities);
        let Some(suppressed) = self.admit(record.address, &identity, Some(record.reason), record.time) else {
            return;
        };
        tracing::info!(
            target: "audit",
            event,
            operation = record.operation.as_str(),
            identity,
            protocol = record.protocol.as_str(),
            address = %record.address,
            code = record.code.number(),
            reason = record.reason.as_str(),
            detail = record.detail.as_deref().map(redact).as_deref(),
            suppressed_before = suppressed,
        );
    }

    /// A request was refused for another reason than its credentials.
    pub fn refused_request(&self, refused: &RefusedRequest<'_>, now: UnixMillis) {
        let identity = shown_identity(refused.identity);
        let Some(suppressed) = self.admit(refused.address, &identity, None, now) else {
            return;
        };
        tracing::info!(
            target: "audit",
            event = "refused",
            operation = refused.operation.as_str(),
            identity,
            protocol = refused.protocol.as_str(),
            address = %refused.address,
            code = refused.code.number(),
            reason = refused.reason,
            text = &*redact(refused.text),
            suppressed_before = suppressed,
        );
    }

    /// Whether a refusal is written: `None` when it is only counted, else how many of others were suppressed before it by
    /// the limit over all.
    fn admit(
        &self,
        address: SocketAddr,
        identity: &str,
        reason: Option<RefusalReason>,
        now: UnixMillis,
    ) -> Option<u64> {
        let mut report = Vec::new();
        let admitted = {
            let mut ring = self.ring.lock();
            // It comes when others of its source are suppressed already, and once.
            let is_first = reason == Some(RefusalReason::Guessing)
                || ring
                    .limiter
                    .admit(address.ip(), identity, now, self.max_identities, &mut report);
            if is_first {
                ring.admit(now, self.max_per_second)
            } else {
                None
            }
        };
        write_suppressed(report);
        admitted
    }

    /// Writes the counts of refusals whose window has ended; to be called once in a while.
    pub fn write_suppressed(&self, now: UnixMillis) {
        let mut report = Vec::new();
        self.ring.lock().limiter.expire(now, &mut report);
        write_suppressed(report);
    }

    pub(crate) fn connected(&self, request: &ConnectRequest<'_>) {
        tracing::debug!(
            target: "audit",
            event = "connected",
            device = request.device,
            module = request.module,
            protocol = request.protocol.as_str(),
            address = %request.address,
        );
    }

    /// A principal changed the registry or the hub's settings.
    pub fn changed(
        &self,
        operation: &str,
        subject: &str,
        principal: &str,
        address: SocketAddr,
        code: Option<ErrorCode>,
    ) {
        tracing::info!(
            target: "audit",
            event = if code.is_some() { "change_refused" } else { "changed" },
            operation,
            subject = &*redact(subject),
            principal = &*redact(principal),
            address = %address,
            code = code.map(ErrorCode::number),
        );
    }

    /// The last refusals of `identity` (`device` or `device/module`), newest last.
    #[must_use]
    pub fn refusals_of(&self, identity: &str) -> Vec<AuditRecord> {
        self.ring
            .lock()
            .by_identity
            .get(identity)
            .map(|records| records.iter().cloned().collect())
            .unwrap_or_default()
    }
}

/// The text that a client gives as its identity, cut, and without secrets: it may be a connection string.
fn shown_identity(text: &str) -> String {
    redact(text).chars().take(MAX_IDENTITY_CHARS).collect()
}

/// One record for all refusals of a source and identity that were counted in a window.
fn write_suppressed(report: Vec<Suppressed>) {
    for suppressed in report {
        tracing::info!(
            target: "audit",
            event = "refusals_suppressed",
            identity = suppressed.identity,
            source = %suppressed.source,
            count = suppressed.count,
        );
    }
}

impl Ring {
    fn remember(&mut self, identity: &str, record: AuditRecord, max_identities: usize) {
        if let Some(records) = self.by_identity.get_mut(identity) {
            if records.len() == REFUSALS_PER_IDENTITY {
                records.pop_front();
            }
            records.push_back(record);
            return;
        }
        if self.order.len() >= max_identities
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_identity.remove(&oldest);
        }
        self.order.push_back(identity.to_owned());
        self.by_identity.insert(identity.to_owned(), VecDeque::from([record]));
    }

    /// Whether a record may be written in this second; returns how many were suppressed since the last one.
    fn admit(&mut self, now: UnixMillis, max_per_second: u32) -> Option<u64> {
        if self.second != now.seconds() {
            self.second = now.seconds();
            self.written = 0;
        }
        if self.written >= max_per_second {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Credential;

    fn request(device: &str) -> ConnectRequest<'_> {
        ConnectRequest {
            device,
            module: None,
            host: "hub",
            credential: Credential::None,
            model_id: None,
            stored_session: crate::StoredSession::Unused,
            protocol: Protocol::Mqtt,
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            tls: None,
            handshake: None,
            trace: None,
        }
    }

    #[test]
    fn the_last_refusals_of_an_identity_are_kept_and_the_oldest_identity_is_forgotten() {
        let audit = Audit::new(&DeviceHubConfig {
            max_refusal_identities: 2,
            ..DeviceHubConfig::default()
        });
        let refusal = || Denied::from(RefusalReason::Expired);
        for time in 0..20 {
            audit.refused(Operation::Connect, &request("a"), refusal(), UnixMillis(time));
        }
        let kept = audit.refusals_of("a");
        assert_eq!(kept.len(), REFUSALS_PER_IDENTITY);
        assert_eq!(kept.last().unwrap().time, UnixMillis(19));
        audit.refused(Operation::Connect, &request("b"), refusal(), UnixMillis(30));
        audit.refused(Operation::Connect, &request("c"), refusal(), UnixMillis(31));
        assert!(audit.refusals_of("a").is_empty());
        assert_eq!(audit.refusals_of("c").len(), 1);
    }

    #[test]
    fn a_flood_is_counted_instead_of_written() {
        let mut ring = Ring::default();
        assert_eq!(ring.admit(UnixMillis(1000), 1), Some(0));
        assert_eq!(ring.admit(UnixMillis(1001), 1), None);
        assert_eq!(ring.admit(UnixMillis(1002), 1), None);
        assert_eq!(ring.admit(UnixMillis(2000), 1), Some(2));
    }
}
