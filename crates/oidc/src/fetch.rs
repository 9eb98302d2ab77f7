//! One fetch: the issuer's discovery document, then its keys (OpenID Connect Discovery 1.0 §4).

use std::path::PathBuf;
use std::time::Duration;

use holdfast_auth::bearer::{IssuerKeys, KeySetError};
use holdfast_client::outbound;
use http::{Method, StatusCode, Uri, header};
use serde::Deserialize;
use thiserror::Error;
use tokio_rustls::TlsConnector;

/// How long the whole of it may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest document that is read.
const MAX_DOCUMENT_BYTES: usize = 512 * 1024;

/// Why the keys were not fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// It took too long.
    #[error("the issuer did not answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// The issuer could not be reached, or does not prove to be it.
    #[error("{url}: {reason}")]
    Unreachable {
        /// The document.
        url: String,
        /// The cause, with its own causes.
        reason: String,
    },
    /// Another answer than the document.
    #[error("{url} answers {status}")]
    Status {
        /// The document.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// The discovery document cannot be read.
    #[error("{url} is no discovery document")]
    Discovery {
        /// The document.
        url: String,
        /// Where its JSON goes wrong.
        source: serde_json::Error,
    },
    /// The discovery document is another issuer's (OpenID Connect Discovery 1.0 §4.3).
    #[error("{url} is the document of the issuer {found:?}: auth.oidc.issuer must have exactly that text")]
    OtherIssuer {
        /// The document.
        url: String,
        /// Its issuer.
        found: String,
    },
    /// `jwks_uri` is no URL with https.
    #[error("the issuer names its keys by {0:?}, which is no https URL")]
    KeysAddress(String),
    /// The key set cannot be used.
    #[error("{url} cannot be used")]
    Keys {
        /// The document.
        url: String,
        /// Its fault.
        source: KeySetError,
    },
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the keys of `issuer`, whose certificate `ca_file`, else the system's CAs vouch for.
pub(crate) async fn keys(issuer: &str, ca_file: Option<PathBuf>) -> Result<IssuerKeys, FetchError> {
    let fetched = tokio::time::timeout(TIMEOUT, fetch(issuer, ca_file)).await;
    fetched.unwrap_or(Err(FetchError::TimedOut))
}

async fn fetch(issuer: &str, ca_file: Option<PathBuf>) -> Result<IssuerKeys, FetchError> {
    let tls = outbound::tls(ca_file).await.map_err(|error| FetchError::Unreachable {
        url: issuer.to_owned(),
        reason: format!("{error:#}"),
    })?;
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let document = get(&tls, &url).await?;
    let discovery: Discovery = serde_json::from_slice(&document).map_err(|source| FetchError::Discovery {
        url: url.clone(),
        source,
    })?;
    if discovery.issuer != issuer {
        return Err(FetchError::OtherIssuer {
            url,
            found: discovery.issuer.chars().take(256).collect(),
        });
    }
    let url = discovery.jwks_uri;
    if !url.starts_with("https://") {
        return Err(FetchError::KeysAddress(url.chars().take(256).collect()));
    }
    let document = get(&tls, &url).await?;
    IssuerKeys::parse(&document).map_err(|source| FetchError::Keys { url, source })
}

/// The document at `url`. Redirects are answers like any other: an issuer has none.
async fn get(tls: &TlsConnector, url: &str) -> Result<Vec<u8>, FetchError> {
    let unreachable = |reason: String| FetchError::Unreachable {
        url: url.chars().take(256).collect(),
        reason,
    };
    let uri: Uri = url.parse().map_err(|_| unreachable("it is no URL".to_owned()))?;
    let authority = uri
        .authority()
        .ok_or_else(|| unreachable("it has no host".to_owned()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let exchange = async {
        let mut connection = outbound::open(authority, Some(tls), MAX_DOCUMENT_BYTES).await?;
        let headers = [(header::ACCEPT, "application/json")];
        connection.request(Method::GET, path, &headers, Vec::new()).await
    };
    let answer = exchange.await.map_err(|error| unreachable(format!("{error:#}")))?;
    if answer.status != StatusCode::OK {
        return Err(FetchError::Status {
            url: url.to_owned(),
            status: answer.status,
        });
    }
    Ok(answer.body.to_vec())
}
