//! The hub's settings follow the configuration of the node that leads the registry.

use holdfast_registry::{Founding, Registry, RegistryError, SettingsChange};

/// Applies `wanted` now when this node leads the registry, else the first time that it does.
///
/// # Errors
/// When this node leads and the change fails.
pub(crate) async fn follow(registry: &Registry, wanted: Founding) -> Result<(), RegistryError> {
    if registry.is_leader() {
        return adopt(registry, &wanted).await;
    }
    holdfast_tasks::spawn_critical("adopt-settings", adopt_as_leader(registry.clone(), wanted));
    Ok(())
}

async fn adopt_as_leader(registry: Registry, wanted: Founding) {
    let mut changes = registry.group().watch();
    while !registry.is_leader() {
        if changes.changed().await.is_err() {
            return;
        }
    }
    if let Err(error) = adopt(&registry, &wanted).await {
        tracing::warn!(%error, "the hub's settings do not follow the configuration until the next leader is elected");
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
