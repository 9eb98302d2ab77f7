//! Lists, in the order of names, page by page.

use std::ops::ControlFlow;

use holdfast_storage::Family;

use super::BlobStore;
use super::blobs::BlobFacts;
use super::containers::ContainerFacts;
use super::error::BlobStoreError;
use super::index::{self, key};

/// The entries that are listed, and the first of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) prefix: String,
    /// Names that continue behind the prefix up to this text are one entry.
    pub(crate) delimiter: String,
    /// The first name.
    pub(crate) marker: String,
    pub(crate) most: usize,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListedBlob {
    Blob(String, Box<BlobFacts>),
    /// All names that begin so.
    Prefix(String),
}

/// A page, and the marker of the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed<T> {
    pub(crate) entries: Vec<T>,
    pub(crate) next: Option<String>,
}

impl BlobStore {
    pub(crate) async fn list_containers(
        &self,
        listing: Listing,
    ) -> Result<Listed<(String, ContainerFacts)>, BlobStoreError> {
        let read = self.read(move |store| {
            let [mut from, to] = key::containers();
            from.extend_from_slice(listing.prefix.as_str().max(&listing.marker).as_bytes());
            let mut page = Listed {
                entries: Vec::new(),
                next: None,
            };
            let mut found = Vec::new();
            store.0.parts.disk.scan(Family::Blob, &from, &to, &mut |key, value| {
                let Ok(name) = std::str::from_utf8(&key[1..]) else {
                    return ControlFlow::Continue(());
                };
                if !name.starts_with(&listing.prefix) {
                    return ControlFlow::Break(());
                }
                if found.len() == listing.most {
                    page.next = Some(name.to_owned());
                    return ControlFlow::Break(());
                }
                found.push((name.to_owned(), index::decode_container(value)));
                ControlFlow::Continue(())
            })?;
            for (name, stored) in found {
                page.entries.push((name, super::containers::facts(stored?)));
            }
            Ok(page)
        });
        read.await
    }

    pub(crate) async fn list_blobs(
        &self,
        container: &str,
        listing: Listing,
    ) -> Result<Listed<ListedBlob>, BlobStoreError> {
        if let Some(bucket) = self.bucket_of(container) {
            return self.list_bucket(bucket, container, listing).await;
        }
        let container = container.to_owned();
        let read = self.read(move |store| {
            store.check_container(&container)?;
            store.list_page(&container, &listing)
        });
        read.await
    }

    fn list_page(&self, container: &str, listing: &Listing) -> Result<Listed<ListedBlob>, BlobStoreError> {
        let [_, to] = key::blobs_of(container);
        let mut from = key::blob(container, listing.prefix.as_str().max(&listing.marker));
        let mut page = Listed {
            entries: Vec::new(),
            next: None,
        };
        loop {
            // Behind a prefix of a delimiter the scan begins anew, so that its names are not read.
            let mut skip_to = None;
            let mut failed = None;
            self.0.parts.disk.scan(Family::Blob, &from, &to, &mut |key, value| {
                let Some((_, name)) = key::names(key) else {
                    return ControlFlow::Continue(());
                };
                let Some(rest) = name.strip_prefix(&*listing.prefix) else {
                    return ControlFlow::Break(());
                };
                if page.entries.len() == listing.most {
                    page.next = Some(name.to_owned());
                    return ControlFlow::Break(());
                }
                if !listing.delimiter.is_empty()
                    && let Some(at) = rest.find(&*listing.delimiter)
                {
                    let group = &name[..listing.prefix.len() + at + listing.delimiter.len()];
                    page.entries.push(ListedBlob::Prefix(group.to_owned()));
                    let mut behind = key::blob(container, group);
                    // No UTF-8 text has this byte.
                    behind.push(0xff);
                    skip_to = Some(behind);
                    return ControlFlow::Break(());
                }
                match index::decode_blob(value) {
                    Ok(stored) => {
                        let facts = Box::new(BlobFacts::of(&stored));
                        page.entries.push(ListedBlob::Blob(name.to_owned(), facts));
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            match skip_to {
                Some(behind) => from = behind,
                None => return Ok(page),
            }
        }
    }
}
