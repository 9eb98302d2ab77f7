//! Opening one device connection: TCP from a chosen address, TLS, CONNECT, CONNACK.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::target::{Login, Target, Tls};
use crate::wire::{Connect, DISCONNECT, Reply, Scanner};

/// How long a server may take from the first byte to its CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may take to close a connection after DISCONNECT.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of all connections of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionOptions {
    /// The MQTT keep-alive in seconds; 0 = none.
    pub keep_alive: u16,
    /// Whether the server forgets the session when the connection ends.
    pub clean_session: bool,
}

impl Login {
    /// Its CONNECT.
    pub(crate) fn connect(&self, options: ConnectionOptions) -> Connect<'_> {
        Connect {
            client_id: &self.client_id,
            username: self.username.as_deref(),
            password: self.password.as_deref(),
            keep_alive: options.keep_alive,
            clean_session: options.clean_session,
        }
    }
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
    let addresses = addresses(target, number, attempt);
    let door = door(target, number, &addresses);
    handshake(door, target.tls.as_ref(), || target.login(number), options).await
}

/// Connects device `number` as far as TLS; what follows is its protocol's.
///
/// # Errors
/// When no server listens, or the handshake fails or takes longer than [`CONNECT_TIMEOUT`].
pub(crate) async fn open_stream(target: &Target, number: u32, attempt: ConnectAttempt) -> Result<Stream> {
    let addresses = addresses(target, number, attempt);
    let opened = secure(door(target, number, &addresses), target.tls.as_ref());
    match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
        Ok(result) => result,
        Err(_) => bail!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
    }
}

fn addresses(target: &Target, number: u32, attempt: ConnectAttempt) -> Vec<SocketAddr> {
    match attempt {
        ConnectAttempt::Initial => target.addresses_of(number).collect(),
        ConnectAttempt::Reconnect => target.reconnect_addresses(number),
    }
}

fn door<'a>(target: &Target, number: u32, addresses: &'a [SocketAddr]) -> Door<'a> {
    Door {
        addresses,
        source: target.source_of(number),
        names_server: !target.nodes.is_empty(),
    }
}

/// The way to a server.
#[derive(Debug, Clone, Copy)]
pub struct Door<'a> {
    /// The addresses to try, in this order.
    pub addresses: &'a [SocketAddr],
    /// The local address; `None`: the system's choice.
    pub source: Option<IpAddr>,
    /// Whether an error names the server's address: useful where there are several.
    pub names_server: bool,
}

/// Connects with the given credentials and waits until the server has accepted them.
///
/// # Errors
/// As [`open`].
pub async fn open_as(door: Door<'_>, tls: Option<&Tls>, login: &Login, options: ConnectionOptions) -> Result<Stream> {
    match tokio::time::timeout(CONNECT_TIMEOUT, handshake(door, tls, || Ok(login.clone()), options)).await {
        Ok(result) => result,
        Err(_) => bail!("no CONNACK within {} s", CONNECT_TIMEOUT.as_secs()),
    }
}

/// `login` is made after the TLS handshake: a token that has waited for it would be older than need be.
async fn handshake(
    door: Door<'_>,
    tls: Option<&Tls>,
    login: impl FnOnce() -> Result<Login>,
    options: ConnectionOptions,
) -> Result<Stream> {
    let mut stream = secure(door, tls).await?;
    let login = login()?;
    let mut packet = Vec::new();
    login.connect(options).encode(&mut packet)?;
    stream.write_all(&packet).await?;
    stream.flush().await?;
    let accepted = await_connack(&mut stream).await;
    if door.names_server {
        return accepted.with_context(|| stream.server()).map(|()| stream);
    }
    accepted.map(|()| stream)
}

/// Connects as far as TLS.
///
/// # Errors
/// When no server listens or the handshake fails; there is no time limit.
pub(crate) async fn secure(door: Door<'_>, tls: Option<&Tls>) -> Result<Stream> {
    let tcp = dial_any(door.addresses, door.source).await?;
    let Some(tls) = tls else { return Ok(Stream::Plain(tcp)) };
    let stream = tls.connector.connect(tls.server.clone(), tcp).await;
    Ok(Stream::Tls(Box::new(stream.context("TLS handshake")?)))
}

/// Ends a session as MQTT asks for it, and waits until the server has closed the connection, so that its end is part of what
/// a connection costs and the client's port is free at once.
pub async fn close(mut stream: Stream) {
    let closed = async {
        stream.write_all(&DISCONNECT).await?;
        stream.flush().await?;
        let mut rest = [0; 64];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // A server that resets the connection has closed it too.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
}

/// Connects to the first of `addresses`, or, when that does not listen, to the next one that does.
pub(crate) async fn dial_any(addresses: &[SocketAddr], source: Option<IpAddr>) -> Result<TcpStream> {
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
    check_connack(packet)
}

/// # Errors
/// When `packet` is another packet, or a refusal.
pub(crate) fn check_connack(packet: [u8; 4]) -> Result<()> {
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
