//! Replacing a part of the database by a snapshot, atomically over crashes.
//!
//! Why: a snapshot is gathered in files beside the database ([`Staging`]) while the old state stays in use; installing it
//! takes several steps, and a crash may come between any two of them.
//! The steps, and the action of a start after a crash (old = the old state is in force, new = the new one):
//!
//! 1. The files are finished, synced and compared with their checksums. Old: the start removes the files.
//! 2. A journal record is written that names the files and holds the batch of step 4. From here on the start finishes
//!    the installation.
//! 3. The files are ingested, all at once; the last of them holds a seal key. A start that finds the seal continues with
//!    step 4; one that does not continues with step 3, or, when a file is damaged, removes the record: nothing has been
//!    changed.
//! 4. One batch: state, watermarks, and the removal of the seal; flushed. New.
//! 5. The journal record is removed.
//!
//! Not here: the content of the files; the checks of a received snapshot (`partition`, `registry`).

mod journal;
#[cfg(test)]
mod tests;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use journal::{JournalRecord, NotedFile};

use crate::layout::{self, GroupNumber};
use crate::{Bulk, Disk, Durability, Family, Stage, StorageError, WriteBatch};

/// A file is finished at this size: retention deletes whole files.
const FILE_BYTES: u64 = 64 << 20;
/// If other data lies between its keys, RocksDB ingests a file into level 0, where too many files stop all writes: a large
/// snapshot is split into larger files instead of more.
const MAX_FILES: u64 = 32;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Gathers keys and values, ascending, in files beside the database. Dropping it removes them.
pub struct Staging {
    staged: Staged,
    open: Option<(String, Box<dyn Bulk>)>,
    open_bytes: u64,
    file_bytes: u64,
    last_key: Vec<u8>,
}

/// A gathered snapshot: complete and durable, not yet part of the database. Dropping it removes its files.
pub struct Staged {
    disk: Arc<dyn Disk>,
    family: Family,
    group: GroupNumber,
    id: String,
    files: Vec<NotedFile>,
    bytes: u64,
    entries: u64,
    /// The journal names the files: they must not be removed any more.
    journaled: bool,
}

impl Staging {
    /// Starts to gather keys of `family` for `group`.
    ///
    /// # Errors
    /// [`StorageError::Unsupported`] when the disk cannot.
    pub fn new(disk: Arc<dyn Disk>, family: Family, group: GroupNumber) -> Result<Self, StorageError> {
        disk.stage()?;
        let id = format!("group-{group}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let staged = Staged {
            disk,
            family,
            group,
            id,
            files: Vec::new(),
            bytes: 0,
            entries: 0,
            journaled: false,
        };
        Ok(Self {
            staged,
            open: None,
            open_bytes: 0,
            file_bytes: FILE_BYTES,
            last_key: Vec::new(),
        })
    }

    /// Announces the approximate number of bytes.
    pub fn expect(&mut self, bytes: u64) {
        self.file_bytes = FILE_BYTES.max(bytes / MAX_FILES);
    }

    /// Adds a key above all before it. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when the key does not ascend; [`StorageError::NoSpace`], [`StorageError::Io`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        if self.staged.entries > 0 && *key <= self.last_key[..] {
            return Err(StorageError::Damaged {
                file: format!("snapshot of group {}", self.staged.group),
                offset: None,
                reason: "its keys do not ascend".to_owned(),
            });
        }
        let bulk = match &mut self.open {
            Some((_, bulk)) => bulk,
            None => {
                let name = self.staged.file_name();
                let bulk = self.staged.create(&name)?;
                &mut self.open.insert((name, bulk)).1
            }
        };
        bulk.put(key, value)?;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.staged.entries += 1;
        self.open_bytes += (key.len() + value.len()) as u64;
        self.staged.bytes += (key.len() + value.len()) as u64;
        if self.open_bytes >= self.file_bytes {
            self.end_file()?;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), StorageError> {
        if let Some((name, bulk)) = self.open.take() {
            let sum = bulk.finish()?;
            self.staged.files.push(NotedFile { name, sum });
        }
        self.open_bytes = 0;
        Ok(())
    }

    /// Bytes of keys and values so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.staged.bytes
    }

    /// Called after the last key: makes the gathered files durable. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`].
    pub fn seal(mut self) -> Result<Staged, StorageError> {
        self.end_file()?;
        Ok(self.staged)
    }
}

impl Staged {
    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keys.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Makes it part of the database. Atomically over crashes, the range `replaces` of the family is emptied, the keys are
    /// added, and `then` is written. Blocks; ends with a flush of the database. The replaced range and the keys must not be
    /// written during the call.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] names a file that differs from what was sealed; nothing has been changed then. After any
    /// other error the node must stop; the next start finishes the installation.
    pub fn install(mut self, replaces: Option<Range<Vec<u8>>>, then: WriteBatch) -> Result<(), StorageError> {
        let disk = self.disk.clone();
        let stage = disk.stage()?;
        if let Some(range) = replaces
            && has_keys(&*disk, self.family, &range)?
        {
            let name = self.file_name();
            let mut bulk = self.create(&name)?;
            bulk.delete_range(&range.start, &range.end)?;
            let sum = bulk.finish()?;
            // First, so that the keys of the other files win.
            self.files.insert(0, NotedFile { name, sum });
        }
        let name = self.file_name();
        let mut bulk = self.create(&name)?;
        bulk.put(&layout::install_key(self.group), self.id.as_bytes())?;
        let sum = bulk.finish()?;
        self.files.push(NotedFile { name, sum });
        check_files(stage, &self.files)?;
        let record = JournalRecord {
            id: self.id.clone(),
            family: self.family,
            group: self.group,
            files: self.files.clone(),
            then,
        };
        self.journaled = true;
        stage.write_journal(&self.id, &record.encode())?;
        finish(&*disk, stage, &record)
    }

    fn file_name(&self) -> String {
        // A tombstone and a seal come on top of the files, so that the number of files is not the next name.
        format!("{}-{}", self.id, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn create(&self, name: &str) -> Result<Box<dyn Bulk>, StorageError> {
        let key = layout::install_key(self.group);
        self.disk.stage()?.create(name, self.family, &key)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.journaled {
            return;
        }
        for file in &self.files {
            // The next start removes remaining files.
            if let Err(error) = self.disk.stage().and_then(|stage| stage.remove(&file.name)) {
                tracing::debug!(file = file.name, %error, "cannot remove a file of a snapshot; the next start will");
            }
        }
    }
}

fn has_keys(disk: &dyn Disk, family: Family, range: &Range<Vec<u8>>) -> Result<bool, StorageError> {
    let mut found = false;
    disk.scan(family, &range.start, &range.end, &mut |_, _| {
        found = true;
        ControlFlow::Break(())
    })?;
    Ok(found)
}

fn check_files(stage: &dyn Stage, files: &[NotedFile]) -> Result<(), StorageError> {
    for file in files {
        let damaged = |reason: &str| StorageError::Damaged {
            file: file.name.clone(),
            offset: None,
            reason: reason.to_owned(),
        };
        match stage.sum(&file.name)? {
            Some(sum) if sum == file.sum => {}
            Some(_) => return Err(damaged("a file of a snapshot is not as it was written")),
            None => return Err(damaged("a file of a snapshot is missing")),
        }
    }
    Ok(())
}

/// Steps 3 to 5.
fn finish(disk: &dyn Disk, stage: &dyn Stage, record: &JournalRecord) -> Result<(), StorageError> {
    let seal = layout::install_key(record.group);
    let names: Vec<&str> = record.files.iter().map(|file| file.name.as_str()).collect();
    if !is_sealed(disk, record)? {
        stage.ingest(record.family, &seal, &names)?;
    }
    let mut then = record.then.clone();
    then.delete(record.family, &seal);
    disk.write(&then, Durability::Logged)?;
    disk.flush()?;
    stage.remove_journal(&record.id)?;
    for name in names {
        stage.remove(name)?;
    }
    Ok(())
}

fn is_sealed(disk: &dyn Disk, record: &JournalRecord) -> Result<bool, StorageError> {
    let found = disk.get(record.family, &layout::install_key(record.group))?;
    Ok(found.is_some_and(|id| id == record.id.as_bytes()))
}

/// Finishes an installation that a crash has interrupted, and removes unused files. Called before any other use of the
/// disk.
///
/// # Errors
/// [`StorageError::Damaged`] when a journal record is damaged; as [`Staged::install`].
pub(crate) fn recover(disk: &dyn Disk) -> Result<(), StorageError> {
    let stage = disk.stage()?;
    for (name, content) in stage.journal()? {
        let record = JournalRecord::decode(&format!("{name}.note"), &content)?;
        if !is_sealed(disk, &record)?
            && let Err(error) = check_files(stage, &record.files)
        {
            // Either nothing has been changed yet, or everything is done and only the journal record remains.
            tracing::warn!(group = record.group, %error, "snapshot files are incomplete; the snapshot is not installed");
            stage.remove_journal(&record.id)?;
            continue;
        }
        finish(disk, stage, &record)?;
        tracing::info!(
            group = record.group,
            "finished the installation of a snapshot that a crash had interrupted"
        );
    }
    for name in stage.names()? {
        stage.remove(&name)?;
    }
    Ok(())
}
