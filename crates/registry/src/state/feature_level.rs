//! The hub's feature level: raising it (docs/decisions/0058).
//!
//! Invariants: it never falls; a replica that does not support the new level stops before it applies anything of it.

use holdfast_model::{ErrorCode, FEATURE_LEVEL};
use holdfast_proto::registry::v1::{HubSettings, RaiseFeatureLevel};

use super::rejection::{ApplyError, Rejection};
use super::{Stop, Work, cluster, layout};

pub(super) fn raise(work: &mut Work<'_>, command: &RaiseFeatureLevel) -> Result<(), Stop> {
    // A member that was admitted meanwhile has not been asked.
    cluster::expect_view(work, command.expected_view_version)?;
    let Some(mut settings) = work.view.message::<HubSettings>(layout::SETTINGS)? else {
        return Err(Rejection::new(ErrorCode::IotHubNotFound, "the hub has not been created").into());
    };
    check(command.level)?;
    if command.level > settings.feature_level {
        settings.feature_level = command.level;
        work.settings = Some(settings);
    }
    Ok(())
}

/// Checks that this version can read what the level permits.
pub(crate) fn check(level: u32) -> Result<(), ApplyError> {
    if level > FEATURE_LEVEL {
        return Err(ApplyError::NewerFeatureLevel { level });
    }
    Ok(())
}
