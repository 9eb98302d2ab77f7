//! What waits to be sent to one node, and which of it the next frame takes. Pure.
//!
//! Why lanes: a heartbeat must not wait behind megabytes. Small bodies leave first; large ones go in pieces, a few at a
//! time and in turn, and always get a share of a frame. Bodies with the same key (a service and its target) keep their
//! order: a small one waits behind a large one of its own key, and of no other.
//! Invariants: [`Lanes::bytes`] counts everything that waits; at most [`MAX_OPEN_BODIES`] bodies are begun and not
//! finished.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::codec::Batch;
use super::frame::{AnswerHead, CallHead, MAX_HEAD, Part};

/// Bodies that are begun and not finished, at most: the other side keeps memory for so many.
pub(crate) const MAX_OPEN_BODIES: usize = 8;

/// What a frame is filled up to.
pub(crate) const FRAME_BYTES: usize = 256 << 10;

/// Bodies up to this size leave in one piece, before larger ones.
pub(crate) const SMALL_BYTES: usize = 64 << 10;

/// How much of a large body goes into a frame in one turn.
const PIECE_BYTES: usize = 64 << 10;

/// Items without a body that wait, at most.
const MAX_CONTROL: usize = 16;

/// What every waiting body counts besides its bytes.
const OVERHEAD: usize = 64;

/// The first item of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begin {
    Call(CallHead),
    Answer(AnswerHead),
}

impl Begin {
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

/// A body that waits, or the rest of one.
#[derive(Debug)]
struct Waiting {
    begin: Begin,
    begun: bool,
    segments: VecDeque<Bytes>,
    left: usize,
}

impl Waiting {
    /// Takes up to `room` bytes off its front.
    fn piece(&mut self, room: usize) -> Vec<Bytes> {
        let mut room = room.min(self.left);
        self.left -= room;
        let mut piece = Vec::with_capacity(self.segments.len());
        while room > 0 {
            let Some(segment) = self.segments.front_mut() else {
                break;
            };
            if segment.len() <= room {
                room -= segment.len();
                piece.extend(self.segments.pop_front());
            } else {
                piece.push(segment.slice(..room));
                segment.advance(room);
                room = 0;
            }
        }
        piece
    }
}

/// Large bodies of one key, and what must follow them.
#[derive(Debug)]
struct Lane {
    key: u64,
    waiting: VecDeque<Waiting>,
}

/// A small body that waits: its segments stay as they came.
#[derive(Debug)]
struct Small {
    begin: Begin,
    segments: Vec<Bytes>,
    len: usize,
}

/// What waits to be sent to one node.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    control: VecDeque<Part>,
    small: VecDeque<Small>,
    /// The first [`MAX_OPEN_BODIES`] of them take turns.
    large: VecDeque<Lane>,
    bytes: usize,
}

impl Lanes {
    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Leaves before everything else.
    pub(crate) fn push_control(&mut self, part: Part) {
        if self.control.len() >= MAX_CONTROL {
            // Only pings and their answers come here, and only the newest tells anything.
            self.control.pop_front();
        }
        self.control.push_back(part);
    }

    /// Leaves after what has the same `key`, and soon.
    pub(crate) fn push(&mut self, key: u64, begin: Begin, segments: Vec<Bytes>) {
        let len: usize = segments.iter().map(Bytes::len).sum();
        self.bytes += len + OVERHEAD;
        let lane = self.large.iter_mut().find(|lane| lane.key == key);
        if lane.is_none() && len <= SMALL_BYTES {
            self.small.push_back(Small { begin, segments, len });
            return;
        }
        let waiting = Waiting {
            begin,
            begun: false,
            segments: segments.into(),
            left: len,
        };
        match lane {
            Some(lane) => lane.waiting.push_back(waiting),
            None => self.large.push_back(Lane {
                key,
                waiting: VecDeque::from([waiting]),
            }),
        }
    }

    /// Takes what waits and is not wanted any more; `wanted` is asked by id. A body that is begun stays until its turn,
    /// when it ends with a drop.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(u64) -> bool) {
        let mut freed = 0;
        self.small.retain(|small| {
            let keep = wanted(small.begin.id());
            freed += if keep { 0 } else { small.len + OVERHEAD };
            keep
        });
        for lane in &mut self.large {
            lane.waiting.retain(|waiting| {
                let keep = waiting.begun || wanted(waiting.begin.id());
                freed += if keep { 0 } else { waiting.left + OVERHEAD };
                keep
            });
        }
        self.large.retain(|lane| !lane.waiting.is_empty());
        self.bytes -= freed;
    }

    /// The next frame. `wanted` is asked once for every body that begins, and once for every further piece; what is not
    /// wanted is left out.
    pub(crate) fn fill(&mut self, mut wanted: impl FnMut(u64) -> bool) -> Option<Batch> {
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
            if wanted(small.begin.id()) {
                len += small.len + MAX_HEAD;
                batch.push(small.begin.part(small.segments));
            }
        }
        while len < FRAME_BYTES && self.turn(&mut len, &mut batch, &mut wanted) {}
        (!batch.is_empty()).then_some(batch)
    }

    /// One piece of the lane whose turn it is; `false` when there is none.
    fn turn(&mut self, len: &mut usize, batch: &mut Batch, wanted: &mut impl FnMut(u64) -> bool) -> bool {
        let Some(mut lane) = self.large.pop_front() else {
            return false;
        };
        if let Some(mut waiting) = lane.waiting.pop_front() {
            let id = waiting.begin.id();
            if wanted(id) {
                let before = waiting.left;
                let piece = waiting.piece(PIECE_BYTES.min(FRAME_BYTES - *len));
                self.bytes -= before - waiting.left;
                *len += before - waiting.left + MAX_HEAD;
                batch.push(if waiting.begun {
                    Part::more(id, piece)
                } else {
                    waiting.begin.part(piece)
                });
                waiting.begun = true;
                if waiting.left > 0 {
                    lane.waiting.push_front(waiting);
                } else {
                    self.bytes -= OVERHEAD;
                }
            } else {
                self.bytes -= waiting.left + OVERHEAD;
                if waiting.begun {
                    batch.push(Part::dropped(id));
                }
            }
        }
        if !lane.waiting.is_empty() {
            let turns = self.large.len().min(MAX_OPEN_BODIES - 1);
            self.large.insert(turns, lane);
        }
        true
    }
}
