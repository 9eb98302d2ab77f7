//! Letting other nodes in: accept, TLS, hello, and then their gRPC calls, until the connection ends.
//!
//! Invariants: nothing is served before a hello has been accepted on the same connection; a connection has
//! `connect_timeout` for TLS and hello, and so many may be at that at once; who is turned away is told why, and harms
//! nobody else.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant, SystemTime};

use holdfast_tasks::Phase;
use holdfast_tasks::sync::Mutex;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout_at};

use super::metrics;
use super::service;
use super::state::Shared;
use super::{tls, wire};

/// How long a connection that is being closed may take to say why.
const PARTING: Duration = Duration::from_millis(500);

/// How often the same trouble with the same address is logged.
const QUIET: Duration = Duration::from_secs(60);

/// Troubles that are remembered for that, at most.
const MAX_TROUBLES: usize = 256;

/// A pause after accepting has failed, as when files have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that another node has opened.
pub(crate) struct Conn {
    pub(crate) shared: Arc<Shared>,
    pub(crate) from: SocketAddr,
    pub(crate) certificate_ends: Option<SystemTime>,
    /// The nodes that its certificate is for.
    pub(crate) certificate_nodes: Vec<String>,
    /// Who it is, once the hello has been accepted.
    pub(crate) caller: OnceLock<Caller>,
    /// Ends the connection, with the reason.
    pub(crate) end: watch::Sender<Option<Arc<str>>>,
    /// When it was heard last, as [`Shared::clock`] counts.
    pub(crate) heard: Arc<AtomicU64>,
    pub(crate) greeted: watch::Sender<bool>,
    /// It has its one stream of frames.
    pub(crate) has_frames: AtomicBool,
    pub(crate) troubles: Arc<Troubles>,
}

/// Who has been let in.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) node: u64,
    pub(crate) name: String,
    /// Not a member: only the control service listens.
    pub(crate) joins: bool,
}

/// What has been logged lately, so that somebody who tries every second does not fill the log.
#[derive(Default)]
pub(crate) struct Troubles(Mutex<HashMap<(IpAddr, &'static str), Instant>>);

impl Troubles {
    /// Logs, unless the same was logged a short while ago.
    pub(crate) fn log(&self, from: SocketAddr, kind: &'static str, why: &str) {
        let now = Instant::now();
        let mut seen = self.0.lock();
        if seen.len() >= MAX_TROUBLES {
            seen.retain(|_, at| now.duration_since(*at) < QUIET);
        }
        let known = seen
            .get(&(from.ip(), kind))
            .is_some_and(|at| now.duration_since(*at) < QUIET);
        if known || seen.len() >= MAX_TROUBLES {
            tracing::debug!(%from, kind, why, "a peer is not let in");
        } else {
            seen.insert((from.ip(), kind), now);
            tracing::warn!(%from, kind, why, "a peer is not let in");
        }
    }
}

/// Accepts until everything stops.
pub(crate) async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let handshakes = Arc::new(Semaphore::new(shared.config.handshakes));
    let troubles = Arc::new(Troubles::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.reached(Phase::Closing) => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of a peer");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            shared.metrics.refused(metrics::CROWD);
            troubles.log(
                from,
                metrics::CROWD,
                "too many connections have not proved who they are yet",
            );
            continue;
        };
        let (end, _) = watch::channel(None);
        let conn = Arc::new(Conn {
            heard: Arc::new(AtomicU64::new(shared.clock())),
            shared: Arc::clone(&shared),
            from,
            certificate_ends: None,
            certificate_nodes: Vec::new(),
            caller: OnceLock::new(),
            end,
            greeted: watch::Sender::new(false),
            has_frames: AtomicBool::new(false),
            troubles: Arc::clone(&troubles),
        });
        drop(holdfast_tasks::spawn("peer served", async move {
            serve(conn, socket, permit).await;
        }));
    }
}

/// One connection, from TLS to its end.
async fn serve(mut conn: Arc<Conn>, socket: TcpStream, permit: tokio::sync::OwnedSemaphorePermit) {
    let shared = Arc::clone(&conn.shared);
    let deadline = tokio::time::Instant::now() + shared.config.connect_timeout;
    let refuse = |conn: &Conn, kind: &'static str, why: &str| {
        conn.shared.metrics.refused(kind);
        conn.troubles.log(conn.from, kind, why);
    };
    let Ok(socket) = wire::accepted(socket) else {
        return;
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&shared.tls.current().server));
    let mut stream = match timeout_at(deadline, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refuse(&conn, metrics::TLS, &wire::explain(&error)),
        Err(_) => return refuse(&conn, metrics::SILENT, "it did not complete the TLS handshake in time"),
    };
    wire::tune(&mut stream);
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let Some(certificate) = certificate.filter(|leaf| tls::is_of_a_node(leaf)) else {
        return refuse(
            &conn,
            metrics::CERTIFICATE,
            "its certificate does not carry the DNS name peer.holdfast: it is not one of a node",
        );
    };
    let (ends, nodes) = (tls::not_after(certificate), tls::nodes_of(certificate));
    if let Some(conn) = Arc::get_mut(&mut conn) {
        conn.certificate_ends = ends;
        conn.certificate_nodes = nodes;
    }

    let answering = {
        let conn = Arc::clone(&conn);
        service_fn(move |request| {
            let conn = Arc::clone(&conn);
            async move { Ok::<_, Infallible>(service::answer(conn, request).await) }
        })
    };
    let mut ends = conn.end.subscribe();
    let mut greeted = conn.greeted.subscribe();
    let running = wire::server(shared.config.streams).serve_connection(TokioIo::new(stream), answering);
    let mut running = std::pin::pin!(running);
    let mut permit = Some(permit);
    let closing = loop {
        tokio::select! {
            biased;
            done = &mut running => {
                if let Err(error) = done {
                    let why = wire::explain(&error);
                    if wire::is_garbage(&why) {
                        shared.metrics.violation(metrics::GARBAGE);
                        conn.troubles.log(conn.from, metrics::GARBAGE, &why);
                    } else {
                        tracing::debug!(from = %conn.from, why, "a connection of a peer ended");
                    }
                }
                break false;
            }
            () = shared.stop.reached(Phase::Closing) => break true,
            _ = ends.wait_for(Option::is_some) => break true,
            _ = greeted.wait_for(|greeted| *greeted), if permit.is_some() => permit = None,
            () = tokio::time::sleep_until(deadline), if permit.is_some() => {
                refuse(&conn, metrics::SILENT, "it did not say hello in time");
                break true;
            }
        }
    };
    if closing {
        running.as_mut().graceful_shutdown();
        drop(tokio::time::timeout(PARTING, running).await);
    }
    if let Some(caller) = conn.caller.get() {
        shared.leave(caller, &conn.end);
    }
}
