//! "Why can't this device connect?": what the hub knows of an identity's connections.

use std::collections::{HashMap, VecDeque};

use holdfast_model::{IdentityId, UnixMillis};
use parking_lot::Mutex;

use crate::audit::AuditRecord;
use crate::sessions::SessionNumber;
use crate::{DeviceHub, Protocol};

/// Identities whose last disconnection is remembered, in memory, at most.
const MAX_RECENT: usize = 100_000;

/// When identities were last connected; forgets the oldest.
#[derive(Default)]
pub(crate) struct Recent(Mutex<RecentRows>);

#[derive(Default)]
struct RecentRows {
    last: HashMap<IdentityId, UnixMillis>,
    order: VecDeque<IdentityId>,
}

impl Recent {
    pub(crate) fn disconnected(&self, identity: &IdentityId, now: UnixMillis) {
        let mut rows = self.0.lock();
        if rows.last.insert(identity.clone(), now).is_some() {
            return;
        }
        rows.order.push_back(identity.clone());
        if rows.order.len() > MAX_RECENT
            && let Some(oldest) = rows.order.pop_front()
        {
            rows.last.remove(&oldest);
        }
    }

    fn get(&self, identity: &IdentityId) -> Option<UnixMillis> {
        self.0.lock().last.get(identity).copied()
    }
}

/// Whether an identity is connected, and since when. In memory: a restarted node knows only what has connected since
/// (docs/compatibility.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// Connected now.
    pub is_connected: bool,
    /// When that last changed.
    pub updated: Option<UnixMillis>,
}

/// A live session.
#[derive(Debug, Clone)]
pub struct LiveSession {
    /// Its number.
    pub number: SessionNumber,
    /// How it is connected.
    pub protocol: Protocol,
    /// Since when.
    pub since: UnixMillis,
    /// When its token ends, clock skew included.
    pub expires: Option<UnixMillis>,
    /// The policy whose token opened it.
    pub policy: Option<String>,
}

/// Everything about an identity's connections.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// The hub's clock, to be compared with the device's.
    pub hub_time: UnixMillis,
    /// Its live session.
    pub session: Option<LiveSession>,
    /// Its connection state.
    pub connection: ConnectionFacts,
    /// Its last refusals, newest last.
    pub refusals: Vec<AuditRecord>,
}

impl DeviceHub {
    /// Whether `identity` is connected.
    #[must_use]
    pub fn connection_facts(&self, identity: &IdentityId) -> ConnectionFacts {
        match self.sessions.get(self.partition_of(identity), identity) {
            Some(entry) => ConnectionFacts {
                is_connected: true,
                updated: Some(entry.since),
            },
            None => ConnectionFacts {
                is_connected: false,
                updated: self.recent.get(identity),
            },
        }
    }

    /// What is known of `identity`'s connections.
    #[must_use]
    pub fn diagnose(&self, identity: &IdentityId) -> Diagnosis {
        let session = self
            .sessions
            .get(self.partition_of(identity), identity)
            .map(|entry| LiveSession {
                number: entry.number,
                protocol: entry.protocol,
                since: entry.since,
                expires: entry.expires,
                policy: entry.policy.as_deref().map(str::to_owned),
            });
        Diagnosis {
            hub_time: self.parts.clock.now(),
            session,
            connection: self.connection_facts(identity),
            refusals: self.audit.refusals_of(&identity.to_string()),
        }
    }
}
