//! Containers.

use std::ops::ControlFlow;

use holdfast_model::UnixMillis;
use holdfast_proto::blob::v1 as proto;
use holdfast_storage::Family;

use super::blobs::{ETag, Metadata};
use super::error::BlobStoreError;
use super::index::{self, VERSION, key};
use super::{BlobStore, Change};
use crate::service::Conditions;

/// Most containers of the account.
const MAX_CONTAINERS: usize = 10_000;

/// Blobs whose removal is one step; a container with more is emptied in several.
const REMOVED_AT_ONCE: usize = 1000;

/// Version and metadata of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerFacts {
    pub(crate) etag: ETag,
    pub(crate) modified: UnixMillis,
    pub(crate) metadata: Metadata,
}

pub(super) fn facts(stored: proto::StoredContainer) -> ContainerFacts {
    ContainerFacts {
        etag: ETag(stored.etag),
        modified: UnixMillis(stored.modified_ms),
        metadata: index::decode_metadata(stored.metadata),
    }
}

impl BlobStore {
    fn stored_container(&self, container: &str) -> Result<proto::StoredContainer, BlobStoreError> {
        let value = self.get(&key::container(container))?;
        index::decode_container(&value.ok_or(BlobStoreError::NoContainer)?)
    }

    pub(super) fn check_container(&self, container: &str) -> Result<(), BlobStoreError> {
        self.stored_container(container).map(|_| ())
    }

    /// Makes a container.
    ///
    /// # Errors
    /// [`BlobStoreError::ContainerExists`] and others.
    pub(crate) async fn create_container(
        &self,
        container: &str,
        metadata: Metadata,
    ) -> Result<ContainerFacts, BlobStoreError> {
        let container = container.to_owned();
        let created = self.change(move |store| {
            let key = key::container(&container);
            if store.get(&key)?.is_some() {
                return Err(BlobStoreError::ContainerExists);
            }
            if store.count_containers()? >= MAX_CONTAINERS {
                return Err(BlobStoreError::Limit("the account has as many containers as it may"));
            }
            let now = store.clock().now();
            let stored = proto::StoredContainer {
                version: VERSION,
                created_ms: now.0,
                modified_ms: now.0,
                etag: ETag::fresh().0,
                metadata: index::encode_metadata(&metadata),
            };
            let mut change = Change::new(facts(stored.clone()));
            change.put(&key, &stored);
            Ok(change)
        });
        created.await
    }

    /// Makes a container that must be there; does nothing when it is.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn ensure_container(&self, container: &str) -> Result<(), BlobStoreError> {
        match self.create_container(container, Metadata::new()).await {
            Ok(_) | Err(BlobStoreError::ContainerExists) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn count_containers(&self) -> Result<usize, BlobStoreError> {
        let (mut count, [from, to]) = (0, key::containers());
        self.0.parts.disk.scan(Family::Blob, &from, &to, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    pub(crate) async fn container(&self, container: &str) -> Result<ContainerFacts, BlobStoreError> {
        let container = container.to_owned();
        self.read(move |store| store.stored_container(&container).map(facts))
            .await
    }

    pub(crate) async fn set_container_metadata(
        &self,
        container: &str,
        metadata: Metadata,
        conditions: Conditions,
    ) -> Result<ContainerFacts, BlobStoreError> {
        let container = container.to_owned();
        let set = self.change(move |store| {
            let mut stored = store.stored_container(&container)?;
            conditions.check_write(Some((ETag(stored.etag), UnixMillis(stored.modified_ms))))?;
            stored.modified_ms = store.clock().now().0;
            stored.etag = ETag::fresh().0;
            stored.metadata = index::encode_metadata(&metadata);
            let mut change = Change::new(facts(stored.clone()));
            change.put(&key::container(&container), &stored);
            Ok(change)
        });
        set.await
    }

    /// Removes a container with all its blobs, many at a time; its name goes with the last ones. A crash meanwhile leaves the
    /// container with the rest.
    pub(crate) async fn delete_container(&self, container: &str, conditions: Conditions) -> Result<(), BlobStoreError> {
        if self.bucket_of(container).is_some() {
            return Err(BlobStoreError::NotInBucket("the removal of their container"));
        }
        let name = container.to_owned();
        loop {
            let name = name.clone();
            let conditions = conditions.clone();
            let left = self.change(move |store| {
                let stored = store.stored_container(&name)?;
                conditions.check_write(Some((ETag(stored.etag), UnixMillis(stored.modified_ms))))?;
                let mut change = Change::new(());
                let is_rest = store.remove_some(&name, &mut change)?;
                if is_rest {
                    change.delete(&key::container(&name));
                }
                Ok(change.map(|()| !is_rest))
            });
            if !left.await? {
                return Ok(());
            }
        }
    }

    /// Adds the removal of blobs and blocks to `change`; `true`: those were the last.
    fn remove_some(&self, container: &str, change: &mut Change<()>) -> Result<bool, BlobStoreError> {
        let disk = &self.0.parts.disk;
        let mut found: Vec<(Vec<u8>, bytes::Bytes)> = Vec::new();
        let ranges = [key::blobs_of(container), key::blocks_of(container)];
        for [from, to] in &ranges {
            disk.scan(Family::Blob, from, to, &mut |key, value| {
                found.push((key.to_vec(), bytes::Bytes::copy_from_slice(value)));
                match found.len() < REMOVED_AT_ONCE {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            if found.len() >= REMOVED_AT_ONCE {
                break;
            }
        }
        let blobs_end = &ranges[0];
        for (key, value) in &found {
            if *key < blobs_end[1] && *key >= blobs_end[0] {
                change.remove_parts(&index::decode_blob(value)?.parts, |_| false)?;
            } else {
                let block = index::decode_block(value)?;
                change.remove_file(index::file_of(&block.file)?, block.length);
            }
            change.delete(key);
        }
        let [from, to] = key::staging_of(container);
        let is_rest = found.len() < REMOVED_AT_ONCE;
        if is_rest {
            change.batch.delete_range(Family::Blob, &from, &to);
        }
        Ok(is_rest)
    }
}
