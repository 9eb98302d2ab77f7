//! Writing an object from chunks of the node's disk, in one request or in parts.
//!
//! Invariants: at most three parts are in memory; the SHA-256 of each part is signed, so that the service refuses another content; after
//! the write the object has the length that was written; a write in parts that fails is aborted, and what cannot be aborted has a name.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_model::UnixMillis;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{Attributes, ObjectStore as _, PutMultipartOptions, PutOptions, PutPayload};

use super::objects::{attributes_of, etag_of};
use super::{Bucket, BucketCause, BucketError};
use crate::store::{BlobHeaders, BlobStoreError, Content, ETag, Metadata};

/// Most parts of an object.
const MAX_PARTS: u64 = 10_000;

/// Parts that are sent at once, while one more is read.
const PARTS_AT_ONCE: usize = 2;

/// What becomes of a write in parts.
pub(crate) trait PartsLog: Send + Sync {
    /// The parts of this upload are to be removed, unless [`Self::ended`] follows.
    fn began(&self, key: &str, upload: &str) -> impl Future<Output = Result<(), BlobStoreError>> + Send;

    /// Nothing of it is left.
    fn ended(&self) -> impl Future<Output = Result<(), BlobStoreError>> + Send;
}

/// An object that is to be.
pub(crate) struct NewObject {
    key: Path,
    attributes: Attributes,
}

/// An object that is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) etag: ETag,
    pub(crate) modified: UnixMillis,
}

/// Chunks, until there are as many bytes as a part has.
struct Parts {
    content: Option<Content>,
    /// What the last chunk had more.
    rest: Option<Bytes>,
    size: usize,
}

impl Parts {
    /// The next part; empty at the end.
    async fn next(&mut self) -> Result<Vec<Bytes>, BlobStoreError> {
        let (mut chunks, mut missing) = (Vec::new(), self.size);
        while missing > 0 {
            let mut chunk = match self.rest.take() {
                Some(rest) => rest,
                None => {
                    let Some(content) = self.content.take() else { break };
                    let Some((chunk, content)) = content.next().await else {
                        break;
                    };
                    self.content = Some(content);
                    chunk?
                }
            };
            if chunk.len() > missing {
                self.rest = Some(chunk.split_off(missing));
            }
            missing -= chunk.len();
            chunks.push(chunk);
        }
        Ok(chunks)
    }
}

impl Bucket {
    /// The object that a blob becomes.
    ///
    /// # Errors
    /// Its name or its metadata is more than a bucket keeps.
    pub(crate) fn new_object(
        &self,
        blob: &str,
        headers: &BlobHeaders,
        metadata: &Metadata,
    ) -> Result<NewObject, BlobStoreError> {
        Ok(NewObject {
            key: self.key(blob)?,
            attributes: attributes_of(headers, metadata)?,
        })
    }

    fn part_size(&self, length: u64) -> usize {
        let least = length.div_ceil(MAX_PARTS);
        let size = self.config().part_size.bytes().max(least);
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    /// Writes `length` bytes of `content`. Returned: the bucket has them, and has checked them.
    ///
    /// # Errors
    /// The bucket, or the disk; no object has been replaced, unless the last request has no answer.
    pub(crate) async fn write(
        &self,
        object: NewObject,
        content: Content,
        length: u64,
        log: &impl PartsLog,
    ) -> Result<Written, BlobStoreError> {
        let Ok(_place) = self.0.places.acquire().await else {
            return Err(BlobStoreError::Busy("the hub is stopping"));
        };
        let started = Instant::now();
        let key = object.key.clone();
        let written = self.write_now(object, content, length, log).await;
        match &written {
            Ok(_) => {
                self.show(None, "write", key.as_ref());
                self.metrics().wrote(length, started.elapsed());
            }
            Err(BlobStoreError::Bucket(error)) => self.show(Some(error), "write", key.as_ref()),
            Err(_) => {}
        }
        written
    }

    async fn write_now(
        &self,
        object: NewObject,
        content: Content,
        length: u64,
        log: &impl PartsLog,
    ) -> Result<Written, BlobStoreError> {
        let key = object.key.clone();
        let size = self.part_size(length);
        let mut parts = Parts {
            content: Some(content),
            rest: None,
            size,
        };
        let e_tag = match length <= size as u64 {
            true => {
                let options = PutOptions {
                    attributes: object.attributes,
                    ..PutOptions::default()
                };
                let payload = PutPayload::from_iter(parts.next().await?);
                let (s3, path) = (Arc::clone(&self.0.s3), key.clone());
                let put = off_the_core(async move { s3.put_opts(&path, payload, options).await });
                put.await.map_err(BucketError::from)?.e_tag
            }
            false => self.write_parts(&key, object.attributes, parts, log).await?,
        };
        self.check_written(&key, length, e_tag.as_deref()).await
    }

    async fn write_parts(
        &self,
        key: &Path,
        attributes: Attributes,
        mut parts: Parts,
        log: &impl PartsLog,
    ) -> Result<Option<String>, BlobStoreError> {
        let s3 = &self.0.s3;
        let options = PutMultipartOptions::from(attributes);
        let upload = s3
            .create_multipart_opts(key, options)
            .await
            .map_err(BucketError::from)?;
        let logged = log.began(key.as_ref(), &upload).await;
        let sent = match logged {
            Ok(()) => self.send_parts(key, &upload, &mut parts).await,
            Err(error) => Err(error),
        };
        let error = match sent {
            Ok(ids) => match s3.complete_multipart(key, &upload, ids).await {
                Ok(put) => {
                    log.ended().await?;
                    return Ok(put.e_tag);
                }
                Err(error) => BlobStoreError::Bucket(error.into()),
            },
            Err(error) => error,
        };
        let (bucket, key) = (self.clone(), key.clone());
        if bucket.abort(&key, &upload).await {
            log.ended().await?;
        }
        Err(error)
    }

    async fn send_parts(&self, key: &Path, upload: &str, parts: &mut Parts) -> Result<Vec<PartId>, BlobStoreError> {
        let mut sending = FuturesUnordered::new();
        let mut ids: VecDeque<(usize, PartId)> = VecDeque::new();
        for number in 0.. {
            let part = parts.next().await?;
            if part.is_empty() {
                break;
            }
            if sending.len() >= PARTS_AT_ONCE
                && let Some(sent) = sending.next().await
            {
                ids.push_back(sent?);
            }
            let (s3, key, upload) = (Arc::clone(&self.0.s3), key.clone(), upload.to_owned());
            sending.push(async move {
                let payload = PutPayload::from_iter(part);
                let put = off_the_core(async move { s3.put_part(&key, &upload, number, payload).await });
                put.await
                    .map(|id| (number, id))
                    .map_err(|error| BlobStoreError::Bucket(error.into()))
            });
        }
        while let Some(sent) = sending.next().await {
            ids.push_back(sent?);
        }
        ids.make_contiguous().sort_by_key(|(number, _)| *number);
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    /// Removes the parts of an upload; `false`: they may still be there.
    pub(crate) async fn abort(&self, key: &Path, upload: &String) -> bool {
        match self.0.s3.abort_multipart(key, upload).await {
            Ok(()) => true,
            // It has been completed or removed.
            Err(error) if BucketError::is_absent_object(&error) => true,
            Err(error) => {
                let error = BucketError::from(error);
                tracing::warn!(
                    bucket = self.name(),
                    key = key.as_ref(),
                    upload,
                    cause = error.cause.label(),
                    error = &error as &dyn std::error::Error,
                    "parts of a file are left in the bucket; the hub removes them later, a lifecycle rule for incomplete multipart \
                     uploads does as well"
                );
                false
            }
        }
    }

    /// [`Self::abort`] for what an earlier run has left.
    pub(crate) async fn abort_left(&self, key: &str, upload: &str) -> bool {
        match Path::parse(key) {
            Ok(key) => self.abort(&key, &upload.to_owned()).await,
            Err(_) => true,
        }
    }

    /// What a reader would find, which must be what was written.
    async fn check_written(&self, key: &Path, length: u64, e_tag: Option<&str>) -> Result<Written, BlobStoreError> {
        let found = object_store::ObjectStoreExt::head(&*self.0.s3, key).await;
        let meta = found.map_err(BucketError::from)?;
        let written = etag_of(e_tag);
        // Another one may have been written since; it says nothing of this one.
        if etag_of(meta.e_tag.as_deref()) == written && meta.size != length {
            let text = format!("the object has {} bytes, {length} were written", meta.size);
            return Err(BucketError::new(BucketCause::Content, text).into());
        }
        let seconds = u64::try_from(meta.last_modified.timestamp()).unwrap_or_default();
        Ok(Written {
            etag: written,
            modified: UnixMillis(seconds.saturating_mul(1000)),
        })
    }
}

/// Runs a request on a thread of the pool: the SHA-256 of a part takes milliseconds, in which a core answers thousands of devices.
async fn off_the_core<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Handle::current();
    holdfast_tasks::spawn_blocking(move || runtime.block_on(request)).await
}
