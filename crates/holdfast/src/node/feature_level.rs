//! Writes the hub's feature level into the data directory (docs/decisions/0058).
//!
//! Why: a version that does not support it is to be refused before it opens the database, which may have a form that it does not know.

use std::time::Duration;

use holdfast_registry::{Registry, RegistryEvent};
use holdfast_storage::DataDir;
use holdfast_tasks::{Phase, Stop};

/// Back-off after a failure of the disk.
const RETRY: Duration = Duration::from_secs(10);

/// Writes it now and after every change, until the node stops.
pub(super) async fn record(registry: Registry, data: DataDir, stop: Stop) {
    let mut changes = registry.changes();
    loop {
        let written = write(&registry, &data).await;
        let next = async {
            if !written {
                tokio::time::sleep(RETRY).await;
                return true;
            }
            loop {
                match changes.next().await {
                    Some(RegistryEvent::Settings | RegistryEvent::Resync) => return true,
                    Some(_) => {}
                    None => return false,
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            goes_on = next => if !goes_on { return },
        }
    }
}

async fn write(registry: &Registry, data: &DataDir) -> bool {
    let level = match registry.feature_level() {
        Ok(present) if present.is_set => present.level,
        Ok(_) => return true,
        Err(_) => return false,
    };
    let data = data.clone();
    match holdfast_tasks::spawn_blocking(move || data.record_feature_level(level)).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, level, "cannot write the feature level into the data directory; trying again");
            false
        }
    }
}
