//! The operators' calls of the REST API, answered by the cluster's control.

use std::time::Duration;

use holdfast_cluster::control::{Control, ControlError};
use holdfast_model::UnixMillis;
use holdfast_registry::{NodeRole, join_token_id};
use holdfast_service_api::rest::{AdminAnswer, AdminError, ClusterAdmin, JoinPermission, NewPermission, Standing};
use serde_json::{Value, json};

use super::now;

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

    fn create_token(&self, valid: Duration, gateway: bool) -> AdminAnswer<'_, NewPermission> {
        let role = if gateway { NodeRole::Gateway } else { NodeRole::Core };
        Box::pin(async move {
            // Before the token is made, so that it is no later than what the registry enters.
            let expires = UnixMillis(
                now()
                    .0
                    .saturating_add(u64::try_from(valid.as_millis()).unwrap_or(u64::MAX)),
            );
            let secret = self
                .0
                .create_token(valid, role)
                .await
                .map_err(|error| refused(&error))?;
            let id = join_token_id(&secret).unwrap_or_default();
            Ok(NewPermission { secret, id, expires })
        })
    }

    fn tokens(&self) -> AdminAnswer<'_, Vec<JoinPermission>> {
        Box::pin(async move {
            let tokens = self.0.join_tokens().await.map_err(|error| refused(&error))?;
            let status = self.0.status().await;
            let now = now();
            let name = |id: u64| {
                let known = status.nodes.iter().find(|node| node.id == id);
                known.map_or_else(|| id.to_string(), |node| node.name.clone())
            };
            let permissions = tokens.into_iter().map(|token| JoinPermission {
                standing: match (token.used_by, token.revoked) {
                    (Some(node), _) => Standing::Used(name(node)),
                    (None, Some(_)) => Standing::Revoked,
                    (None, None) if token.expires <= now => Standing::Expired,
                    (None, None) => Standing::Waiting,
                },
                id: token.id,
                gateway: token.role == NodeRole::Gateway,
                created: token.created,
                expires: token.expires,
            });
            Ok(permissions.collect())
        })
    }

    fn revoke_token(&self, id: String) -> AdminAnswer<'_, ()> {
        Box::pin(async move { self.0.revoke_token(&id).await.map_err(|error| refused(&error)) })
    }

    fn set_replication(&self, factor: u8) -> AdminAnswer<'_> {
        Box::pin(async move {
            let set = self.0.set_replication_factor(factor).await;
            let set = set.map_err(|error| refused(&error))?;
            Ok(json!({"replicationFactor": factor, "before": set.before, "warning": set.warning}))
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
