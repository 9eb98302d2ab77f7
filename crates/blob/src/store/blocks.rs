//! Blocks: parts of a blob that is to be, until a list commits them.
//!
//! Invariants: the ids of a blob's blocks have one length; at most [`MAX_BLOB_BLOCKS`] wait and are committed; a block that is written again
//! replaces the one before; a committed list leaves no uncommitted block.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use holdfast_model::limits::MAX_BLOB_BLOCKS;
use holdfast_proto::blob::v1 as proto;
use holdfast_storage::Family;

use super::blobs::{Committed, NewBlob};
use super::content::Received;
use super::error::BlobStoreError;
use super::index::{self, VERSION, key};
use super::{BlobStore, Change};

/// Which block an entry of a list means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// The uncommitted one, else the committed one.
    Latest,
    /// One of the blob as it is.
    Committed,
    /// One that no list has committed.
    Uncommitted,
}

/// The blocks of a blob, ids decoded, with their lengths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ListedBlocks {
    pub(crate) committed: Vec<(Vec<u8>, u64)>,
    pub(crate) uncommitted: Vec<(Vec<u8>, u64)>,
}

impl BlobStore {
    /// Keeps a block for a later list.
    pub(crate) async fn put_block(
        &self,
        container: &str,
        blob: &str,
        id: Vec<u8>,
        content: Received,
    ) -> Result<(), BlobStoreError> {
        let (container, blob) = (container.to_owned(), blob.to_owned());
        let staged = self.change(move |store| {
            store.check_container(&container)?;
            let block_key = key::block(&container, &blob, &id);
            let staging_key = key::staging(&container, &blob);
            let staging = store.get(&staging_key)?;
            let mut staging = staging.map_or(Ok(proto::StoredStaging::default()), |value| {
                index::decode_staging(&value)
            })?;
            let id_length = u32::try_from(id.len()).unwrap_or(u32::MAX);
            if staging.blocks > 0 && staging.id_length != id_length {
                return Err(BlobStoreError::BlockIdLength);
            }
            let mut change = Change::new(());
            match store.get(&block_key)? {
                Some(replaced) => {
                    let replaced = index::decode_block(&replaced)?;
                    change.remove_file(index::file_of(&replaced.file)?, replaced.length);
                }
                None if staging.blocks as usize >= MAX_BLOB_BLOCKS => {
                    return Err(BlobStoreError::Limit(
                        "the blob has as many uncommitted blocks as it may",
                    ));
                }
                None => staging.blocks += 1,
            }
            staging = proto::StoredStaging {
                version: VERSION,
                last_ms: store.clock().now().0,
                id_length,
                committed: None,
                ..staging
            };
            let block = proto::StoredBlock {
                version: VERSION,
                file: content.file().to_vec().into(),
                length: content.length(),
            };
            change.put(&block_key, &block);
            change.put(&staging_key, &staging);
            change.add_file(content);
            Ok(change)
        });
        staged.await
    }

    /// Makes a blob of its blocks, in the order of the list.
    pub(crate) async fn put_block_list(
        &self,
        container: &str,
        blob: &str,
        list: Vec<(BlockKind, Vec<u8>)>,
        new: NewBlob,
    ) -> Result<Committed, BlobStoreError> {
        if let Some(bucket) = self.bucket_of(container) {
            return self.put_list_in_bucket(bucket, container, blob, list, new).await;
        }
        let (container, blob) = (container.to_owned(), blob.to_owned());
        let max_size = self.config().max_blob_size.bytes();
        let written = self.change(move |store| {
            let before = store.before_write(&container, &blob, &new)?;
            let committed: BTreeMap<&[u8], &proto::StoredPart> = before
                .iter()
                .flat_map(|before| &before.parts)
                .filter(|part| !part.block.is_empty())
                .map(|part| (&part.block[..], part))
                .collect();
            let mut parts = Vec::with_capacity(list.len());
            for (kind, id) in &list {
                let waiting = match kind {
                    BlockKind::Latest | BlockKind::Uncommitted => store.get(&key::block(&container, &blob, id))?,
                    BlockKind::Committed => None,
                };
                let part = match (waiting, kind) {
                    (Some(value), _) => {
                        let block = index::decode_block(&value)?;
                        proto::StoredPart {
                            file: block.file,
                            length: block.length,
                            block: id.clone().into(),
                        }
                    }
                    (None, BlockKind::Uncommitted) => return Err(BlobStoreError::NoBlock),
                    (None, _) => committed
                        .get(&id[..])
                        .map(|part| (*part).clone())
                        .ok_or(BlobStoreError::NoBlock)?,
                };
                parts.push(part);
            }
            if parts.iter().map(|part| part.length).sum::<u64>() > max_size {
                return Err(BlobStoreError::Limit("the blob is larger than blob.max_blob_size"));
            }
            let mut change = Change::new(());
            let used: BTreeSet<bytes::Bytes> = parts.iter().map(|part| part.file.clone()).collect();
            if let Some(before) = &before {
                change.remove_parts(&before.parts, |file| used.contains(file))?;
            }
            store.discard_blocks(&container, &blob, &mut change, |file| !used.contains(file))?;
            let names = (&*container, &*blob);
            let committed = store.commit(&mut change, names, new, parts, before.as_ref());
            Ok(change.map(|()| committed))
        });
        written.await
    }

    /// Removes all uncommitted blocks of a blob, and those of their files that `is_garbage`.
    pub(super) fn discard_blocks(
        &self,
        container: &str,
        blob: &str,
        change: &mut Change<()>,
        is_garbage: impl Fn(&[u8]) -> bool,
    ) -> Result<(), BlobStoreError> {
        let staging = key::staging(container, blob);
        if self.get(&staging)?.is_none() {
            return Ok(());
        }
        for (key, block) in self.waiting_blocks(container, blob)? {
            if is_garbage(&block.file) {
                change.remove_file(index::file_of(&block.file)?, block.length);
            }
            change.delete(&key);
        }
        change.delete(&staging);
        Ok(())
    }

    /// The uncommitted blocks by key; their number is bounded.
    pub(super) fn waiting_blocks(
        &self,
        container: &str,
        blob: &str,
    ) -> Result<Vec<(Vec<u8>, proto::StoredBlock)>, BlobStoreError> {
        let (mut found, [from, to]) = (Vec::new(), key::blocks(container, blob));
        let mut failed = None;
        self.0.parts.disk.scan(
            Family::Blob,
            &from,
            &to,
            &mut |key, value| match index::decode_block(value) {
                Ok(block) => {
                    found.push((key.to_vec(), block));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok(found), Err)
    }

    /// The blocks of a blob; `None`: it has neither a blob nor a block.
    pub(crate) async fn block_list(&self, container: &str, blob: &str) -> Result<ListedBlocks, BlobStoreError> {
        // The bucket knows no blocks: those that were committed are none any more.
        let is_in_bucket = match self.bucket_of(container) {
            Some(bucket) => self.find_in_bucket(bucket, container, blob).await?.is_some(),
            None => false,
        };
        let (container, blob) = (container.to_owned(), blob.to_owned());
        let read = self.read(move |store| {
            store.check_container(&container)?;
            let stored = store.stored_blob(&container, &blob)?.filter(|_| !is_in_bucket);
            let waiting = store.waiting_blocks(&container, &blob)?;
            if stored.is_none() && waiting.is_empty() && !is_in_bucket {
                return Err(BlobStoreError::NoBlob);
            }
            let parts = stored.iter().flat_map(|stored| &stored.parts);
            let parts = parts.filter(|part| !part.block.is_empty());
            let uncommitted = waiting.iter().map(|(key, block)| {
                let id = key::block_id(key, &container, &blob);
                (id.to_vec(), block.length)
            });
            Ok(ListedBlocks {
                committed: parts.map(|part| (part.block.to_vec(), part.length)).collect(),
                uncommitted: uncommitted.collect(),
            })
        });
        read.await
    }
}
