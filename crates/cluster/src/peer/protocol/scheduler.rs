//! Queues what is to be sent to one node and composes the next frame from it. Pure.
//!
//! Why a scheduler: a heartbeat must not wait behind megabytes. Small bodies are sent first. Large bodies are sent in
//! pieces, a few bodies at a time in round-robin order, and always get a share of a frame. Bodies with the same key (a
//! service and its target) keep their order: a small body waits behind a large one of its own key, and of no other.
//! Invariants: [`FrameScheduler::bytes`] counts everything that is queued; at most [`MAX_OPEN_BODIES`] bodies are partly
//! sent.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::frame::{AnswerHead, Batch, CallHead, MAX_HEAD, Part};

/// Limit of partly sent bodies: the receiver keeps memory for this many.
pub(crate) const MAX_OPEN_BODIES: usize = 8;

/// Target size of a frame in bytes.
pub(crate) const FRAME_BYTES: usize = 256 << 10;

/// A frame of at least this size proves that the receiver is alive, even if its answers are slow: its socket buffers only a
/// few of them. A smaller frame proves nothing, since the socket buffer takes it even if the receiver is gone.
pub(crate) const ACCEPTED: usize = FRAME_BYTES / 2;

/// Bodies up to this size are sent in one piece and before larger ones.
pub(crate) const SMALL_BYTES: usize = 64 << 10;

/// Largest piece of a large body in one turn.
const PIECE_BYTES: usize = 64 << 10;

/// Limit of queued items without a body.
const MAX_CONTROL: usize = 16;

/// Charged for every queued body besides its bytes.
const OVERHEAD: usize = 64;

/// The first item of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FirstItem {
    Call(CallHead),
    Answer(AnswerHead),
}

impl FirstItem {
    fn id(self) -> u64 {
        match self {
            Self::Call(head) => head.id,
            Self::Answer(head) => head.id,
        }
    }

    fn part(self, piece: Vec<Bytes>) -> Part {
        match self {
            Self::Call(head) => Part::call(head, piece),
            Self::Answer(head) => Part::answer(head, piece),
        }
    }
}

/// A queued body, or the rest of one.
#[derive(Debug)]
struct QueuedBody {
    first: FirstItem,
    started: bool,
    segments: VecDeque<Bytes>,
    left: usize,
}

impl QueuedBody {
    /// Removes up to `limit` bytes from the front.
    fn take_piece(&mut self, limit: usize) -> Vec<Bytes> {
        let mut wanted = limit.min(self.left);
        self.left -= wanted;
        let mut piece = Vec::with_capacity(self.segments.len());
        while wanted > 0 {
            let Some(segment) = self.segments.front_mut() else {
                break;
            };
            if segment.len() <= wanted {
                wanted -= segment.len();
                piece.extend(self.segments.pop_front());
            } else {
                piece.push(segment.slice(..wanted));
                segment.advance(wanted);
                wanted = 0;
            }
        }
        piece
    }
}

/// The large bodies of one key and the bodies queued behind them.
#[derive(Debug)]
struct KeyQueue {
    key: u64,
    bodies: VecDeque<QueuedBody>,
}

/// A queued small body: its segments are not split.
#[derive(Debug)]
struct SmallBody {
    first: FirstItem,
    segments: Vec<Bytes>,
    len: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct FrameScheduler {
    control: VecDeque<Part>,
    small: VecDeque<SmallBody>,
    /// The first [`MAX_OPEN_BODIES`] take turns.
    large: VecDeque<KeyQueue>,
    bytes: usize,
}

impl FrameScheduler {
    /// Queued bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues an item that is sent before everything else.
    pub(crate) fn push_control(&mut self, part: Part) {
        if self.control.len() >= MAX_CONTROL {
            // Only pings and pongs are queued here, and only the newest is of use.
            self.control.pop_front();
        }
        self.control.push_back(part);
    }

    /// Queues a body behind all others of the same `key`.
    pub(crate) fn push(&mut self, key: u64, first: FirstItem, segments: Vec<Bytes>) {
        let len: usize = segments.iter().map(Bytes::len).sum();
        self.bytes += len + OVERHEAD;
        let queue = self.large.iter_mut().find(|queue| queue.key == key);
        if queue.is_none() && len <= SMALL_BYTES {
            self.small.push_back(SmallBody { first, segments, len });
            return;
        }
        let body = QueuedBody {
            first,
            started: false,
            segments: segments.into(),
            left: len,
        };
        match queue {
            Some(queue) => queue.bodies.push_back(body),
            None => self.large.push_back(KeyQueue {
                key,
                bodies: VecDeque::from([body]),
            }),
        }
    }

    /// Removes queued bodies for whose id `wanted` returns `false`. A partly sent body stays until its turn and then ends
    /// with a drop item.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(u64) -> bool) {
        let mut freed = 0;
        self.small.retain(|small| {
            let keep = wanted(small.first.id());
            freed += if keep { 0 } else { small.len + OVERHEAD };
            keep
        });
        for queue in &mut self.large {
            queue.bodies.retain(|body| {
                let keep = body.started || wanted(body.first.id());
                freed += if keep { 0 } else { body.left + OVERHEAD };
                keep
            });
        }
        self.large.retain(|queue| !queue.bodies.is_empty());
        self.bytes -= freed;
    }

    /// Composes the next frame. `wanted` is called once for each body that starts and once for each further piece; a body
    /// for which it returns `false` is left out.
    pub(crate) fn next_frame(&mut self, mut wanted: impl FnMut(u64) -> bool) -> Option<Batch> {
        let mut batch: Batch = Vec::with_capacity(self.control.len() + self.small.len().min(1024) + 1);
        let mut len = 0;
        batch.extend(self.control.drain(..));
        let share = if self.large.is_empty() {
            FRAME_BYTES
        } else {
            FRAME_BYTES / 2
        };
        while len < share
            && let Some(small) = self.small.pop_front()
        {
            self.bytes -= small.len + OVERHEAD;
            if wanted(small.first.id()) {
                len += small.len + MAX_HEAD;
                batch.push(small.first.part(small.segments));
            }
        }
        while len < FRAME_BYTES && self.add_piece(&mut len, &mut batch, &mut wanted) {}
        (!batch.is_empty()).then_some(batch)
    }

    /// Adds one piece from the key whose turn it is; returns `false` when no large body is queued.
    fn add_piece(&mut self, len: &mut usize, batch: &mut Batch, wanted: &mut impl FnMut(u64) -> bool) -> bool {
        let Some(mut queue) = self.large.pop_front() else {
            return false;
        };
        if let Some(mut body) = queue.bodies.pop_front() {
            let id = body.first.id();
            if wanted(id) {
                let before = body.left;
                let piece = body.take_piece(PIECE_BYTES.min(FRAME_BYTES - *len));
                self.bytes -= before - body.left;
                *len += before - body.left + MAX_HEAD;
                batch.push(if body.started {
                    Part::more(id, piece)
                } else {
                    body.first.part(piece)
                });
                body.started = true;
                if body.left > 0 {
                    queue.bodies.push_front(body);
                } else {
                    self.bytes -= OVERHEAD;
                }
            } else {
                self.bytes -= body.left + OVERHEAD;
                if body.started {
                    batch.push(Part::dropped(id));
                }
            }
        }
        if !queue.bodies.is_empty() {
            let turns = self.large.len().min(MAX_OPEN_BODIES - 1);
            self.large.insert(turns, queue);
        }
        true
    }
}
