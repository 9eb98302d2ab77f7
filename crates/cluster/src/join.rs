//! How a node without data becomes a member: it asks any member, with a token that is good for one node.
//!
//! Why before anything else runs: the data directory, the sealing of secrets and the registry's replica need what the
//! answer tells.
//! Invariants: nothing of this node has been changed when joining fails; asking twice is as good as once (the token is
//! tied to the node id that first used it).
//! Not here: what admits (`registry`), how the registry's leader then adds the node (`control`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::transport::{Answer, Call, CallError, Service};
use holdfast_model::PartitionCount;
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer as Body;
use holdfast_proto::cluster::v1::control_request::Request;
use thiserror::Error;

use crate::control::wire;

/// How long one member may take to answer: the registry's leader has to commit.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds through the addresses.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Calls an address whose node is not known yet: how a node finds its first member.
pub trait CallAddress: Send + Sync {
    /// Calls whoever listens at `address`, `host:port`.
    fn call_address(&self, address: &str, call: Call) -> Answer;
}

impl<F: Fn(&str, Call) -> Answer + Send + Sync> CallAddress for F {
    fn call_address(&self, address: &str, call: Call) -> Answer {
        self(address, call)
    }
}

/// The node that wants to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joiner {
    /// Its Raft id; must be the one that its connections say.
    pub id: u64,
    /// For people; unique among the members.
    pub name: String,
    /// Where its peers will reach it, `host:port`.
    pub address: String,
    /// Its failure zone; empty = none.
    pub zone: String,
    /// The program version that it runs.
    pub version: String,
}

/// What a node that has been admitted needs to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAnswer {
    /// The cluster's id, for the data directory.
    pub cluster: String,
    /// The hub-wide data key, wrapped by the key-encryption key.
    pub wrapped_key: Bytes,
    /// How many partitions the hub has.
    pub partitions: PartitionCount,
    /// Whether the token was one for a gateway.
    pub gateway: bool,
    /// The members, this node included.
    pub members: Vec<JoinedMember>,
}

/// A member as the answer to a join names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its Raft id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
}

/// Why a node did not join.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JoinError {
    /// No address was given.
    #[error("no member's address is known: set cluster.join to the host:port of any member")]
    NoAddress,
    /// The cluster does not want it; trying again will not help.
    #[error("{address} does not admit this node: {reason}")]
    Denied {
        /// Who said so.
        address: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// Nobody answered, or nobody could decide, in time. A member may have admitted it all the same; asking again with the
    /// same data directory and token is right.
    #[error("no member could admit this node within {waited_s} s; the last answers: {last}")]
    NoAnswer {
        /// How long it was tried.
        waited_s: u64,
        /// What each address said last.
        last: String,
        /// Whether any of them may have been reached: then there is a cluster, and nobody may found another.
        reached: bool,
    },
    /// The answer makes no sense.
    #[error("{address} gave an answer that cannot be used: {reason}")]
    Answer {
        /// Who gave it.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Asks the members at `addresses`, one after the other and again, until one admits the node or says why not.
///
/// # Errors
/// [`JoinError`]; each says what to do.
pub async fn join(
    peers: &dyn CallAddress,
    addresses: &[String],
    secret: &str,
    joiner: &Joiner,
    patience: Duration,
) -> Result<JoinAnswer, JoinError> {
    if addresses.is_empty() {
        return Err(JoinError::NoAddress);
    }
    let body = wire::request(Request::Join(proto::JoinRequest {
        secret: secret.trim().to_owned(),
        id: joiner.id,
        name: joiner.name.clone(),
        address: joiner.address.clone(),
        zone: joiner.zone.clone(),
        version: joiner.version.clone(),
    }));
    let begun = tokio::time::Instant::now();
    let mut reached = false;
    let mut last: Vec<Arc<str>> = vec!["not asked".into(); addresses.len()];
    loop {
        for (address, last) in addresses.iter().zip(&mut last) {
            let call = Call {
                service: Service::Control,
                target: 0,
                body: vec![body.clone()],
                timeout: CALL_PATIENCE,
            };
            match peers.call_address(address, call).await {
                Ok(answer) => match wire::answer(answer) {
                    Ok(Body::Join(answer)) => return accepted(address, answer),
                    Ok(Body::Refusal(refusal)) if refusal.kind() == proto::control_refusal::Kind::NotNow => {
                        reached = true;
                        *last = refusal.text.into();
                    }
                    Ok(Body::Refusal(refusal)) => {
                        return Err(JoinError::Denied {
                            address: address.clone(),
                            reason: refusal.text,
                        });
                    }
                    Ok(_) => return Err(bad_answer(address, "it is the answer to something else")),
                    Err(error) => return Err(bad_answer(address, error)),
                },
                // A member of another cluster, or one that does not trust the certificate, says so; it may be the only
                // wrong address of several.
                Err(error) => {
                    reached |= !matches!(error, CallError::NotSent(_));
                    let (CallError::NotSent(reason) | CallError::Unknown(reason) | CallError::Refused(reason)) = error;
                    *last = reason;
                }
            }
        }
        if begun.elapsed() + RETRY_EVERY >= patience {
            let answers = addresses
                .iter()
                .zip(&last)
                .map(|(address, last)| format!("{address}: {last}"));
            return Err(JoinError::NoAnswer {
                waited_s: begun.elapsed().as_secs(),
                last: answers.collect::<Vec<_>>().join("; "),
                reached,
            });
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

fn accepted(address: &str, answer: proto::JoinAnswer) -> Result<JoinAnswer, JoinError> {
    let partitions = u16::try_from(answer.partition_count).ok().and_then(PartitionCount::new);
    let Some(partitions) = partitions else {
        return Err(bad_answer(address, format!("{} partitions", answer.partition_count)));
    };
    if answer.cluster.is_empty() || answer.wrapped_key.is_empty() {
        return Err(bad_answer(address, "it names no cluster or holds no key"));
    }
    Ok(JoinAnswer {
        cluster: answer.cluster,
        wrapped_key: answer.wrapped_key,
        partitions,
        gateway: answer.gateway,
        members: answer
            .members
            .into_iter()
            .map(|member| JoinedMember {
                id: member.id,
                name: member.name,
                address: member.address,
            })
            .collect(),
    })
}

fn bad_answer(address: &str, reason: impl Into<String>) -> JoinError {
    JoinError::Answer {
        address: address.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
