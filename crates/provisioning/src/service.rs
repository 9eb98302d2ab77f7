//! The calls of devices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_auth::source;
use holdfast_device_hub::{Credential, Denied, DeviceHub, Operation, Refusal};
use holdfast_model::{ErrorCode, RefusalReason};
use holdfast_registry::{
    AllocationPolicy, Attestation, AuthenticationWrite, DevicePlace, Enrollment, EnrollmentKind, ProvisioningSettings,
    Registration, RegistrationOutcome, RegistrationWrite, Registry, WriteOperation,
};
use holdfast_tasks::sync::RwLock;
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::allocation::Hubs;
use crate::attestation::{Attested, Claimant, NO_TPM_DETAIL, NotAttested};
use crate::config::ProvisioningConfig;
use crate::document::registration_state;
use crate::error::ProvisioningError;
use crate::hub_health::HubHealth;
use crate::hub_latency::HubLatency;
use crate::issuance::{self, CallSigner, CheckedRequest, IssuingNode};
use crate::metrics;
use crate::outbound::Outbound;
use crate::recent_groups::RecentGroups;
use crate::registering::{Decision, is_conflict};
use crate::request::{DeviceCall, RegisterBody, check_id};
use crate::request_rate::RequestRate;
use crate::tpm::{ProvenTpm, TpmKeys, TpmUse};
use crate::webhook;

/// How often a registration is decided anew when something has changed meanwhile.
pub(crate) const MAX_DECISIONS: usize = 5;

/// What all released clients honour (Spec provisioning §2.1).
const POLL_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 2..=4;

/// The text for a device whose credential is refused, whatever the cause.
const REFUSED_TEXT: &str = "Unauthorized";

/// The provisioning service of a node.
pub struct Provisioning {
    hub: Arc<DeviceHub>,
    pub(crate) config: ProvisioningConfig,
    pub(crate) outbound: Arc<dyn Outbound>,
    pub(crate) health: HubHealth,
    pub(crate) latency: HubLatency,
    requests: Semaphore,
    recent_groups: RecentGroups,
    rate: RequestRate,
    /// Calls signers of issuing CAs; `None`: there are none.
    signer: RwLock<Option<Arc<CallSigner>>>,
}

/// The answer to a device's request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The operation, the status, and the state of the registration.
    pub body: Value,
    /// The operation is in progress: when its state is worth another look. `None`: the answer is final.
    pub retry_after: Option<Duration>,
}

/// A device that was let in, or not only because its enrollment is disabled.
enum Found {
    Enabled(Box<Attested>),
    Disabled(Arc<Enrollment>),
}

impl Provisioning {
    /// The service of the node of `hub`; `outbound` calls webhooks and linked hubs.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>, config: ProvisioningConfig, outbound: Arc<dyn Outbound>) -> Arc<Self> {
        Arc::new(Self {
            outbound,
            health: HubHealth::default(),
            latency: HubLatency::default(),
            requests: Semaphore::new(config.max_requests),
            recent_groups: RecentGroups::default(),
            rate: RequestRate::default(),
            signer: RwLock::new(None),
            hub,
            config,
        })
    }

    /// The settings of the service.
    ///
    /// # Errors
    /// [`ErrorCode::ServiceUnavailable`] until the registry has created it.
    pub fn settings(&self) -> Result<Arc<ProvisioningSettings>, ProvisioningError> {
        let missing = || ProvisioningError::new(ErrorCode::ServiceUnavailable, "the provisioning service is starting");
        self.registry().provisioning().ok_or_else(missing)
    }

    /// The host name under which devices reach the service.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.config.device_host.as_str() {
            "" => self.hub.hub_names().primary().unwrap_or_default(),
            host => host,
        }
    }

    /// The hub of this node.
    #[must_use]
    pub fn hub(&self) -> &Arc<DeviceHub> {
        &self.hub
    }

    /// Says how signers of issuing CAs are called.
    pub fn set_signer(&self, signer: Arc<CallSigner>) {
        *self.signer.write() = Some(signer);
    }

    pub(crate) fn signer(&self) -> Option<Arc<CallSigner>> {
        self.signer.read().clone()
    }

    pub(crate) fn registry(&self) -> &Registry {
        self.hub.registry()
    }

    /// The hubs that devices can be assigned to.
    pub(crate) fn hubs(&self) -> Hubs {
        Hubs::new(self.hub.hub_names().clone(), &self.registry().linked_hubs())
    }

    /// Checks that the configuration allows a webhook with this URL.
    ///
    /// # Errors
    /// For people: why it does not.
    pub fn check_webhook(&self, url: &str) -> Result<(), String> {
        webhook::check_url(url, &self.config.webhook_hosts)
    }

    /// Whether the service is named by `id_scope`, in any case.
    ///
    /// # Errors
    /// [`ErrorCode::IdScopeNotFound`], or as [`Self::settings`].
    pub fn check_scope(&self, id_scope: &str) -> Result<Arc<ProvisioningSettings>, ProvisioningError> {
        let settings = self.settings()?;
        if settings.id_scope.eq_ignore_ascii_case(id_scope) {
            return Ok(settings);
        }
        let text = "the id scope is not that of this provisioning service";
        Err(ProvisioningError::new(ErrorCode::IdScopeNotFound, text))
    }

    /// Registers a device.
    ///
    /// # Errors
    /// [`ProvisioningError`] with the number for the device.
    pub async fn register(&self, call: &DeviceCall<'_>, body: &RegisterBody) -> Result<Answer, ProvisioningError> {
        let started = Instant::now();
        let outcome = self.registered(call, body).await;
        metrics::seconds("register").record(started.elapsed());
        let label = match &outcome {
            Ok(answer) => answer.body["status"].as_str().unwrap_or_default().to_owned(),
            Err(error) if error.reason.is_some() => "refused".to_owned(),
            Err(_) => "busy".to_owned(),
        };
        metrics::registrations(call.protocol.as_str(), label).increment(1);
        outcome
    }

    /// The challenge that only the device's TPM can open; its next registration proves that it has.
    ///
    /// # Errors
    /// [`ErrorCode::EnrollmentNotFound`] without an individual enrollment; else as [`Self::register`].
    pub async fn challenge(&self, call: &DeviceCall<'_>, keys: &TpmKeys) -> Result<Vec<u8>, ProvisioningError> {
        let (_permit, settings) = self.begin(call)?;
        let now = self.hub.clock().now();
        let who = (call.registration_id.to_ascii_lowercase(), source(call.address.ip()));
        self.rate.admit(who, now)?;
        // The device's last operation is part of it.
        self.registry().read_barrier().await?;
        let registration = self.registry().registration(call.registration_id)?;
        let claimant = self.claimant(call, &settings, registration.as_ref(), TpmUse::Register(Some(keys)));
        match claimant.challenge(keys, self.host()) {
            Ok(Some(challenge)) => {
                metrics::tpm_challenges(call.protocol.as_str()).increment(1);
                Ok(challenge)
            }
            Ok(None) => {
                let detail = NO_TPM_DETAIL.to_owned();
                Err(self.refused(call, RefusalReason::UnknownIdentity, detail))
            }
            Err(NotAttested::Registry(error)) => Err(error.into()),
            Err(NotAttested::Refused { reason, detail }) => Err(self.refused(call, reason, detail)),
        }
    }

    /// A challenge like [`Self::challenge`], which nothing can be registered with: over AMQP a client learns only from the answer to its
    /// registration why it is refused.
    ///
    /// # Errors
    /// [`ErrorCode::ArgumentInvalid`] for keys that cannot encrypt.
    pub fn void_challenge(&self, keys: &TpmKeys) -> Result<Vec<u8>, ProvisioningError> {
        keys.void_challenge(self.host())
    }

    async fn registered(&self, call: &DeviceCall<'_>, body: &RegisterBody) -> Result<Answer, ProvisioningError> {
        let tpm = TpmUse::Register(body.tpm.as_deref());
        let (_permit, settings) = self.begin(call)?;
        for _ in 0..MAX_DECISIONS {
            let (found, registration) = self.find(call, &settings, tpm).await?;
            let operation_id = operation_id();
            let mut attested = match found {
                Found::Enabled(attested) => attested,
                Found::Disabled(enrollment) => return Ok(disabled(call, &enrollment, operation_id)),
            };
            let proven = attested.tpm.clone();
            let csr = body.csr.as_deref();
            // A second caller joins the operation in progress, if it wants the same.
            if let Some(registration) = registration.as_ref()
                && let Some(pending) = registration.pending()
                && pending.csr.as_deref() == csr
                && !pending.only_credentials
            {
                return answer(registration, proven.as_ref());
            }
            let requested = csr.map(|csr| issuance::check(csr, call.registration_id, &attested.enrollment));
            let requested = requested.transpose()?;
            if requested.is_some() {
                // It gets in by what it is issued, not by what it registers with.
                attested.authentication = AuthenticationWrite::CertificateAuthority;
            }
            let keeps_certificate =
                csr.is_none() && body.knows_certificates && attested.enrollment.content.issuance.is_some();
            if keeps_certificate {
                // The write does not notice a revocation that the replica has not seen.
                self.registry().read_barrier().await?;
            }
            let is_signed_elsewhere = requested
                .as_ref()
                .is_some_and(|requested| requested.is_signed_elsewhere(self.registry()));
            let hubs = self.hubs();
            let before = registration.as_ref().and_then(|found| found.place.as_ref());
            let nearest = self.nearest(&attested.enrollment, &hubs, before);
            let decision = Decision {
                registry: self.registry(),
                hubs: &hubs,
                registration_id: call.registration_id,
                found: registration,
                attested: *attested,
                operation_id,
                payload: body.payload.as_deref(),
                csr,
                is_signed_elsewhere,
                keeps_certificate,
                nearest: &nearest,
                now: self.hub.clock().now(),
            };
            let mut write = decision.write()?;
            let chain = match requested {
                Some(requested) => self.issue_for(requested, &mut write).await?,
                None => None,
            };
            match self.registry().put_registration(&write).await {
                Ok(registration) => {
                    let mut answer = answer(&registration, proven.as_ref())?;
                    if let Some(chain) = chain {
                        issuance::add_chain(&mut answer.body, &chain);
                    }
                    return Ok(answer);
                }
                Err(error) if is_conflict(&error) => {
                    metrics::conflicts().increment(1);
                    // The next decision sees what has changed.
                    self.registry().read_barrier().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let text = "another registration of the device is in progress";
        Err(ProvisioningError::new(ErrorCode::RegistrationConflict, text))
    }

    /// With geoLatency: the hubs that are near to this node, the nearest first; those of the configuration, else as they are measured.
    fn nearest(&self, enrollment: &Enrollment, hubs: &Hubs, before: Option<&DevicePlace>) -> Vec<String> {
        if enrollment.content.allocation != Some(AllocationPolicy::GeoLatency) {
            return Vec::new();
        }
        match self.config.nearest_hubs.is_empty() {
            true => self
                .latency
                .nearest(hubs.own_name(), before.map(|before| before.hub.as_str())),
            false => self.config.nearest_hubs.clone(),
        }
    }

    pub(crate) fn issuing_node(&self) -> IssuingNode<'_> {
        IssuingNode {
            registry: self.registry(),
            call: self.signer(),
            now: self.hub.clock().now(),
        }
    }

    async fn issue_for(
        &self,
        requested: CheckedRequest,
        write: &mut RegistrationWrite,
    ) -> Result<Option<Vec<Vec<u8>>>, ProvisioningError> {
        let node = self.issuing_node();
        // A device that is deleted first has no certificates when it gets this one.
        let begins_anew = write
            .identity
            .iter()
            .any(|write| matches!(write.operation, WriteOperation::Delete(_)));
        let is_own = |hub: &str| self.hub.hub_names().contains(hub);
        node.issue_for(requested, write, is_own, begins_anew).await
    }

    /// The state of an operation that [`Self::register`] has begun.
    ///
    /// # Errors
    /// [`ErrorCode::RegistrationOperationNotFound`]; else as [`Self::register`].
    pub async fn operation(&self, call: &DeviceCall<'_>, operation_id: &str) -> Result<Answer, ProvisioningError> {
        match self.current(call).await? {
            Ok((registration, tpm)) if registration.operation_id == operation_id => {
                let mut answer = answer(&registration, tpm.as_ref())?;
                if let Some(chain) = &registration.issued_chain {
                    let chain = issuance::delivered(chain, &self.registry().issuers());
                    issuance::add_chain(&mut answer.body, &chain);
                }
                Ok(answer)
            }
            Ok(_) => {
                let text = "the operation is not the last one of the device: register again";
                Err(ProvisioningError::new(ErrorCode::RegistrationOperationNotFound, text))
            }
            Err(disabled) => Ok(disabled),
        }
    }

    /// The state of the device's registration, without an operation.
    ///
    /// # Errors
    /// [`ErrorCode::EnrollmentNotFound`] when it has never registered; else as [`Self::register`].
    pub async fn look_up(&self, call: &DeviceCall<'_>, body: &RegisterBody) -> Result<Answer, ProvisioningError> {
        if body.csr.is_some() {
            let text = "a look-up has no csr: only a registration issues a certificate";
            return Err(ProvisioningError::new(ErrorCode::ArgumentInvalid, text));
        }
        let mut answer = match self.current(call).await? {
            Ok((registration, tpm)) => answer(&registration, tpm.as_ref())?,
            Err(disabled) => disabled,
        };
        Ok(Answer {
            body: answer.body["registrationState"].take(),
            retry_after: None,
        })
    }

    /// The registration of an authenticated device, no older than the call; `Err`: the answer to a disabled one.
    async fn current(
        &self,
        call: &DeviceCall<'_>,
    ) -> Result<Result<(Registration, Option<ProvenTpm>), Answer>, ProvisioningError> {
        let (_permit, settings) = self.begin(call)?;
        self.registry().read_barrier().await?;
        let (found, registration) = self.find(call, &settings, TpmUse::Read).await?;
        // Once it is known that it is the device.
        let now = self.hub.clock().now();
        self.rate.admit(call.registration_id.to_ascii_lowercase(), now)?;
        let tpm = match found {
            Found::Disabled(enrollment) => return Ok(Err(disabled(call, &enrollment, operation_id()))),
            Found::Enabled(attested) => attested.tpm,
        };
        let missing = || ProvisioningError::new(ErrorCode::EnrollmentNotFound, "the device has never registered");
        registration
            .map(|registration| Ok((registration, tpm)))
            .ok_or_else(missing)
    }

    fn begin(
        &self,
        call: &DeviceCall<'_>,
    ) -> Result<(SemaphorePermit<'_>, Arc<ProvisioningSettings>), ProvisioningError> {
        let Ok(permit) = self.requests.try_acquire() else {
            let text = "too many devices register at once; retry later";
            return Err(ProvisioningError::new(ErrorCode::ThrottlingException, text));
        };
        check_id(call.registration_id)?;
        let settings = self.check_scope(call.id_scope)?;
        Ok((permit, settings))
    }

    /// Finds the enrollment and the registration of a device, as the replica knows them. A refusal is confirmed.
    async fn find(
        &self,
        call: &DeviceCall<'_>,
        settings: &ProvisioningSettings,
        tpm: TpmUse<'_>,
    ) -> Result<(Found, Option<Registration>), ProvisioningError> {
        let mut is_confirmed = !self.registry().in_lease();
        if is_confirmed {
            self.registry().read_barrier().await?;
        }
        loop {
            let registration = self.registry().registration(call.registration_id)?;
            let attested = self.attest(
                &self.claimant(call, settings, registration.as_ref(), tpm),
                call.credential,
            );
            let (reason, detail) = match attested {
                Ok(found) => return Ok((found, registration)),
                Err(NotAttested::Registry(error)) => return Err(error.into()),
                Err(NotAttested::Refused { reason, detail }) => (reason, detail),
            };
            if is_confirmed || !reason.needs_confirmation() {
                return Err(self.refused(call, reason, detail));
            }
            self.registry().read_barrier().await?;
            is_confirmed = true;
        }
    }

    fn claimant<'a>(
        &'a self,
        call: &DeviceCall<'a>,
        settings: &'a ProvisioningSettings,
        registration: Option<&'a Registration>,
        tpm: TpmUse<'a>,
    ) -> Claimant<'a> {
        Claimant {
            registry: self.registry(),
            id_scope: &settings.id_scope,
            registration_id: call.registration_id,
            now: self.hub.clock().now(),
            recent_groups: &self.recent_groups,
            registration,
            tpm,
        }
    }

    fn attest(&self, claimant: &Claimant<'_>, credential: Credential<'_>) -> Result<Found, NotAttested> {
        let attested = claimant.attest(credential)?;
        let enrollment = &attested.enrollment;
        let kind = match enrollment.kind {
            EnrollmentKind::Individual => "individual",
            EnrollmentKind::Group => "group",
        };
        metrics::attestations(enrollment.attestation.type_name(), kind).increment(1);
        if enrollment.kind == EnrollmentKind::Group && matches!(enrollment.attestation, Attestation::SymmetricKey(_)) {
            self.recent_groups.record(claimant.registration_id, &enrollment.id);
        }
        if enrollment.content.is_disabled {
            return Ok(Found::Disabled(Arc::clone(enrollment)));
        }
        Ok(Found::Enabled(Box::new(attested)))
    }

    /// Records a refused credential; the device learns no more than that.
    fn refused(&self, call: &DeviceCall<'_>, reason: RefusalReason, detail: String) -> ProvisioningError {
        let (code, text) = match reason {
            // Of a TPM alone: clients know this number.
            RefusalReason::UnknownIdentity => (ErrorCode::EnrollmentNotFound, "there is no enrollment of the TPM"),
            _ => (ErrorCode::GenericUnauthorized, REFUSED_TEXT),
        };
        let denied = Denied {
            refusal: Refusal { code, reason },
            detail: Some(detail.into()),
            needs_confirmation: false,
        };
        let now = self.hub.clock().now();
        let (id, protocol, address) = (call.registration_id, call.protocol, call.address);
        self.hub.audit().refused_attestation(id, protocol, address, denied, now);
        let (token, leaf): (&[u8], &[u8]) = match call.credential {
            Credential::None => (&[], &[]),
            Credential::SasToken(token) => (token.as_bytes(), &[]),
            Credential::CertificateChain(chain) => (&[], chain.leaf()),
            Credential::Both(token, chain) => (token.as_bytes(), chain.leaf()),
        };
        let penalty = self
            .hub
            .penalty(Operation::Register, id, protocol, address, &[token, leaf], reason);
        ProvisioningError {
            reason: Some(reason),
            penalty,
            ..ProvisioningError::new(code, text)
        }
    }
}

/// The answer with a registration; `tpm` gets its key at the hub with it.
fn answer(registration: &Registration, tpm: Option<&ProvenTpm>) -> Result<Answer, ProvisioningError> {
    let mut state = registration_state(registration);
    if let (Some(tpm), RegistrationOutcome::Assigned { hub, .. }) = (tpm, &registration.outcome) {
        state["tpm"] = json!({"authenticationKey": tpm.authentication_key(hub)?});
    }
    Ok(Answer {
        retry_after: is_assigning(registration).then(poll_after),
        body: json!({
            "operationId": registration.operation_id,
            "status": state["status"],
            "registrationState": state,
        }),
    })
}

/// Whether the device waits for the end of its operation. A revocation after an operation that has failed is not its business.
fn is_assigning(registration: &Registration) -> bool {
    registration.pending().is_some() && registration.failure().is_none()
}

/// The answer to a device whose enrollment is disabled. Nothing is stored, so that it costs no write.
fn disabled(call: &DeviceCall<'_>, enrollment: &Enrollment, operation_id: String) -> Answer {
    let code = ErrorCode::DeviceDisabled;
    Answer {
        retry_after: None,
        body: json!({
            "operationId": operation_id,
            "status": "disabled",
            "registrationState": {
                "registrationId": call.registration_id,
                "status": "disabled",
                enrollment.attestation.type_name(): {},
                "errorCode": code.number(),
                "errorMessage": "the enrollment is disabled",
            },
        }),
    }
}

/// When the state of an operation is worth a look: spread, so that devices that registered together do not come back together.
fn poll_after() -> Duration {
    Duration::from_secs(rand::rng().random_range(POLL_AFTER_SECONDS))
}

/// An id that needs no escaping in a path or topic.
pub(crate) fn operation_id() -> String {
    let number: u64 = rand::random();
    format!("4.{number:016x}.{}", uuid::Uuid::from_u128(rand::random()))
}
