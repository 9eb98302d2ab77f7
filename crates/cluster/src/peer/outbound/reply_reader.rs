//! Reads the replies of one connection until it ends; also sends its pings and detects its silence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::sleep_until;
use tonic::Streaming;

use super::call_queue::CallQueue;
use super::pending_reply::Reply;
use crate::peer::error_text;
use crate::peer::peer_table::{Peer, PeerTable};
use crate::peer::protocol::frame::{AnswerHead, Item, Items, Outcome, Part, Violation};
use crate::peer::protocol::outcome;
use crate::peer::protocol::reassembly::{Reassembler, detach};

/// Longest time between two scans for expired calls and silence.
const SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// A scan that is this much late means that this process itself did not run.
const STALL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct ReplyReader<'a> {
    table: &'a PeerTable,
    peer: &'a Peer,
    queue: &'a CallQueue,
    reassembler: Reassembler<AnswerHead>,
    replies: Vec<(u64, Reply)>,
    /// The unanswered ping, and when it was sent.
    ping: Option<(u64, Instant)>,
    pings: u64,
    /// When something was last received on this connection, in [`PeerTable::now_ms`].
    heard: &'a AtomicU64,
}

impl<'a> ReplyReader<'a> {
    pub(super) fn new(table: &'a PeerTable, peer: &'a Peer, queue: &'a CallQueue, heard: &'a AtomicU64) -> Self {
        Self {
            table,
            peer,
            queue,
            reassembler: Reassembler::default(),
            replies: Vec::new(),
            ping: None,
            pings: 0,
            heard,
        }
    }

    /// Runs until the connection ends or the node is silent. Returns why it ended.
    pub(super) async fn run(mut self, mut answers: Streaming<Bytes>) -> Arc<str> {
        let mut scan = std::pin::pin!(sleep_until(tokio::time::Instant::now() + SCAN_INTERVAL));
        let mut earlier = std::pin::pin!(self.queue.earlier_deadline.notified());
        let mut next_ping = Instant::now();
        let mut scanned = Instant::now();
        loop {
            tokio::select! {
                biased;
                frame = answers.next() => match frame {
                    Some(Ok(frame)) => {
                        if let Err(violation) = self.read_frame(frame) {
                            self.table.metrics.violation(violation.rule());
                            return format!("node {} broke the protocol: {violation}", self.peer.node).into();
                        }
                    }
                    Some(Err(status)) => return error_text::of_status(&status).into(),
                    None => return "it closed the connection".into(),
                },
                () = &mut scan => {
                    let now = Instant::now();
                    if now.duration_since(scanned) > SCAN_INTERVAL + STALL {
                        // This process did not run; data that the peer has sent in that time is still unread.
                        self.heard.store(self.table.now_ms(), Ordering::Relaxed);
                    }
                    scanned = now;
                    if self.is_silent() {
                        return "it has been silent for too long".into();
                    }
                    if now >= next_ping {
                        next_ping = now + self.table.config.ping_interval;
                        self.send_ping(now);
                    }
                    scan.as_mut().reset(self.queue.expire(now, SCAN_INTERVAL).into());
                }
                () = &mut earlier => {
                    earlier.set(self.queue.earlier_deadline.notified());
                    scan.as_mut().reset(self.queue.expire(Instant::now(), SCAN_INTERVAL).into());
                }
                () = self.peer.changed.notified() => {
                    return "its address has changed".into();
                }
            }
        }
    }

    fn is_silent(&self) -> bool {
        let silence = u64::try_from(self.table.config.silence.as_millis()).unwrap_or(u64::MAX);
        self.table.now_ms().saturating_sub(self.heard.load(Ordering::Relaxed)) > silence
    }

    fn send_ping(&mut self, now: Instant) {
        if self.ping.is_none() {
            self.pings += 1;
            self.ping = Some((self.pings, now));
        }
        self.queue.push_control(Part::ping(self.pings));
        self.table.publish();
    }

    fn read_frame(&mut self, frame: Bytes) -> Result<(), Violation> {
        let len = frame.len();
        let now = self.table.now_ms();
        self.heard.store(now, Ordering::Relaxed);
        self.peer.heard.store(now, Ordering::Relaxed);
        self.table.metrics.frames_received.increment(1);
        self.table.metrics.bytes_received.increment(len as u64);
        for item in Items::new(frame) {
            match item? {
                Item::Answer(head, piece) if piece.len() == head.total as usize => {
                    self.finish(head, detach(piece, len));
                }
                Item::Answer(head, piece) => {
                    let wanted = self.queue.is_awaited(head.id).then_some(head);
                    self.reassembler.begin(head.id, wanted, head.total as usize, &piece)?;
                }
                Item::More(id, piece) => {
                    if let Some((head, body)) = self.reassembler.append(id, &piece)? {
                        self.finish(head, body);
                    }
                }
                Item::Drop(id) => {
                    if let Some(mut head) = self.reassembler.discard(id) {
                        head.outcome = Outcome::Unknown;
                        self.finish(head, Bytes::from_static(b"the answer was cut off"));
                    }
                }
                Item::Pong(nonce) => {
                    if let Some((_, left)) = self.ping.take_if(|(sent, _)| *sent == nonce) {
                        let rtt = left.elapsed();
                        self.table.metrics.rtt.record(rtt.as_secs_f64());
                        self.peer.info.lock().rtt = Some(rtt);
                    }
                }
                Item::Call(..) | Item::Ping(_) | Item::End => return Err(Violation::Misplaced),
            }
        }
        if !self.replies.is_empty() {
            self.queue.complete(&mut self.replies);
        }
        Ok(())
    }

    fn finish(&mut self, head: AnswerHead, body: Bytes) {
        self.replies
            .push((head.id, outcome::decode(self.peer.node, head.outcome, body)));
    }
}
