//! How a query finds its devices. Pure.

use holdfast_model::{DeviceId, PartitionCount, PartitionId};
use holdfast_query::{Collection, Constant, Field, FieldSet, Lookup, Path, Query, Root, Segment, Select};
use holdfast_registry::{DeviceRange, IdentityKind};

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

impl TwinDepth {
    /// What the condition needs.
    pub(super) fn of_condition(query: &Query) -> Self {
        of_paths(query.condition_paths())
    }

    /// What a result needs.
    pub(super) fn of_output(query: &Query) -> Self {
        match query.select {
            Select::All => Self::Whole,
            Select::Columns(_) => of_paths(query.output_paths()),
        }
    }
}

pub(super) fn of_paths(paths: Vec<&Path>) -> TwinDepth {
    let depth = |path: &Path| match (&path.root, path.rest.as_slice()) {
        (Root::Field(Field::Properties), [Segment::Key(_), Segment::Key(name), ..]) if name != "$metadata" => {
            TwinDepth::Values
        }
        (Root::Field(Field::Properties), _) => TwinDepth::Whole,
        (Root::Field(field), _) if TWIN_FIELDS.contains(field) => TwinDepth::Tags,
        _ => TwinDepth::None,
    };
    paths.into_iter().map(depth).max().unwrap_or(TwinDepth::None)
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
