//! Writes to a bucket that are in progress: one of each blob, which no client has to wait for.
//!
//! Why: a client that has waited for long enough repeats its request, while the first one is still writing. A second write of the same
//! file would take as long, and the client would never see the end.
//! Invariants: a write has one task, which ends without any client; the writes of a node are bounded.

use std::collections::BTreeMap;

use holdfast_tasks::watch;
use tokio::time::Instant;

use super::BlobStore;
use super::blobs::Committed;
use super::content::{Content, Received};
use super::error::BlobStoreError;
use super::files::FileId;
use super::remote::{Commit, Names, UploadRow};
use crate::bucket::{Bucket, BucketError, NewObject};

/// What becomes a blob.
pub(super) enum Source {
    /// Blocks that wait.
    Blocks(Commit),
    /// A body; `None`: an empty one.
    Whole(Option<Received>),
}

impl Source {
    fn parts(&self) -> Vec<(FileId, u64)> {
        match self {
            Self::Blocks(commit) => commit.parts.clone(),
            Self::Whole(content) => content
                .iter()
                .map(|content| (content.file(), content.length()))
                .collect(),
        }
    }

    fn commit(&self) -> Option<&Commit> {
        match self {
            Self::Blocks(commit) => Some(commit),
            Self::Whole(_) => None,
        }
    }
}

/// A write that is to be.
pub(super) struct Write {
    pub(super) bucket: Bucket,
    pub(super) names: Names,
    pub(super) object: NewObject,
    pub(super) source: Source,
}

/// How a write has ended, for each request that waits for it.
#[derive(Debug, Clone)]
enum Outcome {
    InProgress,
    Written(Committed),
    Bucket(BucketError),
    Failed(String),
}

impl From<Outcome> for Result<Committed, BlobStoreError> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Written(committed) => Ok(committed),
            Outcome::Bucket(error) => Err(BlobStoreError::Bucket(error)),
            Outcome::Failed(text) => Err(BlobStoreError::Storage(text)),
            Outcome::InProgress => Err(BlobStoreError::Busy(
                "the write has ended without an answer; repeat the request",
            )),
        }
    }
}

/// A write that is in progress.
pub(super) struct InProgress {
    /// Which list it commits; `None`: a body, which no other request has.
    commit: Option<Commit>,
    outcome: watch::Receiver<Outcome>,
}

/// By container and blob.
pub(super) type Writes = BTreeMap<Names, InProgress>;

/// Takes the write from those that are in progress, however it ends.
struct Entry {
    store: BlobStore,
    names: Names,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.store.0.writes.lock().remove(&self.names);
    }
}

/// What a request waits for.
enum Next {
    /// The write, whose answer is its own.
    Own(watch::Receiver<Outcome>),
    /// Another one, which goes first.
    Other(watch::Receiver<Outcome>, Box<Write>),
}

/// The result of a write.
pub(super) enum Attempt {
    /// It has been done.
    Written(Committed),
    /// Another one has gone first.
    Again(Box<Write>),
}

impl BlobStore {
    /// Writes a blob to its bucket, or waits for the request that does it, until `deadline`.
    ///
    /// # Errors
    /// Why it has not been written; [`BlobStoreError::Busy`] says that it may be.
    pub(super) async fn attempt(&self, write: Write, deadline: Instant) -> Result<Attempt, BlobStoreError> {
        match self.begin(write)? {
            Next::Own(outcome) => {
                let ended: Result<Committed, BlobStoreError> = ended(outcome, deadline).await?.into();
                ended.map(Attempt::Written)
            }
            Next::Other(outcome, waiting) => {
                ended(outcome, deadline).await?;
                Ok(Attempt::Again(waiting))
            }
        }
    }

    fn begin(&self, write: Write) -> Result<Next, BlobStoreError> {
        let mut writes = self.0.writes.lock();
        if let Some(current) = writes.get(&write.names) {
            let outcome = current.outcome.clone();
            return Ok(match (write.source.commit(), &current.commit) {
                (Some(own), Some(other)) if own.is(other) => Next::Own(outcome),
                _ => Next::Other(outcome, Box::new(write)),
            });
        }
        if writes.len() >= self.config().max_requests {
            return Err(BlobStoreError::Busy(
                "as many files as may be wait for the bucket (blob.max_requests); retry",
            ));
        }
        let (sender, outcome) = watch::channel(Outcome::InProgress);
        let current = InProgress {
            commit: write.source.commit().cloned(),
            outcome: outcome.clone(),
        };
        writes.insert(write.names.clone(), current);
        drop(writes);
        let (store, entry) = (
            self.clone(),
            Entry {
                store: self.clone(),
                names: write.names.clone(),
            },
        );
        holdfast_tasks::spawn("bucket-write", async move {
            let ended = match store.write_now(write).await {
                Ok(committed) => Outcome::Written(committed),
                Err(BlobStoreError::Bucket(error)) => Outcome::Bucket(error),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a file could not be written to the bucket"
                    );
                    Outcome::Failed(error.to_string())
                }
            };
            // First, so that who repeats the request finds the next one.
            drop(entry);
            sender.send_replace(ended);
        });
        Ok(Next::Own(outcome))
    }

    async fn write_now(&self, write: Write) -> Result<Committed, BlobStoreError> {
        let Write {
            bucket,
            names,
            object,
            source,
        } = write;
        let waited = match &source {
            Source::Blocks(commit) => commit.waited.clone(),
            Source::Whole(_) => {
                let names = names.clone();
                self.read(move |store| store.waiting_files(&names)).await?
            }
        };
        let parts = source.parts();
        let length = parts.iter().map(|(_, length)| length).sum();
        let content = Content::new(self.clone(), parts);
        let row = UploadRow::new(self);
        let written = bucket.write(object, content, length, &row).await?;
        let committed = Committed {
            etag: written.etag,
            modified: written.modified,
        };
        let answered = source.commit().map(|commit| (commit.clone(), committed));
        self.settle(names, waited, answered).await?;
        Ok(committed)
    }
}

/// The outcome of a write, if it ends before `deadline`.
async fn ended(mut outcome: watch::Receiver<Outcome>, deadline: Instant) -> Result<Outcome, BlobStoreError> {
    let waited = outcome.wait_for(|outcome| !matches!(outcome, Outcome::InProgress));
    match tokio::time::timeout_at(deadline, waited).await {
        // A task that has panicked leaves no outcome.
        Ok(_) => Ok(outcome.borrow().clone()),
        Err(_) => Err(BlobStoreError::Busy(
            "the file is still being written to the bucket (s3.answer_timeout); repeat the request, which waits for it",
        )),
    }
}
