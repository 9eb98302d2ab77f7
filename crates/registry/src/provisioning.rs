//! Provisioning as the rest of the node sees it: settings, enrollments with opened keys, registrations; and writes of them.
//!
//! Invariants: `Debug` shows no key; a write is checked as far as possible before it is proposed.
//! Not here: attestation, allocation and JSON (`provisioning`), whether an enrollment exists (`state::provisioning`).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_auth::{Key, KeyPair, Policy, Rights};
use holdfast_model::{DeviceId, ErrorCode, UnixMillis};
use holdfast_proto::registry::v1 as proto;

use crate::identity::TwinSeed;
use crate::issuance::IssuanceReference;
use crate::registration::{SYMMETRIC_KEY, TPM, X509};
use crate::secrets::{SecretError, Secrets};
use crate::state::Rejection;
use crate::tpm::{TpmAttestation, TpmEnrollmentKeys};
use crate::write::IfMatch;

/// Most characters of a registration or group id (Spec provisioning §1).
pub(crate) const MAX_REGISTRATION_ID_CHARS: usize = 128;

/// Longest parts of an enrollment, in bytes of their texts; together they are a record that a snapshot can carry.
const MAX_TAGS_JSON_BYTES: usize = 32 * 1024;
const MAX_DESIRED_JSON_BYTES: usize = 128 * 1024;
const MAX_INFORMATION_JSON_BYTES: usize = 8 * 1024;
const MAX_HUBS: usize = 50;
const MAX_WEBHOOK_URL_BYTES: usize = 2048;
const MAX_API_VERSION_BYTES: usize = 64;

/// What readers see in place of a webhook's query (Spec provisioning §8.2).
const HIDDEN_QUERY: &str = "****";
const MAX_HOST_BYTES: usize = 253;

/// The service's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisioningSettings {
    /// Names the service in every request of a device; found in any case.
    pub id_scope: String,
    /// The policies of the service API. They have all rights on it; the rights of the hub that they carry are none.
    pub policies: Vec<Arc<Policy>>,
    /// When the service was created.
    pub created: UnixMillis,
}

impl ProvisioningSettings {
    /// The policy named `name`, in any case.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Arc<Policy>> {
        self.policies
            .iter()
            .find(|policy| policy.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn read(record: &proto::ProvisioningRecord, secrets: &Secrets) -> Result<Self, SecretError> {
        let mut policies = Vec::with_capacity(record.policies.len());
        for policy in &record.policies {
            policies.push(Arc::new(Policy {
                name: policy.name.clone(),
                keys: secrets.open_pair(&policy.keys.clone().unwrap_or_default())?,
                rights: Rights::NONE,
            }));
        }
        Ok(Self {
            id_scope: record.id_scope.clone(),
            policies,
            created: UnixMillis(record.created_ms),
        })
    }
}

/// The two kinds of enrollments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnrollmentKind {
    /// Of one device.
    Individual,
    /// Of all devices with keys or certificates of one origin.
    Group,
}

impl EnrollmentKind {
    /// The word in texts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Individual => "enrollment",
            Self::Group => "enrollment group",
        }
    }

    pub(crate) const fn to_proto(self) -> proto::EnrollmentKind {
        match self {
            Self::Individual => proto::EnrollmentKind::Individual,
            Self::Group => proto::EnrollmentKind::Group,
        }
    }
}

/// Where the certificates of an attestation come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// They are the device's own.
    Client,
    /// They are of CAs, and stored with the group.
    Signing,
    /// The group names CAs of the hub.
    CaReferences,
}

/// The two certificates of an attestation; with [`CertificateSource::CaReferences`] the names of two CAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Attestation {
    /// Where they come from.
    pub source: CertificateSource,
    /// DER, or a name.
    pub primary: Option<Bytes>,
    /// The same, for rolling over.
    pub secondary: Option<Bytes>,
}

impl X509Attestation {
    /// Those that are there, the primary first.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.primary.iter().chain(&self.secondary)
    }
}

/// How devices prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attestation {
    /// By a symmetric key; that of a group is the origin of its devices' keys.
    SymmetricKey(KeyPair),
    /// By a certificate.
    X509(X509Attestation),
    /// By a TPM.
    Tpm(TpmAttestation),
}

impl Attestation {
    /// Its name on the wire.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::SymmetricKey(_) => SYMMETRIC_KEY,
            Self::X509(_) => X509,
            Self::Tpm(_) => TPM,
        }
    }
}

/// How a hub is chosen (Spec provisioning §8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AllocationPolicy {
    /// By the hash of the registration id, in proportion to the hubs' weights.
    Hashed,
    /// The hub with the lowest latency.
    GeoLatency,
    /// The one hub that the enrollment names.
    Static,
    /// The hub that a webhook names.
    Custom,
}

impl AllocationPolicy {
    /// All that this version has.
    pub const ALL: [Self; 4] = [Self::Hashed, Self::GeoLatency, Self::Static, Self::Custom];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hashed => "hashed",
            Self::GeoLatency => "geoLatency",
            Self::Static => "static",
            Self::Custom => "custom",
        }
    }

    /// Reads a name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str().eq_ignore_ascii_case(name))
    }
}

/// The webhook of [`AllocationPolicy::Custom`] (Spec provisioning §8.2).
#[derive(Clone, PartialEq, Eq)]
pub struct CustomAllocation {
    /// Its URL, without the query.
    pub webhook_url: String,
    /// The query, which often is a secret.
    pub query: WebhookQuery,
    /// Selects the form of the request.
    pub api_version: String,
}

/// The query of a webhook's URL.
#[derive(Clone, PartialEq, Eq)]
pub enum WebhookQuery {
    /// The text behind the question mark; empty: there is none.
    Known(String),
    /// Of a write: the stored one stays.
    Kept,
}

impl CustomAllocation {
    /// The URL as readers see it: the query is hidden.
    #[must_use]
    pub fn shown_url(&self) -> String {
        match &self.query {
            WebhookQuery::Known(query) if query.is_empty() => self.webhook_url.clone(),
            WebhookQuery::Known(_) | WebhookQuery::Kept => format!("{}?{HIDDEN_QUERY}", self.webhook_url),
        }
    }

    /// Reads a URL; one whose query is hidden keeps the stored query.
    #[must_use]
    pub fn of(url: &str, api_version: String) -> Self {
        let (url, query) = url.split_once('?').unwrap_or((url, ""));
        Self {
            webhook_url: url.to_owned(),
            query: match query {
                HIDDEN_QUERY => WebhookQuery::Kept,
                query => WebhookQuery::Known(query.to_owned()),
            },
            api_version,
        }
    }
}

impl fmt::Debug for CustomAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomAllocation")
            .field("webhook_url", &self.shown_url())
            .field("api_version", &self.api_version)
            .finish()
    }
}

/// What a repeated registration does (Spec provisioning §8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReprovisionPolicy {
    /// Whether the hub is chosen anew.
    pub update_hub_assignment: bool,
    /// Whether the device keeps its data; otherwise it begins anew.
    pub migrate_device_data: bool,
}

impl ReprovisionPolicy {
    /// What applies where an enrollment says nothing.
    pub const MIGRATE: Self = Self {
        update_hub_assignment: true,
        migrate_device_data: true,
    };
}

/// The fields of an enrollment that a client may set, but its attestation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnrollmentContent {
    /// Its devices are refused.
    pub is_disabled: bool,
    /// The device's id at the hub; `None`: the registration id. Individual only.
    pub device_id: Option<DeviceId>,
    /// The device is an edge device.
    pub iot_edge: bool,
    /// The hubs to choose from; empty: all.
    pub iot_hubs: Vec<String>,
    /// The one hub, in the form of old clients.
    pub iot_hub_host_name: Option<String>,
    /// `None`: that of the service.
    pub allocation: Option<AllocationPolicy>,
    /// The webhook; always there with [`AllocationPolicy::Custom`].
    pub custom_allocation: Option<CustomAllocation>,
    /// Content of the device's twin when it is created.
    pub initial_twin: TwinSeed,
    /// A JSON object, kept for its writer. Individual only.
    pub device_information: Option<String>,
    /// `None`: [`ReprovisionPolicy::MIGRATE`].
    pub reprovision: Option<ReprovisionPolicy>,
    /// The policy by which its devices get certificates; `None`: they get none.
    pub issuance: Option<IssuanceReference>,
}

/// An enrollment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrollment {
    /// Its kind.
    pub kind: EnrollmentKind,
    /// The registration id, or the id of the group; found in any case.
    pub id: String,
    /// New on every write.
    pub etag: String,
    /// When it was created.
    pub created: UnixMillis,
    /// When it was changed last.
    pub updated: UnixMillis,
    /// How devices prove who they are.
    pub attestation: Attestation,
    /// Everything else.
    pub content: EnrollmentContent,
}

impl Enrollment {
    pub(crate) fn read(
        kind: EnrollmentKind,
        record: proto::EnrollmentRecord,
        secrets: &Secrets,
    ) -> Result<Self, SecretError> {
        let attestation = match record.attestation() {
            proto::AttestationType::X509 => {
                let stored = record.x509.clone().unwrap_or_default();
                let given = |bytes: Bytes| (!bytes.is_empty()).then_some(bytes);
                Attestation::X509(X509Attestation {
                    source: match stored.source() {
                        proto::x509_attestation::Source::Signing => CertificateSource::Signing,
                        proto::x509_attestation::Source::CaReferences => CertificateSource::CaReferences,
                        proto::x509_attestation::Source::Client | proto::x509_attestation::Source::Unspecified => {
                            CertificateSource::Client
                        }
                    },
                    primary: given(stored.primary),
                    secondary: given(stored.secondary),
                })
            }
            proto::AttestationType::Tpm => Attestation::Tpm(TpmAttestation {
                keys: record.tpm.clone().unwrap_or_default().into(),
                secrets: secrets.open_pair(&record.keys.clone().unwrap_or_default())?,
            }),
            proto::AttestationType::SymmetricKey | proto::AttestationType::Unspecified => {
                Attestation::SymmetricKey(secrets.open_pair(&record.keys.clone().unwrap_or_default())?)
            }
        };
        let text = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self {
            kind,
            id: record.id,
            etag: record.etag,
            created: UnixMillis(record.created_ms),
            updated: UnixMillis(record.updated_ms),
            attestation,
            content: EnrollmentContent {
                is_disabled: record.disabled,
                // Apply stores no other.
                device_id: text(record.device_id).and_then(|id| DeviceId::parse(&id).ok()),
                iot_edge: record.iot_edge,
                iot_hubs: record.iot_hubs,
                iot_hub_host_name: text(record.iot_hub_host_name),
                allocation: AllocationPolicy::parse(&record.allocation_policy),
                custom_allocation: match record.custom_allocation {
                    None => None,
                    Some(custom) => Some(CustomAllocation {
                        webhook_url: custom.webhook_url,
                        query: WebhookQuery::Known(match custom.sealed_query.is_empty() {
                            true => String::new(),
                            false => secrets.open_text(&custom.sealed_query)?,
                        }),
                        api_version: custom.api_version,
                    }),
                },
                initial_twin: record.initial_twin.map(TwinSeed::from).unwrap_or_default(),
                device_information: record.device_information,
                reprovision: record.reprovision_policy.map(|policy| ReprovisionPolicy {
                    update_hub_assignment: policy.update_hub_assignment,
                    migrate_device_data: policy.migrate_device_data,
                }),
                issuance: record.issuance.map(IssuanceReference::read),
            },
        })
    }
}

/// The attestation of a write: what is not given stays, else keys are generated.
#[derive(Clone, PartialEq, Eq)]
pub enum AttestationWrite {
    /// By symmetric keys.
    SymmetricKey {
        /// The first.
        primary: Option<Key>,
        /// The second.
        secondary: Option<Key>,
    },
    /// By certificates; `None`: those that are stored.
    X509(Option<X509Attestation>),
    /// By a TPM; `None`: the one that is stored.
    Tpm(Option<TpmEnrollmentKeys>),
}

impl fmt::Debug for AttestationWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SymmetricKey { .. } => "SymmetricKey(…)",
            Self::X509(_) => "X509(…)",
            Self::Tpm(_) => "Tpm(…)",
        })
    }
}

/// One write of one enrollment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentWrite {
    /// The registration id, or the id of the group.
    pub id: String,
    /// The operation.
    pub operation: EnrollmentOperation,
}

/// An operation on an enrollment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrollmentOperation {
    /// It must not exist.
    Create(AttestationWrite, EnrollmentContent),
    /// It must exist, with this ETag.
    Update(IfMatch, AttestationWrite, EnrollmentContent),
    /// Whether it exists or not.
    CreateOrUpdate(AttestationWrite, EnrollmentContent),
    /// It must exist, with this ETag.
    Delete(IfMatch),
}

impl EnrollmentWrite {
    /// Checks the values that need no state.
    ///
    /// # Errors
    /// [`Rejection`] naming the first value that is wrong.
    pub fn check(&self, kind: EnrollmentKind) -> Result<(), Rejection> {
        check_registration_id(kind, &self.id)?;
        match &self.operation {
            EnrollmentOperation::Create(attestation, content)
            | EnrollmentOperation::Update(_, attestation, content)
            | EnrollmentOperation::CreateOrUpdate(attestation, content) => {
                check_attestation(kind, attestation)?;
                check_content(kind, content)
            }
            EnrollmentOperation::Delete(_) => Ok(()),
        }
    }

    pub(crate) fn to_proto(&self, secrets: &Secrets, etag: String) -> Result<proto::EnrollmentWrite, SecretError> {
        use proto::enrollment_write::Operation;
        let (operation, if_match, written) = match &self.operation {
            EnrollmentOperation::Create(attestation, content) => {
                (Operation::Create, None, Some((attestation, content)))
            }
            EnrollmentOperation::Update(if_match, attestation, content) => {
                (Operation::Update, Some(if_match), Some((attestation, content)))
            }
            EnrollmentOperation::CreateOrUpdate(attestation, content) => {
                (Operation::CreateOrUpdate, None, Some((attestation, content)))
            }
            EnrollmentOperation::Delete(if_match) => (Operation::Delete, Some(if_match), None),
        };
        let mut write = proto::EnrollmentWrite {
            id: self.id.clone(),
            operation: operation.into(),
            if_match: if_match.and_then(|if_match| match if_match {
                IfMatch::Any => None,
                IfMatch::ETag(etag) => Some(etag.clone()),
            }),
            etag,
            content: None,
            generated_keys: None,
        };
        let Some((attestation, content)) = written else {
            return Ok(write);
        };
        let mut record = content.to_proto();
        record.custom_allocation = match &content.custom_allocation {
            None => None,
            Some(custom) => Some(proto::CustomAllocation {
                webhook_url: custom.webhook_url.clone(),
                sealed_query: match &custom.query {
                    WebhookQuery::Known(query) if !query.is_empty() => secrets.seal(query.as_bytes())?,
                    WebhookQuery::Known(_) | WebhookQuery::Kept => Bytes::new(),
                },
                api_version: custom.api_version.clone(),
                keep_query: custom.query == WebhookQuery::Kept,
            }),
        };
        match attestation {
            AttestationWrite::SymmetricKey { primary, secondary } => {
                record.set_attestation(proto::AttestationType::SymmetricKey);
                let sealed = |key: &Option<Key>| match key {
                    Some(key) => secrets.seal(key.as_bytes()),
                    None => Ok(Bytes::new()),
                };
                record.keys = Some(proto::SealedKeys {
                    primary: sealed(primary)?,
                    secondary: sealed(secondary)?,
                });
                write.generated_keys = Some(secrets.generate_long()?);
            }
            AttestationWrite::X509(given) => {
                record.set_attestation(proto::AttestationType::X509);
                record.x509 = given.as_ref().map(|given| proto::X509Attestation {
                    source: match given.source {
                        CertificateSource::Client => proto::x509_attestation::Source::Client,
                        CertificateSource::Signing => proto::x509_attestation::Source::Signing,
                        CertificateSource::CaReferences => proto::x509_attestation::Source::CaReferences,
                    }
                    .into(),
                    primary: given.primary.clone().unwrap_or_default(),
                    secondary: given.secondary.clone().unwrap_or_default(),
                });
            }
            AttestationWrite::Tpm(given) => {
                record.set_attestation(proto::AttestationType::Tpm);
                record.tpm = given.as_ref().map(TpmEnrollmentKeys::to_proto);
                write.generated_keys = Some(secrets.generate_long()?);
            }
        }
        write.content = Some(record);
        Ok(write)
    }
}

impl EnrollmentContent {
    fn to_proto(&self) -> proto::EnrollmentRecord {
        proto::EnrollmentRecord {
            disabled: self.is_disabled,
            device_id: self.device_id.as_ref().map_or_else(String::new, ToString::to_string),
            iot_edge: self.iot_edge,
            iot_hubs: self.iot_hubs.clone(),
            iot_hub_host_name: self.iot_hub_host_name.clone().unwrap_or_default(),
            allocation_policy: self.allocation.map_or("", AllocationPolicy::as_str).to_owned(),
            initial_twin: (self.initial_twin != TwinSeed::default()).then(|| self.initial_twin.clone().into()),
            device_information: self.device_information.clone(),
            reprovision_policy: self.reprovision.map(|policy| proto::ReprovisionPolicy {
                update_hub_assignment: policy.update_hub_assignment,
                migrate_device_data: policy.migrate_device_data,
            }),
            issuance: self.issuance.as_ref().map(IssuanceReference::to_proto),
            ..proto::EnrollmentRecord::default()
        }
    }
}

/// 1–128 letters, digits and `- . _ :`, the last one a letter, a digit or `-` (Spec provisioning §1).
///
/// # Errors
/// [`Rejection`] with [`ErrorCode::ArgumentInvalid`].
pub fn check_registration_id(kind: EnrollmentKind, id: &str) -> Result<(), Rejection> {
    let legal = (1..=MAX_REGISTRATION_ID_CHARS).contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c))
        && id.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    if legal {
        return Ok(());
    }
    let what = match kind {
        EnrollmentKind::Individual => "a registration id",
        EnrollmentKind::Group => "an enrollment group's id",
    };
    let text = format!(
        "{what} has 1 to {MAX_REGISTRATION_ID_CHARS} ASCII letters, digits and - . _ :, and ends with a letter, a digit or -"
    );
    Err(Rejection::new(ErrorCode::ArgumentInvalid, text))
}

fn check_attestation(kind: EnrollmentKind, attestation: &AttestationWrite) -> Result<(), Rejection> {
    let given = match (kind, attestation) {
        (EnrollmentKind::Group, AttestationWrite::Tpm(_)) => {
            let text = "an enrollment group has no attestation by TPM: each TPM has an individual enrollment";
            return Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
        }
        (EnrollmentKind::Individual, AttestationWrite::Tpm(Some(keys))) => return keys.check(),
        (_, AttestationWrite::X509(Some(given))) => given,
        _ => return Ok(()),
    };
    let fits = match (kind, given.source) {
        (EnrollmentKind::Individual, CertificateSource::Client) => true,
        (EnrollmentKind::Group, CertificateSource::Signing | CertificateSource::CaReferences) => true,
        (EnrollmentKind::Individual, _) | (EnrollmentKind::Group, CertificateSource::Client) => false,
    };
    if fits {
        return Ok(());
    }
    let text = match kind {
        EnrollmentKind::Individual => "an individual enrollment has clientCertificates",
        EnrollmentKind::Group => "an enrollment group has signingCertificates or caReferences",
    };
    Err(Rejection::new(ErrorCode::ArgumentInvalid, text))
}

fn check_content(kind: EnrollmentKind, content: &EnrollmentContent) -> Result<(), Rejection> {
    let invalid = |text: String| Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
    let longer = |text: &Option<String>, most: usize| text.as_ref().is_some_and(|text| text.len() > most);
    if kind == EnrollmentKind::Group && (content.device_id.is_some() || content.device_information.is_some()) {
        return invalid("an enrollment group has neither deviceId nor optionalDeviceInformation".to_owned());
    }
    if longer(&content.initial_twin.tags, MAX_TAGS_JSON_BYTES) {
        return invalid("the tags of initialTwin are too large".to_owned());
    }
    if longer(&content.initial_twin.desired, MAX_DESIRED_JSON_BYTES) {
        return invalid("the desired properties of initialTwin are too large".to_owned());
    }
    if longer(&content.device_information, MAX_INFORMATION_JSON_BYTES) {
        return invalid(format!(
            "optionalDeviceInformation is larger than {MAX_INFORMATION_JSON_BYTES} bytes"
        ));
    }
    match (&content.custom_allocation, content.allocation) {
        (None, Some(AllocationPolicy::Custom)) => {
            return invalid("allocationPolicy custom needs customAllocationDefinition".to_owned());
        }
        (Some(custom), _) => {
            let query = match &custom.query {
                WebhookQuery::Known(query) => query.as_str(),
                WebhookQuery::Kept => "",
            };
            if custom.webhook_url.len() + query.len() > MAX_WEBHOOK_URL_BYTES
                || custom.api_version.len() > MAX_API_VERSION_BYTES
            {
                return invalid(format!(
                    "webhookUrl has at most {MAX_WEBHOOK_URL_BYTES} bytes, its apiVersion {MAX_API_VERSION_BYTES}"
                ));
            }
        }
        (None, _) => {}
    }
    if let Some(reference) = &content.issuance {
        reference.check()?;
    }
    let hosts = content.iot_hubs.iter().chain(&content.iot_hub_host_name);
    if content.iot_hubs.len() > MAX_HUBS || hosts.clone().any(|host| host.len() > MAX_HOST_BYTES) {
        return invalid(format!(
            "iotHubs has at most {MAX_HUBS} host names of at most {MAX_HOST_BYTES} bytes"
        ));
    }
    Ok(())
}
