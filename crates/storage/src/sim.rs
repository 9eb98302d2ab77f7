//! A disk in memory that loses unsynced writes in a crash: for simulation and tests.
//!
//! It models RocksDB's guarantees and no more: logged writes since the last flush survive a crash as a prefix that
//! includes everything covered by the last sync (the operating system may have kept more); replayed writes survive only
//! by a flush; a flush takes all families at one point.
//! A crash gives a new handle and makes the old ones fail, so that tasks that outlived the crash cannot write.

mod ingest;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_tasks::sync::Mutex;
use rand::Rng;

use crate::view::{BLOCK_BYTES, Block};
use crate::{Disk, DiskSpace, Durability, Family, Op, Stage, StorageError, View, Visit, WriteBatch};

type Place = (Family, Bytes);
type Keys = BTreeMap<Place, Bytes>;

#[derive(Default)]
struct State {
    /// The content visible to reads.
    live: Keys,
    /// The content of the files as of the last flush.
    flushed: Keys,
    /// Logged writes since the last flush.
    log: Vec<WriteBatch>,
    /// The number of them that the last sync covered.
    synced: usize,
    /// Counts crashes; a handle from before the last crash fails.
    power_cycle: u64,
    syncs: usize,
    syncs_fail: Option<StorageError>,
    writes_fail: Option<StorageError>,
    space: Option<DiskSpace>,
    staged: ingest::Staged,
    /// Syncs succeed and do nothing: to prove that a test notices.
    ignores_sync: bool,
}

/// See the module. Clones are handles of the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    power_cycle: u64,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            power_cycle: 0,
        }
    }

    /// An empty disk whose syncs report success and do nothing.
    #[must_use]
    pub fn that_ignores_sync() -> Self {
        let disk = Self::new();
        disk.state.lock().ignores_sync = true;
        disk
    }

    /// From now on syncs report success and do nothing.
    pub fn ignore_syncs(&self) {
        self.state.lock().ignores_sync = true;
    }

    /// Another disk with the flushed content of this one: many simulations may start where one has ended. Unflushed writes
    /// are not copied.
    #[must_use]
    pub fn copied(&self) -> Self {
        let copy = Self::new();
        let state = self.state.lock();
        let mut copied = copy.state.lock();
        copied.live.clone_from(&state.flushed);
        copied.flushed.clone_from(&state.flushed);
        drop(copied);
        copy
    }

    /// Ends the failures of [`Self::fail_syncs`] and [`Self::fail_writes`]: the disk has been replaced, with its content.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        (state.syncs_fail, state.writes_fail) = (None, None);
    }

    /// Cuts the power: unsynced writes are lost, except a prefix of them that `rng` chooses. Every older handle fails from
    /// now on.
    #[must_use]
    pub fn crash(&self, rng: &mut impl Rng) -> Self {
        let mut state = self.state.lock();
        let kept = rng.random_range(state.synced..=state.log.len());
        state.live = state.flushed.clone();
        let log = std::mem::take(&mut state.log);
        for batch in &log[..kept] {
            apply(&mut state.live, batch);
        }
        // RocksDB flushes recovered writes to files before it opens.
        state.flushed = state.live.clone();
        state.synced = 0;
        state.power_cycle += 1;
        let power_cycle = state.power_cycle;
        drop(state);
        Self {
            state: self.state.clone(),
            power_cycle,
        }
    }

    /// The first step of opening a database: finishes the installation of a snapshot that a crash has interrupted.
    ///
    /// # Errors
    /// [`StorageError::Damaged`].
    pub fn recover(&self) -> Result<(), StorageError> {
        crate::install::recover(self)
    }

    /// The number of syncs.
    #[must_use]
    pub fn syncs(&self) -> usize {
        self.state.lock().syncs
    }

    /// Lets every later sync fail with `error`.
    pub fn fail_syncs(&self, error: StorageError) {
        self.state.lock().syncs_fail = Some(error);
    }

    /// Lets every later write fail with `error`.
    pub fn fail_writes(&self, error: StorageError) {
        self.state.lock().writes_fail = Some(error);
    }

    /// Sets the answer of [`Disk::space`].
    pub fn set_space(&self, space: DiskSpace) {
        self.state.lock().space = Some(space);
    }

    /// Removes a key silently, as damage would.
    pub fn lose(&self, family: Family, key: &[u8]) {
        let key = (family, Bytes::copy_from_slice(key));
        let mut state = self.state.lock();
        state.live.remove(&key);
        state.flushed.remove(&key);
    }

    /// The number of keys of `family`.
    #[must_use]
    pub fn keys(&self, family: Family) -> usize {
        self.state.lock().live.keys().filter(|(of, _)| *of == family).count()
    }

    fn state(&self) -> Result<holdfast_tasks::sync::MutexGuard<'_, State>, StorageError> {
        let state = self.state.lock();
        if state.power_cycle == self.power_cycle {
            Ok(state)
        } else {
            Err(StorageError::Stopped("this handle is from before the crash".into()))
        }
    }

    fn collect(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = range(family, from, to);
        Ok(self
            .state()?
            .live
            .range(range)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}

fn range(family: Family, from: &[u8], to: &[u8]) -> (Bound<Place>, Bound<Place>) {
    let key = |key: &[u8]| (family, Bytes::copy_from_slice(key));
    (Bound::Included(key(from)), Bound::Excluded(key(to)))
}

fn apply(keys: &mut Keys, batch: &WriteBatch) {
    for (family, op) in batch.iter() {
        match op {
            Op::Put { key, value } => {
                keys.insert((family, Bytes::copy_from_slice(key)), Bytes::copy_from_slice(value));
            }
            Op::Delete { key } => {
                keys.remove(&(family, Bytes::copy_from_slice(key)));
            }
            Op::DeleteRange { from, to } => remove_range(keys, family, from, to),
        }
    }
}

fn remove_range(keys: &mut Keys, family: Family, from: &[u8], to: &[u8]) {
    if from < to {
        let gone: Vec<_> = keys
            .range(range(family, from, to))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            keys.remove(&key);
        }
    }
}

impl Disk for SimDisk {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        let mut state = self.state()?;
        if let Some(error) = &state.writes_fail {
            return Err(error.clone());
        }
        apply(&mut state.live, batch);
        if durability == Durability::Logged {
            state.log.push(batch.clone());
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut state = self.state()?;
        state.syncs += 1;
        if let Some(error) = &state.syncs_fail {
            return Err(error.clone());
        }
        if !state.ignores_sync {
            state.synced = state.log.len();
        }
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.state()?.live.get(&(family, Bytes::copy_from_slice(key))).cloned())
    }

    fn get_flushed(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self
            .state()?
            .flushed
            .get(&(family, Bytes::copy_from_slice(key)))
            .cloned())
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        for (key, value) in self.collect(family, from, to)? {
            if visit(&key, &value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        for (key, value) in self.collect(family, from, to)?.into_iter().rev() {
            if visit(&key, &value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn delete_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        // A file here is the content of a flush: only flushed keys are deleted.
        let mut state = self.state()?;
        let before = state.flushed.clone();
        remove_range(&mut state.flushed, family, from, to);
        let gone: Vec<_> = before
            .into_keys()
            .filter(|key| !state.flushed.contains_key(key))
            .collect();
        for key in gone {
            state.live.remove(&key);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        let mut state = self.state()?;
        if let Some(error) = &state.writes_fail {
            return Err(error.clone());
        }
        ingest::flush(&mut state);
        Ok(())
    }

    fn checkpoint(&self, _dir: &Path) -> Result<(), StorageError> {
        Err(StorageError::Unsupported("checkpoint"))
    }

    fn view(&self, family: Family, from: &[u8], to: &[u8]) -> Result<View, StorageError> {
        let mut items = self.collect(family, from, to)?.into_iter().peekable();
        Ok(View::new(Box::new(move || {
            if items.peek().is_none() {
                return Ok(None);
            }
            let mut block = Block::default();
            while block.len_bytes() < BLOCK_BYTES
                && let Some((key, value)) = items.next()
            {
                block.push(&key, &value);
            }
            Ok(Some(block))
        })))
    }

    fn stage(&self) -> Result<&dyn Stage, StorageError> {
        Ok(self)
    }

    fn space(&self) -> Result<DiskSpace, StorageError> {
        Ok(self.state()?.space.unwrap_or(DiskSpace {
            free: 1 << 40,
            total: 1 << 40,
        }))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn put(disk: &SimDisk, key: &[u8], durability: Durability) {
        let mut batch = WriteBatch::new();
        batch.put(Family::Log, key, key);
        disk.write(&batch, durability).unwrap();
    }

    fn has(disk: &SimDisk, key: &[u8]) -> bool {
        disk.get(Family::Log, key).unwrap().is_some()
    }

    #[test]
    fn a_crash_keeps_synced_writes_and_a_prefix_of_the_rest() {
        let mut lost_something = false;
        for seed in 0..50 {
            let disk = SimDisk::new();
            put(&disk, b"a", Durability::Logged);
            disk.sync().unwrap();
            for key in [b"b", b"c", b"d"] {
                put(&disk, key, Durability::Logged);
            }
            let disk = disk.crash(&mut SmallRng::seed_from_u64(seed));
            assert!(has(&disk, b"a"));
            let rest = [has(&disk, b"b"), has(&disk, b"c"), has(&disk, b"d")];
            assert!(rest.is_sorted_by(|a, b| a >= b), "a prefix");
            lost_something |= rest.contains(&false);
        }
        assert!(lost_something);
    }

    #[test]
    fn replayed_writes_survive_by_a_flush_alone() {
        let disk = SimDisk::new();
        put(&disk, b"flushed", Durability::Replayed);
        disk.flush().unwrap();
        put(&disk, b"lost", Durability::Replayed);
        disk.sync().unwrap();
        assert_eq!(disk.get_flushed(Family::Log, b"lost"), Ok(None));
        let after = disk.crash(&mut SmallRng::seed_from_u64(0));
        assert!(has(&after, b"flushed") && !has(&after, b"lost"));
        assert!(
            matches!(disk.get(Family::Log, b"flushed"), Err(StorageError::Stopped(_))),
            "an old handle fails"
        );
    }

    #[test]
    fn a_copy_has_the_flushed_writes_and_is_independent() {
        let disk = SimDisk::new();
        put(&disk, b"flushed", Durability::Logged);
        disk.flush().unwrap();
        put(&disk, b"logged", Durability::Logged);
        let copy = disk.copied();
        assert!(has(&copy, b"flushed") && !has(&copy, b"logged"));
        put(&copy, b"own", Durability::Logged);
        assert!(!has(&disk, b"own"));
    }

    #[test]
    fn a_mended_disk_syncs_again() {
        let disk = SimDisk::new();
        disk.fail_syncs(StorageError::Io("the disk is on fire".into()));
        assert!(disk.sync().is_err());
        disk.heal();
        assert!(disk.sync().is_ok());
    }

    #[test]
    fn a_disk_that_ignores_sync_loses() {
        let lost = (0..50).any(|seed| {
            let disk = SimDisk::that_ignores_sync();
            put(&disk, b"a", Durability::Logged);
            disk.sync().unwrap();
            !has(&disk.crash(&mut SmallRng::seed_from_u64(seed)), b"a")
        });
        assert!(lost);
    }
}
