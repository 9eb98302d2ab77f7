//! Calls to an address whose node is not known: a joining node reaches its first member this way.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_consensus::transport::{Call, CallError};
use holdfast_model::NodeId;
use holdfast_proto::cluster::v1::Purpose;
use holdfast_tasks::Phase;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::call_queue::CallQueue;
use super::dial::dial;
use crate::peer::Standing;
use crate::peer::error_text;
use crate::peer::peer_table::{AnonymousCall, ByAddress, PeerTable};
use crate::peer::protocol::frame::{Item, Items};
use crate::peer::protocol::outcome;
use crate::peer::protocol::reassembly::Reassembler;
use crate::peer::transport::grpc::{self, exchange_frames};

/// Makes the queued calls until this node stops.
pub(crate) async fn run(table: Arc<PeerTable>, mut queued: mpsc::Receiver<ByAddress>) {
    loop {
        let next = tokio::select! {
            biased;
            () = table.stop.reached(Phase::Closing) => return,
            next = queued.recv() => next,
        };
        let Some(next) = next else {
            return;
        };
        let table = Arc::clone(&table);
        drop(holdfast_tasks::spawn("peer anonymous call", async move {
            let AnonymousCall { address, call, answer } = match next {
                ByAddress::Call(call) => call,
                ByAddress::Probe { address, answer } => {
                    // The caller may be gone.
                    drop(answer.send(probe(&table, &address).await));
                    return;
                }
            };
            let limit = call.timeout;
            let outcome = tokio::select! {
                biased;
                () = table.stop.reached(Phase::Closing) => Err(CallError::Unknown("this node is stopping".into())),
                outcome = timeout(limit, make_call(&table, &address, call)) => outcome.unwrap_or_else(|_| {
                    Err(CallError::Unknown(format!("{address} has not answered in time").into()))
                }),
            };
            // The caller may be gone.
            drop(answer.send(outcome));
        }));
    }
}

/// Asks the node at `address` whether it is a member of a cluster.
async fn probe(table: &PeerTable, address: &str) -> Standing {
    let dialing = dial(table, address, Purpose::Join, NodeId(0));
    match timeout(table.config.connect_timeout, dialing).await {
        Ok(Ok(_)) => Standing::Member,
        Ok(Err(not)) if not.without_cluster => Standing::WithoutCluster,
        Ok(Err(not)) => Standing::Silent(not.reason),
        Err(_) => Standing::Silent("no answer in time".into()),
    }
}

/// Opens a connection for one call.
async fn make_call(table: &PeerTable, address: &str, call: Call) -> Result<Bytes, CallError> {
    let dialing = dial(table, address, Purpose::Join, NodeId(0));
    let dialed = match timeout(table.config.connect_timeout, dialing).await {
        Ok(dialed) => dialed.map_err(|not| CallError::NotSent(not.into()))?,
        Err(_) => return Err(CallError::NotSent(format!("{address} does not answer").into())),
    };
    let node = dialed.answer.node;
    let queue = Arc::new(CallQueue::new(NodeId(node), table.config.queue.as_usize(), 1));
    let reply = queue.submit(call)?;
    let out = {
        let queue = Arc::clone(&queue);
        futures_util::stream::poll_fn(move |cx| queue.poll_frame(cx))
    };
    let lost = |reason: &str| CallError::Unknown(format!("{address}: {reason}").into());
    let mut frames = exchange_frames(&dialed.connection.sender, grpc::FRAMES, out)
        .await
        .map_err(|status| lost(&error_text::of_status(&status)))?;
    let reading = async {
        let mut reassembler = Reassembler::default();
        while let Some(frame) = frames.next().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(status) => return error_text::of_status(&status),
            };
            for item in Items::new(frame) {
                let done = match item {
                    Ok(Item::Answer(head, piece)) if piece.len() == head.total as usize => Some((head, piece)),
                    Ok(Item::Answer(head, piece)) => {
                        match reassembler.begin(head.id, Some(head), head.total as usize, &piece) {
                            Ok(()) => None,
                            Err(violation) => return violation.to_string(),
                        }
                    }
                    Ok(Item::More(id, piece)) => match reassembler.append(id, &piece) {
                        Ok(done) => done,
                        Err(violation) => return violation.to_string(),
                    },
                    Ok(_) => None,
                    Err(violation) => return violation.to_string(),
                };
                if let Some((head, body)) = done {
                    queue.complete(&mut vec![(head.id, outcome::decode(NodeId(node), head.outcome, body))]);
                }
            }
        }
        "it closed the connection".to_owned()
    };
    tokio::select! {
        biased;
        outcome = reply => outcome,
        reason = reading => Err(lost(&reason)),
    }
}
