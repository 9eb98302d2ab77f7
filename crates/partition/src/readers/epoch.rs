//! The epoch rule: which receivers may read a partition in a consumer group (Spec amqp §8.3).
//!
//! Why here: the rule belongs to a partition. Its owner applies it in memory for readers on all nodes (`cluster::route`);
//! receivers register again when the owner has changed.
//! Pure. Invariants: in one group either one reader with an epoch, or up to [`MAX_READERS_PER_GROUP`] without; an equal or
//! higher epoch takes over (the event processors of all SDKs use epoch 0 and rely on it).
//! Not here: notifying receivers and expiring silent ones (`cluster`); the wire forms of refusal and detach
//! (`service-api`); whether the group exists (`registry`).
//! Start at [`Table`].

mod table;

#[cfg(test)]
mod tests;

use holdfast_model::limits::MAX_READERS_PER_GROUP;

pub use table::{Granted, Receiver, ReceiverId, Refusal, Since, Stolen, Table};

const _: () = assert!(MAX_READERS_PER_GROUP > 0);
