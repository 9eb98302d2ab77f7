//! A whole cluster in one process: registry, partitions, sessions, control and devices of three nodes, on a simulated
//! network, simulated disks and one clock, with crashes and faults, all drawn from a seed. In some of the seeds nodes join,
//! drain and are replaced meanwhile.
//!
//! Promises that hold under every fault:
//! - an acknowledged message is stored, once for each time that the device has sent it, in order (`simulation/logs.rs`);
//! - readers skip nothing, go back never, and read the same everywhere (`simulation/readers.rs`);
//! - an identity has one live session, and nothing of an older one is acknowledged (`simulation/devices.rs`);
//! - an acknowledged change of subscriptions is present at the device's next connection (`simulation/subscriptions.rs`);
//! - a revoked identity is cut off within a second on every node inside its lease (`simulation/lease.rs`), and no identity
//!   with rights is refused for lack of them;
//! - deliveries reach their sessions in order, within the credit, and never a superseded session (`simulation/downlink.rs`);
//! - an accepted cloud-to-device message reaches its device in order, or is a dead letter (`simulation/queues.rs`);
//! - writes to twins and reads of them are linearizable, and an acknowledged write stays (`simulation/twins.rs`);
//! - queries visit each device once over all pages, count right, and see what was written before them (`simulation/queries.rs`);
//! - calls about an identity are linearizable (`simulation/backends.rs`; the checkers are `holdfast_chaos::check`);
//! - once all faults have ended, the cluster recovers within a bounded time, every group has the members that the registry
//!   wants, and all replicas of a group have the same log (`simulation/scenario.rs`);
//! - a drained node holds nothing any more (`simulation/world.rs`), and every change of the operator is made in the end
//!   (`simulation/operator.rs`).
//!
//! `HOLDFAST_SEEDS=n` runs n seeds, `HOLDFAST_SEED=n` one of them; `HOLDFAST_TRACE=1` prints the whole trace.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

#[path = "simulation/backends.rs"]
mod backends;
#[path = "simulation/devices.rs"]
mod devices;
#[path = "simulation/downlink.rs"]
mod downlink;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/lease.rs"]
mod lease;
#[path = "simulation/logs.rs"]
mod logs;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/queries.rs"]
mod queries;
#[path = "simulation/queues.rs"]
mod queues;
#[path = "simulation/readers.rs"]
mod readers;
#[path = "simulation/scenario.rs"]
mod scenario;
#[path = "simulation/shared.rs"]
mod shared;
#[path = "simulation/subscriptions.rs"]
mod subscriptions;
#[path = "simulation/twins.rs"]
mod twins;
#[path = "simulation/world.rs"]
mod world;

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use operator::Changes;
use scenario::{Break, Outcome};

/// How many seeds run by default.
const SEEDS: u64 = 600;

thread_local! {
    /// Panics on this thread, tasks included; `None` while they are not collected.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Collects panics of threads that run a seed, which belong to it; other threads' panics are printed as usual.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let noted = PANICS.with_borrow_mut(|panics| match panics {
                Some(panics) => {
                    panics.push(panic.to_string());
                    true
                }
                None => false,
            });
            if !noted {
                usual(panic);
            }
        }));
    });
}

/// Runs one seed; a panic is an error too.
fn run_seed(seed: u64, broken: Break) -> Result<Outcome, String> {
    note_panics();
    PANICS.set(Some(Vec::new()));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        scenario::run(seed, broken, is_set("HOLDFAST_TRACE"))
    }));
    let panics = PANICS.take().unwrap_or_default().join("\n");
    match outcome {
        Ok(Ok(outcome)) if panics.is_empty() => Ok(outcome),
        Ok(Ok(_)) | Err(_) => Err(panics),
        Ok(Err(error)) => Err(format!("{panics}\n{error}")),
    }
}

fn replay(seed: u64) -> String {
    format!("HOLDFAST_SEED={seed} cargo test -p holdfast-simulation --test simulation -- --nocapture promises")
}

#[expect(clippy::disallowed_methods, reason = "switches for runs by hand")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn is_set(name: &str) -> bool {
    variable(name).is_some()
}

fn seeds() -> Range<u64> {
    let number = |name| variable(name).map(|text| text.parse::<u64>().unwrap());
    match number("HOLDFAST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HOLDFAST_SEEDS").unwrap_or(SEEDS),
    }
}

/// Runs all seeds on all processors; the outcomes in order.
fn run_all(seeds: Range<u64>, broken: Break) -> Vec<(u64, Result<Outcome, String>)> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut outcomes = std::thread::scope(|scope| {
        let work = || {
            let mut outcomes = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return outcomes;
                }
                outcomes.push((seed, run_seed(seed, broken)));
            }
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    outcomes.sort_unstable_by_key(|(seed, _)| *seed);
    outcomes
}

#[test]
fn promises_hold_under_every_fault() {
    let began = Instant::now();
    let seeds = seeds();
    let outcomes = run_all(seeds.clone(), Break::Nothing);
    let mut runs = Vec::new();
    let mut failures = Vec::new();
    for (seed, outcome) in outcomes {
        match outcome {
            Ok(run) => runs.push(run),
            Err(error) => failures.push(format!("seed {seed}: {error}\nto replay: {}\n", replay(seed))),
        }
    }
    let sum = |of: fn(&Outcome) -> u64| runs.iter().map(of).sum::<u64>();
    let acknowledged = sum(|run| run.acknowledged as u64);
    let mut changes = Changes::new();
    for (change, times) in runs.iter().flat_map(|run| &run.changes) {
        *changes.entry(*change).or_default() += times;
    }
    println!(
        "{} runs in {:.0?}, {} s of simulated time: {} faults, {acknowledged} messages acknowledged, {} events read, \
         {} calls about identities, {} connections, {} deliveries sent and {} received, {} messages queued, {} \
         received and {} dead letters, {} writes to twins and {} reads, {} queries, {} changes of \
         subscriptions acknowledged, {} checks of revocations, {} calls between nodes; changes of members: {changes:?}",
        runs.len(),
        began.elapsed(),
        sum(|run| run.took.as_secs()),
        sum(|run| run.faults as u64),
        sum(|run| run.read),
        sum(|run| run.operations),
        sum(|run| run.connections),
        sum(|run| run.sent as u64),
        sum(|run| run.delivered as u64),
        sum(|run| run.queued as u64),
        sum(|run| run.messages as u64),
        sum(|run| run.dead_letters as u64),
        sum(|run| run.twin_writes as u64),
        sum(|run| run.twin_reads as u64),
        sum(|run| run.queries),
        sum(|run| run.subscribed),
        sum(|run| run.revocations),
        sum(|run| run.calls),
    );
    let count = failures.len();
    failures.truncate(5);
    assert!(
        failures.is_empty(),
        "{count} of {seeds:?} failed:\n{}",
        failures.join("\n")
    );
    // A run in which nothing happens keeps every promise; in some, faults leave little time.
    let enough = 50 * runs.len() as u64;
    assert!(
        acknowledged > enough || runs.len() < 20,
        "too little happened: {acknowledged}"
    );
}

#[test]
fn a_seed_replays() {
    // Seeds that did not: before watchers woke in order, and before a replica was deleted on the simulation's thread.
    for seed in [10, 16, 20, 27, 82] {
        let first = run_seed(seed, Break::Nothing);
        assert_eq!(run_seed(seed, Break::Nothing), first, "seed {seed}");
    }
}

#[test]
fn disks_that_lie_about_syncs_are_detected() {
    // Few of them cut the power of so many at once that something is lost, and do not fail before in another way.
    let outcomes = run_all(0..16, Break::Syncs);
    let found = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err());
    assert!(
        found.clone().any(|error| error.contains("acknowledged and lost")),
        "{:?}",
        found.collect::<Vec<_>>()
    );
}
