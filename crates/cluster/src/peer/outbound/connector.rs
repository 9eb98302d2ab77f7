//! One task per known node: connects, serves calls over the connection until it ends, and reconnects.
//!
//! Invariants: at most one connection for calls is open to a node; when it ends, its calls end before the next attempt to
//! connect. While a node cannot be reached, calls fail at once: they wait only during the first attempt after a lost
//! connection, and for at most [`FIRST_ATTEMPT_TIMEOUT`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use holdfast_proto::cluster::v1::Purpose;
use holdfast_tasks::Phase;
use rand::Rng;
use tokio::time::{sleep, timeout};

use super::call_queue::CallQueue;
use super::dial::{Dialed, dial};
use super::reply_reader::ReplyReader;
use crate::peer::error_text;
use crate::peer::peer_table::{ConnectionState, Peer, PeerTable};
use crate::peer::protocol::frame::Part;
use crate::peer::protocol::scheduler::ACCEPTED;
use crate::peer::transport::grpc::{self, exchange_frames};

/// How long calls wait for the first attempt to connect.
const FIRST_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// The first backoff between two attempts to connect.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);

/// After a connection of at least this duration, the next attempt follows without backoff.
const STABLE_AFTER: Duration = Duration::from_secs(2);

/// Keeps node `peer` connected until it is removed or this node stops.
pub(crate) async fn run(table: Arc<PeerTable>, peer: Arc<Peer>) {
    let mut failures = 0_u32;
    let mut logged: Option<Arc<str>> = None;
    while !peer.is_removed() && !table.stop.is_in(Phase::Closing) {
        let started = Instant::now();
        let Some(reason) = Box::pin(attempt(&table, &peer, failures == 0)).await else {
            break;
        };
        failures = if started.elapsed() >= STABLE_AFTER && was_connected(&peer) {
            0
        } else {
            failures.saturating_add(1)
        };
        peer.info.lock().connected = false;
        table.publish();
        if logged.as_ref() != Some(&reason) {
            tracing::warn!(node = %peer.node, reason = &*reason, "peer connection failed; retrying");
            logged = Some(reason);
        }
        tokio::select! {
            biased;
            () = table.stop.reached(Phase::Closing) => {}
            () = peer.changed.notified() => failures = 0,
            () = sleep(backoff(failures, table.config.max_connect_backoff)) => {}
        }
    }
    set_down(&peer, &"this node is stopping".into());
    peer.streams.send_replace(None);
    peer.info.lock().connected = false;
    table.publish();
}

fn was_connected(peer: &Peer) -> bool {
    peer.info.lock().connected
}

/// Doubles up to `longest`. Jitter spreads the attempts of several nodes that have lost the same one.
fn backoff(failures: u32, longest: Duration) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let full = FIRST_BACKOFF.saturating_mul(1 << failures.min(12)).min(longest);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Ends all calls and makes further ones fail with `reason`.
fn set_down(peer: &Peer, reason: &Arc<str>) {
    let down = ConnectionState::Down(Arc::clone(reason));
    let before = std::mem::replace(&mut *peer.state.write(), down);
    if let ConnectionState::Up(queue) = before {
        queue.close(reason);
    }
}

/// Lets calls be queued from now on, and returns their queue.
fn set_up(table: &PeerTable, peer: &Peer) -> Arc<CallQueue> {
    let mut state = peer.state.write();
    match &*state {
        ConnectionState::Up(queue) if !queue.is_closed() => Arc::clone(queue),
        _ => {
            let queue = Arc::new(table.new_queue(peer.node));
            *state = ConnectionState::Up(Arc::clone(&queue));
            queue
        }
    }
}

/// One connection, from the attempt to its end. Returns why it ended; `None` when no further attempt is to be made.
async fn attempt(table: &Arc<PeerTable>, peer: &Arc<Peer>, calls_wait: bool) -> Option<Arc<str>> {
    if calls_wait {
        set_up(table, peer);
    }
    let address = peer.address();
    let dialing = timeout(
        table.config.connect_timeout,
        dial(table, &address, Purpose::Calls, peer.node),
    );
    let mut dialing = std::pin::pin!(dialing);
    let mut waited = std::pin::pin!(sleep(FIRST_ATTEMPT_TIMEOUT));
    let mut waits = calls_wait;
    let dialed = loop {
        tokio::select! {
            biased;
            () = table.stop.reached(Phase::Closing) => return None,
            () = peer.changed.notified() => break Err("its address has changed".into()),
            dialed = &mut dialing => break match dialed {
                Ok(dialed) => dialed.map_err(Arc::from),
                Err(_) => Err(format!("{address} does not answer").into()),
            },
            () = &mut waited, if waits => {
                waits = false;
                set_down(peer, &format!("{address} does not answer").into());
            }
        }
    };
    let reason = match dialed {
        Ok(dialed) => serve_calls(table, peer, &address, dialed).await,
        Err(reason) => reason,
    };
    set_down(peer, &reason);
    (!peer.is_removed()).then_some(reason)
}

/// Sends calls over a connection until it ends. Returns why it ended.
async fn serve_calls(table: &Arc<PeerTable>, peer: &Arc<Peer>, address: &str, dialed: Dialed) -> Arc<str> {
    table.record_hello_answer(&dialed.answer, dialed.certificate_ends);
    let queue = set_up(table, peer);
    let heard = Arc::new(AtomicU64::new(table.now_ms()));
    let out = {
        let (table, queue, heard) = (Arc::clone(table), Arc::clone(&queue), Arc::clone(&heard));
        futures_util::stream::poll_fn(move |cx| {
            let batch = queue.poll_frame(cx);
            if let Poll::Ready(Some(batch)) = &batch {
                let bytes: usize = batch.iter().map(Part::len).sum();
                table.metrics.frames_sent.increment(1);
                table.metrics.bytes_sent.increment(bytes as u64);
                if bytes >= ACCEPTED {
                    heard.store(table.now_ms(), Ordering::Relaxed);
                }
            }
            batch
        })
    };
    let opening = timeout(
        table.config.connect_timeout,
        exchange_frames(&dialed.connection.sender, grpc::FRAMES, out),
    );
    let answers = match opening.await {
        Ok(Ok(answers)) => answers,
        Ok(Err(status)) => return format!("{address}: {}", error_text::of_status(&status)).into(),
        Err(_) => return format!("{address} does not answer").into(),
    };
    peer.info.lock().connected = true;
    peer.heard.store(table.now_ms(), Ordering::Relaxed);
    table.metrics.connects.increment(1);
    table.publish();
    tracing::info!(
        node = %peer.node,
        name = dialed.answer.name,
        address,
        version = dialed.answer.version,
        "connected to a peer"
    );
    let reason = tokio::select! {
        biased;
        () = table.stop.reached(Phase::Closing) => "this node is stopping".into(),
        reason = ReplyReader::new(table, peer, &queue, &heard).run(answers) => reason,
        never = keep_streams(table, peer) => match never {},
    };
    table.metrics.losses.increment(1);
    peer.streams.send_replace(None);
    reason
}

/// Opens the second connection, for uploads and downloads, when one is requested and none is open.
async fn keep_streams(table: &PeerTable, peer: &Peer) -> std::convert::Infallible {
    // Dropping it closes the connection.
    let mut _open: Option<Dialed> = None;
    loop {
        peer.streams_requested.notified().await;
        let is_open = peer.streams.borrow().as_ref().is_some_and(|sender| !sender.is_closed());
        if is_open {
            continue;
        }
        _open = match dial_streams(table, peer).await {
            Ok(dialed) => {
                peer.streams.send_replace(Some(dialed.connection.sender.clone()));
                Some(dialed)
            }
            Err(reason) => {
                tracing::warn!(
                    node = %peer.node,
                    reason = &*reason,
                    "cannot open the peer connection for streams"
                );
                None
            }
        };
    }
}

async fn dial_streams(table: &PeerTable, peer: &Peer) -> Result<Dialed, Arc<str>> {
    let address = peer.address();
    match timeout(
        table.config.connect_timeout,
        dial(table, &address, Purpose::Streams, peer.node),
    )
    .await
    {
        Ok(dialed) => dialed.map_err(Arc::from),
        Err(_) => Err(format!("{address} does not answer").into()),
    }
}
