//! Backups of a hub: their form, how they are made from a hub that runs, checked, and restored into a new one
//! (docs/backup.md, decision 0055).
//!
//! Why a crate: the command line makes and restores backups, and so does a hub that has a schedule; neither the form nor the rules
//! of consistency may differ.
//! Invariants: a manifest is written last, and names only objects that are durable; an object is named by its SHA-256 and
//! never changed; nothing is restored that has not been checked as a member checks a snapshot; no secret leaves a backup in
//! clear, since none enters it so.
//! Not here: how a hub is reached (`holdfast`), the content of snapshots (`partition`, `registry`).
//! Start at [`create()`], [`verify()`] and [`restore()`].
#![warn(missing_docs)]

mod create;
mod direct;
mod error;
mod manifest;
mod object;
mod partition_run;
mod point;
mod prune;
mod read;
mod remote;
mod restore;
mod schedule;
mod storing;
mod target;
mod verify;

pub use create::{CreateOptions, Exported, HubFacts, HubSource, Progress, create, create_point};
pub use error::BackupError;
pub use manifest::{FORMAT, Manifest, ObjectRef, PartitionPart, Position, RegistryPart, Segment, find, latest, list};
pub use point::{RegistryPoint, at, latest_point, points};
pub use prune::{Keep, Pruned, prune};
pub use read::registry as registry_records;
pub use remote::{LOCK_EXPIRY, ObjectTarget};
pub use restore::{RestoreParts, RestoreProgress, restore};
pub use schedule::{InvalidSchedule, MIN_INTERVAL, Schedule};
pub use target::{Directory, Target, TargetError, Work};
pub use verify::{Verified, verify, verify_points};
