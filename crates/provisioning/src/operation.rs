//! The steps of one operation: choose the hub, bring the device there with its data, store where it is, and take it away elsewhere.
//!
//! Invariants: the chosen hub is stored before it gets the device, and so is the certificate that it is to know the device by; a registration is `assigned` only when the hub has the device with its
//! credentials; a hub that may have a device that does not belong there is noted in the same write, until the device is deleted there;
//! a device is deleted at another hub only as the generation that was there, so that a step that comes late does not hit a newer one.
//! Not here: whose turn it is (`operations`), requests to hubs (`remote_hub`).

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{ErrorCode, IdentityId};
use holdfast_registry::{
    AllocationPolicy, DevicePlace, Enrollment, EnrollmentReference, IdentityWrite, IfMatch, IssueWrite, LeftDevice,
    PendingCertificate, PendingRegistration, Registration, RegistrationOutcome, RegistrationWrite, Status, TwinSeed,
    WebhookAnswer, WriteOperation,
};
use serde_json::{Value, json};

use crate::allocation::{Candidate, Hubs};
use crate::issuance::{self, At, enrollment_of};
use crate::metrics;
use crate::operations::StepError;
use crate::registering::{Assignment, failed, is_same_place, keeps_hub, resets};
use crate::remote_hub::{HubError, NewDevice, RemoteHub, twin_content};
use crate::service::Provisioning;
use crate::webhook::{self, Choice, WebhookCall};

/// How long an operation may wait for other hubs.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long reading a twin of this hub may take.
const TWIN_TIMEOUT: Duration = Duration::from_secs(5);

/// An operation in progress, as it is stored.
pub(crate) struct Operation<'a> {
    pub(crate) service: &'a Provisioning,
    pub(crate) registration: Arc<Registration>,
    pub(crate) pending: PendingRegistration,
}

/// What the device was at the hub that it leaves.
#[derive(Default)]
struct Source {
    is_disabled: bool,
    is_edge: bool,
    /// Its twin, where it moves with the device.
    twin: Option<TwinSeed>,
    /// Its deletion at this hub.
    identity: Option<IdentityWrite>,
    /// Its deletion at another hub.
    left: Option<LeftDevice>,
}

impl Operation<'_> {
    /// Does the next step.
    pub(crate) async fn advance(&self) -> Result<(), StepError> {
        let pending = &self.pending;
        let registry = self.service.registry();
        let found = enrollment_of(registry, &self.registration)?;
        let is_same = |found: &Arc<Enrollment>| {
            found.kind == pending.enrollment_kind
                && found.id.eq_ignore_ascii_case(&pending.enrollment_id)
                && found.etag == pending.enrollment_etag
        };
        let Some(enrollment) = found.clone().filter(is_same) else {
            if let Some(found) = found.filter(|_| pending.only_credentials) {
                return self.refer_to(&found).await;
            }
            let text = "the enrollment has been changed meanwhile: register again";
            return self.fail(ErrorCode::RegistrationConflict, text.to_owned(), None).await;
        };
        let hubs = self.service.hubs();
        let Some(target) = &pending.target_hub else {
            return self.choose_hub(&enrollment, &hubs).await;
        };
        let Some(target) = hubs.find(target) else {
            let text = format!("the hub {target} is not linked any more");
            return self.fail(ErrorCode::NoHubToAssign, text, None).await;
        };
        if pending.csr.is_some() && self.certificate()?.is_none() {
            return self.issue(&enrollment, target).await;
        }
        match self.bring(&enrollment, &hubs, target).await {
            Ok(write) => self.put(write).await,
            Err(Failure::Step(error)) => Err(error),
            Err(Failure::Hub(host, error)) => self.hub_failed(&enrollment, &hubs, target, &host, error).await,
        }
    }

    fn before(&self) -> Option<&DevicePlace> {
        self.registration.place.as_ref()
    }

    /// Lets a revocation outlive a change of the enrollment.
    async fn refer_to(&self, enrollment: &Enrollment) -> Result<(), StepError> {
        let pending = PendingRegistration {
            enrollment_kind: enrollment.kind,
            enrollment_id: enrollment.id.clone(),
            enrollment_etag: enrollment.etag.clone(),
            ..self.pending.clone()
        };
        let write = self.write(RegistrationOutcome::Assigning(Box::new(pending)), None);
        let enrollment = EnrollmentReference::from(enrollment);
        self.put(RegistrationWrite { enrollment, ..write }).await
    }

    /// The certificate that the device is to get, unless it is void.
    fn certificate(&self) -> Result<Option<&PendingCertificate>, StepError> {
        let Some(certificate) = &self.pending.certificate else {
            return Ok(None);
        };
        let is_void = issuance::is_void(self.service.registry(), certificate)?;
        Ok((!is_void).then_some(certificate))
    }

    /// Has the device's request signed, and stores the certificate.
    async fn issue(&self, enrollment: &Enrollment, target: &Candidate) -> Result<(), StepError> {
        let service = self.service;
        let pending = &self.pending;
        let is_own = target.link.is_none();
        let id = IdentityId::device(pending.device_id.clone());
        // The record of its certificates goes with a device that is deleted first.
        let begins_anew =
            is_own && resets(&enrollment.content, self.before()) && service.registry().identity(&id)?.is_some();
        let node = service.issuing_node();
        match issuance::sign(&node, &self.registration, pending, enrollment, is_own, begins_anew).await {
            Ok(certificate) => {
                let pending = PendingRegistration {
                    certificate: Some(certificate),
                    ..pending.clone()
                };
                let write = self.write(RegistrationOutcome::Assigning(Box::new(pending)), None);
                self.put(write).await
            }
            Err(error) => self.fail(error.code, error.text, None).await,
        }
    }

    /// Chooses the hub and stores the choice.
    async fn choose_hub(&self, enrollment: &Enrollment, hubs: &Hubs) -> Result<(), StepError> {
        let (webhook, choice) = match self.choose(enrollment, hubs).await {
            (webhook, Ok(choice)) => (webhook, choice),
            (webhook, Err((code, text))) => return self.fail(code, text, webhook).await,
        };
        let pending = PendingRegistration {
            target_hub: Some(choice.hub),
            twin: choice.twin,
            ..self.pending.clone()
        };
        let write = RegistrationWrite {
            payload: choice.payload,
            ..self.write(RegistrationOutcome::Assigning(Box::new(pending)), webhook)
        };
        self.put(write).await
    }

    /// Chooses the hub; with what the webhook answered, if there is one.
    async fn choose(
        &self,
        enrollment: &Enrollment,
        hubs: &Hubs,
    ) -> (Option<WebhookAnswer>, Result<Choice, (ErrorCode, String)>) {
        let service = self.service;
        let content = &enrollment.content;
        let chosen = |hub: String| Choice {
            hub,
            twin: None,
            payload: None,
        };
        if keeps_hub(content, self.before())
            && let Some(before) = self.before()
        {
            return (None, Ok(chosen(before.hub.clone())));
        }
        let Some(custom) = content
            .custom_allocation
            .as_ref()
            .filter(|_| content.allocation == Some(AllocationPolicy::Custom))
        else {
            let choice = self.allocate(enrollment, hubs).map(|hub| chosen(hub.host.clone()));
            return (None, choice.map_err(|text| (ErrorCode::NoHubToAssign, text)));
        };
        let refused = |text: String| Err((ErrorCode::CustomAllocationFailed, text));
        if let Err(text) = service.check_webhook(&custom.webhook_url) {
            return (None, refused(format!("Custom allocation failed: {text}")));
        }
        let call = WebhookCall {
            custom,
            enrollment,
            registration: &self.registration,
            before: self.before(),
            payload: self.pending.payload.as_deref(),
            hubs,
        };
        let timeout = service.config.webhook_timeout.get();
        let (mut answer, choice) = webhook::choose(&*service.outbound, &call, timeout).await;
        answer.at = service.hub().clock().now();
        (Some(answer), choice.or_else(refused))
    }

    /// The hub by the enrollment's policy. A hub that is out of service keeps its devices.
    fn allocate<'h>(&self, enrollment: &Enrollment, hubs: &'h Hubs) -> Result<&'h Candidate, String> {
        let health = &self.service.health;
        let is_before = |host: &str| {
            self.before()
                .is_some_and(|before| before.hub.eq_ignore_ascii_case(host))
        };
        hubs.allocate(
            &enrollment.content,
            &self.registration.id,
            &self.pending.nearest,
            |host| health.is_out(host) && !is_before(host),
        )
    }

    /// Brings the device to its hub; the write that ends the operation.
    async fn bring(
        &self,
        enrollment: &Enrollment,
        hubs: &Hubs,
        target: &Candidate,
    ) -> Result<RegistrationWrite, Failure> {
        let (service, pending) = (self.service, &self.pending);
        let content = &enrollment.content;
        let before = self.before();
        let moves = before.is_some_and(|before| !before.hub.eq_ignore_ascii_case(&target.host));
        let place = DevicePlace {
            hub: target.host.clone(),
            device_id: pending.device_id.clone(),
        };
        let mut assignment = Assignment {
            registry: service.registry(),
            content,
            kind: pending.enrollment_kind,
            authentication: pending.authentication.clone(),
            before,
            place: place.clone(),
            twin: pending.twin.clone(),
            has_moved: false,
            is_disabled: false,
            is_edge: content.iot_edge,
            only_credentials: pending.only_credentials,
        };
        let source = match before {
            Some(before) if moves => self.source(before, hubs, !assignment.resets()).await?,
            _ => Source::default(),
        };
        let certificate = self.certificate()?;
        if certificate.is_none() && pending.csr.is_some() {
            // Revoked since the last look: it would be assigned without one.
            return Err(StepError::Changed.into());
        }
        let (is_own, now) = (target.link.is_none(), service.hub().clock().now());
        if let Some(certificate) = certificate {
            let at = At {
                registry: service.registry(),
                registration_id: &self.registration.id,
                place: &place,
                is_own,
                now,
            };
            let newest = &certificate.issue.certificate;
            assignment.authentication = issuance::by_certificates(&at, newest).map_err(StepError::from)?;
        } else if pending.keeps_certificate {
            let kept = assignment.keep_certificate(&self.registration.id, is_own, now);
            kept.map_err(StepError::from)?;
        }
        assignment.has_moved = source.twin.is_some();
        assignment.is_disabled = source.is_disabled;
        assignment.is_edge |= source.is_edge;
        assignment.twin = assignment.twin.or(source.twin);
        let mut identity: Vec<IdentityWrite> = source.identity.into_iter().collect();
        match &target.link {
            None => identity.extend(assignment.identity().map_err(StepError::from)?),
            Some(link) => {
                let remote = service.remote(link);
                // A device there from an earlier attempt would not have the right data.
                if let Some(left) = self
                    .registration
                    .left
                    .iter()
                    .find(|left| is_same_place(&left.place, &place))
                {
                    let removed = service.delete_there(&remote, left).await;
                    removed.map_err(|error| Failure::Hub(target.host.clone(), error))?;
                    service
                        .registry()
                        .forget_left_device(&self.registration.id, &left.place)
                        .await
                        .map_err(StepError::from)?;
                    return Err(StepError::Changed.into());
                }
                let brought = self.bring_there(&remote, &assignment).await;
                brought.map_err(|error| Failure::Hub(target.host.clone(), error))?;
                service.health.answered(&target.host);
            }
        }
        let mut write = self.write(assignment.outcome(), None);
        if let Some(certificate) = certificate {
            let deletes = |write: &IdentityWrite| {
                write.id.device == pending.device_id && matches!(write.operation, WriteOperation::Delete(_))
            };
            write.issue = Some(IssueWrite {
                is_first: certificate.found_epoch.is_none() || identity.iter().any(deletes),
                ..certificate.issue.clone()
            });
            write.issued_chain = Some(certificate.chain.clone());
        }
        write.identity = identity;
        write.left.extend(source.left);
        if pending.only_credentials {
            write = issuance::settled(write);
        }
        Ok(write)
    }

    /// Creates the device at another hub, or gives the one that is there its credentials.
    async fn bring_there(&self, remote: &RemoteHub<'_>, assignment: &Assignment<'_>) -> Result<(), HubError> {
        let id = &assignment.place.device_id;
        let existing = remote.device(id).await?;
        if existing.is_none() && assignment.only_credentials {
            return Ok(());
        }
        let mut is_disabled = assignment.is_disabled;
        if let Some(existing) = existing {
            if !assignment.resets() {
                let content = assignment.content;
                let update = remote.update(id, &existing, &assignment.authentication, content);
                return update.await;
            }
            is_disabled |= existing.is_disabled();
            remote.delete(id, &existing.etag).await?;
        }
        let twin = assignment.twin.as_ref().unwrap_or(&assignment.content.initial_twin);
        let device = NewDevice {
            id,
            authentication: &assignment.authentication,
            is_edge: assignment.is_edge,
            is_disabled,
            twin: twin.clone(),
        };
        match remote.create(device).await? {
            true => Ok(()),
            false => Err(HubError::Changed),
        }
    }

    /// The device at the hub that it leaves. `is_migrated`: its data go with it.
    async fn source(&self, before: &DevicePlace, hubs: &Hubs, is_migrated: bool) -> Result<Source, Failure> {
        let service = self.service;
        let Some(hub) = hubs.find(&before.hub) else {
            // Its link has been removed: nothing can be read or deleted there.
            return Ok(Source::default());
        };
        let Some(link) = &hub.link else {
            let id = IdentityId::device(before.device_id.clone());
            let Some(identity) = service.registry().identity(&id).map_err(StepError::from)? else {
                return Ok(Source::default());
            };
            let twin = match is_migrated {
                true => {
                    let read = service.hub().twin(&id, &identity.generation, TWIN_TIMEOUT).await;
                    let view = read.map_err(|error| StepError::Later(error.to_string()))?;
                    let tags = Value::Object(view.twin.tags().clone());
                    Some(twin_content(
                        &json!({"tags": tags, "properties": view.twin.properties()}),
                    ))
                }
                false => None,
            };
            return Ok(Source {
                is_disabled: identity.status == Status::Disabled,
                is_edge: identity.iot_edge,
                twin,
                identity: Some(IdentityWrite {
                    id,
                    operation: WriteOperation::Delete(IfMatch::ETag(identity.etag.0.clone())),
                }),
                left: None,
            });
        };
        let remote = service.remote(link);
        let left = |generation: String| LeftDevice {
            place: before.clone(),
            generation,
        };
        let failure = |error| Failure::Hub(hub.host.clone(), error);
        let device = match remote.device(&before.device_id).await {
            Ok(device) => device,
            // Nothing has to be read there: it is deleted when the hub is back.
            Err(HubError::Unavailable { .. }) if !is_migrated => {
                return Ok(Source {
                    left: Some(left(String::new())),
                    ..Source::default()
                });
            }
            Err(error) => return Err(failure(error)),
        };
        let Some(device) = device else {
            return Ok(Source::default());
        };
        let twin = match is_migrated {
            true => remote.twin(&before.device_id).await.map_err(failure)?,
            false => None,
        };
        service.health.answered(&hub.host);
        Ok(Source {
            is_disabled: device.is_disabled(),
            is_edge: device.is_edge(),
            twin,
            identity: None,
            left: Some(left(device.generation)),
        })
    }

    /// What a failure of a hub means for the operation.
    async fn hub_failed(
        &self,
        enrollment: &Enrollment,
        hubs: &Hubs,
        target: &Candidate,
        host: &str,
        error: HubError,
    ) -> Result<(), StepError> {
        let (may_have_effect, text) = match error {
            HubError::Changed => return Err(StepError::Later(format!("the device has been changed at {host}"))),
            HubError::Credentials(text) => {
                return self.fail(ErrorCode::LinkedHubRefusedCredentials, text, None).await;
            }
            HubError::Refused(text) => return self.fail(ErrorCode::NoHubToAssign, text, None).await,
            HubError::Unavailable { may_have_effect, text } => (may_have_effect, text),
        };
        self.service.health.failed(host);
        // From here on the target may have the device, also by an attempt that another node has made.
        let mut left = self.registration.left.clone();
        let place = DevicePlace {
            hub: target.host.clone(),
            device_id: self.pending.device_id.clone(),
        };
        let is_noted = left.iter().any(|left| is_same_place(&left.place, &place));
        let belongs_there = self.before().is_some_and(|before| before.hub == place.hub);
        if target.link.is_some() && !is_noted && !belongs_there {
            left.push(LeftDevice {
                place,
                generation: String::new(),
            });
        }
        let now = self.service.hub().clock().now();
        let has_ended = now.0.saturating_sub(self.pending.started.0) >= millis(OPERATION_TIMEOUT);
        // A revocation waits for the hub as long as it takes.
        if has_ended && !self.pending.only_credentials {
            let write = self.write(failed(ErrorCode::NoHubToAssign, text), None);
            return self.end_failed(RegistrationWrite { left, ..write }).await;
        }
        let is_chosen_by_policy = !matches!(enrollment.content.allocation, Some(AllocationPolicy::Custom))
            && !keeps_hub(&enrollment.content, self.before())
            && !self.pending.only_credentials;
        let other = match is_chosen_by_policy && host == target.host && self.service.health.is_out(host) {
            true => self
                .allocate(enrollment, hubs)
                .ok()
                .filter(|hub| hub.host != target.host),
            false => None,
        };
        match other {
            Some(other) => {
                tracing::info!(
                    registration = self.registration.id,
                    from = host,
                    to = other.host,
                    "another hub is chosen"
                );
                let pending = PendingRegistration {
                    target_hub: Some(other.host.clone()),
                    // One for a linked hub does not end with the device's epoch.
                    certificate: self.pending.certificate.clone().filter(|_| other.link.is_some()),
                    ..self.pending.clone()
                };
                let write = self.write(RegistrationOutcome::Assigning(Box::new(pending)), None);
                self.put(RegistrationWrite { left, ..write }).await
            }
            None if may_have_effect && left.len() > self.registration.left.len() => {
                let pending = RegistrationOutcome::Assigning(Box::new(self.pending.clone()));
                let write = self.write(pending, None);
                self.put(RegistrationWrite { left, ..write }).await?;
                Err(StepError::Later(text))
            }
            None => Err(StepError::Later(text)),
        }
    }

    /// A write of the registration in which only its state is new.
    fn write(&self, outcome: RegistrationOutcome, webhook: Option<WebhookAnswer>) -> RegistrationWrite {
        let pending = &self.pending;
        RegistrationWrite {
            id: self.registration.id.clone(),
            outcome,
            operation_id: self.registration.operation_id.clone(),
            found: Some(Arc::clone(&self.registration)),
            enrollment: EnrollmentReference {
                kind: pending.enrollment_kind,
                id: pending.enrollment_id.clone(),
                etag: pending.enrollment_etag.clone(),
                attestation: self.registration.attestation,
            },
            identity: Vec::new(),
            left: self.registration.left.clone(),
            payload: self.registration.payload.clone(),
            webhook: webhook.or_else(|| self.registration.webhook.clone()),
            tpm: self.registration.tpm.clone(),
            issue: None,
            issued_chain: None,
        }
    }

    /// Ends the operation without a hub.
    async fn fail(&self, code: ErrorCode, text: String, webhook: Option<WebhookAnswer>) -> Result<(), StepError> {
        let write = self.write(failed(code, text), webhook);
        self.end_failed(RegistrationWrite { payload: None, ..write }).await
    }

    /// Ends the operation with a failure. A revocation that it has overtaken continues.
    async fn end_failed(&self, write: RegistrationWrite) -> Result<(), StepError> {
        let place = self.before().filter(|_| self.pending.overtook_revocation);
        let Some(place) = place else {
            return self.put(write).await;
        };
        let service = self.service;
        let Some(enrollment) = enrollment_of(service.registry(), &self.registration)? else {
            tracing::warn!(
                registration = self.registration.id,
                hub = place.hub,
                "certificates of the device have been revoked, and its enrollment is gone: disable the device at its hub"
            );
            return self.put(write).await;
        };
        let now = service.hub().clock().now();
        let pending = issuance::pending_at(place.clone(), &enrollment, now);
        let enrollment = EnrollmentReference::from(&*enrollment);
        let write = issuance::resumed(RegistrationWrite { enrollment, ..write }, pending, now);
        self.put(write).await
    }

    async fn put(&self, write: RegistrationWrite) -> Result<(), StepError> {
        self.service.registry().put_registration(&write).await?;
        match &write.outcome {
            RegistrationOutcome::Assigning(_) => {}
            RegistrationOutcome::Assigned { .. } => metrics::operations("assigned").increment(1),
            RegistrationOutcome::Failed { code, text } => {
                metrics::operations("failed").increment(1);
                tracing::info!(registration = write.id, %code, text, "a registration has failed");
            }
        }
        Ok(())
    }
}

/// Why the device is not at its hub.
enum Failure {
    Step(StepError),
    /// A hub, by its name, did not do its part.
    Hub(String, HubError),
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Provisioning {
    pub(crate) fn remote<'a>(&'a self, link: &'a holdfast_registry::LinkedHub) -> RemoteHub<'a> {
        RemoteHub {
            outbound: &*self.outbound,
            link,
            now: self.hub().clock().now(),
        }
    }

    /// Deletes a device at a hub where it does not belong any more.
    pub(crate) async fn remove_left(&self, registration: &Registration, left: &LeftDevice) -> Result<(), StepError> {
        let hubs = self.hubs();
        let belongs_there = registration
            .place
            .as_ref()
            .is_some_and(|place| is_same_place(place, &left.place));
        let link = hubs.find(&left.place.hub).and_then(|hub| hub.link.clone());
        // Without a link, the operator has decided that the hub is none of ours any more.
        if let Some(link) = link.filter(|_| !belongs_there) {
            let host = &link.content.host_name;
            match self.delete_there(&self.remote(&link), left).await {
                Ok(()) => self.health.answered(host),
                Err(HubError::Unavailable { text, .. }) => {
                    self.health.failed(host);
                    return Err(StepError::Later(text));
                }
                Err(HubError::Changed) => return Err(StepError::Later("the device has been changed".to_owned())),
                Err(HubError::Credentials(text) | HubError::Refused(text)) => return Err(StepError::Later(text)),
            }
        }
        self.registry()
            .forget_left_device(&registration.id, &left.place)
            .await?;
        Ok(())
    }

    /// Deletes a device at another hub, if it still is the one that was left there.
    async fn delete_there(&self, remote: &RemoteHub<'_>, left: &LeftDevice) -> Result<(), HubError> {
        match remote.device(&left.place.device_id).await? {
            Some(device) if left.generation.is_empty() || device.generation == left.generation => {
                remote.delete(&left.place.device_id, &device.etag).await
            }
            // It is not there any more, or another one that someone has made since.
            Some(_) | None => Ok(()),
        }
    }
}
