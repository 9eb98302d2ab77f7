//! Rotation of credentials under a connected fleet: keys of devices, the CA of their certificates, keys of a back end's policy.
//!
//! Why: operators replace secrets only where it is known that no device is interrupted. Each step here is one of the operator's runbook
//! (docs/runbook.md); the devices stay connected meanwhile, lose connections now and then as in any network, and come back with what
//! they have been given.
//! Invariants: a device is given a credential only after the hub has it, and the hub forgets one only after no device uses it; under
//! that order every refused connection, every connection that the hub closes and every failed call is a fault and is counted.
//! A straggler, a further device, keeps the old credential: the hub has to close its connection, and only then is it certain that the
//! hub has looked at all connections and left the others alone.
//! Not here: revocation, which closes connections on purpose.

mod back_end;
mod fleet;
mod report;

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use http::Method;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::{Builder, LocalOptions};

use self::back_end::{BackEnd, POLICY, PolicyKeys};
use self::fleet::Fleet;
use self::report::Recorder;
pub use self::report::{RotationReport, Row};
use crate::certificates::DeviceCa;
use crate::connect::{ConnectionOptions, Door, Stream, open_as};
use crate::connects::Device;
use crate::devices;
use crate::hub::{Hub, HubDevices};
use crate::operator::Operator;
use crate::target::Target;

/// The names of the two CAs at the hub.
const OLD_CA: &str = "swarm-rollover-old";
const NEW_CA: &str = "swarm-rollover-new";
/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long the plan of a rollover may take to show what has changed.
const PLAN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at it.
const PLAN_INTERVAL: Duration = Duration::from_millis(100);
/// How long the connection of the straggler may outlive its credential.
const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(30);

/// A run.
pub struct Plan {
    /// The hub.
    pub hub: Hub,
    /// How devices reach it, and their names.
    pub target: Target,
    /// Devices.
    pub devices: u32,
    /// Options of their connections.
    pub options: ConnectionOptions,
    /// Groups in which devices are given new credentials.
    pub waves: u32,
    /// Connections that break in a second, of random devices.
    pub cuts_a_second: f64,
    /// Times that both keys of the policy are replaced.
    pub policy_rounds: u32,
    /// Connections of the back end.
    pub callers: u32,
}

/// Replaces everything, and reports what the devices and the back end have seen; `progress` is called before each step.
///
/// # Errors
/// When the hub refuses the operator, or devices do not come back in time. Refused devices are part of the report.
pub fn run(plan: Plan, progress: impl Fn(&str) + 'static) -> Result<RotationReport> {
    ensure!(plan.devices > 0 && plan.waves > 0, "no devices, or no waves");
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let mut rotation = Rotation {
            operator: Operator::connect(&plan.hub).await?,
            secrets: plan.hub.devices(TOKEN_LIFETIME)?,
            plan: Rc::new(plan),
            recorder: Recorder::new(Box::new(progress)),
        };
        rotation.device_keys().await?;
        rotation.authorities_and_policy().await?;
        Ok(rotation.recorder.report(rotation.plan.devices))
    })
}

/// The devices of the fleet, and the straggler.
fn split(mut devices: Vec<Device>) -> Result<(Vec<Device>, Device)> {
    let straggler = devices.pop().context("no devices")?;
    Ok((devices, straggler))
}

struct Rotation {
    plan: Rc<Plan>,
    operator: Operator,
    secrets: HubDevices,
    recorder: Recorder,
}

impl Rotation {
    /// Both keys of every device, one after the other.
    async fn device_keys(&mut self) -> Result<()> {
        let (first, second) = (self.keys("first"), self.keys("second"));
        let (third, fourth) = (self.keys("third"), self.keys("fourth"));
        let last = self.plan.devices;
        self.set_keys("createOrUpdate", 0..last + 1, &first, &second).await?;
        let (shown, straggler) = split(self.with_keys(&first))?;
        let fleet = self.start("connect with the primary key", shown).await?;
        let straggling = self.open(&straggler).await?;
        let step = self.recorder.begin("register new secondary keys", &fleet);
        self.set_keys("update", 0..last + 1, &first, &third).await?;
        self.recorder.end(step, &fleet);
        let (shown, _) = split(self.with_keys(&third))?;
        self.switch("devices switch to the secondary key", &fleet, &shown)
            .await?;
        let step = self.recorder.begin("register new primary keys", &fleet);
        self.set_keys("update", 0..last, &fourth, &third).await?;
        self.set_keys("update", last..last + 1, &fourth, &third).await?;
        self.wait_closed(straggling).await;
        self.recorder.end(step, &fleet);
        self.check_refused("the old primary key", &straggler).await?;
        let (shown, _) = split(self.with_keys(&fourth))?;
        self.switch("devices switch to the primary key", &fleet, &shown).await?;
        fleet.stop().await;
        Ok(())
    }

    /// The CA of all devices, then the keys of the back end's policy while they are connected.
    async fn authorities_and_policy(&mut self) -> Result<()> {
        let (old, new) = (DeviceCa::new("swarm's old CA")?, DeviceCa::new("swarm's new CA")?);
        for name in self.operator.ca_names().await? {
            if name == OLD_CA || name == NEW_CA {
                self.operator.remove_ca(&name).await?;
            }
        }
        self.operator.add_ca_with_proof(OLD_CA, &old).await?;
        let entry = |number| {
            let name = self.plan.target.names.name(number);
            devices::entry(&name, "createOrUpdate", devices::certificate_authority())
        };
        devices::write(&self.plan.hub, 0..self.plan.devices + 1, &entry).await?;
        let (shown, straggler) = split(self.with_certificates(&old)?)?;
        let fleet = self.start("connect with certificates of the old CA", shown).await?;

        let step = self.recorder.begin("add and verify the new CA", &fleet);
        self.operator.add_ca_with_proof(NEW_CA, &new).await?;
        self.recorder.end(step, &fleet);
        let (shown, _) = split(self.with_certificates(&new)?)?;
        self.switch("devices switch to certificates of the new CA", &fleet, &shown)
            .await?;
        let step = self
            .recorder
            .begin("the plan of the rollover is empty; remove the old CA", &fleet);
        self.wait_for_empty_plan().await?;
        let straggling = self.open(&straggler).await?;
        self.operator.remove_ca(OLD_CA).await?;
        self.wait_closed(straggling).await;
        self.recorder.end(step, &fleet);
        self.check_refused("a certificate of the old CA", &straggler).await?;

        self.policy_keys(&fleet).await?;
        fleet.stop().await;
        self.operator.remove_ca(NEW_CA).await
    }

    /// Replaces the key that is not in use, and lets the back end use it, in turn.
    async fn policy_keys(&mut self, fleet: &Fleet) -> Result<()> {
        let path = format!("/holdfast/v1/policies/{POLICY}");
        let rights = json!({"rights": "RegistryRead"});
        let mut keys = PolicyKeys::read(&self.operator.call(Method::PUT, &path, Some(&rights)).await?)?;
        let device = self.plan.target.names.name(0);
        let back_end = BackEnd::start(&self.plan.hub, self.plan.callers, device, &keys.primary).await?;
        let step = self
            .recorder
            .begin("the back end calls with the policy's primary key", fleet);
        back_end.settled().await?;
        self.recorder.end_with_calls(step, fleet, &back_end);
        for _ in 0..self.plan.policy_rounds {
            for kind in ["secondary", "primary"] {
                let unused = keys.of(kind).to_owned();
                let step = self
                    .recorder
                    .begin(&format!("regenerate the policy's {kind} key, and use it"), fleet);
                let choice = json!({"keyType": kind});
                let answer = self
                    .operator
                    .call(Method::POST, &format!("{path}/regenerateKey"), Some(&choice))
                    .await?;
                keys = PolicyKeys::read(&answer)?;
                ensure!(keys.of(kind) != unused, "the {kind} key is the same as before");
                back_end.use_key(keys.of(kind))?;
                back_end.settled().await?;
                self.recorder.end_with_calls(step, fleet, &back_end);
                if back_end.try_key(&unused).await? {
                    self.recorder.fault(format!(
                        "the {kind} key of the policy that was replaced is still accepted"
                    ));
                }
            }
        }
        back_end.stop().await;
        self.operator.call(Method::DELETE, &path, None).await.map(drop)
    }

    async fn start(&mut self, step: &str, shown: Vec<Device>) -> Result<Fleet> {
        let fleet = Fleet::start(&self.plan, shown);
        let step = self.recorder.begin(step, &fleet);
        fleet.settled().await?;
        self.recorder.end(step, &fleet);
        Ok(fleet)
    }

    /// Gives the devices what they are to show from now on, wave by wave.
    async fn switch(&mut self, step: &str, fleet: &Fleet, shown: &[Device]) -> Result<()> {
        let step = self.recorder.begin(step, fleet);
        let wave = shown.len().div_ceil(self.plan.waves as usize);
        for (index, devices) in shown.chunks(wave).enumerate() {
            fleet.switch(index * wave, devices);
            fleet.settled().await?;
        }
        self.recorder.end(step, fleet);
        Ok(())
    }

    async fn open(&self, device: &Device) -> Result<Stream> {
        let addresses: Vec<_> = self.plan.target.addresses_of(0).collect();
        let door = Door {
            addresses: &addresses,
            source: None,
            names_server: false,
        };
        open_as(door, device.tls.as_ref(), &device.login, self.plan.options).await
    }

    /// Waits until the hub has closed the connection of the straggler.
    async fn wait_closed(&self, mut stream: Stream) {
        let mut rest = [0; 64];
        let closed = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
        if tokio::time::timeout(STRAGGLER_TIMEOUT, closed).await.is_err() {
            self.recorder
                .fault("a connection with a replaced credential stays open".to_owned());
        }
    }

    /// A fault when `device` can still connect.
    async fn check_refused(&self, what: &str, device: &Device) -> Result<()> {
        match self.open(device).await {
            Ok(_) => self.recorder.fault(format!("{what} is still accepted")),
            Err(error) if format!("{error:#}").contains("CONNACK") => {}
            Err(error) => return Err(error.context(format!("an attempt with {what}"))),
        }
        Ok(())
    }

    async fn wait_for_empty_plan(&mut self) -> Result<()> {
        let deadline = Instant::now() + PLAN_TIMEOUT;
        loop {
            let below = self.count_below_old_ca().await?;
            if below == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{below} devices are still below the old CA");
            tokio::time::sleep(PLAN_INTERVAL).await;
        }
    }

    async fn count_below_old_ca(&mut self) -> Result<u64> {
        let (mut below, mut after) = (0, String::new());
        loop {
            let path = format!("/holdfast/v1/rollover?ca={OLD_CA}&top=1000{after}");
            let page = self.operator.call(Method::GET, &path, None).await?;
            below += page["counts"]["below"].as_u64().context("a plan without counts")?;
            match page["continuation"].as_str() {
                None => return Ok(below),
                Some(text) => after = format!("&after={text}"),
            }
        }
    }

    /// A key for each device, the straggler's last; `what` tells the rounds apart.
    fn keys(&self, what: &str) -> Vec<[u8; 32]> {
        let names = (0..=self.plan.devices).map(|number| self.plan.target.names.name(number));
        names
            .map(|name| self.secrets.key(&format!("{what} of {name}")))
            .collect()
    }

    async fn set_keys(
        &self,
        mode: &str,
        numbers: Range<u32>,
        primary: &[[u8; 32]],
        secondary: &[[u8; 32]],
    ) -> Result<()> {
        let entry = |number: u32| {
            let (name, index) = (self.plan.target.names.name(number), number as usize);
            devices::entry(&name, mode, devices::symmetric_keys(&primary[index], &secondary[index]))
        };
        devices::write(&self.plan.hub, numbers, &entry).await
    }

    fn with_keys(&self, keys: &[[u8; 32]]) -> Vec<Device> {
        let devices = (0_u32..).zip(keys).map(|(number, key)| Device {
            login: self.secrets.login_with_key(self.plan.target.names.name(number), key),
            tls: self.plan.target.tls.clone(),
        });
        devices.collect()
    }

    fn with_certificates(&self, ca: &DeviceCa) -> Result<Vec<Device>> {
        let Some(base) = &self.plan.target.tls else {
            bail!("certificates need TLS")
        };
        (0..=self.plan.devices)
            .map(|number| {
                let name = self.plan.target.names.name(number);
                Ok(Device {
                    tls: Some(ca.issue(&name)?.tls(base)),
                    login: self.secrets.login_with_certificate(name),
                })
            })
            .collect()
    }
}
