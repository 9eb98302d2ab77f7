//! Blobs: written as a whole, read, changed in their metadata, deleted.

use std::collections::BTreeMap;
use std::fmt;

use holdfast_model::UnixMillis;
use holdfast_proto::blob::v1 as proto;

use super::content::{Content, Opened, Received};
use super::error::BlobStoreError;
use super::files::FileId;
use super::index::{self, VERSION, key};
use super::{BlobStore, Change};
use crate::service::Conditions;

/// By name, in lower case.
pub(crate) type Metadata = BTreeMap<String, String>;

/// The version of a blob or container: another one after every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ETag(pub(crate) u64);

impl ETag {
    /// One that no blob has had.
    pub(super) fn fresh() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for ETag {
    /// As in headers, with quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"0x{:016X}\"", self.0)
    }
}

/// Headers that readers get as the writer has given them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct BlobHeaders {
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) cache_control: Option<String>,
    pub(crate) content_md5: Option<Vec<u8>>,
}

/// Size, times and headers of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobFacts {
    /// Bytes of its content.
    pub size: u64,
    /// When it was written last.
    pub modified: UnixMillis,
    pub(crate) created: UnixMillis,
    pub(crate) etag: ETag,
    pub(crate) metadata: Metadata,
    pub(crate) headers: BlobHeaders,
}

impl BlobFacts {
    pub(super) fn of(stored: &proto::StoredBlob) -> Self {
        Self {
            size: stored.size,
            modified: UnixMillis(stored.modified_ms),
            created: UnixMillis(stored.created_ms),
            etag: ETag(stored.etag),
            metadata: index::decode_metadata(stored.metadata.clone()),
            headers: index::decode_headers(stored.headers.clone()),
        }
    }
}

/// A blob after it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    pub(crate) etag: ETag,
    pub(crate) modified: UnixMillis,
}

/// What a writer says of a blob.
#[derive(Debug, Clone)]
pub(crate) struct NewBlob {
    pub(crate) headers: BlobHeaders,
    pub(crate) metadata: Metadata,
    pub(crate) conditions: Conditions,
    /// The caller may not write over a blob.
    pub(crate) only_create: bool,
}

impl NewBlob {
    /// Whether what is there before decides.
    pub(crate) fn is_conditional(&self) -> bool {
        self.only_create || self.conditions != Conditions::default()
    }
}

pub(super) fn version_of(stored: Option<&proto::StoredBlob>) -> Option<(ETag, UnixMillis)> {
    stored.map(|stored| (ETag(stored.etag), UnixMillis(stored.modified_ms)))
}

impl BlobStore {
    pub(super) fn stored_blob(&self, container: &str, blob: &str) -> Result<Option<proto::StoredBlob>, BlobStoreError> {
        let value = self.get(&key::blob(container, blob))?;
        value.map(|value| index::decode_blob(&value)).transpose()
    }

    /// The blob's parts before a change; checks what the writer wants.
    pub(super) fn before_write(
        &self,
        container: &str,
        blob: &str,
        new: &NewBlob,
    ) -> Result<Option<proto::StoredBlob>, BlobStoreError> {
        self.check_container(container)?;
        let before = self.stored_blob(container, blob)?;
        new.conditions.check_write(version_of(before.as_ref()))?;
        match before {
            Some(_) if new.only_create => Err(BlobStoreError::BlobExists),
            before => Ok(before),
        }
    }

    /// Adds the blob with these parts to `change`, in place of `before`.
    pub(super) fn commit(
        &self,
        change: &mut Change<()>,
        names: (&str, &str),
        new: NewBlob,
        parts: Vec<proto::StoredPart>,
        before: Option<&proto::StoredBlob>,
    ) -> Committed {
        let now = self.clock().now();
        let (etag, modified) = (ETag::fresh(), now);
        let stored = proto::StoredBlob {
            version: VERSION,
            created_ms: before.map_or(now.0, |before| before.created_ms),
            modified_ms: modified.0,
            etag: etag.0,
            size: parts.iter().map(|part| part.length).sum(),
            metadata: index::encode_metadata(&new.metadata),
            headers: Some(index::encode_headers(&new.headers)),
            parts,
        };
        change.put(&key::blob(names.0, names.1), &stored);
        Committed { etag, modified }
    }

    /// Writes a blob as a whole; uncommitted blocks of it go.
    pub(crate) async fn put_blob(
        &self,
        container: &str,
        blob: &str,
        new: NewBlob,
        content: Option<Received>,
    ) -> Result<Committed, BlobStoreError> {
        if let Some(bucket) = self.bucket_of(container) {
            return self.put_in_bucket(bucket, container, blob, content, new).await;
        }
        let (container, blob) = (container.to_owned(), blob.to_owned());
        let written = self.change(move |store| {
            let before = store.before_write(&container, &blob, &new)?;
            let mut change = Change::new(());
            let parts = content.map(|content| {
                let part = proto::StoredPart {
                    file: content.file().to_vec().into(),
                    length: content.length(),
                    block: bytes::Bytes::new(),
                };
                change.add_file(content);
                part
            });
            if let Some(before) = &before {
                change.remove_parts(&before.parts, |_| false)?;
            }
            store.discard_blocks(&container, &blob, &mut change, |_| true)?;
            let names = (&*container, &*blob);
            let committed = store.commit(&mut change, names, new, parts.into_iter().collect(), before.as_ref());
            Ok(change.map(|()| committed))
        });
        written.await
    }

    /// Size, times and headers of a blob; `None`: it is not there.
    ///
    /// # Errors
    /// When the disk or the bucket fails, or the container is not there.
    pub async fn blob(&self, container: &str, blob: &str) -> Result<Option<BlobFacts>, BlobStoreError> {
        if let Some(bucket) = self.bucket_of(container)
            && let Some(object) = self.find_in_bucket(bucket, container, blob).await?
        {
            return Ok(Some(object.facts));
        }
        self.local_blob(container, blob).await
    }

    pub(super) async fn local_blob(&self, container: &str, blob: &str) -> Result<Option<BlobFacts>, BlobStoreError> {
        let (container, blob) = (container.to_owned(), blob.to_owned());
        let read = self.read(move |store| {
            store.check_container(&container)?;
            Ok(store.stored_blob(&container, &blob)?.as_ref().map(BlobFacts::of))
        });
        read.await
    }

    /// The facts of a blob and a reader of its content.
    pub(crate) async fn open_blob(&self, container: &str, blob: &str) -> Result<(BlobFacts, Opened), BlobStoreError> {
        if let Some(bucket) = self.bucket_of(container)
            && let Some(object) = self.find_in_bucket(bucket, container, blob).await?
        {
            return Ok((object.facts.clone(), Opened::There(bucket.clone(), Box::new(object))));
        }
        let (container, blob) = (container.to_owned(), blob.to_owned());
        let read = self.read(move |store| {
            store.check_container(&container)?;
            let stored = store.stored_blob(&container, &blob)?.ok_or(BlobStoreError::NoBlob)?;
            let facts = BlobFacts::of(&stored);
            let parts = stored
                .parts
                .iter()
                .map(|part| Ok((index::file_of(&part.file)?, part.length)));
            let parts: Result<Vec<(FileId, u64)>, BlobStoreError> = parts.collect();
            Ok((facts, Opened::Here(Content::new(store.clone(), parts?))))
        });
        read.await
    }

    /// Changes metadata or headers of a blob.
    pub(crate) async fn edit_blob(
        &self,
        container: &str,
        blob: &str,
        conditions: Conditions,
        edit: impl FnOnce(&mut Metadata, &mut BlobHeaders) + Send + 'static,
    ) -> Result<Committed, BlobStoreError> {
        if self.bucket_of(container).is_some() {
            return Err(BlobStoreError::NotInBucket(
                "metadata and headers that change; write the blob again",
            ));
        }
        let (container, blob) = (container.to_owned(), blob.to_owned());
        let edited = self.change(move |store| {
            store.check_container(&container)?;
            let mut stored = store.stored_blob(&container, &blob)?.ok_or(BlobStoreError::NoBlob)?;
            conditions.check_write(version_of(Some(&stored)))?;
            let mut metadata = index::decode_metadata(std::mem::take(&mut stored.metadata));
            let mut headers = index::decode_headers(stored.headers.take());
            edit(&mut metadata, &mut headers);
            stored.metadata = index::encode_metadata(&metadata);
            stored.headers = Some(index::encode_headers(&headers));
            let (etag, modified) = (ETag::fresh(), store.clock().now());
            (stored.etag, stored.modified_ms) = (etag.0, modified.0);
            let mut change = Change::new(Committed { etag, modified });
            change.put(&key::blob(&container, &blob), &stored);
            Ok(change)
        });
        edited.await
    }

    pub(crate) async fn delete_blob(
        &self,
        container: &str,
        blob: &str,
        conditions: Conditions,
    ) -> Result<(), BlobStoreError> {
        if let Some(bucket) = self.bucket_of(container) {
            let names = (container.to_owned(), blob.to_owned());
            return self.delete_in_bucket(bucket, names, &conditions).await;
        }
        let (container, blob) = (container.to_owned(), blob.to_owned());
        let deleted = self.change(move |store| {
            store.check_container(&container)?;
            let stored = store.stored_blob(&container, &blob)?.ok_or(BlobStoreError::NoBlob)?;
            conditions.check_write(version_of(Some(&stored)))?;
            let mut change = Change::new(());
            change.remove_parts(&stored.parts, |_| false)?;
            change.delete(&key::blob(&container, &blob));
            Ok(change)
        });
        deleted.await
    }
}
