//! Joins a node without data to a cluster: it asks any member, with a token that admits one node.
//!
//! Why before anything else runs: the data directory, the sealing of secrets and the registry's replica need the answer.
//! Invariants: a failed join changes nothing on this node; joining is idempotent (the token is bound to the node id that
//! used it first).
//! Not here: the check of the token (`registry`), adding the node to groups (`control`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::transport::{Answer, Call, CallError, Service};
use holdfast_model::{FEATURE_LEVEL, NodeId, PartitionCount};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer as Body;
use holdfast_proto::cluster::v1::control_request::Request;
use thiserror::Error;

use crate::control::messages;

/// Timeout of one member's answer: the registry's leader has to commit.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Backoff between two rounds over the addresses.
const RETRY_BACKOFF: Duration = Duration::from_millis(500);

/// Calls an address whose node is not known yet.
pub trait CallAddress: Send + Sync {
    /// Calls the node that listens at `address`, `host:port`.
    fn call_address(&self, address: &str, call: Call) -> Answer;
}

impl<F: Fn(&str, Call) -> Answer + Send + Sync> CallAddress for F {
    fn call_address(&self, address: &str, call: Call) -> Answer {
        self(address, call)
    }
}

/// The joining node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joiner {
    /// Its Raft id; must be that of its connections.
    pub id: NodeId,
    /// Its name; unique among the members.
    pub name: String,
    /// The address at which its peers will reach it, `host:port`.
    pub address: String,
    /// Its failure zone; empty = none.
    pub zone: String,
    /// The program version that it runs.
    pub version: String,
}

/// The answer to an admitted node, with what it needs to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAnswer {
    /// The cluster's id, for the data directory.
    pub cluster: String,
    /// The hub-wide data key, wrapped by the key-encryption key.
    pub wrapped_key: Bytes,
    /// The number of partitions of the hub.
    pub partitions: PartitionCount,
    /// Whether the token admits a gateway.
    pub gateway: bool,
    /// The members, this node included.
    pub members: Vec<JoinedMember>,
}

/// A member in the answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its Raft id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// The address at which it is reached.
    pub address: String,
}

/// Why a node did not join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// No address was given.
    #[error("no member's address is known: set cluster.join to the host:port of any member")]
    NoAddress,
    /// The cluster refuses the node; retrying will not help.
    #[error("{address} does not admit this node: {reason}")]
    Denied {
        /// The member that refused it.
        address: String,
        /// The reason, and what to do instead.
        reason: String,
    },
    /// No member has answered or could decide in time. A member may have admitted the node; joining again with the same data
    /// directory and token is safe.
    #[error("no member could admit this node within {waited_s} s; the last answers: {}", listed(.last))]
    NoAnswer {
        /// The time since the first attempt.
        waited_s: u64,
        /// Each address with its last answer or error.
        last: Vec<(String, Arc<str>)>,
        /// Whether any member may have been reached: then a cluster exists, and no other must be bootstrapped.
        reached: bool,
    },
    /// The answer is invalid.
    #[error("{address} gave an invalid answer")]
    Answer {
        /// The member that gave it.
        address: String,
        /// Its fault.
        #[source]
        source: InvalidAnswer,
    },
}

/// How the answer of a member is invalid.
#[derive(Debug, Error)]
pub enum InvalidAnswer {
    /// It answers something else.
    #[error("it belongs to another request")]
    OtherRequest,
    /// Its bytes are no answer.
    #[error("it cannot be decoded")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No hub has so many partitions.
    #[error("{0} partitions")]
    Partitions(u32),
    /// A field is empty.
    #[error("it names no cluster or holds no key")]
    Incomplete,
}

fn listed(last: &[(String, Arc<str>)]) -> String {
    let answers = last.iter().map(|(address, last)| format!("{address}: {last}"));
    answers.collect::<Vec<_>>().join("; ")
}

/// Asks the members at `addresses` in turn until one admits or refuses the node, for up to `timeout`.
///
/// # Errors
/// [`JoinError`]; each says what to do.
pub async fn join(
    peers: &dyn CallAddress,
    addresses: &[String],
    secret: &str,
    joiner: &Joiner,
    timeout: Duration,
) -> Result<JoinAnswer, JoinError> {
    if addresses.is_empty() {
        return Err(JoinError::NoAddress);
    }
    let body = messages::encode_request(Request::Join(proto::JoinRequest {
        secret: secret.trim().to_owned(),
        id: joiner.id.get(),
        name: joiner.name.clone(),
        address: joiner.address.clone(),
        zone: joiner.zone.clone(),
        version: joiner.version.clone(),
        feature_level: FEATURE_LEVEL,
    }));
    let started = tokio::time::Instant::now();
    let mut reached = false;
    let mut last: Vec<Arc<str>> = vec!["not asked".into(); addresses.len()];
    loop {
        for (address, last) in addresses.iter().zip(&mut last) {
            let call = Call {
                service: Service::Control,
                target: 0,
                body: vec![body.clone()],
                timeout: CALL_TIMEOUT,
            };
            match peers.call_address(address, call).await {
                Ok(answer) => match messages::decode_answer(answer) {
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
                    Ok(_) => return Err(bad_answer(address, InvalidAnswer::OtherRequest)),
                    Err(error) => return Err(bad_answer(address, InvalidAnswer::Malformed(error.into()))),
                },
                // The node may belong to another cluster or not trust the certificate; other addresses may be correct.
                Err(error) => {
                    reached |= !matches!(error, CallError::NotSent(_));
                    let (CallError::NotSent(reason) | CallError::Unknown(reason) | CallError::Refused(reason)) = error;
                    *last = reason;
                }
            }
        }
        if started.elapsed() + RETRY_BACKOFF >= timeout {
            return Err(JoinError::NoAnswer {
                waited_s: started.elapsed().as_secs(),
                last: addresses.iter().cloned().zip(last).collect(),
                reached,
            });
        }
        tokio::time::sleep(RETRY_BACKOFF).await;
    }
}

fn accepted(address: &str, answer: proto::JoinAnswer) -> Result<JoinAnswer, JoinError> {
    let partitions = u16::try_from(answer.partition_count).ok().and_then(PartitionCount::new);
    let Some(partitions) = partitions else {
        return Err(bad_answer(address, InvalidAnswer::Partitions(answer.partition_count)));
    };
    if answer.cluster.is_empty() || answer.wrapped_key.is_empty() {
        return Err(bad_answer(address, InvalidAnswer::Incomplete));
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
                id: NodeId(member.id),
                name: member.name,
                address: member.address,
            })
            .collect(),
    })
}

fn bad_answer(address: &str, source: InvalidAnswer) -> JoinError {
    JoinError::Answer {
        address: address.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
