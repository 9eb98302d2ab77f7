//! `holdfast simulate --provision`: devices that do not exist at the hub and register with its provisioning service.
//!
//! What the fleet needs is made first, under the name of the fleet: an enrollment group, and a CA with it. A second run finds it again.
//! Devices with TPMs have no group: each is enrolled by itself.

pub(super) mod tpm;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use holdfast_auth::{Key, sign};
use holdfast_model::{DeviceId, IdentityId};
use http::Method;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use super::device::Credential;
use crate::ca;
use crate::device::encode;
use crate::exit_code::{Failure, Outcome};
use crate::http::{Call, call};
use crate::hub::{ClientIdentity, Hub, LoginArgs, expiry};

/// The version of the registrations, the first one with certificates that is not a preview.
const API_VERSION: &str = "2026-11-01";

/// The version of the service API.
const SERVICE_VERSION: &str = "2021-10-01";

/// How long a registration's token is good for.
const TOKEN_LIFETIME: std::time::Duration = std::time::Duration::from_secs(600);

/// The name of the group and of the CA, behind which the kind stands.
const FLEET: &str = "simulate";

/// What devices register with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Onboarding {
    /// A key, derived from that of a group
    GroupKey,
    /// A certificate of a CA that this command makes for the run
    Certificates,
    /// A derived key, and a request for a certificate that the hub issues
    Csr,
    /// A TPM in software for each device (needs swtpm and tpm2-tools)
    Tpm,
}

/// A fleet that registers.
pub(super) struct Onboarder {
    hub: Arc<Hub>,
    id_scope: String,
    origin: Origin,
}

enum Origin {
    GroupKey {
        key: Key,
        wants_certificate: bool,
    },
    Authority {
        params: Box<CertificateParams>,
        key: KeyPair,
    },
    /// Each device is enrolled by itself, through this service.
    Tpm(Box<Hub>),
}

impl Onboarder {
    /// Makes what the fleet needs.
    pub(super) async fn new(hub: &Arc<Hub>, login: &LoginArgs, kind: Onboarding) -> Result<Self, Failure> {
        let service = login.provisioning()?;
        let missing = || Failure::usage("--provision needs the connection file of the hub, which has the id scope");
        let id_scope = login.provisioning_facts()?.id_scope.ok_or_else(missing)?;
        let origin = match kind {
            Onboarding::GroupKey => Origin::GroupKey {
                key: group_key(&service, FLEET, None).await?,
                wants_certificate: false,
            },
            Onboarding::Csr => {
                let ca = format!("{FLEET}-ca");
                let path = format!("/certificateAuthorities/{ca}");
                exists(call(&service, service_call(Method::PUT, path, Some(json!({})))).await)?;
                Origin::GroupKey {
                    key: group_key(&service, &format!("{FLEET}-csr"), Some(&ca)).await?,
                    wants_certificate: true,
                }
            }
            Onboarding::Certificates => authority(hub, &service).await?,
            Onboarding::Tpm => Origin::Tpm(Box::new(service)),
        };
        Ok(Self {
            hub: Arc::clone(hub),
            id_scope,
            origin,
        })
    }

    /// Registers a device; what it connects with then.
    pub(super) async fn register(&self, id: &DeviceId) -> Result<(IdentityId, Credential), Failure> {
        let name = id.as_str();
        match &self.origin {
            Origin::GroupKey { key, wants_certificate } => {
                let key = key.derive(name);
                let resource = format!("{}/registrations/{name}", self.id_scope);
                let token = sign(&resource, key.as_bytes(), Some("registration"), expiry(TOKEN_LIFETIME));
                let hub = self.hub.with_token(&token);
                if !wants_certificate {
                    let identity = self.registered(&hub, name, json!({})).await?.0;
                    return Ok((identity, Credential::Key(key)));
                }
                let key = KeyPair::generate().map_err(failed)?;
                let csr = params(name).serialize_request(&key).map_err(failed)?;
                let body = json!({"csr": STANDARD.encode(csr.der())});
                let (identity, state) = self.registered(&hub, name, body).await?;
                let chain = certificates(&state["issuedCertificateChain"])?;
                Ok((identity, Credential::Certificate(Arc::new(own(chain, &key)))))
            }
            Origin::Authority {
                params: ca,
                key: ca_key,
            } => {
                let key = KeyPair::generate().map_err(failed)?;
                let leaf = params(name)
                    .signed_by(&key, &Issuer::from_params(ca, ca_key))
                    .map_err(failed)?;
                let shown = Arc::new(own(vec![leaf.der().clone()], &key));
                let hub = self.hub.with_certificate(Arc::clone(&shown));
                let identity = self.registered(&hub, name, json!({})).await?.0;
                Ok((identity, Credential::Certificate(shown)))
            }
            Origin::Tpm(service) => tpm::register(self, service, id).await,
        }
    }

    /// The identity that a device was given, and the state of its registration.
    async fn registered(&self, hub: &Hub, name: &str, body: Value) -> Result<(IdentityId, Value), Failure> {
        let mut answer = call(hub, registration(&self.id_scope, name, body)).await?;
        let state = answer["registrationState"].take();
        let (status, hub) = (state["status"].as_str(), state["assignedHub"].as_str());
        if status != Some("assigned") || hub.is_none_or(|hub| !hub.eq_ignore_ascii_case(&self.hub.host)) {
            let text = format!("device {name} was not assigned to this hub: {state}");
            return Err(Failure::new(Outcome::Failed, text));
        }
        let id = DeviceId::parse(state["deviceId"].as_str().unwrap_or_default()).map_err(Failure::usage)?;
        Ok((IdentityId::device(id), state))
    }
}

fn registration(id_scope: &str, name: &str, mut body: Value) -> Call<'static> {
    body["registrationId"] = json!(name);
    let path = format!("/{id_scope}/registrations/{}/register", encode(name));
    Call {
        version: API_VERSION,
        body: Some(body),
        ..Call::new(Method::PUT, path)
    }
}

/// The key of a group by symmetric key, which is created unless it is there.
async fn group_key(service: &Hub, group: &str, ca: Option<&str>) -> Result<Key, Failure> {
    let mut document = json!({"enrollmentGroupId": group, "attestation": {"type": "symmetricKey"}});
    if let Some(ca) = ca {
        document["certificateAuthorityName"] = json!(ca);
        document["certificatePolicyName"] = json!("default");
    }
    let path = format!("/enrollmentGroups/{group}");
    exists(call(service, service_call(Method::PUT, path.clone(), Some(document))).await)?;
    let keys = call(
        service,
        service_call(Method::POST, format!("{path}/attestationmechanism"), None),
    )
    .await?;
    let key = keys["symmetricKey"]["primaryKey"].as_str().unwrap_or_default();
    Key::from_base64(key).map_err(|error| Failure::new(Outcome::Failed, error.to_string()))
}

/// A CA of this run, which takes the place of that of an earlier one.
async fn authority(hub: &Hub, service: &Hub) -> Result<Origin, Failure> {
    let name = format!("{FLEET}-root");
    let mut ca = params("Simulated fleet");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = ca.self_signed(&key).map_err(failed)?;
    let properties = json!({"certificate": STANDARD.encode(certificate.der()), "isVerified": true});
    let put = |if_match: Option<&'static str>| {
        let mut put = Call::new(Method::PUT, format!("{}/{name}", ca::PATH));
        put.if_match = if_match;
        put.body = Some(json!({"properties": properties}));
        put
    };
    if exists(call(hub, put(None)).await)? {
        call(hub, put(Some("*"))).await?;
    }
    let document = json!({
        "enrollmentGroupId": name,
        "attestation": {"type": "x509", "x509": {"caReferences": {"primary": name}}},
    });
    let path = format!("/enrollmentGroups/{name}");
    exists(call(service, service_call(Method::PUT, path, Some(document))).await)?;
    Ok(Origin::Authority {
        params: Box::new(ca),
        key,
    })
}

/// Whether what was to be created exists already.
fn exists(outcome: Result<Value, Failure>) -> Result<bool, Failure> {
    match outcome {
        Ok(_) => Ok(false),
        Err(failure) if failure.message.contains("answers 409") => Ok(true),
        Err(failure) => Err(failure),
    }
}

fn service_call(method: Method, path: String, body: Option<Value>) -> Call<'static> {
    Call {
        version: SERVICE_VERSION,
        body,
        ..Call::new(method, path)
    }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn own(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> ClientIdentity {
    ClientIdentity {
        chain,
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    }
}

fn certificates(chain: &Value) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = |text: &Value| STANDARD.decode(text.as_str()?).ok().map(CertificateDer::from);
    let chain: Option<Vec<_>> = chain.as_array().and_then(|chain| chain.iter().map(read).collect());
    chain.ok_or_else(|| Failure::new(Outcome::Failed, "the hub has issued no certificate"))
}

fn failed(error: rcgen::Error) -> Failure {
    Failure::new(Outcome::Failed, error.to_string())
}
