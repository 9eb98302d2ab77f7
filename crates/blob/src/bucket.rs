//! Contents in a bucket of S3, or of a service that speaks its protocol (docs/decisions/0053).
//!
//! Why: files on one node's disk are gone with it and served by it alone; in a bucket every node finds them, and so do back ends,
//! without the hub.
//! Invariants: an object is there as a whole or not at all, and checked by the service against the SHA-256 that the hub has signed;
//! memory does not grow with a file; every request ends in its time; parts of a write that has failed are removed.
//! Not here: blocks, and which write is in progress (`store::writes`); the Blob protocol (`service`).

mod config;
mod credentials;
mod error;
mod http;
mod objects;
mod remote;
mod write;

use std::sync::Arc;

use holdfast_tasks::sync::Mutex;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStoreExt as _, PutPayload, RetryConfig};
use rustls::RootCertStore;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metrics::BucketMetrics;
use crate::store::BlobStoreError;

pub use config::S3Config;
pub use credentials::{BucketSetupError, CREDENTIAL_VARIABLES};
pub use error::{BucketCause, BucketError};
pub(crate) use objects::{Object, Pieces};
pub use remote::{InvalidPlace, RemoteAccess, RemotePlace, describe, is_remote_endpoint, open_remote};
pub(crate) use write::{NewObject, PartsLog};

/// Longest key of an object.
const MAX_KEY_BYTES: usize = 1024;

/// How often a request is repeated that has failed within its time. So it ends in twice its time.
const MAX_RETRIES: usize = 2;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    s3: Arc<AmazonS3>,
    config: S3Config,
    container: String,
    /// Writes that may be in progress at once.
    places: Arc<Semaphore>,
    metrics: BucketMetrics,
    /// Whether the last write or check has failed, for one line in the log at each turn.
    is_failing: Mutex<bool>,
}

/// The TLS of a service whose CA is in `ca_file`. Blocks.
fn tls(ca_file: Option<&std::path::Path>, endpoint: &str) -> Result<rustls::ClientConfig, BucketSetupError> {
    let roots = match holdfast_client::tls::roots(ca_file) {
        // Without TLS a system without a list of CAs is enough.
        Err(_) if ca_file.is_none() && endpoint.starts_with("http://") => Ok(RootCertStore::empty()),
        roots => roots,
    };
    let tls = roots.and_then(|roots| holdfast_client::tls::config_with(roots, rustls::DEFAULT_VERSIONS));
    tls.map_err(|error| BucketSetupError::Tls(format!("{error:#}")))
}

/// The client of the bucket of `config`. Sends nothing. Blocks.
fn client(config: &S3Config, environment: &[(String, String)]) -> Result<AmazonS3, BucketSetupError> {
    let timeout = config.request_timeout.get();
    let tls = tls(config.ca_file.as_deref(), &config.endpoint)?;
    let mut builder = AmazonS3Builder::new()
        .with_http_connector(http::Client::new(tls, timeout))
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_virtual_hosted_style_request(config.virtual_hosted)
        .with_allow_http(true)
        // One request each; not every service has the other one.
        .with_disable_bulk_delete(true)
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: MAX_RETRIES,
            // No attempt begins after it.
            retry_timeout: timeout,
        });
    if !config.endpoint.is_empty() {
        let endpoint = config.endpoint.trim_end_matches('/');
        builder = builder.with_endpoint(match (config.virtual_hosted, endpoint.split_once("://")) {
            (true, Some((scheme, host))) => format!("{scheme}://{}.{host}", config.bucket),
            _ => endpoint.to_owned(),
        });
    }
    let s3 = credentials::add(builder, config, environment)?.build();
    s3.map_err(|error| BucketSetupError::Settings(error.to_string()))
}

impl Bucket {
    /// The bucket of `config` for the blobs of `container`; `environment` may have its credentials ([`CREDENTIAL_VARIABLES`]). Sends
    /// nothing. Blocks.
    ///
    /// # Errors
    /// When there are no credentials, or a file cannot be read.
    pub fn open(
        config: &S3Config,
        container: &str,
        environment: &[(String, String)],
    ) -> Result<Self, BucketSetupError> {
        let s3 = client(config, environment)?;
        Ok(Self(Arc::new(Inner {
            s3: Arc::new(s3),
            config: config.clone(),
            container: container.to_owned(),
            places: Arc::new(Semaphore::new(config.writes)),
            metrics: BucketMetrics::new(),
            is_failing: Mutex::new(false),
        })))
    }

    /// The container whose blobs are here.
    pub(crate) fn container(&self) -> &str {
        &self.0.container
    }

    pub(crate) fn config(&self) -> &S3Config {
        &self.0.config
    }

    /// Until when a request that comes now waits for its write.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.0.config.answer_timeout.get()
    }

    pub(crate) fn metrics(&self) -> &BucketMetrics {
        &self.0.metrics
    }

    /// The bucket, for logs and messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.config.bucket
    }

    fn base(&self) -> String {
        match self.0.config.prefix.as_str() {
            "" => format!("{}/", self.0.container),
            prefix => format!("{prefix}/{}/", self.0.container),
        }
    }

    /// The key of a blob.
    ///
    /// # Errors
    /// [`BlobStoreError::Name`] when it is too long.
    pub(crate) fn key(&self, blob: &str) -> Result<Path, BlobStoreError> {
        let key = format!("{}{blob}", self.base());
        if key.len() > MAX_KEY_BYTES {
            return Err(BlobStoreError::Name(
                "the name is too long for the bucket: with its prefix and its container it has at most 1024 bytes in UTF-8",
            ));
        }
        Path::parse(key).map_err(|_| BlobStoreError::Name("the bucket cannot have such a name"))
    }

    /// Writes, reads and removes an object beside the files, within the time of these requests.
    ///
    /// # Errors
    /// The fault of the bucket.
    pub async fn check(&self) -> Result<(), BucketError> {
        let name = format!(".holdfast-check-{:016x}", rand::random::<u64>());
        let key = match self.0.config.prefix.as_str() {
            "" => Path::from(name),
            prefix => Path::from(format!("{prefix}/{name}")),
        };
        let written = async {
            let content = bytes::Bytes::from_static(b"written by a check of Holdfast; may be removed\n");
            self.0.s3.put(&key, PutPayload::from(content.clone())).await?;
            let read = self.0.s3.get(&key).await?.bytes().await?;
            if read != content {
                return Err(BucketError::new(
                    BucketCause::Content,
                    "an object that was written reads differently",
                ));
            }
            self.0.s3.delete(&key).await?;
            // Without this right a file that is not there cannot be told from one that may not be read.
            self.find_any(key.as_ref()).await
        };
        let outcome = written.await;
        self.show(outcome.as_ref().err(), "check", key.as_ref());
        outcome
    }

    /// Shows the outcome of a request in the metrics, and in the log at each turn from working to failing and back.
    fn show(&self, error: Option<&BucketError>, step: &'static str, key: &str) {
        let bucket = self.name();
        let was_failing = std::mem::replace(&mut *self.0.is_failing.lock(), error.is_some());
        match error {
            Some(error) => {
                self.0.metrics.failed(error.cause);
                tracing::error!(
                    bucket,
                    key,
                    step,
                    cause = error.cause.label(),
                    error = error as &dyn std::error::Error,
                    advice = error.cause.advice(),
                    "the bucket of file uploads cannot be used"
                );
            }
            None => {
                self.0.metrics.works();
                if was_failing {
                    tracing::info!(bucket, "the bucket of file uploads can be used again");
                }
            }
        }
    }

    /// [`Self::show`] for a request whose error the caller gets.
    fn shown<T>(
        &self,
        outcome: Result<T, object_store::Error>,
        step: &'static str,
        key: &Path,
    ) -> Result<T, BlobStoreError> {
        outcome.map_err(|error| {
            let error = BucketError::from(error);
            self.show(Some(&error), step, key.as_ref());
            BlobStoreError::Bucket(error)
        })
    }
}
