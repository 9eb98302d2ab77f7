//! A Blob-compatible endpoint on this node's own disk or with its contents in a bucket of S3, and the signatures that open blobs here
//! and in Azure.
//!
//! Why: devices upload files straight to storage, and a hub without any cloud needs a storage that the SDKs accept
//! (docs/decisions/0045). Back ends read the files there, and processors of events keep their checkpoints there.
//! Invariants: 201 means that content and index are synced; memory does not grow with a blob's size; a blob is replaced as a whole
//! or not at all; every request proves its right by the account's key or by a signature of it, before anything is read or looked up.
//! The index is family `Blob` of the node's database; contents are immutable files beside it, and a file that the index does not
//! name is garbage.
//! The blobs of one container may be in a bucket instead ([`Bucket`]); their index is the bucket.
//! Not here: replication (files outside of a bucket are on one node's disk), page and append blobs, leases, snapshots, stored access policies;
//! the upload of a device (`gateway`, `device-hub`).
//! Start at [`BlobService`], [`BlobStore`], [`sas`].
#![warn(missing_docs)]

mod account;
mod bucket;
mod config;
mod metrics;
mod names;
pub mod sas;
mod service;
mod shared_key;
mod store;

pub use account::{Account, AccountError};
pub use bucket::{
    Bucket, BucketCause, BucketError, BucketSetupError, CREDENTIAL_VARIABLES, InvalidPlace, RemoteAccess, RemotePlace,
    S3Config, describe as describe_store_error, is_remote_endpoint, open_remote,
};
pub use config::BlobConfig;
pub use metrics::METRICS;
pub use names::{InvalidName, is_blob, is_container, is_hub_word};
pub use service::BlobService;
pub use store::{BlobFacts, BlobStore, BlobStoreError, StoreParts};
