//! Closes the sessions of identities, policies and certificates that have changed or are revoked (docs/spec/auth-and-limits.md §6.1 step 9).
//!
//! Every gateway closes its own sessions, by its own registry replica. A gateway whose replica lags may not know of the
//! change: sessions that still exist a second later are closed by the owner of the partition, and a gateway that does not
//! close them loses its link, so that owners refuse traffic of revoked identities.
//! A check of all sessions may read every identity from the disk. It yields regularly, since links are renewed on the same
//! thread, and only one such check of other gateways' sessions runs at a time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use holdfast_model::{IdentityId, PartitionId, Term};
use holdfast_registry::{ChangeKind, RegistryEvent};
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::{Phase, Stop};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::session_table::LocalSession;
use crate::DeviceHub;
use crate::api::authenticate::{is_current_epoch, still_valid};
use crate::api::session::CloseReason;
use crate::ingest::command_queue::Command;
use crate::owner::close_superseded::CloseOutcome;
use crate::owner::ownership::{SessionRow, SupersededSession};
use crate::session_types::SessionInfo;

/// How long gateways have to close sessions by their own replica before the owner checks.
const OWNER_CHECK_DELAY: Duration = Duration::from_secs(1);

/// Changes whose sessions on other gateways are still to be checked; beyond it all sessions are checked.
const MAX_DEFERRED: usize = 10_000;

/// Sessions that are checked before other tasks get their turn.
const CHECKS_PER_YIELD: usize = 64;

/// Sessions on other gateways that one check closes at once.
const MAX_CLOSING: usize = 256;

/// The sessions that a change may concern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Concerned {
    /// Those of one identity.
    Identity(IdentityId),
    /// Those that a certificate has opened, whose identity need not be read.
    Certificates,
    /// All.
    All,
}

/// A check that the owner runs later.
struct DeferredCheck {
    at: Instant,
    of: Concerned,
}

/// Follows the registry until the node closes; to be spawned once per node.
pub async fn watch_registry(hub: Arc<DeviceHub>, stop: Stop) {
    let mut changes = hub.parts.registry.changes();
    let mut deferred: VecDeque<DeferredCheck> = VecDeque::new();
    let full_check = Arc::new(Semaphore::new(1));
    loop {
        let due = deferred.front().map(|first| first.at);
        let is_due = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            event = changes.next() => event,
            () = is_due => {
                match deferred.pop_front().map(|first| first.of) {
                    Some(of @ Concerned::Identity(_)) => check_remote_sessions(&hub, of, None),
                    Some(of) => match Arc::clone(&full_check).try_acquire_owned() {
                        Ok(permit) => check_remote_sessions(&hub, of, Some(permit)),
                        // The running check may have passed the sessions that have changed since.
                        Err(_) => deferred.push_back(DeferredCheck {
                            at: Instant::now() + OWNER_CHECK_DELAY,
                            of,
                        }),
                    },
                    None => {}
                }
                continue;
            }
        };
        let of = match event {
            // A new identity has no sessions yet.
            Some(RegistryEvent::Identity { change, .. }) if change.kind == ChangeKind::Created => continue,
            Some(RegistryEvent::Identity { change, .. }) => {
                let partition = hub.partition_of(&change.id);
                for session in hub.sessions.of_device(partition, &change.id) {
                    check_local_session(&hub, partition, &session);
                }
                if hub.ownership.remote_sessions(partition, Some(&change.id)).is_empty() {
                    continue;
                }
                Concerned::Identity(change.id)
            }
            Some(RegistryEvent::Revocations) => {
                check_local_sessions(&hub, &Concerned::Certificates).await;
                Concerned::Certificates
            }
            // Policies or CAs may have changed, or changes were missed: check all sessions.
            Some(RegistryEvent::Settings | RegistryEvent::Authorities | RegistryEvent::Resync) => {
                check_local_sessions(&hub, &Concerned::All).await;
                Concerned::All
            }
            Some(_) => continue,
            None => return,
        };
        let at = Instant::now() + OWNER_CHECK_DELAY;
        if deferred.len() >= MAX_DEFERRED {
            deferred.clear();
            deferred.push_back(DeferredCheck { at, of: Concerned::All });
        } else if matches!(of, Concerned::Identity(_)) || deferred.back().is_none_or(|last| last.of != of) {
            deferred.push_back(DeferredCheck { at, of });
        }
    }
}

async fn check_local_sessions(hub: &DeviceHub, of: &Concerned) {
    for partition in hub.parts.partitions.count().iter() {
        for (number, session) in (1..).zip(hub.sessions.of_partition(partition)) {
            match of {
                Concerned::Certificates => {
                    close_local(hub, partition, &session, hub.certificate_revoked(&session.info))
                }
                _ => check_local_session(hub, partition, &session),
            }
            yield_regularly(number).await;
        }
    }
}

/// Closes the session unless its identity still has the key or certificate that opened it.
fn check_local_session(hub: &DeviceHub, partition: PartitionId, session: &LocalSession) {
    close_local(hub, partition, session, hub.why_unauthorized(&session.info));
}

fn close_local(hub: &DeviceHub, partition: PartitionId, session: &LocalSession, reason: Option<CloseReason>) {
    if let Some(reason) = reason {
        hub.close_on_core(session.core, Command::close(session, partition, reason, None), reason);
    }
}

async fn yield_regularly(checked: usize) {
    if checked.is_multiple_of(CHECKS_PER_YIELD) {
        tokio::task::yield_now().await;
    }
}

/// Closes sessions of partitions owned here that other gateways should have closed. `permit` is released when all have been
/// checked and closed.
fn check_remote_sessions(hub: &Arc<DeviceHub>, of: Concerned, permit: Option<OwnedSemaphorePermit>) {
    let hub = Arc::clone(hub);
    holdfast_tasks::spawn_critical("session-revoke", async move {
        let _permit = permit;
        let identity = match &of {
            Concerned::Identity(identity) => Some(identity),
            Concerned::Certificates | Concerned::All => None,
        };
        let partitions: Vec<PartitionId> = match identity {
            Some(identity) => vec![hub.partition_of(identity)],
            None => hub.parts.partitions.count().iter().collect(),
        };
        for partition in partitions {
            let mut revoked = Vec::new();
            for (number, (term, row)) in (1..).zip(hub.ownership.remote_sessions(partition, identity)) {
                let reason = match of {
                    Concerned::Certificates => hub.certificate_revoked(&row.info),
                    _ => hub.why_unauthorized(&row.info),
                };
                revoked.extend(reason.map(|reason| (term, row, reason)));
                yield_regularly(number).await;
            }
            close_on_gateways(&hub, partition, revoked).await;
        }
    });
}

/// Has gateways close sessions. A gateway that does not answer loses its link and gets no further calls: it comes back
/// with a report of all its sessions, whose answer names the closed ones.
async fn close_on_gateways(
    hub: &Arc<DeviceHub>,
    partition: PartitionId,
    revoked: Vec<(Term, SessionRow, CloseReason)>,
) {
    let unreachable = Mutex::new(BTreeSet::new());
    let closings = revoked.into_iter().map(|(term, row, reason)| {
        let unreachable = &unreachable;
        async move {
            let gateway = row.address.gateway;
            if unreachable.lock().contains(&gateway) {
                return;
            }
            let session = SupersededSession {
                info: row.info,
                address: row.address,
            };
            let outcome = hub.close_remote(partition, &session, reason).await;
            if outcome == CloseOutcome::Unreachable {
                unreachable.lock().insert(gateway);
                hub.ownership.break_link(partition, term, gateway);
            }
        }
    });
    let closings = stream::iter(closings).buffer_unordered(MAX_CLOSING);
    closings.for_each(|()| std::future::ready(())).await;
}

impl DeviceHub {
    /// Why a session must end because of its certificate: it, one of its issuers or its CA is revoked, by this node's replica.
    fn certificate_revoked(&self, info: &SessionInfo) -> Option<CloseReason> {
        let shown = info.certificate.as_deref()?;
        let authorities = self.parts.registry.authorities();
        let by = authorities.revoked(&shown.fingerprints.sha256, &shown.path, shown.ca.as_ref());
        by.map(|_| CloseReason::CertificateRevoked)
    }

    /// Why a session must end: its identity does not have the key or certificate any more that opened it, or a certificate
    /// of its chain is revoked, by this node's replica.
    pub(crate) fn why_unauthorized(&self, info: &SessionInfo) -> Option<CloseReason> {
        let revoked = || (!self.is_still_registered(info)).then_some(CloseReason::Revoked);
        self.certificate_revoked(info).or_else(revoked)
    }

    /// Whether a session's certificate, if the hub has issued it, is still one of the device's.
    fn has_current_epoch(&self, info: &SessionInfo) -> bool {
        let Some(epoch) = info.certificate.as_deref().and_then(|shown| shown.epoch) else {
            return true;
        };
        match is_current_epoch(&self.parts.registry, &info.identity.device, &epoch) {
            Ok(is_current) => is_current,
            // As an unreadable identity.
            Err(error) => {
                tracing::warn!(identity = %info.identity, %error, "a device's certificates could not be read; its session stays");
                true
            }
        }
    }

    /// Whether a session's identity still has the key or certificate that opened it.
    fn is_still_registered(&self, info: &SessionInfo) -> bool {
        let registry = &self.parts.registry;
        let registered = match registry.identity(&info.identity) {
            Ok(Some(registered)) => registered,
            Ok(None) => return false,
            // An unreadable identity is not a revoked one; the next event or the expiry of the token decides.
            Err(error) => {
                tracing::warn!(identity = %info.identity, %error, "an identity could not be read; its session stays");
                return true;
            }
        };
        if registered.generation != info.generation || !registered.is_enabled() {
            return false;
        }
        match &info.policy {
            Some(name) => registry.policy(name).is_some_and(|policy| policy.keys.holds(info.key)),
            None => {
                let authorities = registry.authorities();
                let certificate = info.certificate.as_deref();
                still_valid(&registered, info.key, certificate, authorities.verified()) && self.has_current_epoch(info)
            }
        }
    }
}
