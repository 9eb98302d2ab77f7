//! Scopes: the edge device that is the parent of an identity (Spec rest §2.1, auth-and-limits §6).

use holdfast_model::limits::MAX_SCOPE_DEPTH;
use holdfast_model::{DeviceId, ErrorCode};
use holdfast_proto::registry::v1::IdentityRecord;

use super::rejection::{ApplyError, Rejection};
use super::{Stop, View, layout};

const SCOPE_PREFIX: &str = "ms-azure-iot-edge://";

/// The modules that come and go with the capability.
pub(super) const SYSTEM_MODULES: [&str; 2] = ["$edgeAgent", "$edgeHub"];

/// The value of `managedBy` of system modules.
pub(super) const MANAGED_BY_EDGE: &str = "iotEdge";

/// The scope that an edge device gives to its children.
pub(super) fn own_scope(device: &DeviceId, generation: u64) -> String {
    format!("{SCOPE_PREFIX}{device}-{generation}")
}

/// The device and generation that a scope names.
fn parse(scope: &str) -> Option<(DeviceId, u64)> {
    let (id, generation) = scope.strip_prefix(SCOPE_PREFIX)?.rsplit_once('-')?;
    Some((DeviceId::parse(id).ok()?, generation.parse().ok()?))
}

/// The edge device that `scope` names, if that generation of it still exists.
fn resolve(view: &View<'_>, scope: &str) -> Result<Option<(DeviceId, IdentityRecord)>, ApplyError> {
    let Some((id, generation)) = parse(scope) else {
        return Ok(None);
    };
    let record = view.message::<IdentityRecord>(&layout::device(&id))?;
    Ok(record
        .filter(|record| record.iot_edge && record.generation == generation)
        .map(|record| (id, record)))
}

/// Checks that `device` may be a child of `scope`: an existing edge device, no cycle, at most [`MAX_SCOPE_DEPTH`] levels.
///
/// The chain is followed upwards from `device`; an ancestor that no longer exists ends it.
pub(super) fn check_parent(view: &View<'_>, device: &DeviceId, is_edge: bool, scope: &str) -> Result<(), Stop> {
    let refused = |text: String| Stop::from(Rejection::new(ErrorCode::InvalidDeviceScope, text));
    let Some((mut ancestor, mut record)) = resolve(view, scope)? else {
        return Err(refused(format!(
            "scope '{scope}' is not that of an existing edge device"
        )));
    };
    let mut depth = usize::from(is_edge);
    loop {
        if ancestor == *device {
            return Err(refused(format!("device '{device}' would stand below itself")));
        }
        depth += 1;
        if depth > MAX_SCOPE_DEPTH {
            return Err(refused(format!(
                "more than {MAX_SCOPE_DEPTH} edge devices would be nested"
            )));
        }
        match resolve(view, &record.parent_scope)? {
            Some((next, next_record)) => (ancestor, record) = (next, next_record),
            None => return Ok(()),
        }
    }
}
