//! Who is connected, and on which core: the owner's table of sessions.
//!
//! One identity has one session; a newer one wins (Spec device-mqtt §3.2).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_auth::KeyFingerprint;
use holdfast_model::{GenerationId, IdentityId, PartitionCount, PartitionId, UnixMillis};
use parking_lot::Mutex;

use crate::Protocol;

/// Tells the sessions of one node apart; never reused while the node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNumber(pub u64);

/// A row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) number: SessionNumber,
    pub(crate) core: u16,
    pub(crate) generation: GenerationId,
    /// With which key it was opened.
    pub(crate) key: KeyFingerprint,
    /// The policy whose token opened it, if one did.
    pub(crate) policy: Option<std::sync::Arc<str>>,
    pub(crate) protocol: Protocol,
    pub(crate) since: UnixMillis,
    pub(crate) expires: Option<UnixMillis>,
}

/// All sessions of the node, one lock per partition.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: Vec<Mutex<HashMap<IdentityId, Entry>>>,
    next: AtomicU64,
    connected_devices: AtomicU64,
}

impl Sessions {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        Self {
            shards: partitions.iter().map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(1),
            connected_devices: AtomicU64::new(0),
        }
    }

    pub(crate) fn next_number(&self) -> SessionNumber {
        SessionNumber(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn shard(&self, partition: PartitionId) -> &Mutex<HashMap<IdentityId, Entry>> {
        &self.shards[usize::from(partition.0)]
    }

    /// Enters a session and gives back the one that it takes over.
    pub(crate) fn attach(&self, partition: PartitionId, identity: &IdentityId, entry: Entry) -> Option<Entry> {
        let old = self.shard(partition).lock().insert(identity.clone(), entry);
        if old.is_none() && identity.module.is_none() {
            self.connected_devices.fetch_add(1, Ordering::Relaxed);
        }
        old
    }

    /// Removes the session if it is still the identity's.
    pub(crate) fn detach(&self, partition: PartitionId, identity: &IdentityId, number: SessionNumber) -> Option<Entry> {
        let mut shard = self.shard(partition).lock();
        if shard.get(identity)?.number != number {
            return None;
        }
        let entry = shard.remove(identity);
        if shard.is_empty() {
            shard.shrink_to_fit();
        }
        drop(shard);
        if identity.module.is_none() {
            self.connected_devices.fetch_sub(1, Ordering::Relaxed);
        }
        entry
    }

    pub(crate) fn get(&self, partition: PartitionId, identity: &IdentityId) -> Option<Entry> {
        self.shard(partition).lock().get(identity).cloned()
    }

    /// The sessions of a device and its modules.
    pub(crate) fn of_device(&self, partition: PartitionId, identity: &IdentityId) -> Vec<(IdentityId, Entry)> {
        let shard = self.shard(partition).lock();
        match &identity.module {
            // A module's change concerns only itself.
            Some(_) => shard
                .get_key_value(identity)
                .map(|(id, entry)| (id.clone(), entry.clone()))
                .into_iter()
                .collect(),
            // The device's own row is found by key; its modules only by looking, and deletions are rare.
            None => shard
                .iter()
                .filter(|(id, _)| id.device == identity.device)
                .map(|(id, entry)| (id.clone(), entry.clone()))
                .collect(),
        }
    }

    /// A copy of one partition's rows, to be looked through without holding its lock.
    pub(crate) fn of_partition(&self, partition: PartitionId) -> Vec<(IdentityId, Entry)> {
        self.shard(partition)
            .lock()
            .iter()
            .map(|(id, entry)| (id.clone(), entry.clone()))
            .collect()
    }

    /// How many devices are connected, modules not counted.
    pub(crate) fn connected_devices(&self) -> u64 {
        self.connected_devices.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_model::DeviceId;

    use super::*;

    fn entry(sessions: &Sessions) -> Entry {
        Entry {
            number: sessions.next_number(),
            core: 0,
            generation: GenerationId(Arc::from("1")),
            key: KeyFingerprint([0; 8]),
            policy: None,
            protocol: Protocol::Mqtt,
            since: UnixMillis(0),
            expires: None,
        }
    }

    #[test]
    fn the_newer_session_wins_and_the_older_one_cannot_remove_it() {
        let sessions = Sessions::new(PartitionCount::DEFAULT);
        let identity = IdentityId::device(DeviceId::parse("d").unwrap());
        let first = entry(&sessions);
        let second = entry(&sessions);
        assert!(sessions.attach(PartitionId(0), &identity, first.clone()).is_none());
        assert_eq!(
            sessions
                .attach(PartitionId(0), &identity, second.clone())
                .unwrap()
                .number,
            first.number
        );
        assert!(sessions.detach(PartitionId(0), &identity, first.number).is_none());
        assert_eq!(sessions.connected_devices(), 1);
        assert!(sessions.detach(PartitionId(0), &identity, second.number).is_some());
        assert_eq!(sessions.connected_devices(), 0);
    }
}
