//! A partition while it is read: its facts, and the objects in which it is stored.
//!
//! Invariants: segments are named in the order of the log, without holes.
//! Not here: reading and storing (`create`, `storing`).

use bytes::Bytes;
use holdfast_consensus::{GroupId, LogPosition};
use holdfast_model::PartitionId;
use holdfast_partition::PartitionConfig;
use holdfast_partition::backup::{EntryCutter, head_facts};

use crate::error::BackupError;
use crate::manifest::{ObjectRef, PartitionPart, Segment, UnderWay};
use crate::object::{Kind, ObjectWriter};
use crate::storing::Place;

/// Takes the names of objects that are durable.
pub(crate) trait Names {
    /// Takes the next name of `place`.
    fn name(&mut self, place: Place, object: ObjectRef);

    /// Where an interrupted backup can continue within the group.
    fn under_way(&self) -> Option<UnderWay>;
}

/// The objects of the registry, which is read anew.
impl Names for Vec<ObjectRef> {
    fn name(&mut self, _: Place, object: ObjectRef) {
        self.push(object);
    }

    fn under_way(&self) -> Option<UnderWay> {
        None
    }
}

impl Names for PartitionRun {
    fn name(&mut self, place: Place, object: ObjectRef) {
        let Some(part) = &mut self.part else {
            return;
        };
        match place {
            Place::State => part.state = object,
            Place::DeviceStates => part.device_state_objects.push(object),
            Place::Log { first, last } => self.segments.push(Segment { first, last, object }),
            // Not of a partition.
            Place::Registry => {}
        }
    }

    fn under_way(&self) -> Option<UnderWay> {
        Some(UnderWay {
            partition: self.partition.0,
            segments: self.segments.clone(),
        })
    }
}

/// A partition being read.
pub(crate) struct PartitionRun {
    pub(crate) partition: PartitionId,
    pub(crate) position: LogPosition,
    /// There once the head has come.
    pub(crate) part: Option<PartitionPart>,
    pub(crate) segments: Vec<Segment>,
    /// Of the next entry.
    pub(crate) next_index: u64,
    /// Of the next chunk.
    pub(crate) number: u32,
    pub(crate) state: ObjectWriter,
    pub(crate) device_states: ObjectWriter,
    pub(crate) log: ObjectWriter,
    /// The first entry of the segment that is being filled.
    pub(crate) log_first: u64,
    pub(crate) cutter: EntryCutter,
}

impl PartitionRun {
    /// At the begin; `segments` are there already.
    pub(crate) fn new(partition: PartitionId, position: LogPosition, segments: Vec<Segment>) -> Self {
        let group = GroupId::partition(partition.0);
        Self {
            partition,
            position,
            part: None,
            segments,
            next_index: 0,
            number: 0,
            state: ObjectWriter::new(Kind::State, group),
            device_states: ObjectWriter::new(Kind::DeviceStates, group),
            log: ObjectWriter::new(Kind::Log, group),
            log_first: 0,
            cutter: EntryCutter::default(),
        }
    }

    /// Its facts so far.
    ///
    /// # Errors
    /// When the head has not come.
    pub(crate) fn part(&mut self) -> Result<&mut PartitionPart, BackupError> {
        let missing = || BackupError::damaged("an export of a partition", "it has no head");
        self.part.as_mut().ok_or_else(missing)
    }

    /// Takes the head.
    pub(crate) fn begin(&mut self, head: Bytes, config: &PartitionConfig) -> Result<(), BackupError> {
        let group = GroupId::partition(self.partition.0);
        let facts = head_facts(head, config).map_err(BackupError::storage(group))?;
        if facts.partition != self.partition || facts.position != self.position {
            let name = format!("the export of {group}");
            return Err(BackupError::damaged(name, "its head is of another state"));
        }
        // Those that retention has deleted since are not part of this backup.
        self.segments.retain(|segment| segment.last >= facts.first_index);
        let after = self.segments.last().map_or(0, |segment| segment.last + 1);
        self.next_index = facts.first_index.max(after);
        self.log_first = self.next_index;
        self.part = Some(PartitionPart {
            partition: self.partition.0,
            position: self.position.into(),
            begin: facts.begin.0,
            next: facts.next.0,
            first_index: facts.first_index,
            points: 0,
            skipped: 0,
            device_states: 0,
            state: ObjectRef {
                sha256: String::new(),
                bytes: 0,
            },
            device_state_objects: Vec::new(),
            segments: Vec::new(),
        });
        Ok(())
    }
}
