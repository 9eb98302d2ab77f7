//! Reading device state, and removing that of dead generations.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_storage::StorageError;

use super::{Inner, Partition};
use crate::error::AppendError;
use crate::log::record::{DeviceStateKey, DeviceStateKind, Effect};
use crate::state::device_state::{Lookup, decode_record, encode_key, kind_prefix};
use crate::state::store::damaged;
use crate::state::{DeviceStatePage, Liveness, dead_states};

/// Values of a page of iteration; as many removals fit one entry.
const PAGE: usize = 256;

impl Inner {
    fn decode(&self, record: Option<Bytes>) -> Result<Option<Bytes>, StorageError> {
        record
            .map(|record| decode_record(&record).map_err(|error| damaged(self.group.id().0, &error)))
            .transpose()
    }
}

impl Partition {
    /// A value of device state as applied on this replica; `None` when there is none. On the owner, after
    /// [`Self::leadership`], it contains everything that any owner has acknowledged. Reads the disk when the value is not in
    /// memory.
    ///
    /// # Errors
    /// [`StorageError`]: the node stops.
    pub async fn device_state(&self, key: &DeviceStateKey<'_>) -> Result<Option<Bytes>, StorageError> {
        let read = self.read_device_state(key).await;
        read.inspect_err(|error| (self.0.on_fatal)(error))
    }

    /// Several values, in the order of `keys`, each as `read` interprets it; for scans, which must not push out what is used: what
    /// is read is not kept in memory. Each value is as of some moment during the call. Ascending keys are read much faster than
    /// others. `read` runs on the blocking pool.
    ///
    /// # Errors
    /// [`StorageError`]: the node stops.
    pub async fn device_state_values<T: Send + 'static>(
        &self,
        keys: &[DeviceStateKey<'_>],
        read: impl Fn(Option<Bytes>) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, StorageError> {
        let keys = keys.iter().map(|key| Bytes::from(encode_key(key))).collect();
        let values = self.read_values(keys, Arc::new(read)).await;
        values.inspect_err(|error| (self.0.on_fatal)(error))
    }

    async fn read_values<T: Send + 'static>(
        &self,
        keys: Arc<[Bytes]>,
        interpret: Arc<impl Fn(Option<Bytes>) -> T + Send + Sync + 'static>,
    ) -> Result<Vec<T>, StorageError> {
        loop {
            let (epoch, known) = {
                let mut inner = self.0.shared.lock();
                let known = keys.iter().map(|key| match inner.device_states.lookup(key) {
                    Lookup::Known(record) => Some(record),
                    Lookup::OnDisk(_) => None,
                });
                let known: Vec<Option<Option<Bytes>>> = known.collect();
                (inner.device_states.epoch(), known)
            };
            let (inner, keys, interpret) = (self.0.clone(), Arc::clone(&keys), Arc::clone(&interpret));
            let read = move || {
                let missing = keys.iter().zip(&known).filter(|(_, known)| known.is_none());
                let missing: Vec<Bytes> = missing.map(|(key, _)| key.clone()).collect();
                let mut read = inner.store.device_state_values(epoch, &missing)?.into_iter();
                let values = known.into_iter().map(|known| match known {
                    Some(record) => Ok(interpret(inner.decode(record)?)),
                    None => Ok(interpret(read.next().flatten())),
                });
                values.collect::<Result<Vec<T>, StorageError>>()
            };
            let values = self.0.shared.pool.run(read).await?;
            // A snapshot that was installed meanwhile has replaced all values.
            if self.0.shared.lock().device_states.epoch() == epoch {
                return Ok(values);
            }
        }
    }

    /// A value from memory alone; `None` when the disk has to be read.
    #[must_use]
    pub fn device_state_in_memory(&self, key: &DeviceStateKey<'_>) -> Option<Option<Bytes>> {
        let lookup = self.0.shared.lock().device_states.lookup(&encode_key(key));
        match lookup {
            Lookup::Known(record) => self.0.decode(record).ok(),
            Lookup::OnDisk(_) => None,
        }
    }

    async fn read_device_state(&self, key: &DeviceStateKey<'_>) -> Result<Option<Bytes>, StorageError> {
        let key = Bytes::from(encode_key(key));
        let record = loop {
            let lookup = match self.0.shared.lock().device_states.lookup(&key) {
                Lookup::Known(record) => break record,
                Lookup::OnDisk(lookup) => lookup,
            };
            let (inner, wanted) = (self.0.clone(), key.clone());
            let read = move || inner.store.device_state(lookup.epoch, &wanted);
            let record = self.0.shared.pool.run(read).await?;
            let mut inner = self.0.shared.lock();
            // A snapshot that was installed meanwhile has replaced all values.
            if inner.device_states.epoch() == lookup.epoch {
                inner.device_states.found(lookup, key, record.clone());
                break record;
            }
        };
        self.0.decode(record)
    }

    /// Values of a kind in the order of their keys: the first page, or the one after `after`. Weakly consistent: a change
    /// that is applied between two calls may be seen or not. Reads the disk.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub async fn device_states(
        &self,
        kind: DeviceStateKind,
        after: Option<&DeviceStatePage>,
    ) -> Result<DeviceStatePage, StorageError> {
        let prefix = kind_prefix(kind);
        let from = match after {
            None => Bytes::copy_from_slice(&prefix),
            Some(page) => match &page.next {
                Some(next) => next.clone(),
                None => return Ok(DeviceStatePage::default()),
            },
        };
        loop {
            let (epoch, changes) = {
                let inner = self.0.shared.lock();
                let states = &inner.device_states;
                (states.epoch(), states.unflushed(&prefix, &from))
            };
            let (inner, begin) = (self.0.clone(), from.clone());
            let read = move || inner.store.device_states(epoch, &prefix, &begin, PAGE, changes);
            let page = self.0.shared.pool.run(read).await;
            let page = page.inspect_err(|error| (self.0.on_fatal)(error))?;
            if self.0.shared.lock().device_states.epoch() == epoch {
                return Ok(page);
            }
        }
    }

    /// Removes all values of a kind whose generation is dead according to `liveness`; gives their number. For the owner,
    /// once in a while: a value that a page misses is found the next time.
    ///
    /// # Errors
    /// [`AppendError`]: values removed so far stay removed.
    pub async fn remove_dead_device_states(
        &self,
        kind: DeviceStateKind,
        liveness: impl Fn(&DeviceStateKey<'_>) -> Liveness + Send + Sync,
    ) -> Result<usize, AppendError> {
        let owner = self.leadership().await?;
        let mut removed = 0;
        let mut page = None;
        loop {
            let next = self.device_states(kind, page.as_ref()).await;
            let next = next.map_err(|_| AppendError::Stopped)?;
            let effects: Vec<_> = dead_states(&next.entries, &liveness).map(Effect::DeviceState).collect();
            self.propose(owner, &effects).await?;
            removed += effects.len();
            if next.is_last() {
                return Ok(removed);
            }
            page = Some(next);
        }
    }
}
