//! The operators' calls of the REST API, answered by the cluster's control.

use std::time::Duration;

use holdfast_cluster::control::{Control, ControlError};
use holdfast_registry::NodeRole;
use holdfast_service_api::rest::{AdminAnswer, AdminError, ClusterAdmin};
use serde_json::{Value, json};

/// See the module.
pub(crate) struct Admin(pub(crate) Control);

fn refused(error: &ControlError) -> AdminError {
    AdminError {
        code: error.code(),
        text: error.to_string(),
    }
}

impl ClusterAdmin for Admin {
    fn status(&self) -> AdminAnswer<'_> {
        Box::pin(async move {
            let status = self.0.status().await;
            Ok(serde_json::to_value(status).unwrap_or(Value::Null))
        })
    }

    fn create_token(&self, valid: Duration, gateway: bool) -> AdminAnswer<'_> {
        let role = if gateway { NodeRole::Gateway } else { NodeRole::Core };
        Box::pin(async move {
            let token = self
                .0
                .create_token(valid, role)
                .await
                .map_err(|error| refused(&error))?;
            Ok(json!({"token": token, "validSeconds": valid.as_secs()}))
        })
    }

    fn drain(&self, node: String) -> AdminAnswer<'_> {
        Box::pin(async move {
            self.0.drain(&node).await.map_err(|error| refused(&error))?;
            Ok(json!({"node": node, "state": "draining"}))
        })
    }

    fn undrain(&self, node: String) -> AdminAnswer<'_> {
        Box::pin(async move {
            self.0.undrain(&node).await.map_err(|error| refused(&error))?;
            Ok(json!({"node": node, "state": "active"}))
        })
    }

    fn remove(&self, node: String, force: bool) -> AdminAnswer<'_> {
        Box::pin(async move {
            self.0.remove(&node, force).await.map_err(|error| refused(&error))?;
            Ok(json!({"node": node, "state": "removed"}))
        })
    }
}
