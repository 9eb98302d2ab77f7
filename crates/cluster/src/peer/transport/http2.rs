//! HTTP/2 over TLS over TCP, in both roles: sockets and windows.
//!
//! Why sockets and hyper's connections instead of tonic's channel and server: a connection belongs to one node, is opened
//! by one task, is closed explicitly, and never reconnects by itself. tonic's gRPC runs on top of it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tower::Service;

use super::tls::{self, PeerTls};
use crate::peer::error_text;

/// The socket of a connection. rustls reads 4 KiB at a time: the buffer saves system calls.
pub(crate) type Socket = BufReader<TcpStream>;

const READ_BUFFER: usize = 64 << 10;

/// Limit of plaintext that rustls buffers: several records per system call.
const TLS_BUFFER: usize = 256 << 10;

/// Largest accepted HTTP/2 frame: a frame of the peer protocol fits into one.
const HTTP_FRAME: u32 = 1 << 20;

/// Flow-control windows of a connection for calls, which has one stream.
const CALLS_WINDOW: u32 = 4 << 20;
const CALLS_CONNECTION_WINDOW: u32 = 8 << 20;

/// Flow-control window of an upload or download. The window of the connection is the sum of all, so that a stream that is
/// not read never blocks the others.
const CHUNKS_WINDOW: u32 = 1 << 20;

/// Limit of bytes that HTTP/2 buffers per stream before the socket takes them.
const SEND_BUFFER: usize = 512 << 10;

/// The kind of a connection determines its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionKind {
    Calls,
    Streams,
}

/// Interval and timeout of HTTP/2's keep-alive pings, for connections without pings of the peer protocol.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Spawns hyper's tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskExecutor;

impl<F> Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        drop(holdfast_tasks::spawn("peer stream", future));
    }
}

/// Sends gRPC requests on a connection; clones share it.
#[derive(Clone)]
pub(crate) struct Sender(SendRequest<Body>);

impl Sender {
    /// Whether the connection is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A connection that this node has opened. Dropping it closes the connection.
pub(crate) struct ClientConnection {
    pub(crate) sender: Sender,
    pub(crate) certificate: Option<CertificateDer<'static>>,
    tls_error: Arc<OnceLock<rustls::Error>>,
    driver: JoinHandle<()>,
}

impl ClientConnection {
    /// The text of a status on this connection. If TLS has failed, that is its reason.
    pub(crate) fn error_text(&self, status: &tonic::Status) -> String {
        match self.tls_error.get() {
            Some(error) => error_text::of_tls_error(error),
            None => error_text::of_status(status),
        }
    }
}

/// Keeps the first TLS error of a stream: a server that refuses the certificate of its client sends an alert after the
/// handshake, and HTTP/2 keeps only the text of an error of its socket.
struct KeepTlsError<S> {
    stream: S,
    error: Arc<OnceLock<rustls::Error>>,
}

impl<S> KeepTlsError<S> {
    fn keep<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled
            && let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            // The first one counts.
            let _ = self.error.set(error.clone());
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for KeepTlsError<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.keep(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for KeepTlsError<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.keep(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.keep(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.keep(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.keep(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects to `address`, presents this node's certificate and verifies the other one. The caller bounds the time.
pub(crate) async fn connect(
    address: &str,
    tls: &PeerTls,
    kind: ConnectionKind,
    streams: usize,
) -> Result<ClientConnection, Arc<str>> {
    let mut failed: Arc<str> = format!("{address} has no IP address").into();
    let mut socket = None;
    let resolved = tokio::net::lookup_host(address)
        .await
        .map_err(|error| -> Arc<str> { format!("{address} cannot be resolved: {error}").into() })?;
    for ip in resolved {
        match TcpStream::connect(ip).await {
            Ok(connected) => {
                socket = Some(connected);
                break;
            }
            Err(error) => failed = format!("{address} cannot be reached: {error}").into(),
        }
    }
    let socket = socket.ok_or(failed)?;
    let described = |error: &(dyn std::error::Error + 'static)| -> Arc<str> {
        format!("{address}: {}", error_text::of_error(error)).into()
    };
    socket.set_nodelay(true).map_err(|error| described(&error))?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::clone(&tls.current().client))
        .connect(tls::peer_name(), BufReader::with_capacity(READ_BUFFER, socket))
        .await
        .map_err(|error| described(&error))?;
    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first().cloned());
    let tls_error = Arc::new(OnceLock::new());
    let mut builder = hyper::client::conn::http2::Builder::new(TaskExecutor);
    builder
        .timer(TokioTimer::new())
        .max_frame_size(HTTP_FRAME)
        .max_send_buf_size(SEND_BUFFER);
    let (window, connection) = windows(kind, streams);
    builder
        .initial_stream_window_size(window)
        .initial_connection_window_size(connection);
    if kind == ConnectionKind::Streams {
        builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    }
    let (sender, connection) = builder
        .handshake(TokioIo::new(KeepTlsError {
            stream,
            error: Arc::clone(&tls_error),
        }))
        .await
        .map_err(|error| described(&error))?;
    let driver = holdfast_tasks::spawn("peer connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(
                error = error_text::of_error(&error),
                "connection to a peer ended with an error"
            );
        }
    });
    Ok(ClientConnection {
        sender: Sender(sender),
        certificate,
        tls_error,
        driver,
    })
}

/// The windows of a stream and of the connection.
fn windows(kind: ConnectionKind, streams: usize) -> (u32, u32) {
    match kind {
        ConnectionKind::Calls => (CALLS_WINDOW, CALLS_CONNECTION_WINDOW),
        ConnectionKind::Streams => {
            // HTTP/2 limits a window to 2^31 - 1.
            let all = u64::from(CHUNKS_WINDOW) * (streams as u64 + 1);
            (
                CHUNKS_WINDOW,
                u32::try_from(all.min((1 << 31) - 1)).unwrap_or(CHUNKS_WINDOW),
            )
        }
    }
}

/// Prepares an accepted socket.
pub(crate) fn accepted(socket: TcpStream) -> io::Result<Socket> {
    socket.set_nodelay(true)?;
    Ok(BufReader::with_capacity(READ_BUFFER, socket))
}

/// The builder for accepted connections, whose kind is not known yet.
pub(crate) fn server(streams: usize) -> hyper::server::conn::http2::Builder<TaskExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TaskExecutor);
    let (window, connection) = windows(ConnectionKind::Streams, streams);
    builder
        .timer(TokioTimer::new())
        .max_frame_size(HTTP_FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(window)
        .initial_connection_window_size(connection)
        .max_concurrent_streams(u32::try_from(streams + 1).unwrap_or(u32::MAX))
        .auto_date_header(false)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// Sets the buffer limit of an accepted connection.
pub(crate) fn limit_buffer(stream: &mut tokio_rustls::server::TlsStream<Socket>) {
    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
}
