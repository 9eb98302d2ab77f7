//! Object stores for other parts of the hub: a bucket of S3 or a container of Azure Blob, by its URL.
//!
//! Why here: the client, its credentials and its errors in words are those of the bucket of file uploads.
//! Invariants: no secret is part of a URL; a secret is never printed.
//! Not here: what is stored (`backup`).

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_model::HumanDuration;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::config::{is_bucket, is_endpoint, is_prefix};
use super::{BucketError, BucketSetupError, MAX_RETRIES, S3Config, client, http, tls};

/// The variables of the environment that credentials for Azure Blob come from.
const AZURE_VARIABLES: [&str; 7] = [
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
];

/// Longest line of a credentials file.
const MAX_KEY_BYTES: usize = 4096;

/// Where an object store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemotePlace {
    /// `s3://BUCKET/PREFIX`.
    S3 {
        /// The bucket.
        bucket: String,
        /// What every key begins with, without slashes at its ends.
        prefix: String,
    },
    /// `azure://ACCOUNT/CONTAINER/PREFIX`.
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// As of S3.
        prefix: String,
    },
}

/// The text is no URL of an object store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a folder, s3://BUCKET/PREFIX or azure://ACCOUNT/CONTAINER/PREFIX; a prefix has segments of A-Z a-z 0-9 - _ . ="
)]
pub struct InvalidPlace;

impl RemotePlace {
    /// The place that `text` names; `None`: it is a folder's path.
    ///
    /// # Errors
    /// [`InvalidPlace`]: a URL of another kind.
    pub fn parse(text: &str) -> Result<Option<Self>, InvalidPlace> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(None);
        };
        let rest = rest.trim_end_matches('/');
        let place = match scheme {
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Self::S3 {
                    bucket: bucket.to_owned(),
                    prefix: prefix.to_owned(),
                }
            }
            "azure" => {
                let (account, rest) = rest.split_once('/').ok_or(InvalidPlace)?;
                let (container, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Self::Azure {
                    account: account.to_owned(),
                    container: container.to_owned(),
                    prefix: prefix.to_owned(),
                }
            }
            _ => return Err(InvalidPlace),
        };
        match &place {
            Self::S3 { bucket, .. } if !is_bucket(bucket) => Err(InvalidPlace),
            Self::Azure { account, container, .. } if !is_bucket(account) || !is_bucket(container) => Err(InvalidPlace),
            Self::S3 { prefix, .. } | Self::Azure { prefix, .. } if !is_prefix(prefix) => Err(InvalidPlace),
            _ => Ok(Some(place)),
        }
    }

    /// What every key begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::S3 { prefix, .. } | Self::Azure { prefix, .. } => prefix,
        }
    }
}

/// How an object store is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAccess {
    /// The URL of the service; empty: that of AWS in the region, or of Azure.
    pub endpoint: String,
    /// The region that requests to S3 are signed for.
    pub region: String,
    /// Whether the bucket of S3 is the first label of the host's name.
    pub virtual_hosted: bool,
    /// S3: two lines, the access key's id and the secret access key, and a session token as a third one. Azure: one line, the account's key.
    pub credentials_file: Option<PathBuf>,
    /// Whether the metadata service of the machine gives the credentials, where nothing else does.
    pub instance_credentials: bool,
    /// The CA of the service's certificate.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take.
    pub request_timeout: HumanDuration,
}

/// Whether `url` can be the endpoint of a service; that of an emulator of Azure has the account as its path.
#[must_use]
pub fn is_remote_endpoint(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    match rest.split_once('/') {
        Some((host, account)) if is_bucket(account) => is_endpoint(&format!("{scheme}://{host}")),
        _ => is_endpoint(url),
    }
}

/// What an error of the object store says to an operator.
#[must_use]
pub fn describe(error: object_store::Error) -> String {
    BucketError::from(error).to_string()
}

/// The client of `place`; `environment` may have its credentials. Sends nothing. Blocks.
///
/// # Errors
/// When there are no credentials, or a file cannot be read.
pub fn open_remote(
    place: &RemotePlace,
    access: &RemoteAccess,
    environment: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, BucketSetupError> {
    match place {
        RemotePlace::S3 { bucket, .. } => {
            let config = S3Config {
                endpoint: access.endpoint.clone(),
                region: access.region.clone(),
                bucket: bucket.clone(),
                virtual_hosted: access.virtual_hosted,
                credentials_file: access.credentials_file.clone(),
                instance_credentials: access.instance_credentials,
                ca_file: access.ca_file.clone(),
                request_timeout: access.request_timeout,
                ..S3Config::default()
            };
            Ok(Arc::new(client(&config, environment)?))
        }
        RemotePlace::Azure { account, container, .. } => azure(account, container, access, environment),
    }
}

fn azure(
    account: &str,
    container: &str,
    access: &RemoteAccess,
    environment: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, BucketSetupError> {
    let timeout = access.request_timeout.get();
    let tls = tls(access.ca_file.as_deref(), &access.endpoint)?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_http_connector(http::Client::new(tls, timeout))
        .with_account(account)
        .with_container_name(container)
        .with_allow_http(true)
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: MAX_RETRIES,
            retry_timeout: timeout,
        });
    if !access.endpoint.is_empty() {
        builder = builder.with_endpoint(access.endpoint.trim_end_matches('/').to_owned());
    }
    if let Some(path) = &access.credentials_file {
        builder = builder.with_access_key(key_of(path)?);
    } else {
        let set = environment
            .iter()
            .filter(|(name, value)| AZURE_VARIABLES.contains(&name.as_str()) && !value.is_empty());
        let mut is_known = access.instance_credentials;
        for (name, value) in set {
            is_known |= matches!(
                name.as_str(),
                "AZURE_STORAGE_ACCOUNT_KEY"
                    | "AZURE_STORAGE_SAS_TOKEN"
                    | "AZURE_CLIENT_SECRET"
                    | "AZURE_FEDERATED_TOKEN_FILE"
            );
            if let Ok(key) = name.to_ascii_lowercase().parse::<AzureConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        if !is_known {
            return Err(BucketSetupError::NoAzureCredentials);
        }
    }
    let store = builder.build();
    Ok(Arc::new(
        store.map_err(|error| BucketSetupError::Settings(error.to_string()))?,
    ))
}

/// The key in a file of one line. Blocks.
fn key_of(path: &std::path::Path) -> Result<String, BucketSetupError> {
    let text = std::fs::read_to_string(path).map_err(|source| BucketSetupError::File {
        path: path.to_owned(),
        source,
    })?;
    let key = text.trim();
    match !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(key.to_owned()),
        false => Err(BucketSetupError::NotOneLine(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> RemoteAccess {
        RemoteAccess {
            endpoint: "http://127.0.0.1:1".to_owned(),
            region: "eu-central-1".to_owned(),
            virtual_hosted: false,
            credentials_file: None,
            instance_credentials: false,
            ca_file: None,
            request_timeout: HumanDuration::secs(1),
        }
    }

    #[test]
    fn a_place_is_a_folder_or_a_url_that_names_a_bucket() {
        let s3 = |bucket: &str, prefix: &str| {
            Ok(Some(RemotePlace::S3 {
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
            }))
        };
        assert_eq!(RemotePlace::parse("/backup/hub-1"), Ok(None));
        assert_eq!(RemotePlace::parse("s3://bucket"), s3("bucket", ""));
        assert_eq!(RemotePlace::parse("s3://bucket/hubs/one/"), s3("bucket", "hubs/one"));
        assert_eq!(
            RemotePlace::parse("azure://account/box/hub-1"),
            Ok(Some(RemotePlace::Azure {
                account: "account".to_owned(),
                container: "box".to_owned(),
                prefix: "hub-1".to_owned(),
            }))
        );
        for bad in [
            "s3://",
            "s3://Bucket/x",
            "s3://bucket/a//b",
            "s3://bucket/../x",
            "s3://key:secret@bucket/x",
            "azure://account",
            "azure://account/",
            "gs://bucket/x",
            "file:///backup",
        ] {
            assert_eq!(RemotePlace::parse(bad), Err(InvalidPlace), "{bad}");
        }
    }

    #[test]
    fn a_store_needs_credentials() {
        let place = RemotePlace::parse("azure://account/box/hub-1").unwrap().unwrap();
        let open = |access: &RemoteAccess, environment: &[(&str, &str)]| {
            let environment: Vec<_> = environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            open_remote(&place, access, &environment).map(drop)
        };
        assert!(matches!(
            open(&access(), &[]),
            Err(BucketSetupError::NoAzureCredentials)
        ));
        assert!(open(&access(), &[("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")]).is_ok());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let with_file = RemoteAccess {
            credentials_file: Some(path.clone()),
            ..access()
        };
        assert!(matches!(open(&with_file, &[]), Err(BucketSetupError::File { .. })));
        std::fs::write(&path, "two\nlines\n").unwrap();
        assert!(matches!(open(&with_file, &[]), Err(BucketSetupError::NotOneLine(_))));
        std::fs::write(&path, "a2V5\n").unwrap();
        assert!(open(&with_file, &[]).is_ok());
    }
}
