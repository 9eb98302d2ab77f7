//! Executes the calls of authorized callers.

mod backup;
mod bulk;
mod c2d;
mod certificates;
mod cluster;
mod crls;
pub(super) mod diagnose;
mod holdfast_api;
mod identities;
mod keys;
mod lists;
mod methods;
mod policies;
mod queries;
mod revocations;
mod rollover;
mod settings;
mod trace;
mod twins;

use holdfast_device_hub::WriteMode;
use holdfast_model::{DeviceId, ErrorCode, IdentityId};
use holdfast_registry::{IdentityWrite, IfMatch, RegistryError, UnavailableReason, Written};
use holdfast_spans::TraceContext;
use http::{HeaderMap, Uri};
use serde_json::json;
use tokio::sync::SemaphorePermit;

use super::error::ApiError;
use super::openapi;
use super::route::{Call, HoldfastCall, IdentityPath};
use super::state::{Caller, Shared};
use super::throttle::Meter;
use super::{body, etag};
use holdfast_net::http_api::Reply;

/// One request of an authorized caller.
pub(super) struct Request<'a> {
    pub(super) shared: &'a Shared,
    pub(super) caller: &'a Caller,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: body::Incoming,
    /// Held while the node works on the call.
    pub(super) permit: Option<SemaphorePermit<'a>>,
}

/// Executes the call.
pub(super) async fn run(call: Call, mut request: Request<'_>) -> Result<Reply, ApiError> {
    if let Meter::One(class) = call.meter() {
        request.turn(class, 1).await?;
    }
    match call {
        Call::PutIdentity(path) => identities::put(&path.id()?, request).await,
        Call::GetIdentity(path) => identities::get(&path.id()?, &request).await,
        Call::DeleteIdentity(path) => identities::delete(path.id()?, &request).await,
        Call::ListDevices => lists::devices(&request).await,
        Call::ListModules(device) => lists::modules(&device, &request).await,
        Call::Bulk => bulk::run(request).await,
        Call::RegenerateKeys => keys::regenerate(request).await,
        Call::DeviceStatistics => lists::statistics(&request).await,
        Call::ServiceStatistics => {
            let count = request.shared.hub.connected_device_count().await;
            Ok(Reply::ok(json!({"connectedDeviceCount": count})))
        }
        Call::InvokeMethod(path) => methods::invoke(&path.id()?, request).await,
        Call::Query => queries::run(request).await,
        Call::PurgeMessages(path) => c2d::purge(&path.id()?, &request).await,
        Call::GetTwin(path) => twins::get(&path.id()?, &request).await,
        Call::PatchTwin(path) => twins::write(&path.id()?, WriteMode::Merge, request).await,
        Call::ReplaceTwin(path) => twins::write(&path.id()?, WriteMode::Replace, request).await,
        Call::Unimplemented(missing) => {
            let text = format!("this version of the hub does not have the feature: {}", missing.feature);
            Err(ApiError::new(ErrorCode::FeatureNotSupported, text))
        }
        Call::Holdfast(HoldfastCall::OpenApi) => Ok(Reply::ok(openapi::document().clone())),
        Call::Holdfast(HoldfastCall::Hub) => holdfast_api::hub(&request),
        Call::Holdfast(HoldfastCall::ListDevices) => lists::device_page(&request).await,
        Call::Holdfast(HoldfastCall::ExplainQuery) => queries::explain(request).await,
        Call::Holdfast(HoldfastCall::ListSavedQueries) => queries::saved::list(&request).await,
        Call::Holdfast(HoldfastCall::GetSavedQuery(name)) => queries::saved::get(&name, &request).await,
        Call::Holdfast(HoldfastCall::PutSavedQuery(name)) => queries::saved::put(&name, request).await,
        Call::Holdfast(HoldfastCall::DeleteSavedQuery(name)) => queries::saved::delete(&name, &request).await,
        Call::Holdfast(HoldfastCall::RunSavedQuery(name)) => queries::saved::run(&name, &request).await,
        Call::Holdfast(HoldfastCall::TwinHistory(path)) => twins::history(&path.id()?, &request).await,
        Call::Holdfast(HoldfastCall::Trace(path)) => trace::trace(&path.id()?, request).await,
        Call::Holdfast(HoldfastCall::Diagnose(path)) => diagnose::diagnose(&path.id()?, &request).await,
        Call::Holdfast(HoldfastCall::ListMessages(path)) => c2d::list(&path.id()?, &request).await,
        Call::Holdfast(HoldfastCall::SendMessage(path)) => c2d::send(&path.id()?, request).await,
        Call::Holdfast(HoldfastCall::RequeueMessages(path)) => c2d::requeue(&path.id()?, request).await,
        Call::Holdfast(HoldfastCall::GetSettings) => settings::get(&request).await,
        Call::Holdfast(HoldfastCall::PatchSettings) => settings::patch(request).await,
        Call::Holdfast(HoldfastCall::ListConsumerGroups) => holdfast_api::list_consumer_groups(&request).await,
        Call::Holdfast(HoldfastCall::PutConsumerGroup(name)) => holdfast_api::put_consumer_group(&name, request).await,
        Call::Holdfast(HoldfastCall::DeleteConsumerGroup(name)) => {
            holdfast_api::delete_consumer_group(&name, &request).await
        }
        Call::Holdfast(HoldfastCall::ListPolicies) => policies::list(&request).await,
        Call::Holdfast(HoldfastCall::GetPolicy(name)) => policies::get(&name, &request).await,
        Call::Holdfast(HoldfastCall::PutPolicy(name)) => policies::put(&name, request).await,
        Call::Holdfast(HoldfastCall::DeletePolicy(name)) => policies::delete(&name, &request).await,
        Call::Holdfast(HoldfastCall::RegeneratePolicyKey(name)) => policies::regenerate_key(&name, request).await,
        Call::Holdfast(HoldfastCall::SwapPolicyKeys(name)) => policies::swap_keys(&name, &request).await,
        Call::Holdfast(HoldfastCall::ListCertificates) => certificates::list(&request).await,
        Call::Holdfast(HoldfastCall::GetCertificate(name)) => certificates::get(&name, &request).await,
        Call::Holdfast(HoldfastCall::PutCertificate(name)) => certificates::put(&name, request).await,
        Call::Holdfast(HoldfastCall::DeleteCertificate(name)) => certificates::delete(&name, &request).await,
        Call::Holdfast(HoldfastCall::GenerateVerificationCode(name)) => {
            certificates::generate_code(&name, &request).await
        }
        Call::Holdfast(HoldfastCall::VerifyCertificate(name)) => certificates::verify(&name, request).await,
        Call::Holdfast(HoldfastCall::GetCrl(name)) => crls::get(&name, &request).await,
        Call::Holdfast(HoldfastCall::PutCrl(name)) => crls::put(&name, request).await,
        Call::Holdfast(HoldfastCall::DeleteCrl(name)) => crls::delete(&name, &request).await,
        Call::Holdfast(HoldfastCall::PlanRollover) => rollover::plan(&request).await,
        Call::Holdfast(HoldfastCall::ListRevocations) => revocations::list(&request).await,
        Call::Holdfast(HoldfastCall::Revoke) => revocations::revoke(request).await,
        Call::Holdfast(HoldfastCall::GetRevocation(id)) => revocations::get(&id, &request).await,
        Call::Holdfast(HoldfastCall::DeleteRevocation(id)) => revocations::delete(&id, &request).await,
        Call::Holdfast(HoldfastCall::BackupFacts) => backup::facts(&request),
        Call::Holdfast(HoldfastCall::ExportGroup(group)) => backup::group(&group, &request).await,
        Call::Holdfast(HoldfastCall::ClusterStatus) => cluster::status(&request).await,
        Call::Holdfast(HoldfastCall::SetReplication) => cluster::set_replication(request).await,
        Call::Holdfast(HoldfastCall::RaiseFeatureLevel) => cluster::raise_feature_level(&request).await,
        Call::Holdfast(HoldfastCall::CreateJoinToken) => cluster::create_token(request).await,
        Call::Holdfast(HoldfastCall::ListJoinTokens) => cluster::list_tokens(&request).await,
        Call::Holdfast(HoldfastCall::RevokeJoinToken(id)) => cluster::revoke_token(&id, &request).await,
        Call::Holdfast(HoldfastCall::DrainNode(node)) => cluster::drain(&node, &request).await,
        Call::Holdfast(HoldfastCall::UndrainNode(node)) => cluster::undrain(&node, &request).await,
        Call::Holdfast(HoldfastCall::RemoveNode(node)) => cluster::remove(&node, &request).await,
        Call::Holdfast(HoldfastCall::DebugNode(node)) => cluster::debug(&node, &request).await,
    }
}

impl IdentityPath {
    fn id(&self) -> Result<IdentityId, ApiError> {
        identities::identity_id(&self.device, self.module.as_deref())
    }
}

impl Request<'_> {
    /// The request's condition.
    fn if_match(&self) -> Result<Option<IfMatch>, ApiError> {
        etag::if_match(self.headers)
    }

    /// The client's context in `traceparent`, where spans are recorded.
    fn trace_context(&self) -> Option<TraceContext> {
        if !self.shared.hub.tracer().is_on() {
            return None;
        }
        TraceContext::parse(self.headers.get("traceparent")?.to_str().ok()?)
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
            Err(_) => Err(UnavailableReason::TimedOut("rest.request_timeout").into()),
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

fn device_id(text: &str) -> Result<DeviceId, ApiError> {
    DeviceId::parse(text).map_err(|error| ApiError::invalid(format!("device id: {error}")))
}

fn device_not_found(id: &DeviceId) -> ApiError {
    ApiError::new(ErrorCode::DeviceNotFound, format!("device '{id}' does not exist"))
}
