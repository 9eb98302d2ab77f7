//! Accepts connections of other nodes: TLS, hello, then gRPC calls until the connection ends.
//!
//! Invariants: nothing is served before a hello was accepted on the same connection; TLS and hello must complete within
//! `connect_timeout`, and the number of connections before their hello is limited; a refused node receives the reason, and
//! affects no other connection.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use holdfast_tasks::Phase;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout_at};

use super::connection::Connection;
use super::rate_limited_log::RateLimitedLog;
use super::service;
use crate::peer::peer_table::PeerTable;
use crate::peer::transport::{http2, tls};
use crate::peer::{error_text, metrics};

/// Timeout of the graceful shutdown of a connection, in which the peer receives the reason.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// Backoff after a failed accept, such as when file descriptors have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Accepts connections until this node stops.
pub(crate) async fn run(table: Arc<PeerTable>, listener: TcpListener) {
    let handshakes = Arc::new(Semaphore::new(table.config.handshakes));
    let log = Arc::new(RateLimitedLog::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = table.stop.reached(Phase::Closing) => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer connection; retrying");
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            table.metrics.refused(metrics::HANDSHAKE_LIMIT);
            log.warn(
                from,
                metrics::HANDSHAKE_LIMIT,
                "too many connections have not completed their hello yet",
            );
            continue;
        };
        let (close, _) = watch::channel(None);
        let connection = Arc::new(Connection {
            heard: Arc::new(AtomicU64::new(table.now_ms())),
            table: Arc::clone(&table),
            from,
            certificate_expires: None,
            certificate_nodes: Vec::new(),
            caller: OnceLock::new(),
            close,
            hello_done: watch::Sender::new(false),
            has_frames: AtomicBool::new(false),
            log: Arc::clone(&log),
        });
        drop(holdfast_tasks::spawn("peer connection", async move {
            serve(connection, socket, permit).await;
        }));
    }
}

/// Serves one connection, from TLS to its end.
async fn serve(mut connection: Arc<Connection>, socket: TcpStream, permit: tokio::sync::OwnedSemaphorePermit) {
    let table = Arc::clone(&connection.table);
    let deadline = tokio::time::Instant::now() + table.config.connect_timeout;
    let refuse = |connection: &Connection, kind: &'static str, reason: &str| {
        connection.table.metrics.refused(kind);
        connection.log.warn(connection.from, kind, reason);
    };
    let Ok(socket) = http2::accepted(socket) else {
        return;
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&table.tls.current().server));
    let mut stream = match timeout_at(deadline, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refuse(&connection, metrics::TLS, &error_text::of_error(&error)),
        Err(_) => {
            return refuse(
                &connection,
                metrics::SILENT,
                "it did not complete the TLS handshake in time",
            );
        }
    };
    http2::limit_buffer(&mut stream);
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let Some(certificate) = certificate.filter(|leaf| tls::is_of_a_node(leaf)) else {
        return refuse(
            &connection,
            metrics::CERTIFICATE,
            "its certificate does not carry the DNS name peer.holdfast: it is not one of a node",
        );
    };
    let (expires, nodes) = (tls::not_after(certificate), tls::nodes_of(certificate));
    if let Some(connection) = Arc::get_mut(&mut connection) {
        connection.certificate_expires = expires;
        connection.certificate_nodes = nodes;
    }

    let answering = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(service::answer(connection, request).await) }
        })
    };
    let mut close = connection.close.subscribe();
    let mut hello_done = connection.hello_done.subscribe();
    let running = http2::server(table.config.streams).serve_connection(TokioIo::new(stream), answering);
    let mut running = std::pin::pin!(running);
    let mut permit = Some(permit);
    let closing = loop {
        tokio::select! {
            biased;
            done = &mut running => {
                if let Err(error) = done {
                    let reason = error_text::of_error(&error);
                    if error_text::is_garbage(&error) {
                        table.metrics.violation(metrics::GARBAGE);
                        connection.log.warn(connection.from, metrics::GARBAGE, &reason);
                    } else {
                        tracing::debug!(from = %connection.from, reason, "peer connection ended with an error");
                    }
                }
                break false;
            }
            () = table.stop.reached(Phase::Closing) => break true,
            _ = close.wait_for(Option::is_some) => break true,
            _ = hello_done.wait_for(|done| *done), if permit.is_some() => permit = None,
            () = tokio::time::sleep_until(deadline), if permit.is_some() => {
                refuse(&connection, metrics::SILENT, "it did not say hello in time");
                break true;
            }
        }
    };
    if closing {
        running.as_mut().graceful_shutdown();
        drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, running).await);
    }
    if let Some(caller) = connection.caller.get() {
        table.unregister_inbound(caller, &connection.close);
    }
}
