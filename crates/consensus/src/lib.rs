//! Raft groups: an ordered log of opaque entries, committed by a quorum and synced, applied by a state machine.
//!
//! Why: registry and partitions need the same guarantee (acknowledged entries stay, in order) and should not each know
//! the consensus library's API. Nothing outside this crate names openraft, whose alpha is pinned exactly
//! (docs/decisions/0002).
//! Invariants: a commit is reported only after the entry is synced here and by a quorum; stored bytes are our own
//! formats, never the library's; a group's tasks stay on the runtime that started it.
//! Not here: the meaning of entries; the placement of replicas; the transport between nodes ([`transport`] is a
//! parameter, [`sim`] the one for tests).
//! Start at [`Group`] and [`StateMachine`].
#![warn(missing_docs)]

mod config;
mod error;
mod group;
mod groups;
mod ids;
mod log;
mod metrics;
mod network;
mod position;
mod proposal;
mod runtime;
pub mod sim;
mod snapshot;
mod state_machine;
mod status;
pub mod transport;
mod type_config;
mod wire;

pub use config::{ConfigError, ConsensusConfig};
pub use error::{ChangeError, ProposeError, ReadError, StartError, TransferError};
pub use group::{Group, GroupHost, LeaseGrant, ProposalPermit};
pub use groups::Groups;
pub use log::group_data::has_data;
pub use log::reader::LogReader;
pub use log::snapshot_log::{StoredEntry, set_purge_watermarks, set_vote_of, sole_membership};
pub use metrics::METRICS;
pub use position::{GroupId, LogPosition};
pub use proposal::OnCommit;
pub use runtime::jitter;
pub use snapshot::export::{Export, ExportDecoder, ExportError, export_call};
pub use state_machine::{LogScope, Restored, SealedSnapshot, SnapshotSink, SnapshotSource, StateMachine};
pub use status::{GroupStatus, GroupStopped, GroupWatch, Leader, Members, Role};
