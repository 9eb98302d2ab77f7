//! The index: keys and values of family `Blob` (docs/storage.md, "Blobs").
//!
//! Names contain no byte 0, which separates them in keys; a block id may, and stands last.

use holdfast_proto::blob::v1 as proto;

use super::BlobStoreError;
use super::blobs::{BlobHeaders, Metadata};
use super::files::FileId;

pub(super) const VERSION: u32 = 1;

pub(super) mod key {
    use super::FileId;

    pub(in crate::store) const TOTALS: [u8; 1] = *b"t";
    const CONTAINER: u8 = b'c';
    const BLOB: u8 = b'b';
    const BLOCK: u8 = b'u';
    const STAGING: u8 = b'n';
    const FILE: u8 = b'f';
    const UPLOAD: u8 = b'm';

    fn of(kind: u8, container: &str, blob: &str) -> Vec<u8> {
        let mut key = Vec::with_capacity(container.len() + blob.len() + 2);
        key.push(kind);
        key.extend_from_slice(container.as_bytes());
        key.push(0);
        key.extend_from_slice(blob.as_bytes());
        key
    }

    pub(in crate::store) fn container(container: &str) -> Vec<u8> {
        let mut key = vec![CONTAINER];
        key.extend_from_slice(container.as_bytes());
        key
    }

    pub(in crate::store) fn containers() -> [Vec<u8>; 2] {
        [vec![CONTAINER], vec![CONTAINER + 1]]
    }

    pub(in crate::store) fn blob(container: &str, blob: &str) -> Vec<u8> {
        of(BLOB, container, blob)
    }

    pub(in crate::store) fn staging(container: &str, blob: &str) -> Vec<u8> {
        of(STAGING, container, blob)
    }

    pub(in crate::store) fn all_staging() -> [Vec<u8>; 2] {
        [vec![STAGING], vec![STAGING + 1]]
    }

    pub(in crate::store) fn block(container: &str, blob: &str, id: &[u8]) -> Vec<u8> {
        let mut key = of(BLOCK, container, blob);
        key.push(0);
        key.extend_from_slice(id);
        key
    }

    /// The blocks of a blob.
    pub(in crate::store) fn blocks(container: &str, blob: &str) -> [Vec<u8>; 2] {
        let mut end = of(BLOCK, container, blob);
        end.push(1);
        [block(container, blob, &[]), end]
    }

    /// The end of everything of a kind in a container whose keys begin with `of(kind, container, "")`.
    fn end(mut begin: Vec<u8>) -> Vec<u8> {
        begin.pop();
        begin.push(1);
        begin
    }

    pub(in crate::store) fn blobs_of(container: &str) -> [Vec<u8>; 2] {
        let begin = of(BLOB, container, "");
        [begin.clone(), end(begin)]
    }

    pub(in crate::store) fn blocks_of(container: &str) -> [Vec<u8>; 2] {
        let begin = of(BLOCK, container, "");
        [begin.clone(), end(begin)]
    }

    pub(in crate::store) fn staging_of(container: &str) -> [Vec<u8>; 2] {
        let begin = of(STAGING, container, "");
        [begin.clone(), end(begin)]
    }

    pub(in crate::store) fn file(file: FileId) -> Vec<u8> {
        let mut key = vec![FILE];
        key.extend_from_slice(&file);
        key
    }

    pub(in crate::store) fn upload(id: FileId) -> Vec<u8> {
        let mut key = vec![UPLOAD];
        key.extend_from_slice(&id);
        key
    }

    pub(in crate::store) fn uploads() -> [Vec<u8>; 2] {
        [vec![UPLOAD], vec![UPLOAD + 1]]
    }

    /// Container and name of a key of a blob or its staging.
    pub(in crate::store) fn names(key: &[u8]) -> Option<(&str, &str)> {
        let rest = key.get(1..)?;
        let at = rest.iter().position(|byte| *byte == 0)?;
        let (container, blob) = (&rest[..at], &rest[at + 1..]);
        Some((std::str::from_utf8(container).ok()?, std::str::from_utf8(blob).ok()?))
    }

    /// The id of a block, by the key and the length of what comes before.
    pub(in crate::store) fn block_id<'a>(key: &'a [u8], container: &str, blob: &str) -> &'a [u8] {
        key.get(container.len() + blob.len() + 3..).unwrap_or_default()
    }
}

/// What all files are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) bytes: u64,
}

pub(super) fn encode_totals(totals: Totals) -> proto::StoredTotals {
    proto::StoredTotals {
        version: VERSION,
        bytes: totals.bytes,
    }
}

/// Reads a value of this version.
fn decode<M: prost::Message + Default>(value: &[u8], version: impl FnOnce(&M) -> u32) -> Result<M, BlobStoreError> {
    let stored = M::decode(value).map_err(|_| BlobStoreError::Unreadable)?;
    match version(&stored) {
        VERSION => Ok(stored),
        _ => Err(BlobStoreError::Unreadable),
    }
}

pub(super) fn decode_totals(value: &[u8]) -> Result<Totals, BlobStoreError> {
    let stored = decode::<proto::StoredTotals>(value, |stored| stored.version)?;
    Ok(Totals { bytes: stored.bytes })
}

pub(super) fn decode_container(value: &[u8]) -> Result<proto::StoredContainer, BlobStoreError> {
    decode(value, |stored: &proto::StoredContainer| stored.version)
}

pub(super) fn decode_blob(value: &[u8]) -> Result<proto::StoredBlob, BlobStoreError> {
    decode(value, |stored: &proto::StoredBlob| stored.version)
}

pub(super) fn decode_block(value: &[u8]) -> Result<proto::StoredBlock, BlobStoreError> {
    decode(value, |stored: &proto::StoredBlock| stored.version)
}

pub(super) fn decode_staging(value: &[u8]) -> Result<proto::StoredStaging, BlobStoreError> {
    decode(value, |stored: &proto::StoredStaging| stored.version)
}

pub(super) fn decode_upload(value: &[u8]) -> Result<proto::StoredUpload, BlobStoreError> {
    decode(value, |stored: &proto::StoredUpload| stored.version)
}

pub(super) fn file_of(bytes: &[u8]) -> Result<FileId, BlobStoreError> {
    bytes.try_into().map_err(|_| BlobStoreError::Unreadable)
}

pub(super) fn encode_metadata(metadata: &Metadata) -> Vec<proto::StoredMetadata> {
    let pairs = metadata.iter().map(|(name, value)| proto::StoredMetadata {
        name: name.clone(),
        value: value.clone(),
    });
    pairs.collect()
}

pub(super) fn decode_metadata(stored: Vec<proto::StoredMetadata>) -> Metadata {
    stored.into_iter().map(|pair| (pair.name, pair.value)).collect()
}

pub(super) fn encode_headers(headers: &BlobHeaders) -> proto::StoredHeaders {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    proto::StoredHeaders {
        content_type: text(&headers.content_type),
        content_encoding: text(&headers.content_encoding),
        content_language: text(&headers.content_language),
        content_disposition: text(&headers.content_disposition),
        cache_control: text(&headers.cache_control),
        content_md5: headers.content_md5.clone().unwrap_or_default().into(),
    }
}

pub(super) fn decode_headers(stored: Option<proto::StoredHeaders>) -> BlobHeaders {
    let stored = stored.unwrap_or_default();
    let text = |value: String| (!value.is_empty()).then_some(value);
    BlobHeaders {
        content_type: text(stored.content_type),
        content_encoding: text(stored.content_encoding),
        content_language: text(stored.content_language),
        content_disposition: text(stored.content_disposition),
        cache_control: text(stored.cache_control),
        content_md5: (!stored.content_md5.is_empty()).then(|| stored.content_md5.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn stored_bytes_never_change() {
        let blob = proto::StoredBlob {
            version: VERSION,
            created_ms: 1,
            modified_ms: 2,
            etag: 3,
            size: 5,
            metadata: encode_metadata(&[("a".to_owned(), "b".to_owned())].into()),
            headers: Some(encode_headers(&BlobHeaders {
                content_type: Some("t".to_owned()),
                ..BlobHeaders::default()
            })),
            parts: vec![proto::StoredPart {
                file: vec![7; 16].into(),
                length: 5,
                block: vec![9].into(),
            }],
        };
        let fixed = |tag: u8, value: u8| [tag, value, 0, 0, 0, 0, 0, 0, 0];
        let expected = [
            &[0x08, 1][..],
            &fixed(0x11, 1),
            &fixed(0x19, 2),
            &fixed(0x21, 3),
            &fixed(0x29, 5),
            &[0x32, 6, 0x0a, 1, b'a', 0x12, 1, b'b'],
            &[0x3a, 3, 0x0a, 1, b't'],
            &[0x42, 30, 0x0a, 16],
            &[7; 16],
            &fixed(0x11, 5),
            &[0x1a, 1, 9],
        ]
        .concat();
        assert_eq!(blob.encode_to_vec(), expected);
        assert_eq!(decode_blob(&expected).unwrap(), blob);
        for bytes in [&[0x08, 2][..], &[0xff], &[]] {
            assert!(matches!(decode_blob(bytes), Err(BlobStoreError::Unreadable)));
        }
    }

    #[test]
    fn keys_of_one_container_are_one_range_and_names_come_back() {
        let [from, to] = key::blobs_of("abc");
        for inside in ["a", "\u{10ffff}"] {
            let key = key::blob("abc", inside);
            assert!(from < key && key < to, "{inside}");
            assert_eq!(key::names(&key), Some(("abc", inside)));
        }
        assert!(key::blob("abc-d", "a") >= to && key::blob("ab", "z") < from);
        let [from, to] = key::blocks("abc", "x/y");
        let block = key::block("abc", "x/y", &[0, 255]);
        assert!(from < block && block < to);
        assert_eq!(key::block_id(&block, "abc", "x/y"), [0, 255]);
        assert!(key::block("abc", "x/y/z", &[0]) >= to);
    }
}
