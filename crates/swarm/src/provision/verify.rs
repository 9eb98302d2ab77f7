//! Whether what devices were answered is so: each at the hub that it was assigned to, there alone, and let in there.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use http::Method;
use serde::Serialize;

use super::groups::Fleet;
use crate::connect::{ConnectionOptions, Door, close, open_as};
use crate::connects::{Reasons, show_reasons};
use crate::hub::{Hub, sign};
use crate::operator::Operator;
use crate::target::{Login, Transport};

/// Devices of one answer.
const PAGE: usize = 1000;
/// Devices that connect at once.
const CONCURRENT_CONNECTS: usize = 50;
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// The devices of the hubs against the ledger.
#[derive(Debug, Clone, Serialize)]
pub struct AssignmentVerdict {
    /// Devices that were assigned.
    pub assigned: usize,
    /// Devices of the fleet by hub.
    pub hubs: BTreeMap<String, u64>,
    /// Assigned devices that are not at their hub.
    pub missing: Vec<String>,
    /// Devices that are at several hubs.
    pub twice: Vec<String>,
    /// Devices that are at a hub without having been answered so.
    pub unknown: usize,
    /// Devices that have connected to their hub.
    pub connected: u64,
    /// Why others have not.
    pub refused: BTreeMap<String, u64>,
}

impl AssignmentVerdict {
    /// Whether every device is at its hub alone, and all that were to connect have.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.twice.is_empty() && self.refused.is_empty()
    }
}

impl fmt::Display for AssignmentVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "assigned        {}", self.assigned)?;
        let all: u64 = self.hubs.values().sum();
        for (hub, count) in &self.hubs {
            let share = 100.0 * *count as f64 / all.max(1) as f64;
            writeln!(f, "hub             {hub}: {count}, {share:.2} %")?;
        }
        for (name, devices) in [("missing", &self.missing), ("at two hubs", &self.twice)] {
            let some: Vec<&str> = devices.iter().take(5).map(String::as_str).collect();
            writeln!(f, "{name:<15} {} {}", devices.len(), some.join(" "))?;
        }
        writeln!(f, "not answered    {}", self.unknown)?;
        writeln!(f, "connected       {}", self.connected)?;
        show_reasons(f, "refused", &self.refused)
    }
}

/// Compares the ledger with the hubs. Every `connect_every`th device connects over MQTT with TLS; 0: none.
///
/// # Errors
/// When a hub cannot be read.
pub async fn verify(
    ledger: &BTreeMap<String, String>,
    fleet: &Fleet,
    count: u32,
    hubs: &[Hub],
    connect_every: usize,
) -> Result<AssignmentVerdict> {
    let names: BTreeMap<String, u32> = (0..count).map(|number| (fleet.device(number).name, number)).collect();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut by_hub = BTreeMap::new();
    for hub in hubs {
        let mut devices = devices(hub).await?;
        devices.retain(|device| names.contains_key(device));
        by_hub.insert(hub.host().to_owned(), devices.len() as u64);
        for device in devices {
            places.entry(device).or_default().push(hub.host().to_owned());
        }
    }
    let is_there = |device: &str, hub: &str| {
        let places = places.get(device);
        places.is_some_and(|places| places.iter().any(|place| place.eq_ignore_ascii_case(hub)))
    };
    let missing = ledger.iter().filter(|(device, hub)| !is_there(device, hub));
    let missing = missing.map(|(device, _)| device.clone()).collect();
    let twice = places.iter().filter(|(_, hubs)| hubs.len() > 1);
    let twice = twice.map(|(device, _)| device.clone()).collect();
    let unknown = places.keys().filter(|device| !ledger.contains_key(*device)).count();
    let (connected, refused) = match connect_every {
        0 => (0, BTreeMap::new()),
        every => connect(ledger, fleet, &names, hubs, every).await?,
    };
    Ok(AssignmentVerdict {
        assigned: ledger.len(),
        hubs: by_hub,
        missing,
        twice,
        unknown,
        connected,
        refused,
    })
}

async fn devices(hub: &Hub) -> Result<Vec<String>> {
    let mut operator = Operator::connect(hub).await?;
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/holdfast/v1/devices?top={PAGE}{after}");
        let page = operator.call(Method::GET, &path, None).await?;
        let devices = page["devices"].as_array().context("no list of devices")?;
        found.extend(
            devices
                .iter()
                .filter_map(|device| device["deviceId"].as_str().map(str::to_owned)),
        );
        match page["continuation"].as_str() {
            Some(last) => after = format!("&after={last}"),
            None => return Ok(found),
        }
    }
}

async fn connect(
    ledger: &BTreeMap<String, String>,
    fleet: &Fleet,
    names: &BTreeMap<String, u32>,
    hubs: &[Hub],
    every: usize,
) -> Result<(u64, BTreeMap<String, u64>)> {
    let mut sites = BTreeMap::new();
    for hub in hubs {
        let tls = hub.tls(Transport::Tls13)?;
        sites.insert(
            hub.host().to_ascii_lowercase(),
            (hub.mqtt_address(Transport::Tls13)?, tls),
        );
    }
    let options = ConnectionOptions {
        keep_alive: 60,
        clean_session: true,
    };
    let reasons = Reasons::default();
    let connects = futures_util::stream::iter(ledger.iter().step_by(every)).map(async |(device, hub)| {
        let outcome = async {
            let (address, tls) = sites
                .get(&hub.to_ascii_lowercase())
                .context("a hub that is not known")?;
            let number = names.get(device).context("a device of another fleet")?;
            let key = fleet.device(*number).key;
            let login = Login {
                client_id: device.clone(),
                username: Some(format!("{hub}/{device}/?api-version=2021-04-12")),
                password: Some(sign(&format!("{hub}/devices/{device}"), &key, None, TOKEN_LIFETIME)),
            };
            let door = Door {
                addresses: &[*address],
                source: None,
                names_server: false,
            };
            close(open_as(door, tls.as_ref(), &login, options).await?).await;
            anyhow::Ok(())
        };
        outcome.await.inspect_err(|error| reasons.add(error)).is_ok()
    });
    let connected = connects
        .buffer_unordered(CONCURRENT_CONNECTS)
        .filter(|ok| std::future::ready(*ok))
        .count();
    Ok((connected.await as u64, reasons.take()))
}
