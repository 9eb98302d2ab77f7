//! Requests of the provisioning service to servers that are none of the hub's nodes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use holdfast_client::http::Connection;
pub(super) use holdfast_client::outbound::connect;
use holdfast_provisioning::{Outbound, OutboundAnswer, OutboundError, OutboundRequest};
use holdfast_tasks::sync::Mutex;
use http::uri::Authority;
use http::{HeaderName, Method, Uri, header};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer to the provisioning service that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Connections to one server that are kept for the next request.
const MAX_IDLE: usize = 64;

/// Servers to which connections are kept.
const MAX_SERVERS: usize = 64;

/// The requests of the provisioning service: to webhooks with a connection each, to linked hubs over kept ones.
pub(super) struct ProvisioningOutbound {
    /// Without one the system's CAs count.
    ca_file: Option<PathBuf>,
    servers: Mutex<HashMap<ServerKey, Server>>,
}

/// What a connection depends on: the host, where it is, and its CA.
type ServerKey = (String, Option<String>, Option<String>);

struct Server {
    tls: TlsConnector,
    idle: Vec<Connection>,
}

impl ProvisioningOutbound {
    pub(super) fn new(ca_file: Option<PathBuf>) -> Self {
        Self {
            ca_file,
            servers: Mutex::default(),
        }
    }

    async fn exchange(&self, request: &OutboundRequest, is_sent: &mut bool) -> Result<OutboundAnswer> {
        let url: Uri = request.url.parse().context("the URL cannot be read")?;
        let authority = url.authority().context("the URL has no host")?;
        if !request.is_kept {
            let is_tls = url.scheme_str() == Some("https");
            let mut connection = connect(authority, is_tls, self.ca_file.clone(), MAX_ANSWER_BYTES).await?;
            *is_sent = true;
            return exchange_over(&mut connection, &url, request).await;
        }
        let key = (
            authority.as_str().to_owned(),
            request.connect_to.clone(),
            request.ca_certificate.clone(),
        );
        while let Some(mut kept) = self.idle(&key) {
            *is_sent = true;
            // The server may have closed it meanwhile. Every request to a hub may be repeated.
            if let Ok(answer) = exchange_over(&mut kept, &url, request).await {
                self.keep(&key, kept);
                return Ok(answer);
            }
        }
        let mut connection = self.connect_to_hub(authority, &key).await?;
        *is_sent = true;
        let answer = exchange_over(&mut connection, &url, request).await?;
        self.keep(&key, connection);
        Ok(answer)
    }

    fn idle(&self, key: &ServerKey) -> Option<Connection> {
        self.servers.lock().get_mut(key)?.idle.pop()
    }

    fn keep(&self, key: &ServerKey, connection: Connection) {
        let mut servers = self.servers.lock();
        if let Some(server) = servers.get_mut(key).filter(|server| server.idle.len() < MAX_IDLE) {
            server.idle.push(connection);
        }
    }

    fn tls(&self, key: &ServerKey) -> Result<TlsConnector> {
        if let Some(server) = self.servers.lock().get(key) {
            return Ok(server.tls.clone());
        }
        let roots = match &key.2 {
            Some(pem) => holdfast_client::tls::roots_of(pem.as_bytes())?,
            None => holdfast_client::tls::roots(self.ca_file.as_deref())?,
        };
        let config = holdfast_client::tls::config_with(roots, rustls::DEFAULT_VERSIONS)?;
        let tls = TlsConnector::from(Arc::new(config));
        let mut servers = self.servers.lock();
        if servers.len() >= MAX_SERVERS {
            // Links that have been changed or removed.
            servers.clear();
        }
        let server = Server {
            tls: tls.clone(),
            idle: Vec::new(),
        };
        servers.insert(key.clone(), server);
        Ok(tls)
    }

    /// A hub's REST API, maybe at another address than its name's, maybe with a CA of its own.
    async fn connect_to_hub(&self, authority: &Authority, key: &ServerKey) -> Result<Connection> {
        let tls = self.tls(key)?;
        let endpoint: Authority = match &key.1 {
            Some(endpoint) => endpoint.parse().context("the endpoint cannot be read")?,
            None => authority.clone(),
        };
        let name = endpoint.host().trim_start_matches('[').trim_end_matches(']');
        let socket = TcpStream::connect((name, endpoint.port_u16().unwrap_or(443)))
            .await
            .context("cannot connect")?;
        let server = ServerName::try_from(authority.host().to_owned())?;
        let stream = tls.connect(server, socket).await.context("no TLS")?;
        Connection::open_bounded(stream, authority.as_str(), MAX_ANSWER_BYTES).await
    }
}

async fn exchange_over(connection: &mut Connection, url: &Uri, request: &OutboundRequest) -> Result<OutboundAnswer> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = vec![(header::USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")))];
    for (name, value) in &request.headers {
        headers.push((HeaderName::from_bytes(name.as_bytes())?, value.as_str()));
    }
    let method = Method::from_bytes(request.method.as_bytes())?;
    let answer = connection.request(method, path, &headers, request.body.clone()).await?;
    Ok(OutboundAnswer {
        status: answer.status.as_u16(),
        body: answer.body.to_vec(),
    })
}

impl Outbound for ProvisioningOutbound {
    fn send(
        &self,
        request: OutboundRequest,
    ) -> Pin<Box<dyn Future<Output = Result<OutboundAnswer, OutboundError>> + Send + '_>> {
        Box::pin(async move {
            let mut is_sent = false;
            let exchange = self.exchange(&request, &mut is_sent);
            let text = match tokio::time::timeout(request.timeout, exchange).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer in time".to_owned(),
            };
            Err(OutboundError {
                may_have_been_sent: is_sent,
                text,
            })
        })
    }
}
