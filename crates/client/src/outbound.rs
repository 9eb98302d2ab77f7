//! Connections to servers that are none of the hub's: sources of CRLs, storage, webhooks, collectors of traces.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http::uri::Authority;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::Connection;

/// Connects; without `ca_file` the system's CAs count. At most `max_answer_bytes` of an answer are read. The caller bounds the time.
///
/// # Errors
/// Names the step that failed.
pub async fn connect(
    authority: &Authority,
    is_tls: bool,
    ca_file: Option<PathBuf>,
    max_answer_bytes: usize,
) -> Result<Connection> {
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let socket = TcpStream::connect((name, port)).await.context("cannot connect")?;
    if !is_tls {
        return Connection::open_bounded(socket, authority.as_str(), max_answer_bytes).await;
    }
    let tls = crate::tls::config(ca_file.as_deref(), rustls::DEFAULT_VERSIONS)?;
    let server = ServerName::try_from(name.to_owned())?;
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(server, socket)
        .await
        .context("no TLS")?;
    Connection::open_bounded(stream, authority.as_str(), max_answer_bytes).await
}
