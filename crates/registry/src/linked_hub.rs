//! Hubs that the provisioning service can assign devices to.
//!
//! Invariants: all of them are in memory, with their keys opened; `Debug` shows no key; a link whose key cannot be opened is left out,
//! with an error in the log.
//! Not here: which one a device gets (`provisioning`).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_auth::Key;
use holdfast_model::{ErrorCode, UnixMillis};
use holdfast_proto::registry::v1 as proto;

use crate::local::Local;
use crate::secrets::{SecretError, Secrets};
use crate::state::{ApplyError, Rejection, layout};

const MAX_HOST_BYTES: usize = 253;
const MAX_POLICY_BYTES: usize = 64;
const MAX_LOCATION_BYTES: usize = 128;
/// A chain of CAs at most.
const MAX_CA_BYTES: usize = 16 * 1024;
/// The largest weight.
pub const MAX_HUB_WEIGHT: u32 = 1_000_000;

/// A policy of another hub.
#[derive(Clone, PartialEq, Eq)]
pub struct HubLogin {
    /// Its name.
    pub policy: String,
    /// Its key; `None` in a write: the stored one.
    pub key: Option<Key>,
}

impl fmt::Debug for HubLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HubLogin({})", self.policy)
    }
}

/// What a client may set of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedHubContent {
    /// The hub's host name, without a port; found in any case.
    pub host_name: String,
    /// How to log in; `None`: the hub of the service itself.
    pub login: Option<HubLogin>,
    /// Its share of the devices, relative to the others.
    pub weight: u32,
    /// Whether devices are assigned to it whose enrollment does not name it.
    pub applies_allocation: bool,
    /// No device is assigned to it.
    pub is_disabled: bool,
    /// HOST or HOST:PORT of its REST API; `None`: the host name, 443.
    pub endpoint: Option<String>,
    /// PEM; `None`: the CAs of the configuration.
    pub ca_certificate: Option<String>,
    /// For people.
    pub location: Option<String>,
}

/// A linked hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedHub {
    /// New on every write.
    pub etag: String,
    /// When it was linked.
    pub created: UnixMillis,
    /// When the link was changed last.
    pub updated: UnixMillis,
    /// Everything else.
    pub content: LinkedHubContent,
}

impl LinkedHubContent {
    pub(crate) fn check(&self) -> Result<(), Rejection> {
        let invalid = |text: &str| Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if !(1..=MAX_HOST_BYTES).contains(&self.host_name.len()) || !self.host_name.chars().all(is_host) {
            return invalid("the host name of a linked hub has letters, digits and - . _ and no port");
        }
        if self.weight > MAX_HUB_WEIGHT {
            return invalid("allocationWeight is at most 1000000");
        }
        let longer = |text: &Option<String>, most: usize| text.as_ref().is_some_and(|text| text.len() > most);
        let login = self.login.as_ref();
        if login.is_some_and(|login| login.policy.is_empty() || login.policy.len() > MAX_POLICY_BYTES) {
            return invalid("the connection string has no SharedAccessKeyName, or one that is too long");
        }
        if longer(&self.endpoint, MAX_HOST_BYTES + 8)
            || longer(&self.location, MAX_LOCATION_BYTES)
            || longer(&self.ca_certificate, MAX_CA_BYTES)
        {
            return invalid("endpoint, location or caCertificate is too long");
        }
        let is_endpoint = |c: char| is_host(c) || c == ':' || c == '[' || c == ']';
        if self
            .endpoint
            .as_ref()
            .is_some_and(|text| !text.chars().all(is_endpoint))
        {
            return invalid("endpoint is HOST or HOST:PORT");
        }
        Ok(())
    }

    pub(crate) fn to_proto(&self, etag: String, secrets: &Secrets) -> Result<proto::LinkedHubRecord, SecretError> {
        let login = self.login.as_ref();
        Ok(proto::LinkedHubRecord {
            host_name: self.host_name.clone(),
            etag,
            policy: login.map(|login| login.policy.clone()).unwrap_or_default(),
            sealed_key: match login.and_then(|login| login.key.as_ref()) {
                Some(key) => secrets.seal(key.as_bytes())?,
                None => Bytes::new(),
            },
            weight: self.weight,
            named_only: !self.applies_allocation,
            disabled: self.is_disabled,
            endpoint: self.endpoint.clone().unwrap_or_default(),
            ca_certificate: self.ca_certificate.clone().unwrap_or_default(),
            location: self.location.clone().unwrap_or_default(),
            ..proto::LinkedHubRecord::default()
        })
    }
}

impl LinkedHub {
    fn read(record: proto::LinkedHubRecord, secrets: &Secrets) -> Result<Self, SecretError> {
        let text = |text: String| (!text.is_empty()).then_some(text);
        let login = match text(record.policy) {
            Some(policy) => Some(HubLogin {
                policy,
                key: Some(secrets.open(&record.sealed_key)?),
            }),
            None => None,
        };
        Ok(Self {
            etag: record.etag,
            created: UnixMillis(record.created_ms),
            updated: UnixMillis(record.updated_ms),
            content: LinkedHubContent {
                host_name: record.host_name,
                login,
                weight: record.weight,
                applies_allocation: !record.named_only,
                is_disabled: record.disabled,
                endpoint: text(record.endpoint),
                ca_certificate: text(record.ca_certificate),
                location: text(record.location),
            },
        })
    }
}

impl Local {
    pub(crate) fn linked_hubs(&self) -> Arc<Vec<Arc<LinkedHub>>> {
        self.linked_hubs.read().clone()
    }

    pub(crate) fn reload_linked_hubs(&self) -> Result<(), ApplyError> {
        let records = self.records::<proto::LinkedHubRecord>(&layout::linked_hubs())?;
        let read = |(_, record): (_, proto::LinkedHubRecord)| {
            let host = record.host_name.clone();
            LinkedHub::read(record, &self.secrets)
                .inspect_err(|error| tracing::error!(host, %error, "a linked hub cannot be used"))
                .ok()
        };
        let hubs = records.into_iter().filter_map(read).map(Arc::new).collect();
        *self.linked_hubs.write() = Arc::new(hubs);
        Ok(())
    }
}
