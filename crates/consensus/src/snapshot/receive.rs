//! Receiving a snapshot: first into the state machine's sink, and into the machine only when it is complete.

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_model::NodeId;
use holdfast_storage::StorageError;
use holdfast_tasks::BlockingPool;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{Semaphore, oneshot};

use super::{Head, Mark, encode_answer};
use crate::ids::{Vote, log_id};
use crate::log::persisted;
use crate::metrics::GroupMetrics;
use crate::position::GroupId;
use crate::state_machine::applier::{Applier, SnapshotData};
use crate::state_machine::shared::SharedStateMachine;
use crate::state_machine::{SealedSnapshot, SnapshotSink};
use crate::transport::{CallError, Chunks};
use crate::type_config::{Snapshot, SnapshotMeta, Types};

/// Receives a group's snapshots, at most one at a time: the newest.
pub(crate) struct Receiver {
    group: GroupId,
    raft: Raft<Types, Applier>,
    machine: SharedStateMachine,
    pool: BlockingPool,
    metrics: GroupMetrics,
    turn: Semaphore,
    /// The receiver that has the turn or waits for it, with the vote of its sender.
    current: holdfast_tasks::sync::Mutex<Option<(Vote, oneshot::Sender<()>)>>,
}

impl Receiver {
    pub(crate) fn new(
        group: GroupId,
        raft: Raft<Types, Applier>,
        machine: SharedStateMachine,
        pool: BlockingPool,
        metrics: GroupMetrics,
    ) -> Self {
        Self {
            group,
            raft,
            machine,
            pool,
            metrics,
            turn: Semaphore::new(1),
            current: holdfast_tasks::sync::Mutex::default(),
        }
    }

    /// Ends the current one, unless a newer leader sends it. The returned receiver is closed when another one starts.
    fn enter(&self, vote: Vote) -> Result<oneshot::Receiver<()>, CallError> {
        let mut current = self.current.lock();
        if let Some((of, ended)) = &*current
            && !ended.is_closed()
            && *of > vote
        {
            return Err(refused("a newer leader sends a snapshot"));
        }
        let (end, ended) = oneshot::channel();
        *current = Some((vote, end));
        Ok(ended)
    }

    /// Receives the snapshot and answers with this node's vote.
    pub(crate) async fn receive(&self, from: NodeId, head: Head, chunks: Chunks) -> Result<Bytes, CallError> {
        if head.vote.leader_id.node_id != from {
            return Err(refused("a snapshot in the name of another node"));
        }
        let metrics = self.raft.metrics();
        let (vote, committed) = {
            let now = metrics.borrow_watched();
            (now.vote, now.local_committed)
        };
        if vote > head.vote {
            return Ok(encode_answer(&vote));
        }
        let last = log_id(head.position);
        if let Some(committed) = committed {
            if last <= committed {
                // This node has it already: the sender retries after a lost answer.
                return Ok(encode_answer(&head.vote));
            }
            if last.index <= committed.index {
                return Err(refused("a snapshot that contradicts what is committed here"));
            }
        }
        let membership = persisted::decode_stored_membership(&head.membership).map_err(refused)?;
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: membership,
        };
        let superseded = self.enter(head.vote)?;
        let whole = async {
            let _turn = self.turn.acquire().await.map_err(refused)?;
            let sealed = self.gather(chunks).await?;
            let snapshot = Snapshot {
                meta,
                snapshot: SnapshotData::Received(sealed),
            };
            let installed = self.raft.install_full_snapshot(head.vote, snapshot).await;
            installed.map_err(refused)
        };
        let received = tokio::select! {
            biased;
            received = whole => received,
            _ = superseded => Err(refused("another snapshot has come")),
        };
        self.metrics.snapshot_received(received.is_ok());
        match received {
            Ok(response) => {
                tracing::info!(group = %self.group, %from, at = %head.position, "snapshot installed");
                Ok(encode_answer(&response.vote))
            }
            Err(error) => {
                tracing::warn!(group = %self.group, %from, %error, "snapshot not installed; the sender will send it again");
                Err(error)
            }
        }
    }

    /// Writes the parts into a sink until the end mark.
    async fn gather(&self, mut chunks: Chunks) -> Result<SealedSnapshot, CallError> {
        let pool = self.pool;
        let machine = self.machine.clone();
        let mut sink = pool.run(move || machine.receive()).await.map_err(refused)?;
        let (mut parts, mut bytes) = (0_u64, 0_u64);
        let mut next = async || match chunks.next().await {
            Some(chunk) => chunk,
            None => Err(refused("the snapshot ended before its end mark")),
        };
        loop {
            let chunk = next().await?;
            match Mark::decode(&chunk).map_err(refused)? {
                Mark::Part { number, length, sum } => {
                    let part = next().await?;
                    if number != parts || part.len() != length as usize {
                        return Err(refused("a part of the snapshot does not match its mark"));
                    }
                    (parts, bytes) = (parts + 1, bytes + u64::from(length));
                    self.metrics.snapshot_bytes_received.increment(u64::from(length));
                    sink = pool
                        .run(move || write(sink, &chunk, sum, part))
                        .await
                        .map_err(refused)?;
                }
                Mark::End {
                    parts: all_parts,
                    bytes: all_bytes,
                } => {
                    if (all_parts, all_bytes) != (parts, bytes) {
                        return Err(refused("parts of the snapshot are missing"));
                    }
                    return pool.run(move || sink.seal()).await.map_err(refused);
                }
            }
        }
    }
}

fn refused(reason: impl std::fmt::Display) -> CallError {
    CallError::Refused(reason.to_string().into())
}

fn write(
    mut sink: Box<dyn SnapshotSink>,
    mark: &Bytes,
    sum: u32,
    part: Bytes,
) -> Result<Box<dyn SnapshotSink>, StorageError> {
    if !Mark::fits(mark, sum, &part) {
        return Err(StorageError::Damaged {
            file: "a part of a snapshot".to_owned(),
            offset: None,
            reason: "its checksum does not match".to_owned(),
        });
    }
    sink.write(part)?;
    Ok(sink)
}
