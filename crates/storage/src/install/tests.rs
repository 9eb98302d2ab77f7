//! Installs that are killed at every step, on a disk in memory and on a real one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::layout::{log_end, log_key, state_key, state_range};
use crate::{DataDir, DiskSpace, FileSum, NodeIdentity, SimDisk, StorageConfig, View, Visit};

const GROUP: GroupNumber = 5;

/// A disk that dies after so many steps that change something.
struct Dying {
    disk: Arc<dyn Disk>,
    left: AtomicUsize,
}

impl Dying {
    fn new(disk: Arc<dyn Disk>, steps: usize) -> Arc<Self> {
        Arc::new(Self {
            disk,
            left: AtomicUsize::new(steps),
        })
    }

    fn step(&self) -> Result<(), StorageError> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .map(|_| ())
            .map_err(|_| StorageError::Stopped("killed".into()))
    }

    fn stage(&self) -> &dyn Stage {
        self.disk.stage().unwrap()
    }
}

impl Disk for Dying {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        self.step()?;
        self.disk.write(batch, durability)
    }
    fn sync(&self) -> Result<(), StorageError> {
        self.disk.sync()
    }
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.disk.get(family, key)
    }
    fn get_flushed(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.disk.get_flushed(family, key)
    }
    fn scan(&self, family: Family, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        self.disk.scan(family, from, to, visit)
    }
    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        self.disk.scan_back(family, from, to, visit)
    }
    fn delete_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        self.disk.delete_files(family, from, to)
    }
    fn flush(&self) -> Result<(), StorageError> {
        self.step()?;
        self.disk.flush()
    }
    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.disk.checkpoint(dir)
    }
    fn view(&self, family: Family, from: &[u8], to: &[u8]) -> Result<View, StorageError> {
        self.disk.view(family, from, to)
    }
    fn stage(&self) -> Result<&dyn Stage, StorageError> {
        Ok(self)
    }
    fn space(&self) -> Result<DiskSpace, StorageError> {
        self.disk.space()
    }
}

impl Stage for Dying {
    fn create(&self, name: &str, family: Family, key: &[u8]) -> Result<Box<dyn Bulk>, StorageError> {
        self.step()?;
        self.stage().create(name, family, key)
    }
    fn sum(&self, name: &str) -> Result<Option<FileSum>, StorageError> {
        self.stage().sum(name)
    }
    fn ingest(&self, family: Family, key: &[u8], names: &[&str]) -> Result<(), StorageError> {
        self.step()?;
        self.stage().ingest(family, key, names)
    }
    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.step()?;
        self.stage().remove(name)
    }
    fn names(&self) -> Result<Vec<String>, StorageError> {
        self.stage().names()
    }
    fn write_journal(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        self.step()?;
        self.stage().write_journal(name, content)
    }
    fn journal(&self) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        self.stage().journal()
    }
    fn remove_journal(&self, name: &str) -> Result<(), StorageError> {
        self.step()?;
        self.stage().remove_journal(name)
    }
}

/// Entries of a log, and a state that names the last one.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    log: Vec<u64>,
    values: Vec<u8>,
    state: Vec<(Vec<u8>, Vec<u8>)>,
}

fn content(disk: &dyn Disk) -> Content {
    let mut found = Content {
        log: Vec::new(),
        values: Vec::new(),
        state: Vec::new(),
    };
    let (from, to) = (log_key(GROUP, 0), log_end(GROUP));
    disk.scan(Family::Log, &from, &to, &mut |key, value| {
        found.log.push(layout::parse_log_key(key).unwrap().1);
        found.values.push(value[0]);
        ControlFlow::Continue(())
    })
    .unwrap();
    let (from, to) = state_range(GROUP, 1);
    disk.scan(Family::Device, &from, &to, &mut |key, value| {
        found.state.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn prepare(disk: &dyn Disk) {
    let mut batch = WriteBatch::new();
    for index in 0..5 {
        batch.put(Family::Log, &log_key(GROUP, index), b"o");
    }
    batch.put(Family::Log, &log_key(GROUP + 1, 0), b"n");
    disk.write(&batch, Durability::Logged).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(Family::Device, &state_key(GROUP, 1, b"a"), b"old");
    batch.put(Family::Device, &state_key(GROUP, 1, b"b"), b"old");
    disk.write(&batch, Durability::Replayed).unwrap();
    disk.flush().unwrap();
    // And something that lies in memory under a key that the snapshot brings too.
    let mut batch = WriteBatch::new();
    batch.put(Family::Log, &log_key(GROUP, 4), b"p");
    batch.put(Family::Log, &log_key(GROUP, 5), b"p");
    disk.write(&batch, Durability::Logged).unwrap();
}

fn gather(disk: &Arc<dyn Disk>) -> Result<Staged, StorageError> {
    let mut staging = Staging::new(disk.clone(), Family::Log, GROUP)?;
    for index in 4..10 {
        staging.put(&log_key(GROUP, index), b"s")?;
    }
    staging.seal()
}

fn then() -> WriteBatch {
    let mut then = WriteBatch::new();
    let (from, to) = state_range(GROUP, 1);
    then.delete_range(Family::Device, &from, &to);
    then.put(Family::Device, &state_key(GROUP, 1, b"b"), b"new");
    then
}

fn expected() -> (Content, Content) {
    let old = Content {
        log: (0..6).collect(),
        values: b"oooopp".to_vec(),
        state: [b"a", b"b"]
            .map(|key| (state_key(GROUP, 1, key), b"old".to_vec()))
            .to_vec(),
    };
    let new = Content {
        log: (0..10).collect(),
        values: b"oooossssss".to_vec(),
        state: vec![(state_key(GROUP, 1, b"b"), b"new".to_vec())],
    };
    (old, new)
}

/// Installs on a disk that dies after `steps`; `false` when it did not die.
fn install_and_die(disk: &Arc<dyn Disk>, steps: usize) -> bool {
    let dying: Arc<dyn Disk> = Dying::new(disk.clone(), steps);
    gather(&dying).and_then(|staged| staged.install(None, then())).is_err()
}

fn check_recovered(disk: &dyn Disk, steps: usize) -> bool {
    let (old, new) = expected();
    let found = content(disk);
    assert!(found == old || found == new, "after {steps} steps: {found:?}");
    let stage = disk.stage().unwrap();
    assert_eq!((stage.names().unwrap(), stage.journal().unwrap().len()), (vec![], 0));
    assert_eq!(
        disk.get(Family::Log, &layout::install_key(GROUP)).unwrap(),
        None,
        "after {steps} steps"
    );
    assert!(disk.get(Family::Log, &log_key(GROUP + 1, 0)).unwrap().is_some());
    found == new
}

#[test]
fn an_install_killed_at_any_step_leaves_the_old_or_the_new() {
    let mut outcomes = Vec::new();
    for steps in 0.. {
        let sim = SimDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        prepare(&*disk);
        disk.sync().unwrap();
        let died = install_and_die(&disk, steps);
        let after = sim.crash(&mut SmallRng::seed_from_u64(steps as u64));
        after.recover().unwrap();
        outcomes.push(check_recovered(&after, steps));
        if !died {
            break;
        }
    }
    assert!(outcomes.is_sorted() && outcomes.contains(&false), "{outcomes:?}");
    assert_eq!(outcomes.last(), Some(&true));
}

#[test]
fn a_recovery_killed_at_any_step_is_finished_by_the_next() {
    for install_steps in 2..9 {
        for recovery_steps in 0..6 {
            let sim = SimDisk::new();
            let disk: Arc<dyn Disk> = Arc::new(sim.clone());
            prepare(&*disk);
            disk.sync().unwrap();
            install_and_die(&disk, install_steps);
            let mut rng = SmallRng::seed_from_u64(1);
            let sim = sim.crash(&mut rng);
            let _ = recover(&*Dying::new(Arc::new(sim.clone()), recovery_steps));
            let sim = sim.crash(&mut rng);
            sim.recover().unwrap();
            check_recovered(&sim, install_steps);
        }
    }
}

fn open(dir: &Path) -> Arc<dyn Disk> {
    let data = DataDir::open(dir, || NodeIdentity {
        cluster: "test".to_owned(),
        incarnation: 1,
    })
    .unwrap();
    crate::open(&data, &StorageConfig::default()).unwrap()
}

/// Every file below a directory with its length.
fn listing(dir: &Path, into: &mut Vec<(PathBuf, u64)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().is_dir() {
            listing(&entry.path(), into)?;
        } else {
            into.push((entry.path(), entry.metadata()?.len()));
        }
    }
    into.sort();
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_files(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// A copy of a directory in use as a crash would leave it. Taken again if files came or went during the copy, since the
/// database compacts in the background.
fn copy_dir(from: &Path, to: &Path) {
    loop {
        let _ = std::fs::remove_dir_all(to);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let copied = listing(from, &mut before)
            .and_then(|()| copy_files(from, to))
            .and_then(|()| listing(from, &mut after));
        match copied {
            Ok(()) if before == after => return,
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
        }
    }
}

#[test]
fn the_same_holds_on_a_real_disk() {
    let mut outcomes = Vec::new();
    for steps in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
        let disk = open(&live);
        prepare(&*disk);
        disk.sync().unwrap();
        let died = install_and_die(&disk, steps);
        // Writes that the process has not handed to the operating system are missing.
        copy_dir(&live, &killed);
        outcomes.push(check_recovered(&*open(&killed), steps));
        if !died {
            assert!(check_recovered(&*disk, steps), "and without a restart");
            break;
        }
    }
    assert!(outcomes.is_sorted() && outcomes.contains(&false), "{outcomes:?}");
    assert_eq!(outcomes.last(), Some(&true));
}

#[test]
fn a_flipped_bit_in_a_staged_file_is_refused() {
    let (old, _) = expected();
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    prepare(&*disk);
    let staged = gather(&disk).unwrap();
    assert!(sim.damage_staged(0, 77));
    let refused = staged.install(None, then()).unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }), "{refused}");
    assert_eq!(content(&*disk), old);
    sim.recover().unwrap();
    assert_eq!(content(&*disk), old);
}

#[test]
fn a_bit_flipped_before_the_start_after_a_crash_leaves_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
    let disk = open(&live);
    prepare(&*disk);
    disk.sync().unwrap();
    // Two files and the journal record: it dies before they are ingested.
    assert!(install_and_die(&disk, 3));
    copy_dir(&live, &killed);
    let table = std::fs::read_dir(killed.join("staged"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[10] ^= 4;
    std::fs::write(&table, bytes).unwrap();
    assert!(!check_recovered(&*open(&killed), 3));
}

#[test]
fn a_replaced_range_contains_only_the_new_keys() {
    let dir = tempfile::tempdir().unwrap();
    for disk in [Arc::new(SimDisk::new()) as Arc<dyn Disk>, open(dir.path())] {
        let mut batch = WriteBatch::new();
        for key in [b"a", b"c", b"d", b"z"] {
            batch.put(Family::Registry, key, b"old");
        }
        disk.write(&batch, Durability::Replayed).unwrap();
        let mut view = disk.view(Family::Registry, b"a", b"zz").unwrap();
        let mut staging = Staging::new(disk.clone(), Family::Registry, 0).unwrap();
        for key in [b"b", b"c"] {
            staging.put(key, b"new").unwrap();
        }
        let staged = staging.seal().unwrap();
        let range = b"a".to_vec()..b"z".to_vec();
        staged.install(Some(range), WriteBatch::new()).unwrap();
        let mut found = Vec::new();
        disk.scan(Family::Registry, b"", b"\xff", &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        let pair = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
        assert_eq!(found, [pair(b"b", b"new"), pair(b"c", b"new"), pair(b"z", b"old")]);
        let mut seen = Vec::new();
        while let Some((key, value)) = view.next().unwrap() {
            seen.push((key[0], value.to_vec()));
        }
        assert_eq!(
            seen,
            [b'a', b'c', b'd', b'z'].map(|key| (key, b"old".to_vec())),
            "a view is of one moment"
        );
    }
}

#[test]
fn dropped_files_are_gone_and_keys_must_ascend() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let mut staging = Staging::new(disk.clone(), Family::Log, GROUP).unwrap();
    staging.put(&log_key(GROUP, 2), b"x").unwrap();
    assert!(staging.put(&log_key(GROUP, 2), b"x").is_err());
    drop(staging.seal().unwrap());
    assert_eq!(disk.stage().unwrap().names().unwrap(), Vec::<String>::new());
}
