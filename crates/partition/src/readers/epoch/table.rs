//! The epoch rule as data.

use std::collections::BTreeMap;
use std::fmt;

use holdfast_model::limits::MAX_READERS_PER_GROUP;
use holdfast_model::{NodeId, Term};
use thiserror::Error;

/// A receiver that wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Its link's name, or the client's name for it; for messages only.
    pub name: String,
    /// `com.microsoft:epoch`.
    pub epoch: Option<i64>,
}

/// A registered receiver of this partition; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiverId(u64);

/// When a receiver was first admitted, ordered across owners of the partition: of two receivers that return with the same
/// epoch after a change of owner, the later one stays. Two nodes may lead in the same term one after the other, and both
/// count from one: the node with the greater id led later (docs/decisions/0002).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Since {
    /// The owner's term.
    pub term: Term,
    /// The owner.
    pub node: NodeId,
    /// Counts the receivers that this owner admitted during the term.
    pub count: u64,
}

/// A receiver was admitted.
#[derive(Debug, PartialEq, Eq)]
pub struct Granted {
    /// The new receiver.
    pub id: ReceiverId,
    /// To be presented when it returns after a change of owner.
    pub since: Since,
    /// The receivers that it replaces; they are no longer registered.
    pub stolen: Vec<(ReceiverId, Stolen)>,
}

/// Why a receiver is detached. `Display` is the text of the detach, without the tracking id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stolen {
    /// The new receiver.
    pub by: Receiver,
    /// The detached receiver.
    pub from: Receiver,
}

impl fmt::Display for Stolen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, from) = (&self.by, &self.from);
        write!(
            f,
            "New receiver '{}' with higher epoch of '{}' is created hence current receiver '{}' with epoch '{}' is \
             getting disconnected. If you are recreating the receiver, make sure a higher epoch is used.",
            by.name,
            by.epoch.unwrap_or_default(),
            from.name,
            from.epoch.unwrap_or_default(),
        )
    }
}

/// Why a receiver is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// `amqp:link:stolen`: a receiver with a higher epoch reads, or one with any epoch and the new one has none.
    ///
    /// The text is that of Event Hubs, on which programs match (docs/spec/amqp.md §8.3).
    #[error("{}", epoch_too_low(.name, *.epoch, .owner, *.current))]
    EpochTooLow {
        /// The refused receiver.
        name: String,
        /// Its epoch.
        epoch: Option<i64>,
        /// The receiver that reads.
        owner: String,
        /// Its epoch.
        current: i64,
    },
    /// `amqp:resource-limit-exceeded`.
    #[error(
        "Exceeded the maximum number of allowed receivers per partition in a consumer group, which is {MAX_READERS_PER_GROUP}"
    )]
    TooMany,
}

fn epoch_too_low(name: &str, epoch: Option<i64>, owner: &str, current: i64) -> String {
    match epoch {
        None => format!(
            "At least one receiver for the endpoint is created with epoch of '{current}', and so non-epoch receiver is \
             not allowed. Either reconnect with a higher epoch, or make sure all epoch receivers are closed or disconnected."
        ),
        Some(epoch) => format!(
            "Receiver '{owner}' with a higher epoch '{current}' already exists. Receiver '{name}' with epoch {epoch} \
             cannot be created. Make sure you are creating receiver with increasing epoch value to ensure connectivity, \
             or ensure all old epoch receivers are closed or disconnected."
        ),
    }
}

/// All receivers of a partition, by consumer group; names of groups are compared without case.
#[derive(Debug, Default)]
pub struct Table {
    groups: BTreeMap<String, Vec<Member>>,
    term: Term,
    node: NodeId,
    last_id: u64,
}

#[derive(Debug)]
struct Member {
    id: ReceiverId,
    receiver: Receiver,
    since: Since,
}

impl Table {
    /// An empty table of the owner `node`, which leads in `term`.
    #[must_use]
    pub fn of(term: Term, node: NodeId) -> Self {
        Self {
            term,
            node,
            ..Self::default()
        }
    }

    /// Decides about a new receiver.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed.
    pub fn register(&mut self, group: &str, receiver: Receiver) -> Result<Granted, Refusal> {
        let since = Since {
            term: self.term,
            node: self.node,
            count: self.last_id + 1,
        };
        self.enter(group, receiver, since)
    }

    /// Decides about a receiver that an earlier owner had admitted: as about a new one, except that a receiver with the
    /// same epoch that was admitted later stays.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed.
    pub fn returning(&mut self, group: &str, receiver: Receiver, since: Since) -> Result<Granted, Refusal> {
        self.enter(group, receiver, since)
    }

    fn enter(&mut self, group: &str, receiver: Receiver, since: Since) -> Result<Granted, Refusal> {
        let group = group.to_ascii_lowercase();
        let present = self.groups.get(&group).map_or(&[][..], Vec::as_slice);
        let owner = present
            .first()
            .and_then(|owner| owner.receiver.epoch.map(|epoch| (owner, epoch)));
        if let Some((owner, current)) = owner
            && receiver
                .epoch
                .is_none_or(|epoch| (epoch, since) < (current, owner.since))
        {
            let owner = &owner.receiver;
            let (name, epoch, owner) = (receiver.name, receiver.epoch, owner.name.clone());
            return Err(Refusal::EpochTooLow {
                name,
                epoch,
                owner,
                current,
            });
        }
        if receiver.epoch.is_none() && present.len() >= MAX_READERS_PER_GROUP {
            return Err(Refusal::TooMany);
        }
        self.last_id += 1;
        let id = ReceiverId(self.last_id);
        let members = self.groups.entry(group).or_default();
        let stolen = if receiver.epoch.is_some() {
            std::mem::take(members)
        } else {
            Vec::new()
        };
        members.push(Member {
            id,
            receiver: receiver.clone(),
            since,
        });
        let stolen = stolen
            .into_iter()
            .map(|old| {
                (
                    old.id,
                    Stolen {
                        by: receiver.clone(),
                        from: old.receiver,
                    },
                )
            })
            .collect();
        Ok(Granted { id, since, stolen })
    }

    /// Removes all receivers; the counter keeps its value.
    pub fn clear(&mut self) {
        self.groups.clear();
    }

    /// Removes a receiver; does nothing for one that was replaced.
    pub fn unregister(&mut self, id: ReceiverId) {
        self.groups.retain(|_, members| {
            members.retain(|member| member.id != id);
            !members.is_empty()
        });
    }

    /// Receivers of a group.
    #[must_use]
    pub fn readers(&self, group: &str) -> usize {
        self.groups.get(&group.to_ascii_lowercase()).map_or(0, Vec::len)
    }
}
