//! Durability of everything but telemetry: writes of the registry, and a hub that dies during its first start.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use http::{Method, StatusCode};
use rand::Rng as _;

use crate::hub::Hub;
use crate::load::{Load, create_devices};
use crate::read_back::read_back;
use crate::rest::request;
use crate::scenario::{Figures, rounds, run, say};
use crate::unsynced::Names;

/// The last of a round's writes is always followed by a death.
const MOST_WRITES: u32 = 30;
/// First deaths come up to this long after the first start.
const FIRST_START_US: u64 = 700_000;

#[test]
fn registry_writes_that_were_answered_survive() -> Result<()> {
    run("registry_writes_that_were_answered_survive", |scenario| {
        let mut hub = Hub::new(scenario.folder.path())?;
        hub.forget_unsynced()?;
        let mut reached = hub.start()?;
        // Every written device, and the answer that a GET must give.
        let mut devices: BTreeMap<String, Option<String>> = BTreeMap::new();
        let (rounds, mut writes) = (rounds(10), 0);
        for round in 0..rounds {
            for number in 0..scenario.rng.random_range(1..=MOST_WRITES) {
                writes += 1;
                let known: Vec<&String> = devices
                    .iter()
                    .filter_map(|(name, there)| there.as_ref().map(|_| name))
                    .collect();
                if !known.is_empty() && scenario.rng.random_ratio(1, 4) {
                    let name = known[scenario.rng.random_range(0..known.len())].clone();
                    let (status, body) = request(&reached, Method::DELETE, &name)?;
                    ensure!(
                        status == StatusCode::NO_CONTENT,
                        "DELETE is answered with {status}: {body}"
                    );
                    devices.insert(name, None);
                } else {
                    let name = format!("written-{round}-{number}");
                    let (status, body) = request(&reached, Method::PUT, &name)?;
                    ensure!(status.is_success(), "PUT is answered with {status}: {body}");
                    devices.insert(name, Some(identity(&body)?));
                }
            }
            hub.kill()?;
            hub.disk()?.names = if scenario.rng.random() {
                Names::Synced
            } else {
                Names::Eager
            };
            reached = hub.start()?;
            for (name, expected) in &devices {
                let (status, body) = request(&reached, Method::GET, name)?;
                match expected {
                    None => ensure!(
                        status == StatusCode::NOT_FOUND,
                        "{name} was deleted and is back: {status}"
                    ),
                    Some(expected) => {
                        ensure!(
                            status == StatusCode::OK,
                            "{name} was created and is gone: {status} {body}"
                        );
                        let found = identity(&body)?;
                        ensure!(found == *expected, "{name} was {expected} and is {found}");
                    }
                }
            }
        }
        say(&format!(
            "registry: {rounds} rounds, {writes} writes answered, {} devices as they were",
            devices.len()
        ));
        Ok(())
    })
}

/// The fields that only a write may change: keys, generation and etag.
fn identity(body: &str) -> Result<String> {
    let device: serde_json::Value = serde_json::from_str(body)?;
    let key = &device["authentication"]["symmetricKey"]["primaryKey"];
    Ok(format!("{} {} {key}", device["generationId"], device["etag"]))
}

#[test]
fn a_hub_that_dies_in_its_first_start_starts_again() -> Result<()> {
    run("a_hub_that_dies_in_its_first_start_starts_again", |scenario| {
        let mut hub = Hub::new(scenario.folder.path())?;
        hub.forget_unsynced()?;
        let mut figures = Figures {
            rounds: rounds(14),
            ..Figures::default()
        };
        for _ in 0..figures.rounds {
            if hub.data().exists() {
                std::fs::remove_dir_all(hub.data())?;
            }
            hub.disk()?.names = if scenario.rng.random() {
                Names::Synced
            } else {
                Names::Eager
            };
            hub.spawn()?;
            std::thread::sleep(Duration::from_micros(scenario.rng.random_range(0..FIRST_START_US)));
            hub.kill()?;
            let reached = hub.start()?;
            create_devices(&reached)?;
            let load = Load::start(&reached)?;
            load.wait_acknowledged(20)?;
            let ledgers = load.end()?;
            figures.acknowledged += ledgers.iter().map(|ledger| ledger.acknowledged()).sum::<u64>();
            figures.verdicts.extend(read_back(&reached, &ledgers)?);
            figures.check()?;
            hub.kill()?;
        }
        figures.ready.clone_from(&hub.ready);
        say(&format!("first starts: {figures}"));
        Ok(())
    })
}
