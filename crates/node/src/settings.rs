//! The hub's settings follow the configuration of the node that leads the registry.

use std::time::Duration;

use holdfast_registry::{Founding, Registry, RegistryError, SettingsChange};

/// How long a change waits that the hub's feature level does not permit yet.
const LEVEL_RETRY: Duration = Duration::from_secs(1);

/// Applies `wanted` now when this node leads the registry, else the first time that it does.
///
/// # Errors
/// When this node leads and the change fails.
pub(crate) async fn follow(registry: &Registry, wanted: Founding) -> Result<(), RegistryError> {
    if registry.is_leader() {
        match adopt(registry, &wanted).await {
            // The level is raised when the node runs.
            Err(RegistryError::FeatureLevel { .. }) => {}
            outcome => return outcome,
        }
    }
    holdfast_tasks::spawn_critical("adopt-settings", adopt_as_leader(registry.clone(), wanted));
    Ok(())
}

async fn adopt_as_leader(registry: Registry, wanted: Founding) {
    let mut changes = registry.group().watch();
    let mut waits = false;
    loop {
        while !registry.is_leader() {
            if changes.changed().await.is_err() {
                return;
            }
        }
        match adopt(&registry, &wanted).await {
            Ok(()) => return,
            Err(error @ RegistryError::FeatureLevel { .. }) => {
                if !std::mem::replace(&mut waits, true) {
                    tracing::warn!(%error, "the hub's settings follow the configuration later");
                }
                tokio::time::sleep(LEVEL_RETRY).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the hub's settings do not follow the configuration until the next leader is elected");
                return;
            }
        }
    }
}

/// A hub that was created under another name, or with another retention, takes those of the configuration. A retention that was
/// changed by the API since the configuration was applied stays until the configuration changes.
async fn adopt(registry: &Registry, wanted: &Founding) -> Result<(), RegistryError> {
    let settings = registry.settings()?;
    let change = SettingsChange {
        hub_name: (settings.hub_name != wanted.hub_name).then(|| wanted.hub_name.clone()),
        retention: (settings.configured_retention != wanted.retention).then_some(wanted.retention),
        retention_bytes: (settings.configured_retention_bytes != wanted.retention_bytes)
            .then_some(wanted.retention_bytes),
        ..SettingsChange::default()
    };
    if change != SettingsChange::default() {
        tracing::info!(?change, "the hub's settings follow the configuration");
        registry.update_settings(change).await?;
    }
    Ok(())
}
