//! Certificates for devices: requests, policies, the CAs that issue, and what operators do with them (Spec provisioning §11.4–11.6,
//! docs/decisions/0051).
//!
//! Invariants: a request is looked at after its sender has proved who it is; a certificate leaves the hub after its record was committed;
//! of a request only the key is used, and the name is the hub's.
//! Not here: the record (`registry`), what a certificate opens (`device-hub`), topics (`gateway`).

mod authorities;
mod certificate;
mod credential;
mod key;
mod operation;
mod order;
mod renewal;
mod signer;
mod withdrawal;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_auth::x509::{MAX_REQUEST_BYTES, SigningRequest};
use holdfast_model::json::quoted;
use holdfast_model::{DeviceId, ErrorCode, UnixMillis};
use holdfast_registry::{
    DeviceCertificates, Enrollment, IssuanceReference, IssuerKey, Registration, RegistrationOutcome, RegistrationWrite,
    Registry, RegistryError,
};
use serde_json::{Value, json};

pub use authorities::{CaKeySource, NewCa};
pub use renewal::Renewal;
pub use signer::{CallSigner, SignerAnswer, SignerCall, SignerFuture};

use crate::error::ProvisioningError;
use crate::metrics;
pub(crate) use credential::{At, by_certificates, kept};
pub(crate) use operation::{delivered, is_void, sign};
pub(crate) use order::Issued;
use order::Order;
pub(crate) use withdrawal::{pending_at, resumed, settled};

/// How many certificates a device gets within [`RECENT`].
const MAX_RECENT: usize = 10;
const RECENT: Duration = Duration::from_secs(10 * 60);

fn invalid(text: impl Into<String>) -> ProvisioningError {
    ProvisioningError::new(ErrorCode::ArgumentInvalid, text)
}

/// Decodes a request in base64. It may have line breaks, which some tools add.
///
/// # Errors
/// [`ErrorCode::ArgumentInvalid`].
pub(crate) fn decode_csr(text: &str) -> Result<Vec<u8>, ProvisioningError> {
    // Base64 is a third longer.
    if text.len() > MAX_REQUEST_BYTES * 2 {
        return Err(invalid(format!("csr is larger than {MAX_REQUEST_BYTES} bytes")));
    }
    let compact: String = text.split_ascii_whitespace().collect();
    let decoded = STANDARD.decode(compact);
    decoded.map_err(|_| invalid("csr must be the base64 of a PKCS#10 in DER, without PEM armour"))
}

/// A request of a device whose enrollment allows it; what the assignment decides is missing.
pub(crate) struct CheckedRequest {
    csr: Vec<u8>,
    request: SigningRequest,
    reference: IssuanceReference,
}

/// Checks the request of a device that has proved to be `registration_id`.
///
/// # Errors
/// [`ErrorCode::ArgumentInvalid`], before anything is assigned.
pub(crate) fn check(
    csr: &[u8],
    registration_id: &str,
    enrollment: &Enrollment,
) -> Result<CheckedRequest, ProvisioningError> {
    let checked = CheckedRequest::read(csr, enrollment)?;
    let device_id = enrollment.content.device_id.as_ref().map(DeviceId::as_str);
    let name = checked.request.common_name();
    if name != registration_id && Some(name) != device_id {
        let text = format!(
            "the common name of the certificate signing request is {}, and must be the registration id",
            quoted(name)
        );
        return Err(invalid(text));
    }
    Ok(checked)
}

impl CheckedRequest {
    /// The request, whatever name it has.
    fn read(csr: &[u8], enrollment: &Enrollment) -> Result<Self, ProvisioningError> {
        let Some(reference) = enrollment.content.issuance.clone() else {
            let text = "the enrollment has no certificate policy: it issues no certificates";
            return Err(invalid(text));
        };
        let request = SigningRequest::read(csr).map_err(|error| invalid(error.to_string()))?;
        Ok(Self {
            csr: csr.to_vec(),
            request,
            reference,
        })
    }

    /// Whether a server outside of the hub signs for it, which takes its time.
    pub(crate) fn is_signed_elsewhere(&self, registry: &Registry) -> bool {
        let issuers = registry.issuers();
        let issuer = issuers.get(&self.reference.issuer);
        issuer.is_some_and(|issuer| matches!(issuer.key, IssuerKey::External { .. }))
    }

    /// The order for a device.
    ///
    /// # Errors
    /// For people: the policy does not exist, or does not allow it.
    fn order(
        self,
        registry: &Registry,
        device: &DeviceId,
        registration_id: Option<&str>,
        has_epoch: bool,
    ) -> Result<Order, ProvisioningError> {
        let (ca, policy) = (&self.reference.issuer, &self.reference.policy);
        let issuers = registry.issuers();
        let issuer = issuers.get(ca);
        let found = issuer.and_then(|issuer| Some((issuer.clone(), issuer.policy(policy)?.clone())));
        let Some((issuer, policy)) = found else {
            let text = format!("the hub has no certificate policy '{policy}' of an issuing CA '{ca}'");
            return Err(ProvisioningError::new(ErrorCode::InvalidOperation, text));
        };
        if !policy.allows_name(device.as_str()) {
            let text = format!("certificate policy '{}' issues for other names", policy.name);
            return Err(invalid(text));
        }
        if !policy.allows_key(self.request.key_type()) {
            let known: Vec<&str> = policy.key_types.iter().map(|kind| kind.as_str()).collect();
            let text = format!(
                "certificate policy '{}' issues for keys of {}, and the request has {}",
                policy.name,
                known.join(", "),
                self.request.key_type().as_str()
            );
            return Err(invalid(text));
        }
        Ok(Order {
            csr: self.csr,
            request: self.request,
            device: device.clone(),
            registration_id: registration_id.map(str::to_owned),
            operation_id: None,
            issuer,
            policy,
            has_epoch,
        })
    }
}

/// Refuses a device that gets certificates all the time: each one is an entry of the registry's log.
fn check_rate(found: Option<&DeviceCertificates>, now: UnixMillis) -> Result<(), ProvisioningError> {
    let recent = u64::try_from(RECENT.as_millis()).unwrap_or(u64::MAX);
    let since = now.0.saturating_sub(recent);
    let count = found.map_or(0, |found| {
        found.issued.iter().filter(|issued| issued.from.0 >= since).count()
    });
    if count < MAX_RECENT {
        return Ok(());
    }
    let text = format!("the device has got {count} certificates within ten minutes; retry later");
    Err(ProvisioningError::new(ErrorCode::ThrottlingException, text))
}

/// What issuing needs of a node.
pub(crate) struct IssuingNode<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) call: Option<std::sync::Arc<CallSigner>>,
    pub(crate) now: UnixMillis,
}

impl IssuingNode<'_> {
    /// Issues for a decided registration, and puts the record into it. A CA that cannot issue fails the registration, with the cause
    /// in its record; then the identity stays as it is. For an operation that begins, the request is checked only: the operation issues.
    pub(crate) async fn issue_for(
        &self,
        request: CheckedRequest,
        write: &mut RegistrationWrite,
        is_own_hub: impl Fn(&str) -> bool,
        begins_anew: bool,
    ) -> Result<Option<Vec<Vec<u8>>>, ProvisioningError> {
        let (hub, device_id) = match &write.outcome {
            RegistrationOutcome::Assigned { hub, device_id, .. } => (hub, device_id),
            RegistrationOutcome::Failed { .. } => return Ok(None),
            RegistrationOutcome::Assigning(pending) => {
                check_rate(
                    self.registry.device_certificates(&pending.device_id)?.as_ref(),
                    self.now,
                )?;
                request.order(self.registry, &pending.device_id, None, false)?;
                return Ok(None);
            }
        };
        let found = match begins_anew {
            true => None,
            false => self.registry.device_certificates(device_id)?,
        };
        check_rate(found.as_ref(), self.now)?;
        let order = request.order(self.registry, device_id, Some(&write.id), is_own_hub(hub))?;
        let ca = order.issuer.name.clone();
        match self.issued(order, found.as_ref()).await {
            Ok(issued) => {
                write.issue = Some(issued.write);
                Ok(Some(issued.chain))
            }
            Err(text) => {
                write.outcome = RegistrationOutcome::Failed {
                    code: ErrorCode::ServiceUnavailable,
                    text: format!("issuing CA '{ca}': {text}"),
                };
                write.identity.clear();
                Ok(None)
            }
        }
    }

    pub(crate) async fn issued(&self, order: Order, found: Option<&DeviceCertificates>) -> Result<Issued, String> {
        let authorities = self.registry.authorities();
        let issued = order.issued(found, &authorities, self.call.as_deref(), self.now).await;
        let outcome = if issued.is_ok() { "issued" } else { "failed" };
        metrics::certificates(outcome).increment(1);
        issued
    }
}

/// Puts a chain into the answer to a registration.
pub(crate) fn add_chain(answer: &mut Value, chain: &[Vec<u8>]) {
    let chain: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
    answer["registrationState"]["issuedCertificateChain"] = json!(chain);
}

/// The enrollment that decides over a registered device.
pub(crate) fn enrollment_of(
    registry: &Registry,
    registration: &Registration,
) -> Result<Option<std::sync::Arc<Enrollment>>, RegistryError> {
    use holdfast_registry::EnrollmentKind::{Group, Individual};
    // An individual enrollment decides over every group.
    if let Some(own) = registry.enrollment(Individual, &registration.id)? {
        return Ok(Some(own));
    }
    match &registration.group {
        Some(group) => registry.enrollment(Group, group),
        None => Ok(None),
    }
}
