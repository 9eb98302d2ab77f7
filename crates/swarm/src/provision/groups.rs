//! Enrollment groups, and the names and keys of their devices.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::http::Client;
use crate::hub::{Hub, PolicyKey, mac, sign};
use crate::target::Transport;

/// Concurrent calls that create groups.
const CONCURRENT_CALLS: u32 = 8;
/// Longer than any run.
pub(super) const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How the names of devices tell their group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Naming {
    /// Those of one group begin alike, as serial numbers of a line do; devices belong to the groups in turn.
    Alike,
    /// Names are digests and say nothing, as random ids do; each device belongs to any of the groups.
    Scattered,
}

/// Devices that register.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// What names of devices and groups begin with.
    pub prefix: String,
    /// How many groups there are.
    pub groups: u32,
    /// How devices are named.
    pub naming: Naming,
    /// The id scope of the service.
    pub id_scope: String,
    key: Vec<u8>,
}

/// A device with its key.
#[derive(Debug, Clone)]
pub struct Registrant {
    /// The registration id.
    pub name: String,
    /// The group's key for it.
    pub key: [u8; 32],
}

impl Fleet {
    /// The fleet of a hub's service.
    ///
    /// # Errors
    /// When the hub has no provisioning service, or its connection string is invalid.
    pub fn new(hub: &Hub, prefix: &str, groups: u32, naming: Naming) -> Result<Self> {
        let facts = &hub.0.provisioning;
        let service = facts
            .service
            .as_deref()
            .context("the hub has no provisioning service")?;
        let key = STANDARD.decode(PolicyKey::parse(service)?.key);
        ensure!(groups > 0, "a fleet needs a group");
        Ok(Self {
            prefix: prefix.to_owned(),
            groups,
            naming,
            id_scope: facts.id_scope.clone().context("the service has no id scope")?,
            key: key.context("the key of the service is not base64")?,
        })
    }

    /// The name of a group.
    #[must_use]
    pub fn group(&self, number: u32) -> String {
        format!("{}{number:05}", self.prefix)
    }

    fn group_key(&self, group: &str) -> [u8; 32] {
        mac(&self.key, &["swarm group ", group])
    }

    /// Device `number`.
    #[must_use]
    pub fn device(&self, number: u32) -> Registrant {
        let (group, name) = match self.naming {
            Naming::Alike => {
                let group = self.group(number % self.groups);
                let name = format!("{group}-{number:07}");
                (group, name)
            }
            Naming::Scattered => {
                let digest = mac(&self.key, &["swarm device ", &self.prefix, &number.to_string()]);
                let (name, rest) = digest.split_at(16);
                // Not in turn: neighbours in time are in no order of the groups, either.
                let group = rest.iter().fold(0, |sum: u64, byte| {
                    (sum << 8 | u64::from(*byte)) % u64::from(self.groups)
                });
                let name = name.iter().map(|byte| format!("{byte:02x}")).collect();
                #[expect(clippy::cast_possible_truncation, reason = "less than the number of groups")]
                let group = self.group(group as u32);
                (group, name)
            }
        };
        let key = mac(&self.group_key(&group), &[&name]);
        Registrant { name, key }
    }

    /// Creates the groups that are missing.
    ///
    /// # Errors
    /// When the service refuses, or cannot be reached.
    pub async fn create_groups(&self, hub: &Hub) -> Result<()> {
        let tasks = (0..CONCURRENT_CALLS).map(|task| self.create_share(hub, task));
        try_join_all(tasks).await.map(drop)
    }

    async fn create_share(&self, hub: &Hub, task: u32) -> Result<()> {
        if task >= self.groups {
            return Ok(());
        }
        let service = hub.0.provisioning.service.as_deref().unwrap_or_default();
        let policy = PolicyKey::parse(service)?;
        let token = sign(hub.host(), &self.key, Some(&policy.name), TOKEN_LIFETIME);
        let tls = hub.tls(Transport::Tls13)?;
        let mut client = Client::connect(hub.https_address()?, &hub.0.host_name, tls.as_ref()).await?;
        for number in (task..self.groups).step_by(CONCURRENT_CALLS as usize) {
            let group = self.group(number);
            let key = STANDARD.encode(self.group_key(&group));
            let body = json!({
                "enrollmentGroupId": group,
                "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": key, "secondaryKey": key}},
            });
            let path = format!("/enrollmentGroups/{group}?api-version=2021-10-01");
            let body = serde_json::to_vec(&body)?;
            let (status, answer) = client.request(Method::PUT, &path, Some(&token), body).await?;
            if !status.is_success() && status != StatusCode::CONFLICT {
                bail!(
                    "the service answers {status} to group {group}: {}",
                    String::from_utf8_lossy(&answer).chars().take(400).collect::<String>()
                );
            }
        }
        Ok(())
    }
}
