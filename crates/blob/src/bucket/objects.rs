//! Objects that are there: described, read, listed, removed.

use std::borrow::Cow;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use holdfast_model::UnixMillis;
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _,
};
use sha2::{Digest as _, Sha256};

use super::{Bucket, BucketError};
use crate::store::{BlobFacts, BlobHeaders, BlobStoreError, ETag, ListedBlob, Listing, Metadata};

/// The metadata item of an object with the MD5 that its writer has named, hexadecimal. No item of a blob has a dash.
const MD5_ITEM: &str = "holdfast-content-md5";

/// The type of a blob that was written without; S3 would choose another one.
const DEFAULT_TYPE: &str = "application/octet-stream";

/// The bytes of items of metadata that S3 allows.
pub(super) const MAX_METADATA_BYTES: usize = 2048;

/// An object that a reader has found.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) facts: BlobFacts,
    pub(super) key: Path,
    /// As the service has it; `None`: it has none.
    e_tag: Option<String>,
}

/// A page of a list, and the marker of the next one.
pub(crate) type Page = (Vec<ListedBlob>, Option<String>);

/// The content of an object, piece by piece.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BlobStoreError>> + Send>>;

/// The version of an object, as the Blob protocol has it: the same on every node, also for objects that others have written.
pub(super) fn etag_of(e_tag: Option<&str>) -> ETag {
    let digest = Sha256::digest(e_tag.unwrap_or_default().trim_matches('"').as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    ETag(u64::from_be_bytes(first))
}

fn modified_of(meta: &ObjectMeta) -> UnixMillis {
    // Whole seconds: lists have more than the answer to a HEAD, and conditions compare them.
    let seconds = u64::try_from(meta.last_modified.timestamp()).unwrap_or_default();
    UnixMillis(seconds.saturating_mul(1000))
}

fn facts_of(meta: &ObjectMeta, attributes: &Attributes) -> BlobFacts {
    let text = |attribute: Attribute| attributes.get(&attribute).map(|value| value.to_string());
    let mut metadata = Metadata::new();
    let mut content_md5 = None;
    for (attribute, value) in attributes {
        match attribute {
            Attribute::Metadata(name) if name == MD5_ITEM => {
                content_md5 = data_encoding::HEXLOWER.decode(value.as_bytes()).ok();
            }
            Attribute::Metadata(name) => {
                metadata.insert(name.to_ascii_lowercase(), value.to_string());
            }
            _ => {}
        }
    }
    BlobFacts {
        size: meta.size,
        modified: modified_of(meta),
        created: modified_of(meta),
        etag: etag_of(meta.e_tag.as_deref()),
        metadata,
        headers: BlobHeaders {
            content_type: text(Attribute::ContentType),
            content_encoding: text(Attribute::ContentEncoding),
            content_language: text(Attribute::ContentLanguage),
            content_disposition: text(Attribute::ContentDisposition),
            cache_control: text(Attribute::CacheControl),
            content_md5,
        },
    }
}

/// What a writer says of a blob, as an object has it.
///
/// # Errors
/// [`BlobStoreError::Metadata`]: more than S3 keeps.
pub(super) fn attributes_of(headers: &BlobHeaders, metadata: &Metadata) -> Result<Attributes, BlobStoreError> {
    let mut attributes = Attributes::new();
    let content_type = headers.content_type.as_deref().unwrap_or(DEFAULT_TYPE);
    attributes.insert(Attribute::ContentType, AttributeValue::from(content_type.to_owned()));
    for (attribute, value) in [
        (Attribute::ContentEncoding, &headers.content_encoding),
        (Attribute::ContentLanguage, &headers.content_language),
        (Attribute::ContentDisposition, &headers.content_disposition),
        (Attribute::CacheControl, &headers.cache_control),
    ] {
        if let Some(value) = value {
            attributes.insert(attribute, AttributeValue::from(value.clone()));
        }
    }
    let mut bytes = 0;
    let mut add = |name: String, value: String| {
        bytes += name.len() + value.len();
        attributes.insert(Attribute::Metadata(Cow::Owned(name)), AttributeValue::from(value));
    };
    for (name, value) in metadata {
        add(name.clone(), value.clone());
    }
    if let Some(md5) = &headers.content_md5 {
        add(MD5_ITEM.to_owned(), data_encoding::HEXLOWER.encode(md5));
    }
    match bytes <= MAX_METADATA_BYTES {
        true => Ok(attributes),
        false => Err(BlobStoreError::Metadata(
            "metadata has more than the 2048 bytes that a bucket keeps, Content-MD5 included",
        )),
    }
}

impl Bucket {
    /// The blob as it is; `None`: it is not there.
    ///
    /// # Errors
    /// The name cannot be a key, or the bucket does not answer.
    pub(crate) async fn find(&self, blob: &str) -> Result<Option<Object>, BlobStoreError> {
        let key = self.key(blob)?;
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.0.s3.get_opts(&key, options).await {
            Ok(found) => {
                self.show(None, "find", key.as_ref());
                Ok(Some(Object {
                    facts: facts_of(&found.meta, &found.attributes),
                    e_tag: found.meta.e_tag.clone(),
                    key,
                }))
            }
            Err(error) if BucketError::is_absent_object(&error) => {
                // The answer has no body: a bucket that is not there looks the same.
                let found = self.find_any(key.as_ref()).await;
                if let Err(error) = &found {
                    self.show(Some(error), "find", key.as_ref());
                }
                found.map_err(BlobStoreError::Bucket)?;
                Ok(None)
            }
            Err(error) => self.shown(Err(error), "find", &key),
        }
    }

    /// Whether the bucket can be listed.
    pub(super) async fn find_any(&self, prefix: &str) -> Result<(), BucketError> {
        let options = PaginatedListOptions {
            max_keys: Some(1),
            ..PaginatedListOptions::default()
        };
        self.0.s3.list_paginated(Some(prefix), options).await?;
        Ok(())
    }

    /// `length` bytes of an object from `start` on, which must be inside; it ends with an error when another one has taken its place.
    pub(crate) async fn read(&self, object: &Object, start: u64, length: u64) -> Result<Pieces, BlobStoreError> {
        let key = object.key.clone();
        let options = GetOptions {
            if_match: object.e_tag.clone(),
            range: Some(GetRange::Bounded(start..start.saturating_add(length))),
            ..GetOptions::default()
        };
        let got = match self.0.s3.get_opts(&key, options).await {
            // It was there a moment ago.
            Err(error) if BucketError::is_absent_object(&error) => return Err(BlobStoreError::NoBlob),
            Err(object_store::Error::Precondition { .. }) => {
                return Err(BlobStoreError::Busy(
                    "the blob has been replaced while it was opened; retry",
                ));
            }
            got => self.shown(got, "read", &key)?,
        };
        let bucket = self.clone();
        let pieces = got.into_stream().map(move |piece| bucket.shown(piece, "read", &key));
        Ok(Box::pin(pieces))
    }

    /// A page of the blobs, in the order of names.
    pub(crate) async fn list(&self, listing: Listing) -> Result<Page, BlobStoreError> {
        let base = self.base();
        let prefix = format!("{base}{}", listing.prefix);
        let is_grouped = !listing.delimiter.is_empty();
        let options = PaginatedListOptions {
            delimiter: is_grouped.then(|| Cow::Owned(listing.delimiter.clone())),
            max_keys: Some(listing.most),
            page_token: (!listing.marker.is_empty()).then(|| listing.marker.clone()),
            ..PaginatedListOptions::default()
        };
        let listed = self.0.s3.list_paginated(Some(&prefix), options).await;
        let listed = self.shown(listed, "list", &Path::from(prefix))?;
        let name = |key: &Path| key.as_ref().strip_prefix(&base).map(str::to_owned);
        let mut entries: Vec<(String, ListedBlob)> = Vec::new();
        for group in &listed.result.common_prefixes {
            if let Some(mut name) = name(group) {
                // The key's type has no slash at its end.
                if !name.ends_with(&listing.delimiter) {
                    name.push_str(&listing.delimiter);
                }
                entries.push((name.clone(), ListedBlob::Prefix(name)));
            }
        }
        for meta in &listed.result.objects {
            if let Some(name) = name(&meta.location) {
                let facts = Box::new(facts_of(meta, &Attributes::new()));
                entries.push((name.clone(), ListedBlob::Blob(name, facts)));
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let entries = entries.into_iter().map(|(_, entry)| entry).collect();
        Ok((entries, listed.page_token))
    }

    /// Removes an object; one that is not there is none.
    pub(crate) async fn remove(&self, object: &Object) -> Result<(), BlobStoreError> {
        match self.0.s3.delete(&object.key).await {
            Err(error) if BucketError::is_absent_object(&error) => Ok(()),
            removed => self.shown(removed, "remove", &object.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_writer_says_comes_back() {
        let headers = BlobHeaders {
            content_type: Some("text/plain".to_owned()),
            content_md5: Some(vec![1; 16]),
            cache_control: Some("no-cache".to_owned()),
            ..BlobHeaders::default()
        };
        let metadata: Metadata = [("colour".to_owned(), "blue".to_owned())].into();
        let attributes = attributes_of(&headers, &metadata).unwrap();
        let meta = ObjectMeta {
            location: Path::from("a"),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: 5,
            e_tag: Some("\"abc-2\"".to_owned()),
            version: None,
        };
        let facts = facts_of(&meta, &attributes);
        assert_eq!((&facts.headers, &facts.metadata), (&headers, &metadata));
        assert_eq!(facts.etag, etag_of(Some("abc-2")));
        assert_ne!(facts.etag, etag_of(None));
        let large: Metadata = [("a".to_owned(), "x".repeat(MAX_METADATA_BYTES))].into();
        assert!(matches!(
            attributes_of(&BlobHeaders::default(), &large),
            Err(BlobStoreError::Metadata(_))
        ));
    }
}
