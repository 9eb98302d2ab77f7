//! Sending a snapshot of this node's state to a replica.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use holdfast_storage::StorageError;
use holdfast_tasks::BackgroundThread;

use super::{Head, Mark, decode_answer};
use crate::ids::Vote;
use crate::network::{Peer, Peers};
use crate::state_machine::{LogScope, SnapshotSource};
use crate::transport::{CallError, Chunks, MAX_CHUNK_BYTES};

/// Waits for its turn, sends the state as it is then, and returns the receiver's vote once the snapshot is installed there.
pub(crate) async fn send(peer: &Peer, vote: &Vote, timeout: Duration) -> Result<Vote, CallError> {
    let peers = &peer.peers;
    // Further ones wait: a node that comes back needs one of each group at once.
    let _turn = peers
        .sending
        .acquire()
        .await
        .map_err(|_| CallError::NotSent("the node stops".into()))?;
    let source = peers
        .machine
        .view(LogScope::All)
        .await
        .map_err(|error| unreadable(peers, error))?;
    let (position, membership) = (source.position, source.membership.clone());
    let group = peers.log.group;
    tracing::info!(%group, to = %peer.node, at = %position, "sending a snapshot");
    let head = Head {
        vote: *vote,
        position,
        membership,
    };
    let call = peers.to_call(vec![head.encode()], timeout);
    let answer = peers
        .transport
        .upload(peer.node, call, chunks(peers, source, None))
        .await;
    peers.metrics.snapshot_sent(answer.is_ok());
    match answer {
        Ok(answer) => {
            tracing::info!(%group, to = %peer.node, at = %position, "snapshot sent and installed");
            decode_answer(answer).map_err(|error| CallError::Unknown(error.to_string().into()))
        }
        Err(error) => {
            tracing::warn!(%group, to = %peer.node, %error, "snapshot not installed by the receiver; sending it again");
            Err(error)
        }
    }
}

/// Damage found here stops the node, as it does in every read.
pub(crate) fn unreadable(peers: &Peers, error: StorageError) -> CallError {
    let error = match error {
        error @ (StorageError::Unsupported(_) | StorageError::Stopped(_)) => error,
        error => peers.log.fatal(error),
    };
    CallError::NotSent(format!("the state cannot be read: {error}").into())
}

/// Progress of [`chunks`].
struct Sending {
    source: Option<SnapshotSource>,
    /// Where it is read; `None`: on the blocking pool.
    thread: Option<BackgroundThread>,
    /// Read and not yet pulled.
    ready: VecDeque<Bytes>,
    parts: u64,
    bytes: u64,
}

/// The parts as chunks, read as they are pulled: on `thread`, or on the blocking pool.
pub(crate) fn chunks(peers: &Peers, source: SnapshotSource, thread: Option<BackgroundThread>) -> Chunks {
    let peers = peers.clone();
    let sending = Sending {
        source: Some(source),
        thread,
        ready: VecDeque::new(),
        parts: 0,
        bytes: 0,
    };
    Box::pin(stream::unfold((peers, sending), |(peers, mut sending)| async move {
        if let Some(chunk) = sending.ready.pop_front() {
            return Some((Ok(chunk), (peers, sending)));
        }
        let mut source = sending.source.take()?;
        let number = sending.parts;
        let read = move || {
            let part = (source.next_chunk)().map(|part| part.map(|part| (Mark::of_part(number, &part), part)));
            (source, part)
        };
        let (source, part) = match &mut sending.thread {
            Some(thread) => thread.run(read).await,
            None => peers.log.blocking_pool.run(read).await,
        };
        let chunk = match part {
            Ok(Some((_, part))) if part.len() > MAX_CHUNK_BYTES => {
                Err(CallError::NotSent("a part of the state is larger than a chunk".into()))
            }
            Ok(Some((mark, part))) => {
                sending.parts += 1;
                sending.bytes += part.len() as u64;
                peers.metrics.snapshot_bytes_sent.increment(part.len() as u64);
                sending.ready.push_back(part);
                sending.source = Some(source);
                Ok(mark)
            }
            Ok(None) => Ok(Mark::of_end(sending.parts, sending.bytes)),
            Err(error) => Err(unreadable(&peers, error)),
        };
        Some((chunk, (peers, sending)))
    }))
}
