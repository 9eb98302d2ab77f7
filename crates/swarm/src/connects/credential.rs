//! The credentials of a run, and their registration at the hub.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::Device;
use crate::certificates::{DeviceCa, DeviceCertificate};
use crate::devices;
use crate::hub::{Hub, HubDevices};
use crate::operator::Operator;
use crate::target::{DeviceNames, Tls};

/// The CA of the devices: its common name, and its name at a hub.
pub const DEVICES_CA: &str = "swarm-devices";
/// How the names of the other CAs begin.
const OTHER_CAS: &str = "swarm-other-";
/// The host name in the CONNECT of devices without a hub: as long as an address.
const NO_HUB: &str = "127.0.0.1";
/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How the devices of a run prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Credential {
    /// A shared access signature.
    Sas,
    /// A self-signed certificate that the hub knows by its SHA-256.
    Thumbprint,
    /// A certificate of one of the hub's CAs.
    Ca,
    /// A signature that the reference server does not check.
    BareTls,
    /// A certificate whose owner the reference server checks, and with --device-ca its issuer.
    BareMtls,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sas => "sas",
            Self::Thumbprint => "thumbprint",
            Self::Ca => "ca",
            Self::BareTls => "bare-tls",
            Self::BareMtls => "bare-mtls",
        })
    }
}

/// The registrations that the devices of a run need.
pub struct Registration<'a> {
    /// The hub; `None`: the reference server.
    pub hub: Option<&'a Hub>,
    /// TLS without a certificate; `None`: plain.
    pub tls: Option<Tls>,
    /// The devices' names.
    pub names: &'a DeviceNames,
    /// How many devices.
    pub count: u32,
    /// CAs that the hub has to have, that of the devices included.
    pub authorities: u32,
    /// The folder of the CA that the reference server trusts.
    pub device_ca: Option<PathBuf>,
}

impl Registration<'_> {
    /// Registers the devices, and their CA, and returns them with their credentials.
    ///
    /// # Errors
    /// When a credential does not fit the server, or the hub refuses.
    pub async fn prepare(&self, credential: Credential) -> Result<Vec<Device>> {
        let is_bare = matches!(credential, Credential::BareTls | Credential::BareMtls);
        ensure!(
            is_bare == self.hub.is_none(),
            "{credential} needs {}",
            if is_bare { "--target" } else { "--hub" }
        );
        if let Some(hub) = self.hub.filter(|_| self.authorities > 1) {
            self.add_other_cas(hub).await?;
        }
        match credential {
            Credential::Sas => {
                let hub = self.hub()?;
                let devices = hub.devices(TOKEN_LIFETIME)?;
                self.register(hub, &|number| {
                    let name = self.names.name(number);
                    devices::symmetric_keys(&devices.key(&name), &devices.secondary_key(&name))
                })
                .await?;
                self.each(|name| Ok((devices.login(name)?, self.tls.clone())))
            }
            Credential::BareTls => {
                let devices = HubDevices::without_hub(NO_HUB, TOKEN_LIFETIME);
                self.each(|name| Ok((devices.login(name)?, self.tls.clone())))
            }
            Credential::BareMtls => {
                let ca = self.device_ca.as_deref();
                let ca = ca.map(|folder| DeviceCa::kept_in(folder, DEVICES_CA)).transpose()?;
                let devices = HubDevices::without_hub(NO_HUB, TOKEN_LIFETIME);
                self.with_certificates(&devices, |name| match &ca {
                    Some(ca) => ca.issue(name),
                    None => DeviceCertificate::self_signed(name),
                })
                .map(|(devices, _)| devices)
            }
            Credential::Thumbprint => {
                let hub = self.hub()?;
                let (found, prints) =
                    self.with_certificates(&hub.devices(TOKEN_LIFETIME)?, DeviceCertificate::self_signed)?;
                self.register(hub, &|number| devices::thumbprint(&prints[number as usize]))
                    .await?;
                Ok(found)
            }
            Credential::Ca => {
                let hub = self.hub()?;
                let ca = DeviceCa::new(DEVICES_CA)?;
                let (found, _) = self.with_certificates(&hub.devices(TOKEN_LIFETIME)?, |name| ca.issue(name))?;
                Operator::connect(hub).await?.put_ca(DEVICES_CA, &ca).await?;
                self.register(hub, &|_| devices::certificate_authority()).await?;
                Ok(found)
            }
        }
    }

    fn hub(&self) -> Result<&Hub> {
        self.hub.context("name a --hub")
    }

    async fn register(&self, hub: &Hub, authentication: &impl Fn(u32) -> serde_json::Value) -> Result<()> {
        devices::write(hub, 0..self.count, &|number| {
            devices::entry(&self.names.name(number), "createOrUpdate", authentication(number))
        })
        .await
    }

    fn each(
        &self,
        mut credentials: impl FnMut(String) -> Result<(crate::target::Login, Option<Tls>)>,
    ) -> Result<Vec<Device>> {
        (0..self.count)
            .map(|number| credentials(self.names.name(number)).map(|(login, tls)| Device { login, tls }))
            .collect()
    }

    /// Devices with a certificate each, and the thumbprints.
    fn with_certificates(
        &self,
        devices: &HubDevices,
        issue: impl Fn(&str) -> Result<DeviceCertificate>,
    ) -> Result<(Vec<Device>, Vec<String>)> {
        let base = self.tls.as_ref().context("certificates need TLS")?;
        let mut prints = Vec::new();
        let found = self.each(|name| {
            let certificate = issue(&name)?;
            prints.push(certificate.thumbprint());
            let tls = certificate.tls(base);
            Ok((devices.login_with_certificate(name), Some(tls)))
        })?;
        Ok((found, prints))
    }

    /// CAs beside that of the devices, up to the requested number.
    async fn add_other_cas(&self, hub: &Hub) -> Result<()> {
        let mut operator = Operator::connect(hub).await?;
        let known = operator.ca_names().await?;
        for number in 1..self.authorities {
            let name = format!("{OTHER_CAS}{number:04}");
            if !known.contains(&name) {
                operator.put_new_ca(&name, &DeviceCa::new(&name)?).await?;
            }
        }
        Ok(())
    }
}
