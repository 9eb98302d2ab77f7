//! A cache of opened identities for credential checks: bounded, and never older than the last apply.
//!
//! Why: a reconnect storm reads each identity once or twice, and opening two sealed keys costs microseconds; the
//! registry itself (100,000 to 10,000,000 devices) does not fit into memory.
//! Invariants: a device and its modules are one entry, dropped as a whole when any of them changes. A value that was
//! read before a change is not stored after it: the reader passes the epoch of its shard from before the read.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use holdfast_model::{DeviceId, IdentityId, ModuleId};
use holdfast_tasks::sync::Mutex;

use crate::identity::Identity;

const SHARDS: usize = 16;

/// A device and its modules, as far as they have been requested.
#[derive(Default)]
struct Cached {
    device: Option<Arc<Identity>>,
    modules: Vec<(ModuleId, Arc<Identity>)>,
    /// Used since it last survived an eviction.
    used: bool,
}

impl Cached {
    fn get(&self, module: Option<&ModuleId>) -> Option<Arc<Identity>> {
        match module {
            None => self.device.clone(),
            Some(module) => self
                .modules
                .iter()
                .find(|(id, _)| id == module)
                .map(|(_, identity)| identity.clone()),
        }
    }

    fn put(&mut self, identity: Arc<Identity>) {
        match identity.id.module.clone() {
            None => self.device = Some(identity),
            Some(module) => {
                self.modules.retain(|(id, _)| *id != module);
                self.modules.push((module, identity));
            }
        }
    }
}

#[derive(Default)]
struct Shard {
    epoch: u64,
    families: HashMap<DeviceId, Cached>,
    /// In the order of insertion, for eviction; may name devices that have been removed.
    order: VecDeque<DeviceId>,
}

/// The epoch of a shard at some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch(u64);

pub(crate) struct IdentityCache {
    shards: Vec<Mutex<Shard>>,
    hasher: std::hash::RandomState,
    devices_per_shard: usize,
}

impl IdentityCache {
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: std::hash::RandomState::new(),
            devices_per_shard: devices.div_ceil(SHARDS).max(1),
        }
    }

    fn shard(&self, device: &DeviceId) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(device);
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
        &self.shards[hash as usize % SHARDS]
    }

    /// The identity, or the epoch to pass with the value that is then read from disk.
    pub(crate) fn get(&self, id: &IdentityId) -> Result<Arc<Identity>, Epoch> {
        let mut shard = self.shard(&id.device).lock();
        let epoch = Epoch(shard.epoch);
        let family = shard.families.get_mut(&id.device).ok_or(epoch)?;
        family.used = true;
        family.get(id.module.as_ref()).ok_or(epoch)
    }

    /// Stores `identity` unless its shard has changed since `epoch`.
    pub(crate) fn put(&self, identity: Arc<Identity>, epoch: Epoch) {
        let device = identity.id.device.clone();
        let mut shard = self.shard(&device).lock();
        if shard.epoch != epoch.0 {
            return;
        }
        if !shard.families.contains_key(&device) {
            self.make_room(&mut shard);
            shard.order.push_back(device.clone());
        }
        shard.families.entry(device).or_default().put(identity);
    }

    /// Drops a device and its modules. Called after the change is on disk.
    pub(crate) fn forget(&self, device: &DeviceId) {
        let mut shard = self.shard(device).lock();
        shard.epoch += 1;
        if shard.families.remove(device).is_some() {
            shard.order.retain(|other| other != device);
        }
    }

    /// Drops all entries.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.epoch += 1;
            shard.families.clear();
            shard.order.clear();
        }
    }

    /// Evicts the oldest entry that has not been used since its last turn.
    fn make_room(&self, shard: &mut Shard) {
        while shard.families.len() >= self.devices_per_shard {
            let Some(oldest) = shard.order.pop_front() else { return };
            match shard.families.get_mut(&oldest) {
                Some(family) if family.used => {
                    family.used = false;
                    shard.order.push_back(oldest);
                }
                _ => {
                    shard.families.remove(&oldest);
                }
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().families.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::sample;

    #[test]
    fn a_value_read_before_a_change_is_not_cached_after_it() {
        let cache = IdentityCache::new(100);
        let identity = Arc::new(sample("dev-1"));
        let epoch = cache.get(&identity.id).unwrap_err();
        cache.forget(&identity.id.device);
        cache.put(identity.clone(), epoch);
        let epoch = cache.get(&identity.id).unwrap_err();
        cache.put(identity.clone(), epoch);
        assert!(cache.get(&identity.id).is_ok());
        cache.clear();
        assert!(cache.get(&identity.id).is_err());
    }

    #[test]
    fn it_never_holds_more_than_its_share() {
        let cache = IdentityCache::new(64);
        for number in 0..1000 {
            let identity = Arc::new(sample(&format!("dev-{number}")));
            let epoch = cache.get(&identity.id).unwrap_err();
            cache.put(identity.clone(), epoch);
            let _ = cache.get(&identity.id);
        }
        assert!(cache.len() <= 64, "{}", cache.len());
    }
}
