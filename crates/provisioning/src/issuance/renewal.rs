//! Renewal over a session of the hub (Spec provisioning §11.5).

use holdfast_auth::x509::SigningRequest;
use holdfast_model::{DeviceId, ErrorCode};
use holdfast_registry::RegistryError;

use super::{CheckedRequest, IssuingNode, check_rate, decode_csr, enrollment_of, invalid};
use crate::error::ProvisioningError;
use crate::service::Provisioning;

/// A certificate that a device has got over its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// DER, the device's first, the root last.
    pub chain: Vec<Vec<u8>>,
}

impl Provisioning {
    /// Issues a new certificate to a device that is connected. Its enrollment must still be there, enabled, and have a policy.
    ///
    /// # Errors
    /// [`ErrorCode::ArgumentInvalid`] for the request, [`ErrorCode::InvalidOperation`] when the device gets none,
    /// [`ErrorCode::ThrottlingException`], and [`ErrorCode::ServiceUnavailable`] when the CA cannot issue.
    pub async fn renew(&self, device: &DeviceId, csr: &str) -> Result<Renewal, ProvisioningError> {
        let csr = decode_csr(csr)?;
        let request = SigningRequest::read(&csr).map_err(|error| invalid(error.to_string()))?;
        if request.common_name() != device.as_str() {
            return Err(invalid(
                "the common name of the certificate signing request must be the device id",
            ));
        }
        let registry = self.hub().registry();
        registry.read_barrier().await?;
        let found = registry.device_certificates(device)?;
        let none = |text: &str| Err(ProvisioningError::new(ErrorCode::InvalidOperation, text));
        let registered = found.as_ref().and_then(|found| found.registration_id.as_deref());
        let registration = registry.registration(registered.unwrap_or(device.as_str()))?;
        let Some(registration) = registration else {
            return none("the device has not registered: it gets no certificate over its session");
        };
        let enrollment = enrollment_of(registry, &registration)?;
        let Some(enrollment) = enrollment.filter(|enrollment| !enrollment.content.is_disabled) else {
            return none("the enrollment of the device is gone or disabled: it gets no certificate");
        };
        let Some(reference) = enrollment.content.issuance.clone() else {
            return none("the enrollment of the device has no certificate policy");
        };
        let now = self.hub().clock().now();
        check_rate(found.as_ref(), now)?;
        let request = CheckedRequest {
            csr,
            request,
            reference,
        };
        let order = request.order(registry, device, Some(&registration.id), true)?;
        let ca = order.issuer.name.clone();
        let node = IssuingNode {
            registry,
            call: self.signer(),
            now,
        };
        let issued = node.issued(order, found.as_ref()).await.map_err(|text| {
            ProvisioningError::new(ErrorCode::ServiceUnavailable, format!("issuing CA '{ca}': {text}"))
        })?;
        match registry.record_issued(&issued.write).await {
            Ok(()) => Ok(Renewal { chain: issued.chain }),
            Err(error @ RegistryError::Rejected(_)) => Err(error.into()),
            Err(error) => Err(error.into()),
        }
    }
}
