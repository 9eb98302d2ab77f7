//! Giving the state of a group to a backup: the parts of a snapshot, to a reader that is no member.
//!
//! ```text
//! request  kind 9 │ scope 1 (0 none, 1 all, 2 after) │ index 8
//! head     version 1 │ the last entry of the state: term 8, node 8, index 8
//! parts    as those of a snapshot: mark, part, mark, part, …, end
//! ```
//!
//! Invariants: the state contains everything that was committed before the call; it is read at a low priority, so that devices
//! come first; one export at a time is given by a node; an export whose reader takes nothing for [`STALL`] ends, since it keeps
//! retention from deleting.
//! Not here: the content of a part (the state machine), the form of a backup.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use holdfast_model::{NodeId, Term};
use thiserror::Error;
use tokio::sync::mpsc;

use super::{Mark, send};
use crate::group::Group;
use crate::position::{GroupId, LogPosition};
use crate::state_machine::LogScope;
use crate::transport::{Call, CallError, Chunks, Service};
use crate::wire::{self, Cursor, Kind, WireError};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 25;

/// How long a reader may take for the next chunk.
const STALL: Duration = Duration::from_secs(120);
/// Chunks that are ready before the reader takes them.
const READY_CHUNKS: usize = 4;
/// How long another node may take to begin an export: it may wait for its turn and for what was committed.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The call by which another node gives an export of its replica of `group`.
#[must_use]
pub fn export_call(group: GroupId, log: LogScope) -> Call {
    let mut body = wire::request(Kind::Export, 16);
    let (scope, index) = match log {
        LogScope::None => (0, 0),
        LogScope::All => (1, 0),
        LogScope::After(index) => (2, index),
    };
    body.put_u8(scope);
    body.put_u64(index);
    Call {
        service: Service::Raft,
        target: group.0,
        body: vec![body.freeze()],
        timeout: BEGIN_TIMEOUT,
    }
}

pub(crate) fn decode_request(mut body: Cursor) -> Result<LogScope, WireError> {
    let (scope, index) = (body.u8()?, body.u64()?);
    Ok(match scope {
        0 => LogScope::None,
        1 => LogScope::All,
        2 => LogScope::After(index),
        _ => return Err(WireError::Invalid("an unknown scope of an export")),
    })
}

impl Group {
    /// The state of this node's replica, with everything that was committed before the call, as chunks for an
    /// [`ExportDecoder`]. Waits for its turn. Dropping it ends the export.
    #[must_use]
    pub fn export(&self, log: LogScope) -> Chunks {
        let (ready, chunks) = mpsc::channel(READY_CHUNKS);
        let group = self.clone();
        holdfast_tasks::spawn("export", async move {
            let mut whole = group.begin_export(log).await;
            while let Some(chunk) = whole.next().await {
                // The reader has gone, or has stalled: the views and the hold on the log end with this task.
                match tokio::time::timeout(STALL, ready.send(chunk)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => break,
                    Err(_) => {
                        tracing::warn!(group = %group.id(), "an export ends: its reader has taken nothing for {} s", STALL.as_secs());
                        break;
                    }
                }
            }
        });
        Box::pin(stream::unfold(chunks, |mut chunks| async move {
            Some((chunks.recv().await?, chunks))
        }))
    }

    async fn begin_export(&self, log: LogScope) -> Chunks {
        match self.open_export(log).await {
            Ok(chunks) => chunks,
            Err(error) => Box::pin(stream::iter([Err(error)])),
        }
    }

    async fn open_export(&self, log: LogScope) -> Result<Chunks, CallError> {
        let turn = self.exporting().acquire_owned().await;
        let turn = turn.map_err(|_| CallError::NotSent("the node stops".into()))?;
        let peers = self.peers();
        self.read_index()
            .await
            .map_err(|error| CallError::Refused(error.to_string().into()))?;
        let source = peers
            .machine
            .view(log)
            .await
            .map_err(|error| send::unreadable(peers, error))?;
        let position = source.position;
        tracing::info!(group = %self.id(), at = %position, "exporting the state");
        let parts = send::chunks(peers, source, peers.log.blocking_pool.background("export"));
        let whole = stream::iter([Ok(encode_head(position))]).chain(parts);
        // The turn ends with the stream.
        Ok(Box::pin(whole.map(move |chunk| {
            let _ = &turn;
            chunk
        })))
    }
}

fn encode_head(position: LogPosition) -> Bytes {
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    head.put_u8(VERSION);
    head.put_u64(position.term.get());
    head.put_u64(position.node.get());
    head.put_u64(position.index);
    head.freeze()
}

/// Why chunks are no export.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExportError {
    /// A node of another version sends it.
    #[error("the export has version {0}; this version of Holdfast knows {VERSION}")]
    Version(u8),
    /// It is not what was sent.
    #[error("the export is damaged: {0}")]
    Damaged(String),
    /// The stream has ended before the end mark.
    #[error("the export ended before its end: the node has stopped, or its disk failed; its log says which")]
    Cut,
}

/// What a chunk of an export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Export {
    /// The last entry that the state contains.
    Head(LogPosition),
    /// The next chunk of the state machine.
    Part(Bytes),
    /// All parts have come.
    End,
}

#[derive(Debug, Default)]
enum Expects {
    #[default]
    Head,
    Mark,
    Part {
        mark: Bytes,
        sum: u32,
        length: usize,
    },
    Nothing,
}

/// Checks the chunks of an export, one after the other.
#[derive(Debug, Default)]
pub struct ExportDecoder {
    expects: Expects,
    parts: u64,
    bytes: u64,
}

impl ExportDecoder {
    /// Takes the next chunk; `None`: it says what the next one is.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn take(&mut self, chunk: Bytes) -> Result<Option<Export>, ExportError> {
        let damaged = |reason: &dyn std::fmt::Display| ExportError::Damaged(reason.to_string());
        match std::mem::take(&mut self.expects) {
            Expects::Head => {
                let mut cursor = Cursor(chunk);
                let version = cursor.u8().map_err(|error| damaged(&error))?;
                if version != VERSION {
                    return Err(ExportError::Version(version));
                }
                let mut number = || cursor.u64().map_err(|error| damaged(&error));
                let position = LogPosition {
                    term: Term(number()?),
                    node: NodeId(number()?),
                    index: number()?,
                };
                self.expects = Expects::Mark;
                Ok(Some(Export::Head(position)))
            }
            Expects::Mark => match Mark::decode(&chunk).map_err(|error| damaged(&error))? {
                Mark::Part { number, length, sum } => {
                    if number != self.parts {
                        return Err(damaged(&"a part is missing, or is there twice"));
                    }
                    self.expects = Expects::Part {
                        mark: chunk,
                        sum,
                        length: length as usize,
                    };
                    Ok(None)
                }
                Mark::End { parts, bytes } if (parts, bytes) == (self.parts, self.bytes) => {
                    self.expects = Expects::Nothing;
                    Ok(Some(Export::End))
                }
                Mark::End { .. } => Err(damaged(&"parts of it are missing")),
            },
            Expects::Part { mark, sum, length } => {
                if chunk.len() != length || !Mark::fits(&mark, sum, &chunk) {
                    return Err(damaged(&"a part does not match its checksum"));
                }
                self.parts += 1;
                self.bytes += chunk.len() as u64;
                self.expects = Expects::Mark;
                Ok(Some(Export::Part(chunk)))
            }
            Expects::Nothing => Err(damaged(&"something comes after its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks() -> Vec<Bytes> {
        let position = LogPosition {
            term: Term(5),
            node: NodeId(3),
            index: 70,
        };
        let parts: [&'static [u8]; 2] = [b"first", b"second part"];
        let mut chunks = vec![encode_head(position)];
        for (number, part) in parts.into_iter().enumerate() {
            chunks.push(Mark::of_part(number as u64, part));
            chunks.push(Bytes::from_static(part));
        }
        chunks.push(Mark::of_end(2, 16));
        chunks
    }

    fn read(chunks: impl IntoIterator<Item = Bytes>) -> Result<Vec<Export>, ExportError> {
        let mut decoder = ExportDecoder::default();
        let taken: Result<Vec<_>, _> = chunks.into_iter().map(|chunk| decoder.take(chunk)).collect();
        Ok(taken?.into_iter().flatten().collect())
    }

    #[test]
    fn an_export_decodes_to_its_parts() {
        let read = read(chunks()).unwrap();
        assert!(matches!(read[0], Export::Head(position) if position.index == 70));
        assert_eq!(
            read[1..],
            [
                Export::Part(Bytes::from_static(b"first")),
                Export::Part(Bytes::from_static(b"second part")),
                Export::End
            ]
        );
    }

    #[test]
    fn a_chunk_that_is_missing_changed_or_too_many_is_seen() {
        for at in 0..chunks().len() - 1 {
            let mut without = chunks();
            without.remove(at);
            assert!(read(without).is_err(), "chunk {at} is missing");
        }
        for at in 1..chunks().len() {
            let mut changed = chunks();
            let mut bytes = changed[at].to_vec();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            changed[at] = bytes.into();
            assert!(read(changed).is_err(), "chunk {at} is changed");
        }
        let twice = chunks().into_iter().chain([Mark::of_end(2, 16)]);
        assert!(read(twice).is_err());
        assert_eq!(
            read([Bytes::from_static(&[9; 25])]),
            Err(ExportError::Version(9)),
            "a newer node"
        );
    }

    #[test]
    fn a_request_decodes_to_its_scope() {
        for scope in [LogScope::None, LogScope::All, LogScope::After(77)] {
            let call = export_call(GroupId(3), scope);
            let (kind, body) = wire::decode(call.body[0].clone()).unwrap();
            assert_eq!((kind, decode_request(body)), (Kind::Export, Ok(scope)));
        }
    }
}
