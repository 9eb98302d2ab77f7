//! One request to a hub's REST API, and the meaning of its answer for the caller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_client::http::{Answer, Connection};
use http::{HeaderName, Method, header};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::exit_code::{Failure, Outcome};
use crate::hub::Hub;
use crate::output::escape;

/// The version of the REST API that the commands speak (Spec rest §1.1).
const API_VERSION: &str = "2021-04-12";
/// How long connecting, and then answering, may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Runs a client command.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// A request as the REST API takes it.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// Percent-encoded, without query.
    pub(crate) path: String,
    /// The `api-version`.
    pub(crate) version: &'static str,
    /// Parameters besides `api-version`.
    pub(crate) query: &'a str,
    /// For `If-Match`, without quotes; `*` means any.
    pub(crate) if_match: Option<&'a str>,
    pub(crate) body: Option<Value>,
    /// In place of `body`: bytes as they are.
    pub(crate) raw: Option<Vec<u8>>,
    /// Further headers.
    pub(crate) headers: Vec<(HeaderName, String)>,
    /// How long the hub may wait for a device before it answers.
    pub(crate) device_wait: Duration,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            version: API_VERSION,
            query: "",
            if_match: None,
            body: None,
            raw: None,
            headers: Vec::new(),
            device_wait: Duration::ZERO,
        }
    }
}

/// Sends `call` and returns the answer's JSON (`null` when it has no body).
///
/// # Errors
/// The hub's own message, or why it could not be reached.
pub(crate) async fn call(hub: &Hub, call: Call<'_>) -> Result<Value, Failure> {
    let answer = exchange(hub, call).await?;
    Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
}

/// Sends `call` and returns the whole answer.
///
/// # Errors
/// As [`call`].
pub(crate) async fn exchange(hub: &Hub, call: Call<'_>) -> Result<Answer, Failure> {
    let answer = answer(hub, call).await?;
    if answer.status.is_success() {
        return Ok(answer);
    }
    let json = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    Err(refusal(answer.status, &json, &answer.body))
}

/// Sends `call` and returns the whole answer, also a refusal.
///
/// # Errors
/// Why the hub could not be reached.
pub(crate) async fn answer(hub: &Hub, call: Call<'_>) -> Result<Answer, Failure> {
    let port = hub
        .ports
        .https
        .ok_or_else(|| Failure::new(Outcome::Unreachable, "the hub does not serve HTTPS"))?;
    let stream = connect_tls(hub, port).await?;
    let token = hub.authorization()?;
    let separator = if call.query.is_empty() { "" } else { "&" };
    let uri = format!("{}?api-version={}{separator}{}", call.path, call.version, call.query);
    let host = match port {
        443 => hub.host.clone(),
        port => format!("{}:{port}", hub.host),
    };
    let etag = call.if_match.map(|etag| format!("\"{etag}\""));
    let mut headers = vec![(header::USER_AGENT, concat!("holdfast-cli/", env!("CARGO_PKG_VERSION")))];
    headers.extend(token.as_deref().map(|token| (header::AUTHORIZATION, token)));
    headers.extend(etag.as_deref().map(|etag| (header::IF_MATCH, etag)));
    headers.extend(call.headers.iter().map(|(name, value)| (name.clone(), value.as_str())));
    let body = match (&call.body, call.raw) {
        (Some(body), _) => serde_json::to_vec(body).map_err(anyhow::Error::from)?,
        (None, raw) => raw.unwrap_or_default(),
    };
    let exchange = async {
        let mut connection = Connection::open(stream, &host).await?;
        connection.request(call.method, &uri, &headers, body).await
    };
    let answer = tokio::time::timeout(TIMEOUT + call.device_wait, exchange).await;
    let answer = answer.map_err(|_| unreachable(hub, port, "it does not answer"))?;
    answer.map_err(|error| {
        let text = format!("the connection to the hub broke: {error:#}");
        Failure::new(Outcome::Unreachable, text)
    })
}

pub(crate) fn refusal(status: http::StatusCode, json: &Value, body: &[u8]) -> Failure {
    let message = json.get("Message").or_else(|| json.get("message"));
    let text = message.and_then(Value::as_str).map_or_else(
        || String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(),
        |message| message.trim_start_matches("ErrorCode:").replacen(';', ": ", 1),
    );
    let text = escape(&text);
    let number = json
        .get("errorCode")
        .and_then(Value::as_u64)
        .map(|code| format!(" ({code})"))
        .unwrap_or_default();
    let (outcome, advice) = match status.as_u16() {
        401 | 403 => (
            Outcome::Unauthorized,
            Some("check the login's policy and its rights, or the token's roles, and this machine's clock"),
        ),
        404 => (Outcome::NotFound, None),
        409 => (Outcome::Failed, Some("it exists already; `update` changes it")),
        412 => (
            Outcome::Failed,
            Some("it was changed meanwhile; `show` it again, or use --etag '*'"),
        ),
        429 | 503 => (Outcome::Failed, Some("the hub is busy; try again in a moment")),
        _ => (Outcome::Failed, None),
    };
    let failure = Failure::new(outcome, format!("the hub answers {}{number}: {text}", status.as_u16()));
    match advice {
        Some(advice) => failure.advise(advice),
        None => failure,
    }
}

fn unreachable(hub: &Hub, port: u16, reason: impl std::fmt::Display) -> Failure {
    Failure::new(
        Outcome::Unreachable,
        format!("cannot reach the hub at {}:{port}: {reason}", hub.host),
    )
}

/// Connects to `port` of the hub and checks its certificate.
///
/// # Errors
/// Says whether name, connection or certificate is at fault.
pub(crate) async fn connect_tls(hub: &Hub, port: u16) -> Result<TlsStream<TcpStream>, Failure> {
    let (ca_file, versions) = (hub.ca_file.as_deref(), rustls::DEFAULT_VERSIONS);
    let config = match &hub.certificate {
        Some(own) => holdfast_client::tls::config_as(ca_file, versions, own.chain.clone(), own.key.clone_key()),
        None => holdfast_client::tls::config(ca_file, versions),
    };
    let config = config.map_err(|error| Failure::usage(format!("{error:#}")).advise("use --ca-file FILE"))?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(hub.host.clone())
        .map_err(|_| Failure::usage(format!("{:?} is no host name", hub.host)))?;
    let connect = async {
        let socket = connect(hub, port).await?;
        connector.connect(name, socket).await.map_err(|error| {
            Failure::new(
                Outcome::Unreachable,
                format!("no TLS with {}:{port}: {error}", hub.host),
            )
            .advise("trust the CA that issued the hub's certificate: --ca-file FILE")
        })
    };
    tokio::time::timeout(TIMEOUT, connect)
        .await
        .unwrap_or_else(|_| Err(unreachable(hub, port, "it does not answer")))
}

async fn connect(hub: &Hub, port: u16) -> Result<TcpStream, Failure> {
    let mut addresses = hub.node_addresses(port);
    if hub.nodes.len() > 1 {
        return connect_any(hub, port, addresses).await;
    }
    let resolved: Vec<SocketAddr> = match tokio::net::lookup_host((hub.host.as_str(), port)).await {
        Ok(found) => found.collect(),
        Err(_) if hub.is_local => Vec::new(),
        Err(error) => {
            return Err(unreachable(hub, port, error).advise("check the name; a hosts-file line is enough for a test"));
        }
    };
    addresses.extend(resolved);
    if hub.is_local {
        addresses.push(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    connect_any(hub, port, addresses).await
}

/// Connects to the first of `addresses` that listens.
async fn connect_any(hub: &Hub, port: u16, addresses: Vec<SocketAddr>) -> Result<TcpStream, Failure> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    let reason = last.map_or_else(|| "it has no address".to_owned(), |error| error.to_string());
    Err(unreachable(hub, port, reason).advise("is the hub running? /livez and /readyz on its metrics port tell"))
}
