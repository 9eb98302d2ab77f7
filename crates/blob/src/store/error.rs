//! Why the store does not carry out a request.

use std::path::PathBuf;

use holdfast_storage::StorageError;
use thiserror::Error;

use crate::bucket::BucketError;

/// See the module. Nothing has changed, but for [`Self::Storage`], where it may have.
#[derive(Debug, Error)]
pub enum BlobStoreError {
    /// There is no such container.
    #[error("the container does not exist")]
    NoContainer,
    /// The container is there already.
    #[error("the container exists already")]
    ContainerExists,
    /// There is no such blob.
    #[error("the blob does not exist")]
    NoBlob,
    /// The blob is there already, and the caller may only create.
    #[error("the blob exists already, and the signature allows only to create")]
    BlobExists,
    /// A condition of the request does not hold.
    #[error("a condition of the request does not hold")]
    Condition,
    /// It must not be there, and is.
    #[error("the blob exists already")]
    AlreadyThere,
    /// A reader has the blob as it is: conditions of a read.
    #[error("the blob has not changed")]
    NotModified,
    /// A block list names a block that is not there.
    #[error("the list names a block that is not there")]
    NoBlock,
    /// A limit of blocks or sizes is exceeded.
    #[error("{0}")]
    Limit(&'static str),
    /// The ids of a blob's blocks have one length.
    #[error("the ids of the blocks of one blob must have the same length")]
    BlockIdLength,
    /// There is no space for more.
    #[error("{0}")]
    Full(&'static str),
    /// The body ended before its length, or did not come in time.
    #[error("{0}")]
    Body(&'static str),
    /// The body is not the one that the header describes.
    #[error("the MD5 of the body is not that of the header")]
    Md5,
    /// A file cannot be read or written.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The bucket does not do what it must.
    #[error("the bucket cannot be used: {0}")]
    Bucket(#[from] BucketError),
    /// It may be carried out later.
    #[error("{0}")]
    Busy(&'static str),
    /// The name is none of the bucket's.
    #[error("{0}")]
    Name(&'static str),
    /// There is more metadata than the bucket keeps.
    #[error("{0}")]
    Metadata(&'static str),
    /// Blobs in a bucket do not have it.
    #[error("blobs in a bucket do not have {0}")]
    NotInBucket(&'static str),
    /// A value of the index cannot be read by this version.
    #[error("a value of the index cannot be read by this version")]
    Unreadable,
    /// The database has failed.
    #[error("the database has failed: {0}")]
    Storage(String),
}

impl From<StorageError> for BlobStoreError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error.to_string())
    }
}
