//! One log entry in bytes: a batch of telemetry records and commands as protobuf, written and read without a copy of its
//! own.
//!
//! Why by hand: the generated code would allocate for every string of every message. The form is exactly that of
//! `proto/holdfast/partition/v1`, so any protobuf reader understands a stored entry.
//! Invariants: a header of [`HEADER_BYTES`] comes first, has fixed width and is patched when the batch is closed; records
//! are appended straight into one buffer; no input panics; a view borrows everything and checks all that it hands out.
//! Not here: sequence numbers (given in `state`, never stored with a record) and checksums (the log store has them).
//! Start at [`BatchWriter`], then [`EntryView`].

use holdfast_model::{Incarnation, NodeId};

mod command;
mod entry;
mod fields;
mod retain;
mod view;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use command::{DeviceStateChange, DeviceStateKey, DeviceStateKind, Effect, Leadership, PartitionCommand};
pub use entry::{EntryError, EntryHeader, EntryView, Records};
pub use retain::retain_records;
pub use view::{Properties, PropertyValueView, PropertyView, RecordView};
pub use wire::Corrupt;
pub use writer::{BatchHeader, BatchWriter, HubEvent, Origin, PushError};

/// The version of an entry that carries telemetry alone.
pub const TELEMETRY_VERSION: u32 = 1;
/// The version of an entry that carries effects as well; the newest that this version of Holdfast knows.
pub const COMMAND_VERSION: u32 = 2;
/// Bytes of the fixed-width header at the start of an entry.
pub const HEADER_BYTES: usize = 51;
/// The largest record, in bytes: its length is written in three varint bytes, before it is known.
pub const MAX_RECORD_BYTES: usize = (1 << 21) - 1;
/// The largest entry, in bytes; a batch that would grow beyond it is full.
pub const MAX_ENTRY_BYTES: usize = 4 << 20;
/// The largest value of device state, in bytes: it fits a chunk of a snapshot.
pub const MAX_DEVICE_STATE_BYTES: usize = 512 << 10;
/// The longest item of a key of device state, in bytes.
pub const MAX_ITEM_BYTES: usize = 255;
/// The longest id in a key of device state, in bytes.
const MAX_KEY_TEXT_BYTES: usize = 1024;

/// The origin of batches: each stream numbers its batches from 1 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The Raft node id of the gateway.
    pub gateway_node: NodeId,
    /// Grows with every start of that gateway.
    pub incarnation: Incarnation,
    /// The gateway's core, from 0.
    pub core: u32,
}
