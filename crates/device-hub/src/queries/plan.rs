//! How a query finds its devices. Pure.

use holdfast_model::{DeviceId, PartitionCount, PartitionId};
use holdfast_query::{Collection, Constant, Field, FieldSet, Lookup, Path, Query, Root, Segment, Select};
use holdfast_registry::{DeviceRange, IdentityKind};

use crate::twins::stored::{Members, WantedValues};

/// The properties that the owner of the partition knows of a connection.
pub(super) const CONNECTION_FIELDS: &[Field] = &[
    Field::ConnectionState,
    Field::ConnectionStateUpdatedTime,
    Field::LastActivityTime,
    Field::CloudToDeviceMessageCount,
];

/// Those of them that need more than the session.
pub(super) const CONNECTION_TIMES: &[Field] = &[
    Field::ConnectionStateUpdatedTime,
    Field::LastActivityTime,
    Field::CloudToDeviceMessageCount,
];

/// The properties that are the twin's.
pub(super) const TWIN_FIELDS: &[Field] = &[
    Field::Etag,
    Field::Version,
    Field::Tags,
    Field::Properties,
    Field::ModelId,
];

/// Which identities a query visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryAccess {
    /// All.
    Scan,
    /// Those whose device id begins with a text of the condition.
    Prefix,
    /// As many, whose device ids the condition names.
    Ids(usize),
}

/// How a query is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryPlan {
    /// Which identities it visits.
    pub access: QueryAccess,
    /// The partitions that can have results.
    pub partitions: Vec<PartitionId>,
    /// Whether the condition reads connections.
    pub reads_connections: bool,
    /// Whether the condition reads twins.
    pub reads_twins: bool,
    pub(super) range: DeviceRange,
}

impl QueryPlan {
    /// The plan of a query in a hub of `count` partitions.
    #[must_use]
    pub fn of(query: &Query, count: PartitionCount) -> Self {
        let mut range = DeviceRange::All;
        for lookup in query.lookups() {
            match lookup {
                Lookup::Equals(path, values) if path.is(Field::DeviceId) => {
                    let mut ids: Vec<DeviceId> = values.into_iter().filter_map(device_id).collect();
                    ids.sort();
                    ids.dedup();
                    range = DeviceRange::Ids(ids);
                }
                Lookup::StartsWith(path, prefix) if path.is(Field::DeviceId) && range == DeviceRange::All => {
                    range = DeviceRange::Prefix(prefix.to_owned());
                }
                _ => {}
            }
        }
        let (access, partitions) = match &range {
            DeviceRange::All => (QueryAccess::Scan, count.iter().collect()),
            DeviceRange::Prefix(_) => (QueryAccess::Prefix, count.iter().collect()),
            DeviceRange::Ids(ids) => {
                let mut partitions: Vec<PartitionId> = ids.iter().map(|id| count.partition_of(id)).collect();
                partitions.sort();
                partitions.dedup();
                (QueryAccess::Ids(ids.len()), partitions)
            }
        };
        let condition = query.condition_fields();
        Self {
            access,
            partitions,
            reads_connections: condition.contains_any(CONNECTION_FIELDS),
            reads_twins: condition.contains_any(TWIN_FIELDS),
            range,
        }
    }

    pub(super) fn kind(query: &Query) -> IdentityKind {
        match query.collection {
            Collection::Devices => IdentityKind::Devices,
            Collection::Modules => IdentityKind::Modules,
        }
    }
}

/// How much of a stored twin is read: the less, the faster is a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TwinDepth {
    /// Nothing.
    None,
    /// Tags, version and ETag.
    Tags,
    /// And the values of the properties, without their metadata.
    Values,
    /// Everything.
    Whole,
}

/// The parts of a stored twin that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TwinReads {
    pub(super) depth: TwinDepth,
    pub(super) values: WantedValues,
}

impl TwinReads {
    /// What the condition needs; and what a result needs, if that is not deeper, so that nothing is read twice.
    pub(super) fn of_condition(query: &Query) -> Self {
        let condition = Self::of(&query.condition_paths());
        if Self::of_output(query).depth > condition.depth {
            return condition;
        }
        Self::of(&[query.condition_paths(), query.output_paths()].concat())
    }

    /// What a result needs.
    pub(super) fn of_output(query: &Query) -> Self {
        match query.select {
            Select::All => Self {
                depth: TwinDepth::Whole,
                ..Self::of(&[])
            },
            Select::Columns(_) => Self::of(&query.output_paths()),
        }
    }

    /// What these paths need.
    pub(super) fn of(paths: &[&Path]) -> Self {
        let mut reads = Self {
            depth: TwinDepth::None,
            values: WantedValues {
                tags: Members::NONE,
                desired: Members::NONE,
                reported: Members::NONE,
            },
        };
        paths.iter().for_each(|path| reads.add(path));
        reads
    }

    fn add(&mut self, path: &Path) {
        let Root::Field(field) = &path.root else { return };
        let depth = match (field, path.rest.as_slice()) {
            (Field::Tags, rest) => {
                add_member(&mut self.values.tags, rest.first());
                TwinDepth::Tags
            }
            (Field::Properties, [Segment::Key(section), Segment::Key(name), ..]) if name != "$metadata" => {
                match section.as_str() {
                    "desired" => add_member(&mut self.values.desired, path.rest.get(1)),
                    "reported" => add_member(&mut self.values.reported, path.rest.get(1)),
                    _ => {}
                }
                TwinDepth::Values
            }
            (Field::Properties, _) => TwinDepth::Whole,
            (field, _) if TWIN_FIELDS.contains(field) => TwinDepth::Tags,
            _ => TwinDepth::None,
        };
        self.depth = self.depth.max(depth);
    }
}

fn add_member(members: &mut Members, name: Option<&Segment>) {
    match (&mut *members, name) {
        (Members::Only(names), Some(Segment::Key(name))) => {
            names.insert(name.clone());
        }
        _ => *members = Members::All,
    }
}

/// Whether the identity alone has all these properties.
pub(super) fn is_identity_only(fields: FieldSet) -> bool {
    !fields.contains_any(CONNECTION_FIELDS) && !fields.contains_any(TWIN_FIELDS)
}

/// A text that is no id is no device's.
fn device_id(constant: &Constant) -> Option<DeviceId> {
    match constant {
        Constant::String(text) => DeviceId::parse(text).ok(),
        _ => None,
    }
}
