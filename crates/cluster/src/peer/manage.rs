//! One task per known node: connects, calls over the connection until it ends, and connects again.
//!
//! Invariants: at most one connection for calls is open towards a node; when it ends, its calls end first, then a new
//! one is tried. While a node cannot be reached, calls fail at once: they wait only during the first attempt after a
//! connection was there, and then [`WAIT`] at the most.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_proto::cluster::v1::Purpose;
use holdfast_tasks::Phase;
use rand::Rng;
use tokio::time::{sleep, sleep_until, timeout};
use tonic::Streaming;

use super::bodies::{Bodies, own};
use super::dial::{Dialed, dial, exchange, words};
use super::frame::{AnswerHead, Item, Items, Part, Violation};
use super::lanes::FRAME_BYTES;
use super::link::{self, Link};
use super::service;
use super::slot::Outcome;
use super::state::{Peer, Shared, Way};

/// How long calls wait for a connection that is being opened.
const WAIT: Duration = Duration::from_secs(1);

/// The first pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// A connection that lasted so long was a good one: the next attempt follows at once.
const LASTED: Duration = Duration::from_secs(2);

/// How often expired calls are looked for at the least.
const RHYTHM: Duration = Duration::from_millis(250);

/// A node that takes frames of so many bytes is there, even if its answers are slow to come: the socket holds only a few of
/// them. Smaller ones prove nothing, they fit into the socket of a node that is gone.
pub(crate) const TAKEN: usize = FRAME_BYTES / 2;

/// Looks this much late mean that this process itself stood still.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// Keeps node `peer` connected until it is forgotten or everything stops.
pub(crate) async fn keep(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut failures = 0_u32;
    let mut logged: Option<Arc<str>> = None;
    while !peer.is_forgotten() && !shared.stop.is_in(Phase::Closing) {
        let began = Instant::now();
        let Some(reason) = Box::pin(attempt(&shared, &peer, failures == 0)).await else {
            break;
        };
        failures = if began.elapsed() >= LASTED && was_connected(&peer) {
            0
        } else {
            failures.saturating_add(1)
        };
        peer.about.lock().connected = false;
        shared.publish();
        if logged.as_ref() != Some(&reason) {
            tracing::warn!(
                node = peer.node,
                reason = &*reason,
                "not connected to a node; trying on"
            );
            logged = Some(reason);
        }
        tokio::select! {
            biased;
            () = shared.stop.reached(Phase::Closing) => {}
            () = peer.changed.notified() => failures = 0,
            () = sleep(pause(failures, shared.config.retry_pause)) => {}
        }
    }
    down(&peer, &"this node is stopping".into());
    peer.streams.send_replace(None);
    peer.about.lock().connected = false;
    shared.publish();
}

fn was_connected(peer: &Peer) -> bool {
    peer.about.lock().connected
}

/// Doubles up to `longest`, and differs between nodes that lost the same one.
fn pause(failures: u32, longest: Duration) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let full = FIRST_PAUSE.saturating_mul(1 << failures.min(12)).min(longest);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Calls fail with `reason` from now on; those under way end.
fn down(peer: &Peer, reason: &Arc<str>) {
    let before = std::mem::replace(&mut *peer.way.write(), Way::Down(Arc::clone(reason)));
    if let Way::Up(link) = before {
        link.close(reason);
    }
}

/// The link that calls may use from now on.
fn up(shared: &Shared, peer: &Peer) -> Arc<Link> {
    let mut way = peer.way.write();
    match &*way {
        Way::Up(link) if !link.is_closed() => Arc::clone(link),
        _ => {
            let link = Arc::new(shared.link(peer.node));
            *way = Way::Up(Arc::clone(&link));
            link
        }
    }
}

/// One connection, from the attempt to its end; `None` when there is to be no other.
async fn attempt(shared: &Arc<Shared>, peer: &Arc<Peer>, calls_wait: bool) -> Option<Arc<str>> {
    if calls_wait {
        up(shared, peer);
    }
    let address = peer.address();
    let dialing = timeout(
        shared.config.connect_timeout,
        dial(shared, &address, Purpose::Calls, peer.node),
    );
    let mut dialing = std::pin::pin!(dialing);
    let mut waited = std::pin::pin!(sleep(WAIT));
    let mut waits = calls_wait;
    let dialed = loop {
        tokio::select! {
            biased;
            () = shared.stop.reached(Phase::Closing) => return None,
            () = peer.changed.notified() => break Err("its address has changed".into()),
            dialed = &mut dialing => break dialed.unwrap_or_else(|_| Err(format!("{address} does not answer").into())),
            () = &mut waited, if waits => {
                waits = false;
                down(peer, &format!("{address} does not answer").into());
            }
        }
    };
    let reason = match dialed {
        Ok(dialed) => connected(shared, peer, &address, dialed).await,
        Err(reason) => reason,
    };
    down(peer, &reason);
    (!peer.is_forgotten()).then_some(reason)
}

/// Calls over a connection until it ends; says why.
async fn connected(shared: &Arc<Shared>, peer: &Arc<Peer>, address: &str, dialed: Dialed) -> Arc<str> {
    shared.learn_from(&dialed.answer, dialed.certificate_ends);
    let link = up(shared, peer);
    let heard = Arc::new(AtomicU64::new(shared.clock()));
    let out = {
        let (shared, link, heard) = (Arc::clone(shared), Arc::clone(&link), Arc::clone(&heard));
        futures_util::stream::poll_fn(move |cx| {
            let batch = link.poll_batch(cx);
            if let Poll::Ready(Some(batch)) = &batch {
                let bytes: usize = batch.iter().map(Part::len).sum();
                shared.metrics.frames_sent.increment(1);
                shared.metrics.bytes_sent.increment(bytes as u64);
                if bytes >= TAKEN {
                    heard.store(shared.clock(), Ordering::Relaxed);
                }
            }
            batch
        })
    };
    let opening = timeout(
        shared.config.connect_timeout,
        exchange(&dialed.opened.sender, service::FRAMES, out),
    );
    let answers = match opening.await {
        Ok(Ok(answers)) => answers,
        Ok(Err(status)) => return format!("{address}: {}", words(&status)).into(),
        Err(_) => return format!("{address} does not answer").into(),
    };
    peer.about.lock().connected = true;
    peer.heard.store(shared.clock(), Ordering::Relaxed);
    shared.metrics.connects.increment(1);
    shared.publish();
    tracing::info!(
        node = peer.node,
        name = dialed.answer.name,
        address,
        version = dialed.answer.version,
        "connected to a node"
    );
    let reason = tokio::select! {
        biased;
        () = shared.stop.reached(Phase::Closing) => "this node is stopping".into(),
        reason = Reading::new(shared, peer, &link, &heard).run(answers) => reason,
        never = streams(shared, peer) => match never {},
    };
    shared.metrics.losses.increment(1);
    peer.streams.send_replace(None);
    reason
}

/// Opens the second connection, for uploads and downloads, whenever one is wanted and there is none.
async fn streams(shared: &Shared, peer: &Peer) -> std::convert::Infallible {
    // Held while it stands: dropping it closes it.
    let mut _open: Option<Dialed> = None;
    loop {
        peer.streams_wanted.notified().await;
        let stands = peer.streams.borrow().as_ref().is_some_and(|sender| !sender.is_closed());
        if stands {
            continue;
        }
        _open = match dial_streams(shared, peer).await {
            Ok(dialed) => {
                peer.streams.send_replace(Some(dialed.opened.sender.clone()));
                Some(dialed)
            }
            Err(reason) => {
                tracing::warn!(
                    node = peer.node,
                    reason = &*reason,
                    "no connection for streams to a node"
                );
                None
            }
        };
    }
}

async fn dial_streams(shared: &Shared, peer: &Peer) -> Result<Dialed, Arc<str>> {
    let address = peer.address();
    match timeout(
        shared.config.connect_timeout,
        dial(shared, &address, Purpose::Streams, peer.node),
    )
    .await
    {
        Ok(dialed) => dialed,
        Err(_) => Err(format!("{address} does not answer").into()),
    }
}

/// What comes back over a connection.
struct Reading<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    link: &'a Link,
    bodies: Bodies<AnswerHead>,
    answers: Vec<(u64, Outcome)>,
    /// The ping without an answer, and when it left.
    ping: Option<(u64, Instant)>,
    pings: u64,
    /// When this connection was heard last, as [`Shared::clock`] counts.
    heard: &'a AtomicU64,
}

impl<'a> Reading<'a> {
    fn new(shared: &'a Shared, peer: &'a Peer, link: &'a Link, heard: &'a AtomicU64) -> Self {
        Self {
            shared,
            peer,
            link,
            bodies: Bodies::default(),
            answers: Vec::new(),
            ping: None,
            pings: 0,
            heard,
        }
    }

    /// Until the connection ends or the node is silent; says why.
    async fn run(mut self, mut answers: Streaming<Bytes>) -> Arc<str> {
        let mut look = std::pin::pin!(sleep_until(tokio::time::Instant::now() + RHYTHM));
        let mut sooner = std::pin::pin!(self.link.sooner.notified());
        let mut next_ping = Instant::now();
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                biased;
                frame = answers.next() => match frame {
                    Some(Ok(frame)) => {
                        if let Err(violation) = self.frame(frame) {
                            self.shared.metrics.violation(violation.rule());
                            return format!("node {} broke the protocol: {violation}", self.peer.node).into();
                        }
                    }
                    Some(Err(status)) => return words(&status).into(),
                    None => return "it closed the connection".into(),
                },
                () = &mut look => {
                    let now = Instant::now();
                    if now.duration_since(looked) > RHYTHM + STOOD_STILL {
                        // What the others sent meanwhile is still to be read.
                        self.heard.store(self.shared.clock(), Ordering::Relaxed);
                    }
                    looked = now;
                    if self.is_silent() {
                        return "it has been silent for too long".into();
                    }
                    if now >= next_ping {
                        next_ping = now + self.shared.config.ping_interval;
                        self.send_ping(now);
                    }
                    look.as_mut().reset(self.link.expire(now, RHYTHM).into());
                }
                () = &mut sooner => {
                    sooner.set(self.link.sooner.notified());
                    look.as_mut().reset(self.link.expire(Instant::now(), RHYTHM).into());
                }
                () = self.peer.changed.notified() => {
                    return "its address has changed".into();
                }
            }
        }
    }

    fn is_silent(&self) -> bool {
        let silence = u64::try_from(self.shared.config.silence.as_millis()).unwrap_or(u64::MAX);
        self.shared.clock().saturating_sub(self.heard.load(Ordering::Relaxed)) > silence
    }

    fn send_ping(&mut self, now: Instant) {
        if self.ping.is_none() {
            self.pings += 1;
            self.ping = Some((self.pings, now));
        }
        self.link.control(Part::ping(self.pings));
        self.shared.publish();
    }

    fn frame(&mut self, frame: Bytes) -> Result<(), Violation> {
        let len = frame.len();
        let now = self.shared.clock();
        self.heard.store(now, Ordering::Relaxed);
        self.peer.heard.store(now, Ordering::Relaxed);
        self.shared.metrics.frames_received.increment(1);
        self.shared.metrics.bytes_received.increment(len as u64);
        for item in Items::new(frame) {
            match item? {
                Item::Answer(head, piece) if piece.len() == head.total as usize => {
                    self.done(head, own(piece, len));
                }
                Item::Answer(head, piece) => {
                    let wanted = self.link.waits(head.id).then_some(head);
                    self.bodies.begin(head.id, wanted, head.total as usize, &piece)?;
                }
                Item::More(id, piece) => {
                    if let Some((head, body)) = self.bodies.more(id, &piece)? {
                        self.done(head, body);
                    }
                }
                Item::Drop(id) => {
                    if let Some(mut head) = self.bodies.give_up(id) {
                        head.outcome = super::frame::Outcome::Unknown;
                        self.done(head, Bytes::from_static(b"the answer was cut off"));
                    }
                }
                Item::Pong(nonce) => {
                    if let Some((_, left)) = self.ping.take_if(|(sent, _)| *sent == nonce) {
                        let rtt = left.elapsed();
                        self.shared.metrics.rtt.record(rtt.as_secs_f64());
                        self.peer.about.lock().rtt = Some(rtt);
                    }
                }
                Item::Call(..) | Item::Ping(_) | Item::End => return Err(Violation::Misplaced),
            }
        }
        if !self.answers.is_empty() {
            self.link.answer(&mut self.answers);
        }
        Ok(())
    }

    fn done(&mut self, head: AnswerHead, body: Bytes) {
        self.answers
            .push((head.id, link::outcome(self.peer.node, head.outcome, body)));
    }
}
