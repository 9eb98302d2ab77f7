//! Connections to servers that are none of the hub's: sources of CRLs, storage, webhooks, collectors of traces.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http::uri::Authority;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::Connection;

/// TLS with servers for whose certificates the CAs of `ca_file` vouch, without one the system's. The files are read each time, so that
/// a renewed CA counts; a list of CAs may be long, so that a thread for blocking work reads it.
///
/// # Errors
/// The CAs cannot be read.
pub async fn tls(ca_file: Option<PathBuf>) -> Result<TlsConnector> {
    let read = move || crate::tls::config(ca_file.as_deref(), rustls::DEFAULT_VERSIONS);
    let config = holdfast_tasks::spawn_blocking(read).await?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Connects over TLS, or in clear without `tls`. At most `max_answer_bytes` of an answer are read. The caller bounds the time.
///
/// # Errors
/// Names the step that failed.
pub async fn open(authority: &Authority, tls: Option<&TlsConnector>, max_answer_bytes: usize) -> Result<Connection> {
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let default_port = if tls.is_some() { 443 } else { 80 };
    let port = authority.port_u16().unwrap_or(default_port);
    let socket = TcpStream::connect((name, port)).await.context("cannot connect")?;
    let Some(tls) = tls else {
        return Connection::open_bounded(socket, authority.as_str(), max_answer_bytes).await;
    };
    let server = ServerName::try_from(name.to_owned())?;
    let stream = tls.connect(server, socket).await.context("no TLS")?;
    Connection::open_bounded(stream, authority.as_str(), max_answer_bytes).await
}

/// [`open`] with [`tls`] where `is_tls`: for a server that gets one request now and then.
///
/// # Errors
/// As theirs.
pub async fn connect(
    authority: &Authority,
    is_tls: bool,
    ca_file: Option<PathBuf>,
    max_answer_bytes: usize,
) -> Result<Connection> {
    let tls = match is_tls {
        true => Some(tls(ca_file).await?),
        false => None,
    };
    open(authority, tls.as_ref(), max_answer_bytes).await
}
