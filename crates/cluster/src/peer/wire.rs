//! HTTP/2 over TLS over TCP, in both roles: sockets, windows, and how an error reads.
//!
//! Why own sockets and hyper's connections instead of tonic's channel and server: a connection here belongs to one
//! node, is opened by one task, is closed on purpose, and never comes back by itself. What runs on it is gRPC by tonic.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tower::Service;

use super::tls::{self, PeerTls};

/// The socket of a connection. rustls reads 4 KiB at a time: the buffer makes one system call of many.
pub(crate) type Socket = BufReader<TcpStream>;

const READ_BUFFER: usize = 64 << 10;

/// Plaintext that rustls may hold: several records a system call.
const TLS_BUFFER: usize = 256 << 10;

/// The largest HTTP/2 frame that is accepted, so that a frame of ours is one of those.
const HTTP_FRAME: u32 = 1 << 20;

/// What a connection for calls may have on the way: one stream uses it.
const CALLS_WINDOW: u32 = 4 << 20;
const CALLS_CONNECTION_WINDOW: u32 = 8 << 20;

/// What each upload or download may have on the way. The connection's window is large enough for all of them together,
/// so that one that nobody reads never holds up the others.
const CHUNKS_WINDOW: u32 = 1 << 20;

/// What is handed to HTTP/2 ahead of the socket, per stream.
const SEND_BUFFER: usize = 512 << 10;

/// What a connection is used for decides its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Calls,
    Streams,
}

/// HTTP/2's own keep-alive, for connections on which nothing else would notice.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Starts hyper's tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tasks;

impl<F> Executor<F> for Tasks
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
    /// Whether the connection has ended.
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

/// A connection that this node has opened. Dropping it closes it.
pub(crate) struct Opened {
    pub(crate) sender: Sender,
    pub(crate) certificate: Option<CertificateDer<'static>>,
    driver: JoinHandle<()>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects to `address`, proves this node's certificate and checks the other's. The caller sets the time.
pub(crate) async fn open(address: &str, tls: &PeerTls, used: Use, streams: usize) -> Result<Opened, Arc<str>> {
    let mut failed: Arc<str> = format!("{address} has no IP address").into();
    let mut socket = None;
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|error| -> Arc<str> { format!("{address} cannot be looked up: {error}").into() })?;
    for found in found {
        match TcpStream::connect(found).await {
            Ok(connected) => {
                socket = Some(connected);
                break;
            }
            Err(error) => failed = format!("{address} cannot be reached: {error}").into(),
        }
    }
    let socket = socket.ok_or(failed)?;
    let said = |error: &(dyn Error + 'static)| -> Arc<str> { format!("{address}: {}", explain(error)).into() };
    socket.set_nodelay(true).map_err(|error| said(&error))?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::clone(&tls.current().client))
        .connect(tls::peer_name(), BufReader::with_capacity(READ_BUFFER, socket))
        .await
        .map_err(|error| said(&error))?;
    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first().cloned());
    let mut builder = hyper::client::conn::http2::Builder::new(Tasks);
    builder
        .timer(TokioTimer::new())
        .max_frame_size(HTTP_FRAME)
        .max_send_buf_size(SEND_BUFFER);
    let (window, connection) = windows(used, streams);
    builder
        .initial_stream_window_size(window)
        .initial_connection_window_size(connection);
    if used == Use::Streams {
        builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    }
    let (sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| said(&error))?;
    let driver = holdfast_tasks::spawn("peer connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = explain(&error), "a connection to a peer ended");
        }
    });
    Ok(Opened {
        sender: Sender(sender),
        certificate,
        driver,
    })
}

fn windows(used: Use, streams: usize) -> (u32, u32) {
    match used {
        Use::Calls => (CALLS_WINDOW, CALLS_CONNECTION_WINDOW),
        Use::Streams => {
            // HTTP/2's own bound of a window.
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

/// As [`open`], for the connections that others open; what they are used for is not known yet.
pub(crate) fn server(streams: usize) -> hyper::server::conn::http2::Builder<Tasks> {
    let mut builder = hyper::server::conn::http2::Builder::new(Tasks);
    let (window, connection) = windows(Use::Streams, streams);
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

/// What rustls may hold for an accepted connection.
pub(crate) fn tune(stream: &mut tokio_rustls::server::TlsStream<Socket>) {
    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
}

/// An error and its causes in one line; certificate problems in words that say what to do.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            return tls::explain(error);
        }
        if let Some(inner) = cause
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref())
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return tls::explain(inner);
        }
        let line = cause.to_string();
        // HTTP/2 keeps only the words of an error of the socket.
        if let Some((_, alert)) = line.split_once("received fatal alert: ") {
            return format!(
                "the other side refused this node's certificate ({alert}): compare cluster.ca_file on both nodes"
            );
        }
        if !text.contains(&line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&line);
        }
        next = cause.source();
    }
    text
}

/// Whether an error, explained, says that what arrived was no HTTP/2: as opposed to a connection that was lost.
pub(crate) fn is_garbage(why: &str) -> bool {
    why.contains("connection error detected")
}
