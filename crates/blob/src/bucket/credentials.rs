//! The credentials of the bucket: a file, which may change while the hub runs, or what the environment says.
//!
//! Invariants: a secret is never printed and never in an error; a file that cannot be read leaves the credentials as they were.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast_tasks::sync::Mutex;
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use thiserror::Error;

use super::S3Config;

/// How old the credentials of a file may be.
const REREAD_AFTER: Duration = Duration::from_secs(10);

/// Largest file of credentials.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// The variables of the environment that credentials come from.
pub const CREDENTIAL_VARIABLES: [&str; 10] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Why a bucket cannot be used at all.
#[derive(Debug, Error)]
pub enum BucketSetupError {
    /// Nothing says who the hub is.
    #[error(
        "no credentials for the bucket: set credentials_file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, or instance_credentials"
    )]
    NoCredentials,
    /// The same for Azure Blob.
    #[error(
        "no credentials for the container: set credentials_file, or AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN, or \
         AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE, or instance_credentials"
    )]
    NoAzureCredentials,
    /// The file has another content.
    #[error("{} does not hold one line, the key of the account", .0.display())]
    NotOneLine(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It has another content.
    #[error("{} does not hold two lines, an access key's id and a secret access key, and a session token as a third one", .0.display())]
    Content(PathBuf),
    /// The CAs cannot be used.
    #[error("the CAs of the bucket's service cannot be used: {0}")]
    Tls(String),
    /// The rest of the settings cannot be used.
    #[error("the settings of the object store cannot be used: {0}")]
    Settings(String),
}

/// Gives `builder` its credentials. Blocks.
///
/// # Errors
/// When there are none, or their file cannot be read.
pub(super) fn add(
    builder: AmazonS3Builder,
    config: &S3Config,
    environment: &[(String, String)],
) -> Result<AmazonS3Builder, BucketSetupError> {
    if let Some(path) = &config.credentials_file {
        let credential = Arc::new(read(path)?);
        return Ok(builder.with_credentials(Arc::new(FromFile {
            path: path.clone(),
            last: Mutex::new((Instant::now(), credential)),
        })));
    }
    let set: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, value)| CREDENTIAL_VARIABLES.contains(name) && !value.is_empty())
        .collect();
    let has = |names: &[&str]| names.iter().all(|name| set.iter().any(|(set, _)| set == name));
    let is_known = has(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
        || has(&["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"])
        || has(&["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"])
        || has(&[
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        ]);
    if !is_known && !config.instance_credentials {
        return Err(BucketSetupError::NoCredentials);
    }
    let add = |builder: AmazonS3Builder, (name, value): (&str, &str)| match name
        .to_ascii_lowercase()
        .parse::<AmazonS3ConfigKey>()
    {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    };
    Ok(set.into_iter().fold(builder, add))
}

/// Reads a file of credentials. Blocks.
fn read(path: &Path) -> Result<AwsCredential, BucketSetupError> {
    let failed = |source| BucketSetupError::File {
        path: path.to_owned(),
        source,
    };
    let content = || BucketSetupError::Content(path.to_owned());
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(content());
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // What goes into headers.
    let is_plain = |line: &&str| line.bytes().all(|b| b.is_ascii_graphic());
    match lines.as_slice() {
        [key_id, secret_key, rest @ ..] if rest.len() <= 1 && lines.iter().all(is_plain) => Ok(AwsCredential {
            key_id: (*key_id).to_owned(),
            secret_key: (*secret_key).to_owned(),
            token: rest.first().map(|token| (*token).to_owned()),
        }),
        _ => Err(content()),
    }
}

/// Credentials of a file.
struct FromFile {
    path: PathBuf,
    /// When it was read, and what it said.
    last: Mutex<(Instant, Arc<AwsCredential>)>,
}

impl fmt::Debug for FromFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromFile").field(&self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for FromFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        {
            let mut last = self.last.lock();
            if last.0.elapsed() < REREAD_AFTER {
                return Ok(Arc::clone(&last.1));
            }
            // Others use what is known, meanwhile.
            last.0 = Instant::now();
        }
        let path = self.path.clone();
        let read = holdfast_tasks::spawn_blocking(move || read(&path)).await;
        let mut last = self.last.lock();
        match read {
            Ok(credential) if credential != *last.1 => {
                tracing::info!(file = %self.path.display(), key_id = credential.key_id, "the credentials of the bucket have changed");
                last.1 = Arc::new(credential);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the credentials of the bucket stay as they were"
                );
            }
        }
        Ok(Arc::clone(&last.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(config: &S3Config, environment: &[(&str, &str)]) -> Result<AmazonS3Builder, BucketSetupError> {
        let environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        add(AmazonS3Builder::new(), config, &environment)
    }

    #[test]
    fn half_of_a_credential_is_none_and_a_secret_is_not_printed() {
        let config = S3Config::default();
        for environment in [
            &[][..],
            &[("AWS_ACCESS_KEY_ID", "a")],
            &[("AWS_ROLE_ARN", "a")],
            &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "")],
        ] {
            let error = added(&config, environment).unwrap_err();
            assert!(matches!(error, BucketSetupError::NoCredentials), "{environment:?}");
        }
        assert!(added(&config, &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]).is_ok());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3");
        let config = S3Config {
            credentials_file: Some(path.clone()),
            ..S3Config::default()
        };
        assert!(matches!(added(&config, &[]), Err(BucketSetupError::File { .. })));
        for bad in [
            "",
            "one\n",
            "one\ntwo\nthree\nfour\n",
            "one\nt wo\n",
            &"x\n".repeat(20_000),
        ] {
            std::fs::write(&path, bad).unwrap();
            let error = added(&config, &[]).unwrap_err();
            assert!(matches!(error, BucketSetupError::Content(_)), "{error}");
        }
        std::fs::write(&path, "the-id\nvery-secret\n").unwrap();
        let file = FromFile {
            last: Mutex::new((Instant::now(), Arc::new(read(&path).unwrap()))),
            path,
        };
        assert!(!format!("{file:?} {:?}", read(&file.path).unwrap()).contains("very-secret"));
    }

    #[tokio::test]
    async fn a_changed_file_counts_and_a_broken_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3");
        std::fs::write(&path, "id-1\nsecret-1\n").unwrap();
        let first = Arc::new(read(&path).unwrap());
        let file = FromFile {
            path: path.clone(),
            last: Mutex::new((Instant::now(), first)),
        };
        let age = |file: &FromFile| {
            if let Some(earlier) = Instant::now().checked_sub(REREAD_AFTER * 2) {
                file.last.lock().0 = earlier;
            }
        };
        std::fs::write(&path, "id-2\nsecret-2\ntoken\n").unwrap();
        assert_eq!(file.get_credential().await.unwrap().key_id, "id-1");
        age(&file);
        let changed = file.get_credential().await.unwrap();
        assert_eq!((&*changed.key_id, changed.token.as_deref()), ("id-2", Some("token")));
        std::fs::write(&path, "half").unwrap();
        age(&file);
        assert_eq!(file.get_credential().await.unwrap().key_id, "id-2");
    }
}
