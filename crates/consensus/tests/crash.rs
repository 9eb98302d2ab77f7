//! One node in simulation loses power again and again: acknowledged entries are there, once and in order.
//!
//! Everything follows from the seed: the proposals, how long each sync takes, when memory is flushed, when the power
//! goes, and how much of what was not synced survives. A failure names its seed: put it into `one_seed` to replay it.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Applied, Journal, host_with};
use holdfast_consensus::{ConsensusConfig, Group, GroupHost, GroupId, LogReader};
use holdfast_storage::{Disk, SimDisk};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SEEDS: u64 = 40;
const RUNS: usize = 5;
const GROUPS: [GroupId; 3] = [GroupId::REGISTRY, GroupId::partition(0), GroupId::partition(1)];

/// The knowledge outside the node about one group.
#[derive(Default)]
struct Outside {
    proposed: u64,
    /// Numbers whose proposal was reported as committed, in that order.
    acknowledged: Vec<u64>,
    /// The entries that the last run had applied when it was ready.
    seen: Vec<u64>,
}

type Shared = Arc<Mutex<Outside>>;

fn entry(number: u64, length: usize) -> Bytes {
    let mut entry = number.to_be_bytes().to_vec();
    entry.resize(8 + length, 0x5a);
    entry.into()
}

fn number(entry: &Bytes) -> u64 {
    u64::from_be_bytes(entry[..8].try_into().unwrap())
}

/// A run of the node until a power cut at a moment that `rng` chooses.
async fn run_until_power_cut(disk: Arc<dyn Disk>, outside: &[Shared], rng: &mut SmallRng) -> Result<(), String> {
    let mut latencies = SmallRng::seed_from_u64(rng.random());
    let latency = move || Duration::from_micros(latencies.random_range(0..3_000));
    // A handle of an ended run fails, as expected.
    let host = host_with(disk.clone(), latency, Arc::new(|_| {}));
    let mut groups = Vec::new();
    for (id, outside) in GROUPS.into_iter().zip(outside) {
        let (group, applied) = start(id, &host).await?;
        check(id, &applied, &group.log_reader(), &mut outside.lock().unwrap())?;
        groups.push(group);
    }
    let power_cut = tokio::time::sleep(Duration::from_micros(rng.random_range(0..60_000)));
    tokio::pin!(power_cut);
    loop {
        let at = rng.random_range(0..groups.len());
        let step = async {
            match rng.random_range(0..100) {
                0..3 => disk.flush().unwrap(),
                3..6 => {
                    groups[at].trim(0).await.unwrap();
                }
                6..40 => tokio::time::sleep(Duration::from_micros(rng.random_range(0..2_000))).await,
                _ => propose(&groups[at], &outside[at], rng.random_range(0..2_000)).await,
            }
        };
        tokio::select! {
            biased;
            () = &mut power_cut => return Ok(()),
            () = step => {}
        }
    }
}

async fn start(id: GroupId, host: &GroupHost) -> Result<(Group, Applied), String> {
    let journal = Journal::recover(id, host.disk.clone());
    let applied = journal.entries();
    let config = ConsensusConfig::default();
    let group = Group::start(id, host, Box::new(journal), &config)
        .await
        .map_err(|error| error.to_string())?;
    group.bootstrap().await.map_err(|error| error.to_string())?;
    Ok((group, applied))
}

async fn propose(group: &Group, outside: &Shared, length: usize) {
    let number = {
        let mut outside = outside.lock().unwrap();
        outside.proposed += 1;
        outside.proposed
    };
    let outside = outside.clone();
    let committed = move |outcome: Result<_, _>| {
        if outcome.is_ok() {
            outside.lock().unwrap().acknowledged.push(number);
        }
    };
    group.propose_detached(entry(number, length), Box::new(committed)).await;
}

fn check(id: GroupId, applied: &Applied, reader: &LogReader, outside: &mut Outside) -> Result<(), String> {
    let applied: Vec<u64> = applied.lock().unwrap().iter().map(number).collect();
    if !applied.is_sorted_by(|a, b| a < b) {
        return Err(format!("{id}: applied out of order or twice: {applied:?}"));
    }
    if !outside.acknowledged.is_sorted_by(|a, b| a < b) {
        return Err(format!("{id}: acknowledged out of order"));
    }
    if let Some(lost) = outside
        .acknowledged
        .iter()
        .find(|number| applied.binary_search(number).is_err())
    {
        return Err(format!("{id}: {lost} was acknowledged and is lost"));
    }
    if !applied.starts_with(&outside.seen) {
        return Err(format!("{id}: history has changed"));
    }
    let mut logged = Vec::new();
    loop {
        let from = logged.last().map_or(0, |(index, _)| index + 1);
        let chunk = reader.read(from, 3_000).map_err(|error| error.to_string())?;
        if chunk.is_empty() {
            break;
        }
        logged.extend(chunk);
    }
    if !logged
        .iter()
        .map(|(_, entry)| number(entry))
        .eq(applied.iter().copied())
    {
        return Err(format!("{id}: the log does not hold what was applied"));
    }
    outside.seen = applied;
    Ok(())
}

/// Lives, crashes, and says what it found.
fn run(seed: u64, disk: SimDisk) -> Result<usize, String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let disk = Cell::new(Some(disk));
    let outside: Vec<Shared> = GROUPS.iter().map(|_| Shared::default()).collect();
    for _ in 0..RUNS {
        let Some(now) = disk.take() else { break };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run_until_power_cut(Arc::new(now.clone()), &outside, &mut rng))?;
        drop(runtime);
        disk.set(Some(now.crash(&mut rng)));
    }
    // The last run only checks.
    let now = disk.take().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run_until_power_cut(Arc::new(now), &outside, &mut rng))?;
    drop(runtime);
    Ok(outside
        .iter()
        .map(|outside| outside.lock().unwrap().acknowledged.len())
        .sum())
}

#[test]
fn acknowledged_entries_survive_every_crash_once_and_in_order() {
    let mut acknowledged = 0;
    for seed in 0..SEEDS {
        acknowledged += run(seed, SimDisk::new()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(
        acknowledged > 1_500,
        "only {acknowledged} entries were acknowledged: the test tests nothing"
    );
}

#[test]
fn the_same_test_fails_when_syncs_do_nothing() {
    let found = (0..SEEDS).find_map(|seed| run(seed, SimDisk::that_ignores_sync()).err());
    let error = found.expect("a disk that ignores syncs must lose acknowledged entries");
    assert!(
        error.contains("acknowledged and is lost") || error.contains("history has changed"),
        "{error}"
    );
}

#[test]
fn one_seed() {
    run(0, SimDisk::new()).unwrap();
}
