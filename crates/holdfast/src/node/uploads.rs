//! The storage of file uploads as the configuration names it, and the embedded blob endpoint of this node.
//!
//! Invariants: a node that does not serve the embedded endpoint signs with the same account's key and sends devices to the node that
//! does; what is known of an uploaded file comes from the storage, never from the device.
//! Not here: slots and notifications (`device-hub`), the endpoint itself (`blob`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use holdfast_blob::{
    Account, BlobService, BlobStore, BlobStoreError, Bucket, BucketSetupError, CREDENTIAL_VARIABLES, StoreParts, sas,
};
use holdfast_device_hub::{UploadConfig, UploadStorageKind, UploadedFile};
use holdfast_gateway::{UploadLocation, UploadStorage, UploadedBlob};
use holdfast_model::{Clock, UnixMillis};
use holdfast_tasks::{Phase, Stop};
use http::{Method, StatusCode, header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::outbound::connect;
use super::store::Store;
use crate::config::Config;
use crate::connection::Blobs;
use holdfast_cli::exit_code::{Failure, Outcome};

/// How long the storage may take to describe a blob.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer about a blob that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How long after a failed check of the bucket the next one comes.
const RECHECK_AFTER: Duration = Duration::from_secs(60);

/// The port that URLs leave out.
const HTTPS_PORT: u16 = 443;

/// See the module.
#[derive(Clone)]
pub(crate) struct Uploads {
    served: Option<Served>,
    storage: Option<Arc<Signed>>,
    host: String,
    /// The configured host of the endpoint; empty: `host`.
    endpoint: String,
    port: Arc<AtomicU16>,
    container: String,
}

/// The embedded endpoint.
#[derive(Clone)]
struct Served {
    account: Account,
    store: BlobStore,
    service: BlobService,
}

impl Uploads {
    /// Opens the embedded endpoint, if this node has it; returns when its files have been checked against its index.
    ///
    /// # Errors
    /// Names the key file, or the directory, that cannot be used.
    pub(crate) async fn start(config: &Config, store: &Store, stop: &Stop) -> Result<Self, Failure> {
        let (upload, blob) = (&config.upload, &config.blob);
        let served = match blob.enabled {
            true => Some(serve(config, store, stop).await?),
            false => None,
        };
        let port = Arc::new(AtomicU16::new(HTTPS_PORT));
        let signed = |account: Account, place: Place| {
            Some(Arc::new(Signed {
                account,
                place,
                config: upload.clone(),
                own_host: config.hub.host.clone(),
                own_port: Arc::clone(&port),
                ca_file: upload.ca_file.clone().or_else(|| config.tls.ca_file.clone()),
            }))
        };
        let storage = match (upload.storage, &served) {
            (UploadStorageKind::None, _) => None,
            (UploadStorageKind::Embedded | UploadStorageKind::S3, Some(served)) => {
                signed(served.account.clone(), Place::Here(served.store.clone()))
            }
            (UploadStorageKind::Embedded | UploadStorageKind::S3, None) => {
                let account = Account::from_file(&blob.account, &config.blob_key_file(), false);
                signed(account.map_err(cannot_start)?, Place::Elsewhere)
            }
            (UploadStorageKind::Azure, _) => {
                let file = upload.key_file.clone().unwrap_or_default();
                let account = Account::from_file(&upload.account, &file, false);
                signed(account.map_err(cannot_start)?, Place::Elsewhere)
            }
        };
        if let Some(served) = served.as_ref().filter(|_| upload.storage.is_embedded()) {
            served
                .store
                .ensure_container(&upload.container)
                .await
                .map_err(cannot_start)?;
        }
        Ok(Self {
            served,
            storage,
            host: config.hub.host.clone(),
            port,
            // Nodes without the endpoint have one host, which may be a load balancer's; this node has to be met.
            endpoint: match upload.storage {
                UploadStorageKind::Embedded | UploadStorageKind::S3 => upload.endpoint.clone(),
                UploadStorageKind::None | UploadStorageKind::Azure => String::new(),
            },
            container: upload.container.clone(),
        })
    }

    /// The HTTPS port is known.
    pub(crate) fn listening_at(&self, port: Option<u16>) {
        self.port.store(port.unwrap_or(HTTPS_PORT), Ordering::Relaxed);
    }

    /// For the devices' front end.
    pub(crate) fn storage(&self) -> Option<Arc<dyn UploadStorage>> {
        self.storage.clone().map(|storage| storage as _)
    }

    /// The embedded endpoint, and the paths that are its own: the account's, and that of the devices' uploads.
    pub(crate) fn service(&self) -> Option<(BlobService, impl Iterator<Item = String> + use<>)> {
        let served = self.served.as_ref()?;
        let paths = [format!("/{}", served.account.name()), format!("/{}", self.container)];
        Some((served.service.clone(), paths.into_iter()))
    }

    /// For the connection file.
    pub(crate) fn connection(&self) -> Option<Blobs> {
        let served = self.served.as_ref()?;
        let account = served.account.name();
        let key = served.account.key().to_base64();
        let host = match self.endpoint.as_str() {
            "" => authority(&self.host, self.port.load(Ordering::Relaxed)),
            configured => configured.to_owned(),
        };
        let endpoint = format!("https://{}/{account}", with_port(host));
        Some(Blobs {
            connection_string: format!(
                "DefaultEndpointsProtocol=https;AccountName={account};AccountKey={};BlobEndpoint={endpoint};",
                &*key
            ),
            account: account.to_owned(),
            key: key.to_string(),
            endpoint,
            uploads: self.container.clone(),
        })
    }
}

fn cannot_start(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    let error = anyhow::Error::from(error);
    Failure::new(Outcome::CannotStart, format!("no storage for file uploads: {error:#}")).advise(
        "see \"File upload\" in docs/runbook.md; without upload.storage and blob.enabled the hub starts without file upload",
    )
}

async fn serve(config: &Config, store: &Store, stop: &Stop) -> Result<Served, Failure> {
    let account = Account::from_file(&config.blob.account, &config.blob_key_file(), true).map_err(cannot_start)?;
    let bucket = bucket(config).await.map_err(cannot_start)?;
    if let Some(bucket) = &bucket {
        // A hub without its bucket still takes telemetry.
        holdfast_tasks::spawn_critical("bucket-check", check_until_it_works(bucket.clone(), stop.clone()));
    }
    let parts = StoreParts {
        disk: Arc::clone(&store.host.disk),
        flusher: store.host.flusher.clone(),
        guard: Arc::clone(&store.host.guard),
        on_fatal: Arc::clone(&store.host.on_fatal),
        clock: Clock::system(),
        directory: config.blob_directory(),
        config: config.blob.clone(),
        bucket,
    };
    let opened = holdfast_tasks::spawn_blocking(move || BlobStore::open(parts)).await;
    let store = opened.map_err(cannot_start)?;
    holdfast_tasks::spawn_critical("blob-collect", store.clone().collect(stop.clone()));
    Ok(Served {
        service: BlobService::new(account.clone(), store.clone()),
        account,
        store,
    })
}

/// The bucket of uploads, if there is one. Sends nothing.
///
/// # Errors
/// When its credentials or its CA cannot be used.
pub(crate) async fn bucket(config: &Config) -> Result<Option<Bucket>, BucketSetupError> {
    if config.upload.storage != UploadStorageKind::S3 {
        return Ok(None);
    }
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| CREDENTIAL_VARIABLES.contains(&name.as_str()))
        .collect();
    let (s3, container) = (config.s3.clone(), config.upload.container.clone());
    let opened = holdfast_tasks::spawn_blocking(move || Bucket::open(&s3, &container, &environment));
    opened.await.map(Some)
}

/// Says in the log why the bucket cannot be used, until it can.
async fn check_until_it_works(bucket: Bucket, stop: Stop) {
    let checks = async {
        while bucket.check().await.is_err() {
            tokio::time::sleep(RECHECK_AFTER).await;
        }
        tracing::info!(bucket = bucket.name(), "file uploads go to the bucket");
    };
    tokio::select! {
        biased;
        () = stop.reached(Phase::Closing) => {}
        () = checks => {}
    }
}

/// Where an account's blobs are.
enum Place {
    Here(BlobStore),
    Elsewhere,
}

/// An account whose key this node has.
struct Signed {
    account: Account,
    place: Place,
    config: UploadConfig,
    own_host: String,
    own_port: Arc<AtomicU16>,
    ca_file: Option<PathBuf>,
}

fn authority(host: &str, port: u16) -> String {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    match port {
        HTTPS_PORT => host,
        port => format!("{host}:{port}"),
    }
}

/// The host with its port, also where that is the default one: the Blob SDK of Java takes the first segment of a path for the account
/// only behind a host with a port.
fn with_port(host: String) -> String {
    match host.parse::<http::uri::Authority>() {
        Ok(authority) if authority.port().is_none() => format!("{host}:{HTTPS_PORT}"),
        _ => host,
    }
}

impl Signed {
    /// The host of the devices' URLs.
    fn host(&self) -> String {
        let config = &self.config;
        match config.storage {
            _ if !config.endpoint.is_empty() => config.endpoint.clone(),
            UploadStorageKind::Azure => format!("{}.blob.core.windows.net", config.account),
            UploadStorageKind::Embedded | UploadStorageKind::S3 | UploadStorageKind::None => {
                authority(&self.own_host, self.own_port.load(Ordering::Relaxed))
            }
        }
    }

    fn sas(&self, blob: &str, now: UnixMillis, ttl: Duration) -> String {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let until = UnixMillis(now.0.saturating_add(ttl));
        sas::for_upload(&self.account, &self.config.container, blob, now, until)
    }
}

impl UploadStorage for Signed {
    fn location(&self, blob: &str, now: UnixMillis) -> UploadLocation {
        UploadLocation {
            host: self.host(),
            container: self.config.container.clone(),
            sas: self.sas(blob, now, self.config.sas_ttl.get()),
        }
    }

    fn find(&self, blob: &str) -> UploadedBlob {
        let (container, name) = (self.config.container.clone(), blob.to_owned());
        let path = sas::path_of(&container, blob);
        let (host, uri) = (self.host(), format!("https://{}{path}", self.host()));
        match &self.place {
            Place::Here(store) => {
                let store = store.clone();
                Box::pin(async move {
                    let facts = match store.blob(&container, &name).await {
                        Err(BlobStoreError::NoContainer) => None,
                        facts => facts.map_err(|error| error.to_string())?,
                    };
                    Ok(facts.map(|facts| UploadedFile {
                        uri,
                        size: facts.size,
                        modified: facts.modified,
                    }))
                })
            }
            Place::Elsewhere => {
                let sas = self.sas(blob, Clock::system().now(), Duration::from_secs(600));
                let ca_file = self.ca_file.clone();
                Box::pin(async move {
                    let target = format!("{path}{sas}");
                    let found = tokio::time::timeout(FIND_TIMEOUT, head(&host, &target, ca_file));
                    let found = found.await.unwrap_or_else(|_| Err(anyhow!("no answer in time")));
                    let found = found.map_err(|error| format!("{error:#}"))?;
                    Ok(found.map(|(size, modified)| UploadedFile { uri, size, modified }))
                })
            }
        }
    }
}

/// Size and time of a blob elsewhere.
async fn head(host: &str, path: &str, ca_file: Option<PathBuf>) -> Result<Option<(u64, UnixMillis)>> {
    let mut connection = connect(&host.parse()?, true, ca_file, MAX_ANSWER_BYTES).await?;
    let headers = [(header::HeaderName::from_static("x-ms-version"), "2021-12-02")];
    let answer = connection.request(Method::HEAD, path, &headers, Vec::new()).await?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        status => bail!("the answer is {status}"),
    }
    let text = |name: header::HeaderName| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let size = text(header::CONTENT_LENGTH)
        .and_then(|text| text.parse().ok())
        .context("no length")?;
    let modified = text(header::LAST_MODIFIED).context("no time")?.replace("GMT", "+0000");
    let modified = OffsetDateTime::parse(&modified, &Rfc2822)?.unix_timestamp();
    let modified = u64::try_from(modified)?.saturating_mul(1000);
    Ok(Some((size, UnixMillis(modified))))
}
