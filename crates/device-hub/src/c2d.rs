//! Cloud-to-device messages: a durable queue per device, delivered to its session, with feedback for the sender.
//!
//! Why device state: a message that a back end has been promised must survive every node; the owner decides each change of a
//! queue, and the log records it (docs/decisions/0036). `queue`, `message` and `feedback` are the rules, without I/O; `change`
//! applies them at the owner; `deliver` sends a queue to the device's session; `index` and `maintain` are what the owner
//! remembers of all queues: due times, locks, and feedback that waits; `requests` gives messages to devices without a session; `api` is the way to the owner from any node.
//! Not here: topics (`gateway`), AMQP and REST (`service-api`).

pub(crate) mod api;
pub(crate) mod change;
pub(crate) mod codec;
pub(crate) mod deliver;
pub(crate) mod feedback;
pub(crate) mod feedback_source;
pub(crate) mod index;
pub(crate) mod maintain;
pub(crate) mod message;
pub(crate) mod queue;
pub(crate) mod requests;
