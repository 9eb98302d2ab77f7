//! Bodies to files and back, with memory that does not grow with their size.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join;
use futures_util::{StreamExt as _, stream};
use holdfast_net::Body;
use http_body_util::BodyExt as _;
use md5::{Digest as _, Md5};

use super::BlobStore;
use super::error::BlobStoreError;
use super::files::FileId;
use crate::bucket::{Bucket, Object, Pieces};

/// Bytes that are handed to the disk, and read from it, at once. A request holds two of them.
const CHUNK_BYTES: usize = 512 * 1024;

/// A body that is in a file and synced. The file goes when this is dropped and was not kept.
pub(crate) struct Received {
    store: BlobStore,
    file: FileId,
    length: u64,
    is_kept: bool,
}

impl Received {
    pub(super) fn file(&self) -> FileId {
        self.file
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The index names the file.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.is_kept {
            let (store, file) = (self.store.clone(), self.file);
            let remove = move || store.0.files.remove(&[file]);
            // Without a runtime the process ends; the next start removes it.
            if tokio::runtime::Handle::try_current().is_ok() {
                holdfast_tasks::spawn(
                    "blob-discard",
                    async move { holdfast_tasks::spawn_blocking(remove).await },
                );
            }
        }
    }
}

/// A file while it is written.
struct Writing {
    received: Received,
    file: File,
    md5: Option<Md5>,
}

impl Writing {
    fn write(mut self, chunk: &[u8]) -> Result<Self, BlobStoreError> {
        let (store, id) = (&self.received.store, self.received.file);
        store.0.files.write(id, &self.file, chunk)?;
        self.received.length += chunk.len() as u64;
        if let Some(md5) = &mut self.md5 {
            md5.update(chunk);
        }
        Ok(self)
    }

    fn finish(self, expected_md5: Option<&[u8]>) -> Result<Received, BlobStoreError> {
        if let (Some(md5), Some(expected)) = (self.md5, expected_md5)
            && md5.finalize()[..] != *expected
        {
            return Err(BlobStoreError::Md5);
        }
        let Received {
            store, file, length, ..
        } = &self.received;
        store.0.files.sync(*file, &self.file)?;
        store.0.metrics.written.increment(*length);
        Ok(self.received)
    }
}

impl BlobStore {
    /// Writes a body of `length` bytes to a file; the next chunk arrives while the one before is written. Returned: it is synced.
    ///
    /// # Errors
    /// The body is shorter or longer, too slow, or has another MD5; no file is left.
    pub(crate) async fn receive(
        &self,
        mut body: Body,
        length: u64,
        md5: Option<Vec<u8>>,
    ) -> Result<Received, BlobStoreError> {
        let (store, has_md5) = (self.clone(), md5.is_some());
        let opened = holdfast_tasks::spawn_blocking(move || {
            let (file, handle) = store.0.files.create()?;
            let received = Received {
                store,
                file,
                length: 0,
                is_kept: false,
            };
            Ok::<_, BlobStoreError>(Writing {
                received,
                file: handle,
                md5: has_md5.then(Md5::new),
            })
        });
        let timeout = self.config().chunk_timeout.get();
        let (opened, first) = join(opened, next_chunk(&mut body, length, timeout)).await;
        let (mut writing, mut chunk, mut left) = (opened?, first?, length);
        while !chunk.is_empty() {
            left = left.saturating_sub(chunk.len() as u64);
            let written = holdfast_tasks::spawn_blocking(move || writing.write(&chunk));
            let (written, next) = join(written, next_chunk(&mut body, left, timeout)).await;
            (writing, chunk) = (written?, next?);
        }
        holdfast_tasks::spawn_blocking(move || writing.finish(md5.as_deref())).await
    }
}

/// The next [`CHUNK_BYTES`] of the body, or the `left` ones; empty at its end.
async fn next_chunk(body: &mut Body, left: u64, timeout: Duration) -> Result<Bytes, BlobStoreError> {
    let gathered = tokio::time::timeout(timeout, gather(body, left)).await;
    gathered.unwrap_or(Err(BlobStoreError::Body("the body does not arrive in time")))
}

async fn gather(body: &mut Body, left: u64) -> Result<Bytes, BlobStoreError> {
    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
    let mut chunk = BytesMut::with_capacity(wanted);
    while chunk.len() < wanted {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    chunk.extend_from_slice(&data);
                }
            }
            Some(Err(_)) | None => return Err(BlobStoreError::Body("the body is shorter than its length")),
        }
    }
    match chunk.len() as u64 <= left {
        true => Ok(chunk.freeze()),
        false => Err(BlobStoreError::Body("the body is longer than its length")),
    }
}

/// A blob's content before it is read.
pub(crate) enum Opened {
    /// On this node's disk.
    Here(Content),
    /// In a bucket.
    There(Bucket, Box<Object>),
}

impl Opened {
    /// `length` bytes from `start` on, which must be inside.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub(crate) async fn read(self, start: u64, length: u64) -> Result<Reader, BlobStoreError> {
        match self {
            Self::Here(content) => Ok(Reader::Here(content.range(start, length))),
            // A bucket has no range of nothing.
            Self::There(..) if length == 0 => Ok(Reader::There(Box::pin(stream::empty()), 0)),
            Self::There(bucket, object) => Ok(Reader::There(bucket.read(&object, start, length).await?, length)),
        }
    }
}

/// A content that is read.
pub(crate) enum Reader {
    /// From this node's disk.
    Here(Content),
    /// From a bucket, and the bytes that are to come.
    There(Pieces, u64),
}

impl Reader {
    /// The next chunk; `None` at the end.
    pub(crate) async fn next(self) -> Option<(Chunk, Self)> {
        let (mut pieces, left) = match self {
            Self::Here(content) => {
                let (chunk, content) = content.next().await?;
                return Some((chunk, Self::Here(content)));
            }
            Self::There(_, 0) => return None,
            Self::There(pieces, left) => (pieces, left),
        };
        let chunk = match pieces.next().await {
            Some(Ok(piece)) if piece.len() as u64 <= left => Ok(piece),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Err(BlobStoreError::Busy("the bucket's content has another length")),
        };
        let left = chunk.as_ref().map_or(0, |piece| left - piece.len() as u64);
        Some((chunk, Self::There(pieces, left)))
    }
}

/// A chunk of a content that is read.
pub(crate) type Chunk = Result<Bytes, BlobStoreError>;

/// The content of a blob as it was when it was opened.
pub(crate) struct Content {
    store: BlobStore,
    parts: Vec<(FileId, u64)>,
    /// Of the part that is read.
    part: usize,
    offset: u64,
    file: Option<Arc<File>>,
    left: u64,
}

impl Content {
    pub(super) fn new(store: BlobStore, parts: Vec<(FileId, u64)>) -> Self {
        let left = parts.iter().map(|(_, length)| length).sum();
        Self {
            store,
            parts,
            part: 0,
            offset: 0,
            file: None,
            left,
        }
    }

    /// Only `length` bytes from `start` on, which must be inside.
    pub(crate) fn range(mut self, start: u64, length: u64) -> Self {
        let mut skipped = start;
        while let Some((_, size)) = self.parts.get(self.part)
            && skipped >= *size
        {
            skipped -= size;
            self.part += 1;
        }
        self.offset = skipped;
        self.left = length;
        self
    }

    /// The next chunk; `None` at the end.
    pub(crate) async fn next(mut self) -> Option<(Chunk, Self)> {
        if self.left == 0 {
            return None;
        }
        let read = holdfast_tasks::spawn_blocking(move || {
            let chunk = self.read();
            if chunk.is_err() {
                self.left = 0;
            }
            (chunk, self)
        });
        Some(read.await)
    }

    fn read(&mut self) -> Chunk {
        loop {
            let Some((id, size)) = self.parts.get(self.part).copied() else {
                return Err(BlobStoreError::Unreadable);
            };
            if self.offset >= size {
                (self.part, self.offset, self.file) = (self.part + 1, 0, None);
                continue;
            }
            let files = &self.store.0.files;
            let file = match &self.file {
                Some(file) => Arc::clone(file),
                None => Arc::clone(self.file.insert(Arc::new(files.open_file(id)?))),
            };
            let count = self.left.min(size - self.offset).min(CHUNK_BYTES as u64);
            let mut bytes = vec![0; usize::try_from(count).unwrap_or(CHUNK_BYTES)];
            files.read(id, &file, &mut bytes, self.offset)?;
            self.offset += count;
            self.left -= count;
            return Ok(bytes.into());
        }
    }
}
