//! The subscriptions that outlive a session: the owner reads and changes them for the sessions of its partition.
//!
//! Why at the owner: the next connection of the identity may come to any node and must find every change that has been
//! acknowledged. Why as effects in the log: see docs/decisions/0029.
//! Invariants: only the identity's current session changes them, in a complete term, so that no session acts meanwhile that
//! has read older ones; a newer session begins after every change of the older one that is in flight; an unchanged set
//! costs no entry.
//! Not here: the meaning of the bits (`mqtt`), the calls of gateways ([`crate::gateway::subscription_requests`]).

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use holdfast_model::{IdentityId, PartitionId, SessionKey, Term};
use holdfast_partition::record::{DeviceStateChange, DeviceStateKey, DeviceStateKind, Effect, Leadership};
use holdfast_partition::{AppendError, Partition};
use tokio::sync::oneshot;

use crate::DeviceHub;
use crate::device_state::{self, Subscriptions};
use crate::session_types::{CallerLink, OwnerError, SessionInfo};

/// Values that are read from the disk at once.
const MAX_READS: usize = 32;

/// Delay before changes of unknown outcome are proposed again.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// A session's request about its identity's stored subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscriptionAction {
    Load,
    Store(Subscriptions),
    Discard,
}

impl SubscriptionAction {
    pub(super) fn is_change(self) -> bool {
        self != Self::Load
    }
}

/// A request of a session.
#[derive(Debug, Clone)]
pub(crate) struct SubscriptionRequest {
    pub(crate) identity: IdentityId,
    pub(crate) key: SessionKey,
    pub(crate) action: SubscriptionAction,
}

/// The owner's answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscriptionAnswer {
    /// Carried out; the stored subscriptions now.
    Done(Option<Subscriptions>),
    /// The session is not the identity's current one.
    Gone,
    /// Not now.
    Busy,
}

/// The requests of one call, and the sessions that may make them; `None`: not the current one.
type Admitted = Vec<(SubscriptionAction, Option<Arc<SessionInfo>>)>;

pub(crate) fn subscriptions_key(info: &SessionInfo) -> DeviceStateKey<'_> {
    device_state::key(DeviceStateKind::SUBSCRIPTIONS, &info.identity, &info.generation)
}

impl DeviceHub {
    /// Carries out requests that came over one link.
    pub(crate) async fn answer_subscriptions(
        self: &Arc<Self>,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        requests: Vec<SubscriptionRequest>,
    ) -> Result<Vec<SubscriptionAnswer>, OwnerError> {
        let replica = self.parts.partitions.local(partition).ok_or(OwnerError::NotOwner)?;
        let sessions = self.ownership.admit_subscriptions(partition, term, caller, &requests)?;
        let actions = requests.iter().map(|request| request.action);
        let admitted: Admitted = actions.zip(sessions).collect();
        let (reply, replied) = oneshot::channel();
        let hub = Arc::clone(self);
        // On a task of its own: a caller that gives up must not leave changes in flight that nothing waits for.
        holdfast_tasks::spawn_critical("subscriptions", async move {
            let answers = hub.carry_out(&replica, term, &admitted).await;
            let is_changed = |(action, _): &&(SubscriptionAction, _)| action.is_change();
            let changed = admitted
                .iter()
                .filter(is_changed)
                .filter_map(|(_, info)| info.as_deref());
            hub.ownership.subscriptions_decided(partition, term, changed);
            let _ = reply.send(answers);
        });
        let answers = replied.await.map_err(|_| OwnerError::NotOwner)?;
        answers.map_err(|error| {
            tracing::debug!(partition = partition.0, %error, "subscriptions could not be stored; their gateway asks again");
            OwnerError::NotOwner
        })
    }

    async fn carry_out(
        &self,
        replica: &Partition,
        term: Term,
        admitted: &Admitted,
    ) -> Result<Vec<SubscriptionAnswer>, AppendError> {
        let read = admitted.clone().into_iter().map(|(action, info)| async move {
            match info {
                Some(info) => self.decide(replica, action, &info).await,
                None => Ok((SubscriptionAnswer::Gone, None)),
            }
        });
        let decided: Vec<_> = stream::iter(read).buffered(MAX_READS).collect().await;
        let decided = decided.into_iter().collect::<Result<Vec<_>, AppendError>>()?;
        let effects: Vec<Effect<'_>> = admitted
            .iter()
            .zip(&decided)
            .filter_map(|((_, info), (_, change))| {
                Some(Effect::DeviceState(DeviceStateChange {
                    key: subscriptions_key(info.as_deref()?),
                    value: change.as_ref()?.as_deref(),
                }))
            })
            .collect();
        let owner = Leadership {
            term,
            node: self.parts.node,
        };
        // An entry of unknown outcome may still be committed: a newer session must not begin before that is decided. The same
        // effects behind it in the log decide it, and change nothing more.
        while let Err(error) = replica.propose(owner, &effects).await {
            if error != AppendError::Unknown || self.ownership.term(replica.id()) != Some(term) {
                return Err(error);
            }
            tokio::time::sleep(RETRY_BACKOFF).await;
        }
        Ok(decided.into_iter().map(|(answer, _)| answer).collect())
    }

    /// The answer to one request, and the value to set or remove before it is given.
    async fn decide(
        &self,
        replica: &Partition,
        action: SubscriptionAction,
        info: &SessionInfo,
    ) -> Result<(SubscriptionAnswer, Option<Option<Vec<u8>>>), AppendError> {
        let value = replica.device_state(&subscriptions_key(info)).await;
        // The disk has failed, and the node stops.
        let value = value.map_err(|_| AppendError::Stopped)?;
        let stored = value.and_then(|value| device_state::decode_subscriptions(&value));
        let wanted = match action {
            SubscriptionAction::Load => stored,
            SubscriptionAction::Store(wanted) => Some(wanted),
            SubscriptionAction::Discard => None,
        };
        if wanted == stored {
            return Ok((SubscriptionAnswer::Done(stored), None));
        }
        if !self.is_writable() {
            return Ok((SubscriptionAnswer::Busy, None));
        }
        let change = wanted.map(device_state::encode_subscriptions);
        Ok((SubscriptionAnswer::Done(wanted), Some(change)))
    }

    /// The stored subscriptions, if this node owns the partition and has them in memory. For a session that has begun.
    pub(crate) fn subscriptions_in_memory(
        &self,
        partition: PartitionId,
        info: &SessionInfo,
    ) -> Option<Option<Subscriptions>> {
        let replica = self.parts.partitions.local(partition)?;
        let value = replica.device_state_in_memory(&subscriptions_key(info))?;
        Some(value.and_then(|value| device_state::decode_subscriptions(&value)))
    }
}
