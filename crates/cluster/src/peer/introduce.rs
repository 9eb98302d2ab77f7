//! Calls to an address whose node is not known: how a node that wants to join reaches its first member.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_consensus::transport::{Call, CallError};
use holdfast_proto::cluster::v1::Purpose;
use holdfast_tasks::Phase;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::bodies::Bodies;
use super::dial::{dial, exchange, words};
use super::frame::{Item, Items};
use super::link::{self, Link};
use super::service;
use super::state::{Introduction, Shared};

/// Starts the calls as they come.
pub(crate) async fn run(shared: Arc<Shared>, mut wanted: mpsc::Receiver<Introduction>) {
    loop {
        let next = tokio::select! {
            biased;
            () = shared.stop.reached(Phase::Closing) => return,
            next = wanted.recv() => next,
        };
        let Some(next) = next else {
            return;
        };
        let shared = Arc::clone(&shared);
        drop(holdfast_tasks::spawn("peer introduction", async move {
            let Introduction { address, call, answer } = next;
            let patience = call.timeout;
            let outcome = tokio::select! {
                biased;
                () = shared.stop.reached(Phase::Closing) => Err(CallError::Unknown("this node is stopping".into())),
                outcome = timeout(patience, one(&shared, &address, call)) => outcome.unwrap_or_else(|_| {
                    Err(CallError::Unknown(format!("{address} has not answered in time").into()))
                }),
            };
            // Nobody may wait any more.
            drop(answer.send(outcome));
        }));
    }
}

/// One connection for one call.
async fn one(shared: &Shared, address: &str, call: Call) -> Result<Bytes, CallError> {
    let dialing = dial(shared, address, Purpose::Join, 0);
    let dialed = match timeout(shared.config.connect_timeout, dialing).await {
        Ok(dialed) => dialed.map_err(CallError::NotSent)?,
        Err(_) => return Err(CallError::NotSent(format!("{address} does not answer").into())),
    };
    let node = dialed.answer.node;
    let link = Arc::new(Link::new(node, shared.config.queue_bytes, 1));
    let waiting = link.submit(call)?;
    let out = {
        let link = Arc::clone(&link);
        futures_util::stream::poll_fn(move |cx| link.poll_batch(cx))
    };
    let lost = |why: &str| CallError::Unknown(format!("{address}: {why}").into());
    let mut frames = exchange(&dialed.opened.sender, service::FRAMES, out)
        .await
        .map_err(|status| lost(&words(&status)))?;
    let reading = async {
        let mut bodies = Bodies::default();
        while let Some(frame) = frames.next().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(status) => return words(&status),
            };
            for item in Items::new(frame) {
                let done = match item {
                    Ok(Item::Answer(head, piece)) if piece.len() == head.total as usize => Some((head, piece)),
                    Ok(Item::Answer(head, piece)) => {
                        match bodies.begin(head.id, Some(head), head.total as usize, &piece) {
                            Ok(()) => None,
                            Err(violation) => return violation.to_string(),
                        }
                    }
                    Ok(Item::More(id, piece)) => match bodies.more(id, &piece) {
                        Ok(done) => done,
                        Err(violation) => return violation.to_string(),
                    },
                    Ok(_) => None,
                    Err(violation) => return violation.to_string(),
                };
                if let Some((head, body)) = done {
                    let mut answers = vec![(head.id, link::outcome(node, head.outcome, body))];
                    link.answer(&mut answers);
                }
            }
        }
        "it closed the connection".to_owned()
    };
    tokio::select! {
        biased;
        outcome = waiting => outcome,
        why = reading => Err(lost(&why)),
    }
}
