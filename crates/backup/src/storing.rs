//! Storing objects while the next ones are read.
//!
//! Why: hashing, writing and syncing take about as long as reading; one after the other they leave CPU and disk idle in turn.
//! Invariants: at most [`MAX_STORING`] contents are hashed and written at a time, so that a backup keeps at most so many
//! objects and the one that is being filled in memory; what is stored comes back in the order in which it was given, and only
//! when it is durable; behind one that fails nothing comes back, so that no stretch of a log has a hole.
//! Not here: what an object contains (`object`), what names it (`create`).

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};

use crate::error::BackupError;
use crate::manifest::{ObjectRef, UNFINISHED};
use crate::object::{self, SEGMENT_BYTES};
use crate::target::Target;

/// Contents that are hashed and written at a time: one keeps the CPU busy, the other one the disk.
pub(crate) const MAX_STORING: usize = 2;
/// A buffer that an object is filled in: a segment, and as much of its last entry as is common.
const BUFFER_BYTES: usize = SEGMENT_BYTES + (2 << 20);

/// What an object is of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Records of the registry.
    Registry,
    /// The state of a partition.
    State,
    /// Device states of a partition.
    DeviceStates,
    /// The entries `first` to `last` of its log.
    Log {
        /// The first entry.
        first: u64,
        /// The last entry.
        last: u64,
    },
}

/// A durable content.
#[derive(Debug)]
pub(crate) enum Stored {
    /// An object.
    Object {
        /// What it is.
        place: Place,
        /// Its name and length.
        object: ObjectRef,
        /// It was there before.
        is_old: bool,
    },
    /// The manifest of what is complete.
    Unfinished,
}

type Job<'a> = BoxFuture<'a, (Result<Stored, BackupError>, Option<Bytes>)>;

/// The contents that are being stored in one target.
pub(crate) struct Storing<'a> {
    target: &'a dyn Target,
    /// Written whether they are there or not.
    full: bool,
    jobs: FuturesOrdered<Job<'a>>,
    has_failed: bool,
    /// Of objects that are stored: taking memory from the system anew costs more than the copy into it.
    spare: Vec<BytesMut>,
}

impl<'a> Storing<'a> {
    pub(crate) fn new(target: &'a dyn Target, full: bool) -> Self {
        Self {
            target,
            full,
            jobs: FuturesOrdered::new(),
            has_failed: false,
            spare: Vec::new(),
        }
    }

    /// Whether [`Self::next`] comes first.
    pub(crate) fn is_full(&self) -> bool {
        self.jobs.len() >= MAX_STORING
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// A buffer for the next object.
    pub(crate) fn buffer(&mut self) -> BytesMut {
        self.spare
            .pop()
            .unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES))
    }

    /// Begins to store an object, unless it is there.
    pub(crate) fn object(&mut self, place: Place, content: Bytes) {
        let (target, full) = (self.target, self.full);
        let job = async move {
            let stored = store(target, full, place, content.clone()).await;
            (stored, Some(content))
        };
        self.jobs.push_back(job.boxed());
    }

    /// Begins to store the manifest of what is complete; none is being stored.
    pub(crate) fn unfinished(&mut self, content: Bytes) {
        let target = self.target;
        let job = async move {
            let stored = target.put(UNFINISHED, content).await;
            (stored.map(|()| Stored::Unfinished).map_err(BackupError::from), None)
        };
        self.jobs.push_back(job.boxed());
    }

    /// The next that is durable, in the order in which they were given; `None` when none is being stored. May be dropped
    /// while it waits.
    ///
    /// # Errors
    /// Why it could not be stored; those behind it are waited for, and not given.
    pub(crate) async fn next(&mut self) -> Option<Result<Stored, BackupError>> {
        loop {
            let (stored, content) = self.jobs.next().await?;
            // One that is as long as a segment; records are shorter, and their buffers cost little.
            if let Some(Ok(mut buffer)) = content.map(Bytes::try_into_mut)
                && buffer.capacity() >= SEGMENT_BYTES
                && self.spare.len() < MAX_STORING
            {
                buffer.clear();
                self.spare.push(buffer);
            }
            if !self.has_failed {
                self.has_failed = stored.is_err();
                return Some(stored);
            }
        }
    }
}

/// Whether an object is there.
pub(crate) async fn has(target: &dyn Target, object: &ObjectRef) -> Result<bool, BackupError> {
    Ok(target.size(&object::name(&object.sha256)).await? == Some(object.bytes))
}

async fn store(target: &dyn Target, full: bool, place: Place, content: Bytes) -> Result<Stored, BackupError> {
    let hashed = content.clone();
    let object = ObjectRef {
        sha256: holdfast_tasks::spawn_blocking(move || object::sha256(&hashed)).await,
        bytes: content.len() as u64,
    };
    let is_old = !full && has(target, &object).await?;
    if !is_old {
        target.put(&object::name(&object.sha256), content).await?;
    }
    Ok(Stored::Object { place, object, is_old })
}
