//! A whole cluster in one process: registry, partitions, sessions, control and devices of three nodes, on a simulated
//! network, simulated disks and one clock, with crashes and faults, all drawn from a seed. In some of the seeds nodes join,
//! drain and are replaced meanwhile.
//!
//! What must hold, whatever breaks:
//! - what was acknowledged is stored, once for each time that the device has sent it, in order (`simulation/logs.rs`);
//! - readers skip nothing, go back never, and read the same everywhere (`simulation/readers.rs`);
//! - an identity has one live session, and nothing of an older one is acknowledged (`simulation/devices.rs`);
//! - a revoked identity is cut off within a second on every node inside its lease (`simulation/lease.rs`), and nobody with
//!   rights is refused for lack of them;
//! - calls about an identity are linearizable (`simulation/backends.rs`; the checkers are `holdfast_chaos::check`);
//! - when nothing is broken any more, everything is well within a bounded time, every group has the members that the
//!   registry wants, and all replicas of a group have the same log (`simulation/course.rs`);
//! - who is drained holds nothing any more (`simulation/world.rs`), and whatever the operator wants is done in the end
//!   (`simulation/operator.rs`).
//!
//! `HOLDFAST_SEEDS=n` lives more courses, `HOLDFAST_SEED=n` one of them; `HOLDFAST_TRACE=1` tells everything that happened.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

#[path = "simulation/backends.rs"]
mod backends;
#[path = "simulation/course.rs"]
mod course;
#[path = "simulation/devices.rs"]
mod devices;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/lease.rs"]
mod lease;
#[path = "simulation/logs.rs"]
mod logs;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/readers.rs"]
mod readers;
#[path = "simulation/shared.rs"]
mod shared;
#[path = "simulation/world.rs"]
mod world;

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use course::{Break, Course};
use operator::Changes;

/// How many courses are lived when nobody asks for more or less.
const SEEDS: u64 = 600;

thread_local! {
    /// What has panicked on this thread, tasks included; `None` while nobody wants to know.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Notes panics of threads that live a course, which belong to its seed; other threads' are told as ever.
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

/// Lives one seed; whatever panics is an error too.
fn live(seed: u64, broken: Break) -> Result<Course, String> {
    note_panics();
    PANICS.set(Some(Vec::new()));
    let course = catch_unwind(AssertUnwindSafe(|| course::run(seed, broken, is_set("HOLDFAST_TRACE"))));
    let panics = PANICS.take().unwrap_or_default().join("\n");
    match course {
        Ok(Ok(course)) if panics.is_empty() => Ok(course),
        Ok(Ok(_)) | Err(_) => Err(panics),
        Ok(Err(error)) => Err(format!("{panics}\n{error}")),
    }
}

fn replay(seed: u64) -> String {
    format!("HOLDFAST_SEED={seed} cargo test -p holdfast-simulation --test simulation -- --nocapture whatever")
}

#[expect(clippy::disallowed_methods, reason = "switches for who runs the test by hand")]
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

/// Lives all seeds on all processors; the outcomes in order.
fn live_all(seeds: Range<u64>, broken: Break) -> Vec<(u64, Result<Course, String>)> {
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
                outcomes.push((seed, live(seed, broken)));
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
fn whatever_breaks_the_promises_are_kept() {
    let began = Instant::now();
    let seeds = seeds();
    let outcomes = live_all(seeds.clone(), Break::Nothing);
    let mut courses = Vec::new();
    let mut failures = Vec::new();
    for (seed, outcome) in outcomes {
        match outcome {
            Ok(course) => courses.push(course),
            Err(error) => failures.push(format!("seed {seed}: {error}\nto replay: {}\n", replay(seed))),
        }
    }
    let sum = |of: fn(&Course) -> u64| courses.iter().map(of).sum::<u64>();
    let acknowledged = sum(|course| course.acknowledged as u64);
    let mut changes = Changes::new();
    for (change, times) in courses.iter().flat_map(|course| &course.changes) {
        *changes.entry(*change).or_default() += times;
    }
    println!(
        "{} courses in {:.0?}, {} s of simulated time: {} faults, {acknowledged} messages acknowledged, {} events read, \
         {} calls about identities, {} connections, {} looks at revocations, {} calls between nodes; changes of members: \
         {changes:?}",
        courses.len(),
        began.elapsed(),
        sum(|course| course.took.as_secs()),
        sum(|course| course.faults as u64),
        sum(|course| course.read),
        sum(|course| course.operations),
        sum(|course| course.connections),
        sum(|course| course.revocations),
        sum(|course| course.calls),
    );
    let count = failures.len();
    failures.truncate(5);
    assert!(
        failures.is_empty(),
        "{count} of {seeds:?} failed:\n{}",
        failures.join("\n")
    );
    // A course in which nothing happens keeps every promise; there are some, in which faults leave no time for more.
    let enough = 50 * courses.len() as u64;
    assert!(
        acknowledged > enough || courses.len() < 20,
        "too little happened: {acknowledged}"
    );
}

#[test]
fn a_seed_replays() {
    // Seeds that did not: before watchers woke in order, and before a replica was deleted on the simulation's thread.
    for seed in [10, 16, 20, 27, 82] {
        let course = live(seed, Break::Nothing);
        assert_eq!(live(seed, Break::Nothing), course, "seed {seed}");
    }
}

#[test]
fn disks_that_lie_about_syncs_are_found_out() {
    // Few of them cut the power of so many at once that something is lost, and do not fail before in another way.
    let outcomes = live_all(0..16, Break::Syncs);
    let found = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err());
    assert!(
        found.clone().any(|error| error.contains("acknowledged and lost")),
        "{:?}",
        found.collect::<Vec<_>>()
    );
}
