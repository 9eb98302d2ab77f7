//! Blobs whose contents are in a bucket: how they come there, and what a node keeps of it.
//!
//! Why: blocks wait on the node's disk, since their order is known only at the commit and parts of S3 have another size; the commit
//! writes the whole file, which may take longer than a client waits.
//! Invariants: 201 is answered when the bucket has the whole content; a commit that fails leaves its blocks; of two writes of one blob
//! the second begins when the first has ended, unless it is the same commit repeated, which waits for the first; a repeated commit whose
//! blocks are gone is answered as the first one; a write without a waiting client continues.
//! The index of these blobs is the bucket itself. A blob of the time before the bucket is read from the disk until it is written again.
//! Not here: requests to the bucket (`bucket`), which write is in progress (`writes`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use holdfast_proto::blob::v1 as proto;
use holdfast_storage::Family;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::blobs::{Committed, ETag, NewBlob};
use super::blocks::BlockKind;
use super::content::Received;
use super::error::BlobStoreError;
use super::files::FileId;
use super::index::{self, VERSION, key};
use super::list::{Listed, ListedBlob, Listing};
use super::writes::{Attempt, Source, Write};
use super::{BlobStore, Change};
use crate::bucket::{Bucket, Object, PartsLog};
use crate::service::Conditions;

/// Container and name of a blob.
pub(super) type Names = (String, String);

/// A list of blocks and the files of its blocks.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    digest: [u8; 32],
    pub(super) parts: Vec<(FileId, u64)>,
    /// The files of all blocks that waited with them: the list ends those too that it does not name.
    pub(super) waited: BTreeSet<FileId>,
}

impl Commit {
    /// Whether both make the same blob of the same blocks.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.digest == other.digest && self.parts == other.parts
    }
}

/// A list that was sent.
enum Resolved {
    Commit(Commit),
    /// It has been committed before, and answered so.
    Repeated(Committed),
}

/// The list and what its writer says beside it: a request that is repeated has the same one.
fn digest_of(list: &[(BlockKind, Vec<u8>)], new: &NewBlob) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (_, id) in list {
        digest.update([u8::try_from(id.len()).unwrap_or(u8::MAX)]);
        digest.update(id);
    }
    let said = proto::StoredBlob {
        metadata: index::encode_metadata(&new.metadata),
        headers: Some(index::encode_headers(&new.headers)),
        ..proto::StoredBlob::default()
    };
    digest.update(said.encode_to_vec());
    digest.finalize().into()
}

impl BlobStore {
    /// The bucket that has the blobs of `container`.
    pub(super) fn bucket_of(&self, container: &str) -> Option<&Bucket> {
        let bucket = self.0.parts.bucket.as_ref();
        bucket.filter(|bucket| bucket.container() == container)
    }

    /// Whether the container may have a blob of this name.
    ///
    /// # Errors
    /// [`BlobStoreError::Name`].
    pub(crate) fn check_name(&self, container: &str, blob: &str) -> Result<(), BlobStoreError> {
        let bucket = self.bucket_of(container);
        bucket.map_or(Ok(()), |bucket| bucket.key(blob).map(|_| ()))
    }

    /// Whether the container may have such a blob.
    ///
    /// # Errors
    /// [`BlobStoreError::Name`] and [`BlobStoreError::Metadata`].
    pub(crate) fn check_new(&self, container: &str, blob: &str, new: &NewBlob) -> Result<(), BlobStoreError> {
        let bucket = self.bucket_of(container);
        bucket.map_or(Ok(()), |bucket| {
            bucket.new_object(blob, &new.headers, &new.metadata).map(|_| ())
        })
    }

    /// Whether what is there before allows the write.
    ///
    /// # Errors
    /// The condition that does not hold.
    pub(crate) async fn check_before(&self, container: &str, blob: &str, new: &NewBlob) -> Result<(), BlobStoreError> {
        if !new.is_conditional() {
            return Ok(());
        }
        let before = self.blob(container, blob).await?;
        new.conditions
            .check_write(before.as_ref().map(|facts| (facts.etag, facts.modified)))?;
        match before {
            Some(_) if new.only_create => Err(BlobStoreError::BlobExists),
            _ => Ok(()),
        }
    }

    /// A blob in the bucket; the container is this node's.
    pub(super) async fn find_in_bucket(
        &self,
        bucket: &Bucket,
        container: &str,
        blob: &str,
    ) -> Result<Option<Object>, BlobStoreError> {
        self.container(container).await?;
        bucket.find(blob).await
    }

    pub(super) async fn list_bucket(
        &self,
        bucket: &Bucket,
        container: &str,
        listing: Listing,
    ) -> Result<Listed<ListedBlob>, BlobStoreError> {
        self.container(container).await?;
        let (entries, next) = bucket.list(listing).await?;
        Ok(Listed { entries, next })
    }

    /// Removes a blob from the bucket, and what the node has of it.
    pub(super) async fn delete_in_bucket(
        &self,
        bucket: &Bucket,
        names: Names,
        conditions: &Conditions,
    ) -> Result<(), BlobStoreError> {
        let found = self.find_in_bucket(bucket, &names.0, &names.1).await?;
        let facts = match &found {
            Some(object) => Some(object.facts.clone()),
            None => self.local_blob(&names.0, &names.1).await?,
        };
        let facts = facts.ok_or(BlobStoreError::NoBlob)?;
        conditions.check_write(Some((facts.etag, facts.modified)))?;
        if let Some(object) = &found {
            bucket.remove(object).await?;
        }
        self.settle(names, BTreeSet::new(), None).await
    }

    /// Makes a blob in the bucket of blocks of this node.
    pub(super) async fn put_list_in_bucket(
        &self,
        bucket: &Bucket,
        container: &str,
        blob: &str,
        list: Vec<(BlockKind, Vec<u8>)>,
        new: NewBlob,
    ) -> Result<Committed, BlobStoreError> {
        let names = (container.to_owned(), blob.to_owned());
        let (digest, list) = (digest_of(&list, &new), Arc::new(list));
        let deadline = bucket.deadline();
        loop {
            let (list, of) = (Arc::clone(&list), names.clone());
            let resolved = self.read(move |store| store.resolve(&of, &list, digest)).await?;
            let commit = match resolved {
                Resolved::Repeated(committed) => return Ok(committed),
                Resolved::Commit(commit) => commit,
            };
            let object = bucket.new_object(blob, &new.headers, &new.metadata)?;
            self.check_before(container, blob, &new).await?;
            let write = Write {
                bucket: bucket.clone(),
                names: names.clone(),
                object,
                source: Source::Blocks(commit),
            };
            // After another write the blocks may be others.
            if let Attempt::Written(committed) = self.attempt(write, deadline).await? {
                return Ok(committed);
            }
        }
    }

    /// Writes a blob to the bucket as a whole.
    pub(super) async fn put_in_bucket(
        &self,
        bucket: &Bucket,
        container: &str,
        blob: &str,
        content: Option<Received>,
        new: NewBlob,
    ) -> Result<Committed, BlobStoreError> {
        self.container(container).await?;
        let object = bucket.new_object(blob, &new.headers, &new.metadata)?;
        self.check_before(container, blob, &new).await?;
        let mut write = Write {
            bucket: bucket.clone(),
            names: (container.to_owned(), blob.to_owned()),
            object,
            source: Source::Whole(content),
        };
        let deadline = bucket.deadline();
        loop {
            match self.attempt(write, deadline).await? {
                Attempt::Written(committed) => return Ok(committed),
                Attempt::Again(waiting) => write = *waiting,
            }
        }
    }

    fn staging_of(&self, names: &Names) -> Result<Option<proto::StoredStaging>, BlobStoreError> {
        let value = self.get(&key::staging(&names.0, &names.1))?;
        value.map(|value| index::decode_staging(&value)).transpose()
    }

    /// The blocks that a list names.
    fn resolve(
        &self,
        names: &Names,
        list: &[(BlockKind, Vec<u8>)],
        digest: [u8; 32],
    ) -> Result<Resolved, BlobStoreError> {
        let (container, blob) = (&*names.0, &*names.1);
        self.check_container(container)?;
        let staging = self.staging_of(names)?;
        if let Some(committed) = staging.and_then(|staging| staging.committed)
            && committed.digest == digest[..]
        {
            return Ok(Resolved::Repeated(Committed {
                etag: ETag(committed.etag),
                modified: holdfast_model::UnixMillis(committed.modified_ms),
            }));
        }
        let mut parts = Vec::with_capacity(list.len());
        for (kind, id) in list {
            // What the bucket has knows no blocks.
            let waiting = match kind {
                BlockKind::Latest | BlockKind::Uncommitted => self.get(&key::block(container, blob, id))?,
                BlockKind::Committed => None,
            };
            let block = index::decode_block(&waiting.ok_or(BlobStoreError::NoBlock)?)?;
            parts.push((index::file_of(&block.file)?, block.length));
        }
        if parts.iter().map(|(_, length)| length).sum::<u64>() > self.config().max_blob_size.bytes() {
            return Err(BlobStoreError::Limit("the blob is larger than blob.max_blob_size"));
        }
        Ok(Resolved::Commit(Commit {
            digest,
            parts,
            waited: self.waiting_files(names)?,
        }))
    }

    /// The files of the blocks that wait.
    pub(super) fn waiting_files(&self, names: &Names) -> Result<BTreeSet<FileId>, BlobStoreError> {
        let blocks = self.waiting_blocks(&names.0, &names.1)?;
        blocks.iter().map(|(_, block)| index::file_of(&block.file)).collect()
    }

    /// Removes what the node has of a blob that has been written or removed: `waited`, those of the blocks that waited when the write
    /// began, and the content of the time before the bucket. Remembers the answer to a commit.
    pub(super) async fn settle(
        &self,
        names: Names,
        waited: BTreeSet<FileId>,
        committed: Option<(Commit, Committed)>,
    ) -> Result<(), BlobStoreError> {
        self.change(move |store| {
            let (container, blob) = (&*names.0, &*names.1);
            let mut change = Change::new(());
            if let Some(before) = store.stored_blob(container, blob)? {
                change.remove_parts(&before.parts, |_| false)?;
                change.delete(&key::blob(container, blob));
            }
            let Some(staging) = store.staging_of(&names)? else {
                return Ok(change);
            };
            let mut left = 0;
            for (key, block) in store.waiting_blocks(container, blob)? {
                let file = index::file_of(&block.file)?;
                match waited.contains(&file) {
                    true => {
                        change.remove_file(file, block.length);
                        change.delete(&key);
                    }
                    false => left += 1,
                }
            }
            let staging_key = key::staging(container, blob);
            let committed = committed
                .filter(|_| left == 0)
                .map(|(commit, answer)| proto::StoredCommit {
                    digest: commit.digest.to_vec().into(),
                    etag: answer.etag.0,
                    modified_ms: answer.modified.0,
                });
            match left == 0 && committed.is_none() {
                true => change.delete(&staging_key),
                false => change.put(
                    &staging_key,
                    &proto::StoredStaging {
                        blocks: left,
                        last_ms: store.clock().now().0,
                        committed,
                        ..staging
                    },
                ),
            }
            Ok(change)
        })
        .await
    }

    /// Aborts writes in parts that an earlier run has left in the bucket.
    pub(super) async fn remove_left_parts(&self) -> Result<(), BlobStoreError> {
        let Some(bucket) = self.0.parts.bucket.clone() else {
            return Ok(());
        };
        let left = self.read(|store| {
            let (mut left, [from, to]) = (Vec::new(), key::uploads());
            store.0.parts.disk.scan(Family::Blob, &from, &to, &mut |key, value| {
                if let (Ok(id), Ok(upload)) = (FileId::try_from(&key[1..]), index::decode_upload(value)) {
                    left.push((id, upload));
                }
                ControlFlow::Continue(())
            })?;
            Ok(left)
        });
        for (id, upload) in left.await? {
            let is_current = self.0.uploads.lock().contains(&id);
            if !is_current && bucket.abort_left(&upload.key, &upload.upload).await {
                tracing::info!(
                    key = upload.key,
                    upload = upload.upload,
                    "removed the parts of an unfinished write to the bucket"
                );
                self.forget_upload(id).await?;
            }
        }
        Ok(())
    }

    async fn forget_upload(&self, id: FileId) -> Result<(), BlobStoreError> {
        self.change(move |_| {
            let mut change = Change::new(());
            change.delete(&key::upload(id));
            Ok(change)
        })
        .await
    }
}

/// An upload in parts, in the index from its begin to its end.
pub(super) struct UploadRow {
    store: BlobStore,
    id: FileId,
}

impl UploadRow {
    pub(super) fn new(store: &BlobStore) -> Self {
        let id = rand::random();
        store.0.uploads.lock().insert(id);
        Self {
            store: store.clone(),
            id,
        }
    }
}

impl Drop for UploadRow {
    fn drop(&mut self) {
        self.store.0.uploads.lock().remove(&self.id);
    }
}

impl PartsLog for UploadRow {
    async fn began(&self, key: &str, upload: &str) -> Result<(), BlobStoreError> {
        let (id, stored) = (
            self.id,
            proto::StoredUpload {
                version: VERSION,
                key: key.to_owned(),
                upload: upload.to_owned(),
            },
        );
        let change = self.store.change(move |_| {
            let mut change = Change::new(());
            change.put(&key::upload(id), &stored);
            Ok(change)
        });
        change.await
    }

    async fn ended(&self) -> Result<(), BlobStoreError> {
        self.store.forget_upload(self.id).await
    }
}
