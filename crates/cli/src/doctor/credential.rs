//! Step `credential`: a connection as the device, and the explanation of a refusal.
//!
//! Invariant: a token is sent only to a server whose chain was judged good; nothing here prints a key or a token.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_auth::x509::CertificateFingerprints;
use holdfast_auth::{ConnectionString, Key, SasToken, Secret, sign_identity};
use holdfast_model::limits::SAS_CLOCK_SKEW;
use holdfast_model::{DeviceId, IdentityId, ModuleId};
use holdfast_mqtt::codec::Connect;
use http::{Method, header};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::ports::Service;
use super::protocols::{API_VERSION, Dialer, ServerClock, seconds_now};
use super::report::{Finding, Step};
use super::tls::ClientIdentity;
use crate::exit_code::Failure;
use crate::hub::expiry;

/// How long the token of the attempt is good for.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// The proof.
pub(super) enum Proof {
    Key(Key),
    /// A ready-made token.
    Token(Secret),
    Certificate(ClientIdentity),
}

/// A device's credential.
pub(super) struct Credential {
    pub(super) identity: IdentityId,
    /// The hub's name inside the credential: tokens are signed for it.
    pub(super) hub: String,
    pub(super) proof: Proof,
}

/// The options of the command line.
pub(super) struct Given<'a> {
    pub(super) connection_string: Option<&'a str>,
    pub(super) host: Option<&'a str>,
    pub(super) certificate: Option<(&'a Path, &'a Path)>,
    pub(super) device: Option<&'a str>,
    pub(super) module: Option<&'a str>,
}

impl Credential {
    /// Reads the credential of the command line, if there is one.
    ///
    /// # Errors
    /// Says what does not fit together.
    pub(super) fn read(given: &Given<'_>) -> Result<Option<Self>, Failure> {
        let certificate = match given.certificate {
            Some((certificate, key)) => {
                let read = read_certificate(certificate, key);
                Some(read.map_err(|error| Failure::usage(format!("{error:#}")))?)
            }
            None => None,
        };
        let Some(text) = given.connection_string else {
            let Some(client) = certificate else { return Ok(None) };
            let device = given.device.ok_or_else(|| {
                Failure::usage("--cert needs --device-id: the certificate alone does not name the device")
            })?;
            let hub = given.host.unwrap_or_default().to_owned();
            let identity = identity(device, given.module)?;
            let proof = Proof::Certificate(client);
            return Ok(Some(Self { identity, hub, proof }));
        };
        let parsed = ConnectionString::parse(text).map_err(|error| {
            Failure::usage(format!("the connection string: {}", with_causes(&error)))
                .advise("`holdfast device connection-string ID` prints it; mind the quotes in a shell")
        })?;
        let ConnectionString::Iot(parsed) = parsed else {
            return Err(Failure::usage(
                "this connection string is an event reader's; give the device's",
            ));
        };
        let device = parsed.device.ok_or_else(|| {
            Failure::usage(
                "this connection string is a policy's, for back ends; give the device's, which has DeviceId=",
            )
        })?;
        let proof = match (parsed.key, parsed.token, certificate) {
            (_, _, Some(client)) => Proof::Certificate(client),
            (Some(key), ..) => Proof::Key(key),
            (None, Some(token), _) => Proof::Token(token),
            (None, None, None) => {
                return Err(Failure::usage(
                    "this connection string has no key; give --cert FILE --key FILE",
                ));
            }
        };
        Ok(Some(Self {
            identity: IdentityId {
                device,
                module: parsed.module,
            },
            hub: parsed.host_name,
            proof,
        }))
    }

    /// The password of the attempt; empty with a certificate.
    fn token(&self) -> Option<String> {
        match &self.proof {
            Proof::Key(key) => Some(sign_identity(&self.hub, &self.identity, key, expiry(TOKEN_LIFETIME))),
            Proof::Token(token) => Some(token.reveal().to_owned()),
            Proof::Certificate(_) => None,
        }
    }

    /// Facts about the credential that need no server, one line each.
    fn describe(&self) -> Vec<String> {
        match &self.proof {
            Proof::Key(_) => vec![format!("a key of {}, for {}", self.identity, self.hub)],
            Proof::Token(token) => match SasToken::parse(token.reveal()) {
                Ok(token) => vec![format!(
                    "a ready-made token, which ends at {} (seconds since 1970)",
                    token.expiry()
                )],
                Err(refusal) => vec![format!("a ready-made token: {refusal}")],
            },
            Proof::Certificate(client) => {
                let Some(leaf) = client.chain.first() else {
                    return Vec::new();
                };
                let prints = CertificateFingerprints::of(leaf);
                vec![
                    format!("certificate with SHA-256 {}", prints.sha256_hex()),
                    format!("             and SHA-1 {}", prints.sha1_hex()),
                ]
            }
        }
    }
}

fn identity(device: &str, module: Option<&str>) -> Result<IdentityId, Failure> {
    Ok(IdentityId {
        device: DeviceId::parse(device).map_err(Failure::usage)?,
        module: module.map(ModuleId::parse).transpose().map_err(Failure::usage)?,
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

fn read_certificate(certificate: &Path, key: &Path) -> Result<ClientIdentity> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read {}", certificate.display()))?;
    ensure!(!chain.is_empty(), "{} holds no certificate", certificate.display());
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read {}", key.display()))?;
    Ok(ClientIdentity { chain, key })
}

/// Connects as the device over the first protocol that is there.
pub(super) async fn finding(credential: &Credential, dialer: &Dialer<'_>, clock: Option<ServerClock>) -> Finding {
    let details = credential.describe();
    let over = [Service::Mqtt, Service::Https];
    let Some(over) = over.into_iter().find(|service| dialer.can_dial(*service)) else {
        return Finding::skipped(Step::Credential, "neither MQTT port speaks TLS").details(details);
    };
    let token = credential.token();
    let username = format!(
        "{}/{}/?api-version={API_VERSION}&DeviceClientType=holdfast-doctor",
        credential.hub, credential.identity
    );
    let client_id = credential.identity.to_string();
    let connect = Connect {
        clean: false,
        keep_alive: 60,
        client_id: &client_id,
        username: Some(&username),
        password: token.as_deref().map(str::as_bytes),
        ..Connect::default()
    };
    let attempt = dialer.connect(over, &connect).await;
    let mut facts = json!({"identity": client_id, "over": if over == Service::Mqtt { "mqtt" } else { "mqtt-ws" }});
    if let Ok(code) = &attempt {
        facts["connack"] = Value::from(*code);
    }
    let finding = match attempt {
        Ok(0) => Finding::passed(Step::Credential, format!("the hub accepts {}", credential.identity)),
        Ok(code) => refused(code, credential, dialer, clock, token.as_deref()).await,
        Err(error) => Finding::failed(Step::Credential, format!("{error:#}")).advise(match &credential.proof {
            Proof::Certificate(_) => {
                "the server may refuse the certificate itself: key type and size, or the chain's length"
            }
            _ => "the hub closes without an answer what it cannot read, and where it throttles; try again in a minute",
        }),
    };
    let details = details.into_iter().chain(finding.details.clone()).collect();
    finding.details(details).facts(facts)
}

async fn refused(
    code: u8,
    credential: &Credential,
    dialer: &Dialer<'_>,
    clock: Option<ServerClock>,
    token: Option<&str>,
) -> Finding {
    let step = Step::Credential;
    let id = &credential.identity;
    match code {
        1 => Finding::failed(step, "refused with 1: the hub does not speak this version of the API")
            .advise("is HOST a hub? This program asks for a version that every hub of this kind speaks"),
        3 => Finding::failed(step, "refused with 3: not now; the credential was not judged")
            .advise("try again in a minute; `holdfast cluster status` on the hub says why it takes no connections"),
        _ => {
            let mut evidence = Vec::new();
            if !credential.hub.eq_ignore_ascii_case(&dialer.host) {
                evidence.push(format!(
                    "the credential is for {}, and this hub was reached as {}",
                    credential.hub, dialer.host
                ));
            }
            evidence.extend(token.and_then(|token| token_fault(token, credential, clock)));
            evidence.extend(certificate_fault(credential, clock));
            if let Some(token) = token
                && let Some(said) = server_text(dialer, id, token).await
            {
                evidence.push(format!("the hub says: {said}"));
            }
            let advice = match &credential.proof {
                Proof::Certificate(_) => format!(
                    "compare the thumbprint with the registered one, or the common name with {id} and the issuer with the hub's \
                     CAs; is the device enabled, and registered for certificates? `holdfast device diagnose {}` on the hub has \
                     the exact reason of this attempt",
                    id.device
                ),
                _ => format!(
                    "is the key one of the two that the hub has for {id}, is the device there and enabled, and registered with \
                     keys? The hub does not tell strangers; `holdfast device diagnose {}` on the hub has the exact reason of \
                     this attempt",
                    id.device
                ),
            };
            Finding::failed(step, format!("the hub refuses {id} with {code}: not authorized"))
                .details(evidence)
                .advise(advice)
        }
    }
}

/// A fault that the token shows by itself.
fn token_fault(text: &str, credential: &Credential, clock: Option<ServerClock>) -> Option<String> {
    let token = match SasToken::parse(text) {
        Ok(token) => token,
        Err(refusal) => return Some(refusal.to_string()),
    };
    let now = clock.map_or_else(seconds_now, ServerClock::now);
    let ends = i64::try_from(token.expires().0 / 1000).unwrap_or(i64::MAX);
    let tolerance = i64::try_from(SAS_CLOCK_SKEW.as_secs()).unwrap_or(i64::MAX);
    if ends.saturating_add(tolerance) < now {
        let measured = match clock {
            Some(clock) => format!(
                " by the server's clock, which differs by {} s from this one",
                clock.difference
            ),
            None => " by this machine's clock".to_owned(),
        };
        return Some(format!("the token ended {} s ago{measured}", now - ends));
    }
    let named = token.resource();
    let is_about = |part: &str| named.to_ascii_lowercase().contains(&part.to_ascii_lowercase());
    if !is_about(&credential.hub) {
        return Some(format!(
            "the token's resource (sr={named}) does not name {}",
            credential.hub
        ));
    }
    if token.policy().is_none() && !is_about(credential.identity.device.as_str()) {
        return Some(format!(
            "the token's resource (sr={named}) does not name {}",
            credential.identity
        ));
    }
    None
}

/// A fault that the certificate shows by itself.
fn certificate_fault(credential: &Credential, clock: Option<ServerClock>) -> Option<String> {
    use x509_parser::prelude::FromDer as _;
    let Proof::Certificate(client) = &credential.proof else {
        return None;
    };
    let leaf = client.chain.first()?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(leaf).ok()?;
    let now = clock.map_or_else(seconds_now, ServerClock::now);
    let (from, to) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    if now > to {
        return Some(format!("the certificate ended {} s ago", now - to));
    }
    if now < from {
        return Some(format!("the certificate is not valid for another {} s", from - now));
    }
    let name = certificate.subject().iter_common_name().next();
    let name = name.and_then(|name| name.as_str().ok()).unwrap_or("missing");
    let expected = credential.identity.to_string();
    (name != expected).then(|| {
        format!("the common name is {name}; a device of a CA needs {expected} (with a registered thumbprint any name is right)")
    })
}

/// The hub's own words, over HTTPS: MQTT 3.1.1 has none. The call names a message that does not exist, so that it changes
/// nothing should it be accepted.
async fn server_text(dialer: &Dialer<'_>, id: &IdentityId, token: &str) -> Option<String> {
    if !dialer.can_dial(Service::Https) || id.module.is_some() {
        return None;
    }
    let path = format!(
        "/devices/{}/messages/deviceBound/holdfast-doctor?api-version={API_VERSION}",
        crate::device::encode(id.device.as_str())
    );
    let answer = dialer
        .request(Method::DELETE, &path, &[(header::AUTHORIZATION, token)])
        .await
        .ok()?;
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    body["Message"].as_str().map(str::to_owned)
}
