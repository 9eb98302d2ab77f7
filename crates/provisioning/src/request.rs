//! What a device sends (Spec provisioning §3.1, §4.2).

use std::net::SocketAddr;

use holdfast_device_hub::{Credential, Protocol};
use holdfast_model::{ErrorCode, json};
use holdfast_registry::{EnrollmentKind, check_registration_id};
use serde_json::Value;

use crate::error::ProvisioningError;
use crate::issuance::decode_csr;
use crate::tpm::TpmKeys;
use crate::version::issues_certificates;

/// Longest body, in bytes.
pub const MAX_BODY_BYTES: usize = 96 * 1024;

/// A request of a device, whatever the protocol.
#[derive(Clone, Copy)]
pub struct DeviceCall<'a> {
    /// The id scope that it names.
    pub id_scope: &'a str,
    /// The registration id that it names.
    pub registration_id: &'a str,
    /// What it proves who it is by.
    pub credential: Credential<'a>,
    /// The protocol of its connection.
    pub protocol: Protocol,
    /// Its network address.
    pub address: SocketAddr,
}

/// The body of a registration or a look-up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegisterBody {
    /// A request for a certificate, PKCS#10 in DER.
    pub csr: Option<Vec<u8>>,
    /// What the device says to the webhook, JSON.
    pub payload: Option<String>,
    /// The public keys of its TPM.
    pub tpm: Option<Box<TpmKeys>>,
    /// It comes from a client that can have got certificates of the service.
    pub knows_certificates: bool,
}

impl RegisterBody {
    /// Reads a body, which may be empty. Its registration id, if it has one, must be that of the request.
    ///
    /// # Errors
    /// [`ErrorCode::MessageTooLarge`], [`ErrorCode::IotHubFormatError`], [`ErrorCode::ArgumentInvalid`].
    pub fn parse(body: &[u8], registration_id: &str) -> Result<Self, ProvisioningError> {
        if body.len() > MAX_BODY_BYTES {
            let text = format!("the body is larger than {MAX_BODY_BYTES} bytes");
            return Err(ProvisioningError::new(ErrorCode::MessageTooLarge, text));
        }
        let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let format = |text: String| ProvisioningError::new(ErrorCode::IotHubFormatError, text);
        let text = std::str::from_utf8(body).map_err(|_| format("the body is not UTF-8 text".to_owned()))?;
        let value = json::parse(text).map_err(|error| format(format!("the body is not valid JSON: {error}")))?;
        let Value::Object(members) = value else {
            return Err(format("the body must be a JSON object".to_owned()));
        };
        let invalid = |text: &str| Err(ProvisioningError::new(ErrorCode::ArgumentInvalid, text));
        match members.get("registrationId") {
            None | Some(Value::Null) => {}
            Some(Value::String(id)) if id.eq_ignore_ascii_case(registration_id) => {}
            Some(Value::String(_)) => return invalid("registrationId of the body is not that of the request"),
            Some(_) => return invalid("registrationId must be a string"),
        }
        let csr = match members.get("csr") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(decode_csr(text)?),
            Some(_) => return invalid("csr must be a string"),
        };
        let payload = members.get("payload").filter(|payload| !payload.is_null());
        let tpm = match members.get("tpm") {
            None | Some(Value::Null) => None,
            Some(tpm) => Some(Box::new(TpmKeys::of_body(tpm)?)),
        };
        Ok(Self {
            csr,
            payload: payload.map(Value::to_string),
            tpm,
            knows_certificates: false,
        })
    }

    /// The same as a request of an api-version: earlier ones do not know requests for certificates, which are ignored there.
    #[must_use]
    pub fn at_version(self, version: Option<&str>) -> Self {
        let knows_certificates = issues_certificates(version);
        Self {
            csr: self.csr.filter(|_| knows_certificates),
            knows_certificates,
            ..self
        }
    }
}

/// Checks the registration id of a request.
pub(crate) fn check_id(registration_id: &str) -> Result<(), ProvisioningError> {
    check_registration_id(EnrollmentKind::Individual, registration_id)
        .map_err(|rejection| ProvisioningError::new(rejection.code, rejection.text))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    #[test]
    fn bodies_of_all_sdks_are_read() {
        for body in [
            "",
            " ",
            "{}",
            r#"{"registrationId":"Dev-1","payload":null}"#,
            r#"{"registrationId":"dev-1","payload":"{\"a\":1}"}"#,
            "\u{feff}{\"tpm\":null}",
        ] {
            let read = RegisterBody::parse(body.as_bytes(), "dev-1").unwrap();
            assert!(read.csr.is_none(), "{body}");
            assert_eq!(read.payload.is_some(), body.contains("\\\"a"), "{body}");
        }
        let body = RegisterBody::parse(br#"{"csr":"MIIB"}"#, "dev-1").unwrap();
        assert_eq!(body.csr.as_deref(), Some(&b"0\x82\x01"[..]));
        assert_eq!(body.at_version(Some("2019-03-31")).csr, None);
    }

    #[test]
    fn hostile_bodies_are_refused_by_number() {
        let deep = "[".repeat(100_000);
        let large = vec![b' '; MAX_BODY_BYTES + 1];
        for (body, number) in [
            (&b"[]"[..], 400_006),
            (b"\xff", 400_006),
            (deep.as_bytes(), 413_001),
            (b"[[[", 400_006),
            (br#"{"registrationId":"other"}"#, 400_004),
            (br#"{"registrationId":7}"#, 400_004),
            (br#"{"a":1,"a":2}"#, 400_006),
            (br#"{"csr":{}}"#, 400_004),
            (br#"{"tpm":"x"}"#, 400_004),
            (br#"{"tpm":{"endorsementKey":"x"}}"#, 400_004),
            (br#"{"tpm":{"endorsementKey":"AAA=","storageRootKey":"AAA="}}"#, 400_004),
            (br#"{"csr":"-----BEGIN CERTIFICATE REQUEST-----"}"#, 400_004),
            (&large, 413_001),
        ] {
            let error = RegisterBody::parse(body, "dev-1").unwrap_err();
            assert_eq!(error.code.number(), number, "{error:?}");
        }
    }

    #[test]
    fn changed_bodies_never_panic() {
        let key = "A".repeat(420);
        let body = format!(
            r#"{{"registrationId":"dev-1","csr":"MII","payload":{{"a":[1,null]}},"tpm":{{"endorsementKey":"{key}","storageRootKey":"{key}"}}}}"#
        );
        let mut random = StdRng::seed_from_u64(17);
        for _ in 0..20_000 {
            let mut bytes = body.clone().into_bytes();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => bytes[at] = random.random(),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b"{}[]\",:\\0"[random.random_range(0..9)]),
                }
            }
            let _ = RegisterBody::parse(&bytes, "dev-1");
        }
    }
}
