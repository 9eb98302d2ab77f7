//! Executes the calls of authorized callers.

mod bulk;
mod cluster;
mod devices;
mod diagnose;
mod holdfast_api;
mod keys;
mod modules;

use holdfast_model::{DeviceId, ErrorCode, IdentityId, ModuleId};
use holdfast_registry::{IdentityWrite, IfMatch, RegistryError, WriteOperation, Written};
use http::{HeaderMap, Uri};
use serde_json::json;

use super::error::ApiError;
use super::reply::Reply;
use super::route::{Call, HoldfastCall};
use super::state::{Caller, Shared};
use super::{body, etag};

/// One request of an authorized caller.
pub(super) struct Request<'a> {
    pub(super) shared: &'a Shared,
    pub(super) caller: &'a Caller,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: body::Incoming,
}

/// Executes the call.
pub(super) async fn run(call: Call, request: Request<'_>) -> Result<Reply, ApiError> {
    match call {
        Call::PutDevice(id) => devices::put(&id, request).await,
        Call::GetDevice(id) => devices::get(&id, &request).await,
        Call::DeleteDevice(id) => devices::delete(&id, &request).await,
        Call::ListDevices => devices::list(&request).await,
        Call::Bulk => bulk::run(request).await,
        Call::RegenerateKeys => keys::regenerate(request).await,
        Call::DeviceStatistics => devices::statistics(&request).await,
        Call::ServiceStatistics => {
            let count = request.shared.hub.connected_device_count().await;
            Ok(Reply::ok(json!({"connectedDeviceCount": count})))
        }
        Call::PutModule(device, module) => modules::put(&device, &module, request).await,
        Call::GetModule(device, module) => modules::get(&device, &module, &request).await,
        Call::DeleteModule(device, module) => modules::delete(&device, &module, &request).await,
        Call::ListModules(device) => modules::list(&device, &request).await,
        Call::Unimplemented(missing) => {
            let text = format!("this version of the hub does not have the feature: {}", missing.feature);
            Err(ApiError::new(ErrorCode::FeatureNotSupported, text))
        }
        Call::Holdfast(HoldfastCall::Hub) => holdfast_api::hub(&request),
        Call::Holdfast(HoldfastCall::Diagnose(device, module)) => {
            diagnose::diagnose(&device, module.as_deref(), &request).await
        }
        Call::Holdfast(HoldfastCall::ListConsumerGroups) => holdfast_api::list_consumer_groups(&request).await,
        Call::Holdfast(HoldfastCall::PutConsumerGroup(name)) => holdfast_api::put_consumer_group(&name, request).await,
        Call::Holdfast(HoldfastCall::DeleteConsumerGroup(name)) => {
            holdfast_api::delete_consumer_group(&name, &request).await
        }
        Call::Holdfast(HoldfastCall::ClusterStatus) => cluster::status(&request).await,
        Call::Holdfast(HoldfastCall::SetReplication) => cluster::set_replication(request).await,
        Call::Holdfast(HoldfastCall::CreateJoinToken) => cluster::create_token(request).await,
        Call::Holdfast(HoldfastCall::ListJoinTokens) => cluster::list_tokens(&request).await,
        Call::Holdfast(HoldfastCall::RevokeJoinToken(id)) => cluster::revoke_token(&id, &request).await,
        Call::Holdfast(HoldfastCall::DrainNode(node)) => cluster::drain(&node, &request).await,
        Call::Holdfast(HoldfastCall::UndrainNode(node)) => cluster::undrain(&node, &request).await,
        Call::Holdfast(HoldfastCall::RemoveNode(node)) => cluster::remove(&node, &request).await,
    }
}

impl Request<'_> {
    /// The request's condition.
    fn if_match(&self) -> Result<Option<IfMatch>, ApiError> {
        etag::if_match(self.headers)
    }

    /// Writes one identity and records the outcome in the audit log.
    async fn write(&self, operation: &'static str, write: IdentityWrite) -> Result<Written, ApiError> {
        let subject = write.id.to_string();
        let outcome = self.within(self.shared.registry().write(write)).await;
        self.audit(operation, &subject, outcome.as_ref().err().map(RegistryError::code));
        Ok(outcome?)
    }

    /// Waits for the registry, at most `rest.request_timeout`.
    async fn within<T>(&self, work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        match tokio::time::timeout(self.shared.config.request_timeout.get(), work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RegistryError::Unavailable {
                reason: "no answer within rest.request_timeout".to_owned(),
            }),
        }
    }

    fn audit(&self, operation: &'static str, subject: &str, code: Option<ErrorCode>) {
        self.shared.changed(self.caller, operation, subject, code);
    }

    /// The documents of identities in a list.
    async fn show_all<'a>(
        &self,
        identities: impl Iterator<Item = &'a holdfast_registry::Identity> + Clone,
    ) -> Vec<serde_json::Value> {
        let ids: Vec<_> = identities.clone().map(|identity| &identity.id).collect();
        let connections = self.shared.hub.connection_states(&ids).await;
        identities
            .zip(connections)
            .map(|(identity, connection)| super::document::show(identity, connection))
            .collect()
    }

    /// The document of an identity after a write or read.
    async fn show(&self, status: u16, identity: &holdfast_registry::Identity) -> Reply {
        let connection = self.shared.hub.connection_state(&identity.id).await;
        Reply::json(status, super::document::show(identity, connection)).etag(&identity.etag.0)
    }
}

/// Create without a condition, update with one (Spec rest §1.4).
fn put_operation(if_match: Option<IfMatch>, content: holdfast_registry::IdentityContent) -> WriteOperation {
    match if_match {
        None => WriteOperation::Create(content),
        Some(condition) => WriteOperation::Update(condition, content),
    }
}

fn device_id(text: &str) -> Result<DeviceId, ApiError> {
    DeviceId::parse(text).map_err(|error| ApiError::invalid(format!("device id: {error}")))
}

fn module_id(device: &str, module: &str) -> Result<IdentityId, ApiError> {
    let device = device_id(device)?;
    if module.contains('/') {
        let text = "a module cannot be registered below a module";
        return Err(ApiError::new(ErrorCode::CannotRegisterModuleToModule, text));
    }
    let module = ModuleId::parse(module).map_err(|error| ApiError::invalid(format!("module id: {error}")))?;
    Ok(IdentityId::module(device, module))
}

fn device_not_found(id: &DeviceId) -> ApiError {
    ApiError::new(ErrorCode::DeviceNotFound, format!("device '{id}' does not exist"))
}

fn module_not_found(id: &IdentityId) -> ApiError {
    ApiError::new(ErrorCode::ModuleNotFound, format!("module '{id}' does not exist"))
}

/// Checks that the id in a document equals the id in the path.
fn check_same(field: &str, given: Option<&str>, path: &str) -> Result<(), ApiError> {
    match given {
        Some(given) if given == path => Ok(()),
        Some(_) => Err(ApiError::invalid(format!("{field} differs from the id in the path"))),
        None => Err(ApiError::invalid(format!("{field} is missing"))),
    }
}
