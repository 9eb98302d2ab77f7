//! The staging area of the simulated disk: files are durable once they are finished.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{SimDisk, State};
use crate::{Bulk, Family, FileSum, Op, Stage, StorageError, WriteBatch};

/// The content of the staging area.
#[derive(Default)]
pub(super) struct Staged {
    files: BTreeMap<String, Vec<u8>>,
    notes: BTreeMap<String, Vec<u8>>,
}

const PUT: u8 = 1;
const DELETE_RANGE: u8 = 2;

/// A file that is being written.
struct File {
    disk: SimDisk,
    name: String,
    content: Vec<u8>,
}

impl File {
    fn push(&mut self, kind: u8, first: &[u8], second: &[u8]) {
        self.content.push(kind);
        for part in [first, second] {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.content.extend_from_slice(&length.to_be_bytes());
            self.content.extend_from_slice(part);
        }
    }
}

impl Bulk for File {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.push(PUT, key, value);
        Ok(())
    }

    fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        self.push(DELETE_RANGE, from, to);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<FileSum, StorageError> {
        let sum = sum(&self.content);
        let mut state = self.disk.writable()?;
        state.staged.files.insert(self.name, self.content);
        Ok(sum)
    }
}

fn sum(content: &[u8]) -> FileSum {
    FileSum {
        bytes: content.len() as u64,
        crc32c: crc32c::crc32c(content),
    }
}

/// Removals first, then keys: a file's removals do not touch its keys.
fn changes(family: Family, content: &[u8]) -> Result<WriteBatch, StorageError> {
    let (mut removals, mut puts) = (WriteBatch::new(), WriteBatch::new());
    let mut rest = content;
    while let Some((kind, after)) = rest.split_first() {
        let (first, after) = string(after)?;
        let (second, after) = string(after)?;
        match *kind {
            PUT => puts.put(family, first, second),
            _ => removals.delete_range(family, first, second),
        }
        rest = after;
    }
    for (family, op) in puts.iter() {
        if let Op::Put { key, value } = op {
            removals.put(family, key, value);
        }
    }
    Ok(removals)
}

fn string(input: &[u8]) -> Result<(&[u8], &[u8]), StorageError> {
    let damaged = || StorageError::Damaged {
        file: "a staged file".to_owned(),
        offset: None,
        reason: "a block does not match its checksum".to_owned(),
    };
    let (length, rest) = input.split_first_chunk::<4>().ok_or_else(damaged)?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
        .ok_or_else(damaged)
}

impl SimDisk {
    fn writable(&self) -> Result<holdfast_tasks::sync::MutexGuard<'_, State>, StorageError> {
        let state = self.state()?;
        match &state.writes_fail {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    /// Flips bit `bit` of the staged file number `file`, in the order of names; `false` when there is no such bit.
    pub fn damage_staged(&self, file: usize, bit: usize) -> bool {
        let mut state = self.state.lock();
        let content = state.staged.files.values_mut().nth(file);
        match content.and_then(|content| content.get_mut(bit / 8)) {
            Some(byte) => {
                *byte ^= 1 << (bit % 8);
                true
            }
            None => false,
        }
    }
}

impl Stage for SimDisk {
    fn create(&self, name: &str, _family: Family, _key: &[u8]) -> Result<Box<dyn Bulk>, StorageError> {
        drop(self.writable()?);
        Ok(Box::new(File {
            disk: self.clone(),
            name: name.to_owned(),
            content: Vec::new(),
        }))
    }

    fn sum(&self, name: &str) -> Result<Option<FileSum>, StorageError> {
        Ok(self.state()?.staged.files.get(name).map(|content| sum(content)))
    }

    fn ingest(&self, family: Family, _key: &[u8], names: &[&str]) -> Result<(), StorageError> {
        let mut state = self.writable()?;
        let mut all = Vec::new();
        for name in names {
            let content = state.staged.files.get(*name).ok_or_else(|| StorageError::Damaged {
                file: (*name).to_owned(),
                offset: None,
                reason: "it is missing".to_owned(),
            })?;
            all.push(changes(family, content)?);
        }
        // Values in memory under the same keys are older; RocksDB flushes them first.
        if state.log.iter().any(|batch| all.iter().any(|new| overlap(batch, new))) {
            flush(&mut state);
        }
        for batch in &all {
            super::apply(&mut state.live, batch);
            super::apply(&mut state.flushed, batch);
        }
        for name in names {
            state.staged.files.remove(*name);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.state()?.staged.files.remove(name);
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.state()?.staged.files.keys().cloned().collect())
    }

    fn write_journal(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        self.writable()?.staged.notes.insert(name.to_owned(), content.to_vec());
        Ok(())
    }

    fn journal(&self) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        let state = self.state()?;
        Ok(state
            .staged
            .notes
            .iter()
            .map(|(name, content)| (name.clone(), content.clone()))
            .collect())
    }

    fn remove_journal(&self, name: &str) -> Result<(), StorageError> {
        self.writable()?.staged.notes.remove(name);
        Ok(())
    }
}

pub(super) fn flush(state: &mut State) {
    state.flushed = state.live.clone();
    state.log.clear();
    state.synced = 0;
}

/// Whether two batches touch the same keys.
fn overlap(older: &WriteBatch, newer: &WriteBatch) -> bool {
    older.iter().any(|(family, op)| {
        let (from, to) = bounds(&op);
        newer.iter().any(|(of, new)| {
            let (new_from, new_to) = bounds(&new);
            of == family && from <= new_to && new_from <= to
        })
    })
}

fn bounds(op: &Op<'_>) -> (Bytes, Bytes) {
    let key = |key: &[u8]| Bytes::copy_from_slice(key);
    match op {
        Op::Put { key: at, .. } | Op::Delete { key: at } => (key(at), key(at)),
        Op::DeleteRange { from, to } => (key(from), key(to)),
    }
}
