//! Opening one device connection: TCP from a chosen address, TLS, CONNECT, CONNACK.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::target::Target;
use crate::wire::{Connect, Reply, Scanner};

/// How long a server may take from the first byte to its CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of all connections of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionOptions {
    /// The MQTT keep-alive in seconds; 0 = none.
    pub keep_alive: u16,
    /// Whether the server forgets the session when the connection ends.
    pub clean_session: bool,
}

/// A connection's bytes, with or without TLS.
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP; boxed, since its state is a kilobyte.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The server's address, for messages.
    pub(crate) fn server(&self) -> String {
        let tcp = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        tcp.peer_addr()
            .map_or_else(|_| "a disconnected server".to_owned(), |address| address.to_string())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Whether a device connects for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectAttempt {
    /// The first connection, or another attempt at it.
    Initial,
    /// A connection after an earlier one was lost.
    Reconnect,
}

/// Connects device `number` and waits until the server has accepted it.
///
/// # Errors
/// When the connection breaks, the server refuses or is silent for [`CONNECT_TIMEOUT`].
pub async fn open(target: &Target, options: ConnectionOptions, number: u32, attempt: ConnectAttempt) -> Result<Stream> {
    match tokio::time::timeout(CONNECT_TIMEOUT, open_without_timeout(target, options, number, attempt)).await {
        Ok(result) => result,
        Err(_) => bail!("no CONNACK within {} s", CONNECT_TIMEOUT.as_secs()),
    }
}

async fn open_without_timeout(
    target: &Target,
    options: ConnectionOptions,
    number: u32,
    attempt: ConnectAttempt,
) -> Result<Stream> {
    let source = match target.sources.len() {
        0 => None,
        count => Some(target.sources[number as usize % count]),
    };
    let addresses = match attempt {
        ConnectAttempt::Initial => target.addresses_of(number).collect(),
        ConnectAttempt::Reconnect => target.reconnect_addresses(number),
    };
    let tcp = dial_any(&addresses, source).await?;
    let mut stream = match &target.tls {
        None => Stream::Plain(tcp),
        Some(tls) => {
            let stream = tls
                .connector
                .connect(tls.server.clone(), tcp)
                .await
                .context("TLS handshake")?;
            Stream::Tls(Box::new(stream))
        }
    };
    let login = target.login(number)?;
    let mut packet = Vec::new();
    Connect {
        client_id: &login.client_id,
        username: login.username.as_deref(),
        password: login.password.as_deref(),
        keep_alive: options.keep_alive,
        clean_session: options.clean_session,
    }
    .encode(&mut packet)?;
    stream.write_all(&packet).await?;
    stream.flush().await?;
    let accepted = await_connack(&mut stream).await;
    // With several nodes the error names the one that refused.
    if !target.nodes.is_empty() {
        return accepted.with_context(|| stream.server()).map(|()| stream);
    }
    accepted.map(|()| stream)
}

/// Connects to the first of `addresses`, or, when that does not listen, to the next one that does.
async fn dial_any(addresses: &[SocketAddr], source: Option<IpAddr>) -> Result<TcpStream> {
    let mut refused = None;
    for &address in addresses {
        match dial(address, source).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| anyhow::anyhow!("no node is in service")))
}

async fn dial(address: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(source) = source {
        socket
            .bind(SocketAddr::new(source, 0))
            .with_context(|| format!("cannot bind {source}"))?;
    }
    socket.set_nodelay(true)?;
    socket
        .connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))
}

/// Reads exactly the CONNACK's four bytes; later bytes belong to the connection's own reader.
async fn await_connack(stream: &mut Stream) -> Result<()> {
    let mut packet = [0; 4];
    stream
        .read_exact(&mut packet)
        .await
        .context("the server closed the connection instead of answering CONNECT")?;
    let mut answer = None;
    Scanner::default().scan(&packet, |reply| {
        answer = Some(reply);
        Ok(())
    })?;
    match answer {
        Some(Reply::ConnAck { code: 0, .. }) => Ok(()),
        Some(Reply::ConnAck { code, .. }) => bail!("the server refuses with CONNACK {code}"),
        _ => bail!("the server answered CONNECT with {packet:02x?}"),
    }
}
