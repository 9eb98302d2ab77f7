//! Containers, blobs and blocks on this node's disk.
//!
//! Each change is read, decided and written under one lock, and acknowledged after a sync that covers it, so that ETags
//! compare with what a reader sees. Contents are written and synced before the change that names them; a crash between the two
//! leaves a file without a name, which the next start removes.
//! Not here: HTTP, rights, conditions of requests (`service`).

mod blobs;
mod blocks;
mod collect;
mod containers;
mod content;
mod error;
mod files;
mod index;
mod list;
mod remote;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_model::Clock;
use holdfast_proto::blob::v1 as proto;
use holdfast_storage::{Disk, DiskGuard, Durability, Family, Flusher, StorageError, WriteBatch};
use holdfast_tasks::sync::Mutex;

use crate::metrics::Metrics;
use crate::{BlobConfig, Bucket};

pub use blobs::BlobFacts;
pub(crate) use blobs::{BlobHeaders, Committed, ETag, Metadata, NewBlob};
pub(crate) use blocks::BlockKind;
pub(crate) use containers::ContainerFacts;
pub(crate) use content::{Content, Reader, Received};
pub use error::BlobStoreError;
use files::{FileId, Files};
use index::{Totals, key};
pub(crate) use list::{ListedBlob, Listing};

/// Why nothing is written.
const CAPACITY: &str = "the store holds as many bytes as it may (blob.capacity)";

/// Called when the node cannot continue; the argument is the reason.
type OnFatal = Arc<dyn Fn(&StorageError) + Send + Sync>;

/// What a store is made of.
pub struct StoreParts {
    /// The node's database, for the index.
    pub disk: Arc<dyn Disk>,
    /// Its syncs.
    pub flusher: Flusher,
    /// The free space of its file system.
    pub guard: Arc<DiskGuard>,
    /// Called when the database has failed: the node must stop.
    pub on_fatal: OnFatal,
    /// The hub's clock.
    pub clock: Clock,
    /// Where contents are.
    pub directory: PathBuf,
    /// Its limits.
    pub config: BlobConfig,
    /// Where the blobs of one container are; `None`: all are on the disk.
    pub bucket: Option<Bucket>,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct BlobStore(Arc<Inner>);

struct Inner {
    parts: StoreParts,
    files: Files,
    metrics: Metrics,
    /// Held from the reads of a change to its write.
    changing: Mutex<()>,
    /// Writes to the bucket that are in progress.
    writes: Mutex<writes::Writes>,
    /// Those in parts, by their keys in the index.
    uploads: Mutex<BTreeSet<FileId>>,
}

/// A change that has been decided.
struct Change<T> {
    answer: T,
    batch: WriteBatch,
    /// Files that the index does not name any more.
    garbage: Vec<FileId>,
    /// Files that it names now.
    named: Vec<Received>,
    /// Bytes that came and went.
    added: u64,
    removed: u64,
}

impl<T> Change<T> {
    fn new(answer: T) -> Self {
        Self {
            answer,
            batch: WriteBatch::new(),
            garbage: Vec::new(),
            named: Vec::new(),
            added: 0,
            removed: 0,
        }
    }

    fn put(&mut self, key: &[u8], value: &impl prost::Message) {
        self.batch.put(Family::Blob, key, &value.encode_to_vec());
    }

    fn delete(&mut self, key: &[u8]) {
        self.batch.delete(Family::Blob, key);
    }

    /// Names a new file, which stays once the change is written.
    fn add_file(&mut self, content: Received) {
        self.batch.put(Family::Blob, &key::file(content.file()), &[]);
        self.added += content.length();
        self.named.push(content);
    }

    /// Takes the names of a blob's files away, but for those that are used on; a list may name a block twice.
    fn remove_parts(
        &mut self,
        parts: &[proto::StoredPart],
        is_used: impl Fn(&[u8]) -> bool,
    ) -> Result<(), BlobStoreError> {
        let files: BTreeMap<&[u8], u64> = parts.iter().map(|part| (&part.file[..], part.length)).collect();
        for (file, length) in files.into_iter().filter(|(file, _)| !is_used(file)) {
            self.remove_file(index::file_of(file)?, length);
        }
        Ok(())
    }

    /// Takes the name of a file away; it is removed after the sync.
    fn remove_file(&mut self, file: FileId, length: u64) {
        self.batch.delete(Family::Blob, &key::file(file));
        self.garbage.push(file);
        self.removed += length;
    }

    fn map<U>(self, to: impl FnOnce(T) -> U) -> Change<U> {
        Change {
            answer: to(self.answer),
            batch: self.batch,
            garbage: self.garbage,
            named: self.named,
            added: self.added,
            removed: self.removed,
        }
    }
}

impl BlobStore {
    /// Opens the store, removes the files that no blob has, and makes the directory when it is missing. Blocks.
    ///
    /// # Errors
    /// When the directory or the database cannot be read.
    pub fn open(parts: StoreParts) -> Result<Self, BlobStoreError> {
        let files = Files::open(&parts.directory)?;
        let store = Self(Arc::new(Inner {
            files,
            metrics: Metrics::new(),
            changing: Mutex::default(),
            writes: Mutex::default(),
            uploads: Mutex::default(),
            parts,
        }));
        store.remove_unnamed_files()?;
        store.0.metrics.show_stored(store.totals()?.bytes);
        Ok(store)
    }

    pub(crate) fn config(&self) -> &BlobConfig {
        &self.0.parts.config
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.parts.clock
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn totals(&self) -> Result<Totals, BlobStoreError> {
        let value = self.get(&key::TOTALS)?;
        value.map_or(Ok(Totals::default()), |value| index::decode_totals(&value))
    }

    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, BlobStoreError> {
        Ok(self.0.parts.disk.get(Family::Blob, key)?)
    }

    /// Whether `bytes` more may be written.
    ///
    /// # Errors
    /// [`BlobStoreError::Full`].
    pub(crate) async fn check_space_for(&self, bytes: u64) -> Result<(), BlobStoreError> {
        self.read(move |store| store.check_space(bytes)).await
    }

    fn check_space(&self, bytes: u64) -> Result<(), BlobStoreError> {
        if !self.0.parts.guard.writable() || self.0.parts.guard.check_space_for(bytes).is_err() {
            return Err(BlobStoreError::Full(
                "too little space is left on the disk (storage.min_free)",
            ));
        }
        match self.totals()?.bytes.saturating_add(bytes) <= self.config().capacity.bytes() {
            true => Ok(()),
            false => Err(BlobStoreError::Full(CAPACITY)),
        }
    }

    /// Decides a change and stores it. Returned: it is synced.
    async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Self) -> Result<Change<T>, BlobStoreError> + Send + 'static,
    ) -> Result<T, BlobStoreError> {
        let store = self.clone();
        let decided = holdfast_tasks::spawn_blocking(move || store.decide(decide)).await?;
        let (answer, garbage) = decided;
        if let Err(error) = self.0.parts.flusher.synced().await {
            return Err(BlobStoreError::Storage(error.to_string()));
        }
        if !garbage.is_empty() {
            let store = self.clone();
            holdfast_tasks::spawn("blob-remove", async move {
                holdfast_tasks::spawn_blocking(move || store.0.files.remove(&garbage)).await;
            });
        }
        Ok(answer)
    }

    fn decide<T>(
        &self,
        decide: impl FnOnce(&Self) -> Result<Change<T>, BlobStoreError>,
    ) -> Result<(T, Vec<FileId>), BlobStoreError> {
        let _changing = self.0.changing.lock();
        let mut change = decide(self)?;
        if change.added != 0 || change.removed != 0 {
            let before = self.totals()?.bytes;
            let bytes = before.saturating_add(change.added).saturating_sub(change.removed);
            if bytes > before && bytes > self.config().capacity.bytes() {
                return Err(BlobStoreError::Full(CAPACITY));
            }
            let totals = index::encode_totals(Totals { bytes });
            change.put(&key::TOTALS, &totals);
            self.0.metrics.show_stored(bytes);
        }
        if let Err(error) = self.0.parts.disk.write(&change.batch, Durability::Logged) {
            (self.0.parts.on_fatal)(&error);
            return Err(error.into());
        }
        change.named.into_iter().for_each(Received::keep);
        Ok((change.answer, change.garbage))
    }

    /// Runs reads of the index, which may touch the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, BlobStoreError> + Send + 'static,
    ) -> Result<T, BlobStoreError> {
        let store = self.clone();
        holdfast_tasks::spawn_blocking(move || read(&store)).await
    }
}
