//! Three simulated members with power failures, lost packets and cuts: acknowledged entries are applied once, in one order,
//! everywhere.
//!
//! Everything follows from the seed: the proposals, the latency of syncs and packets, the cuts, the power failures and how
//! much of the unsynced writes survives them, the retention that makes a snapshot necessary, and the engine's own timers.
//! A failure names its seed: put it into `one_seed` to replay it.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::cluster::Cluster;
use holdfast_consensus::Group;
use holdfast_model::NodeId;
use holdfast_storage::Disk;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// More with `HOLDFAST_SEEDS`, and tenfold as fast with `--release`: the engine checks itself in debug builds.
const SEEDS: u64 = 60;
const STEPS: usize = 12;
const CLIENTS: u64 = 3;

/// The knowledge outside the cluster.
#[derive(Default)]
struct Outside {
    proposed: u64,
    /// Calls of clients that have not ended.
    under_way: usize,
    /// Number and index in the log of what was acknowledged.
    acknowledged: Vec<(u64, u64)>,
    /// Handles of the nodes that are up.
    up: BTreeMap<NodeId, Group>,
    stop: bool,
}

type Shared = Arc<Mutex<Outside>>;

fn number(entry: &Bytes) -> u64 {
    u64::from_be_bytes(entry[..8].try_into().unwrap())
}

fn numbers(entries: &[Bytes]) -> Vec<u64> {
    entries.iter().map(number).collect()
}

fn entry(number: u64, length: usize) -> Bytes {
    let mut entry = number.to_be_bytes().to_vec();
    entry.resize(8 + length, 0x5a);
    entry.into()
}

/// Proposes one number after the other, each once, wherever a node is up.
async fn client(outside: Shared, mut rng: SmallRng) {
    loop {
        let pause = Duration::from_micros(rng.random_range(200..40_000));
        tokio::time::sleep(pause).await;
        let next = {
            let mut outside = outside.lock().unwrap();
            if outside.stop {
                return;
            }
            outside.proposed += 1;
            outside.under_way += 1;
            let at = rng.random_range(0..outside.up.len().max(1));
            let group = outside.up.values().nth(at).cloned();
            group.map(|group| (outside.proposed, group))
        };
        let Some((number, group)) = next else {
            outside.lock().unwrap().under_way -= 1;
            continue;
        };
        let entry = entry(number, rng.random_range(0..3_000));
        if rng.random_bool(0.5) {
            if let Ok((position, _)) = group.propose(entry).await {
                outside.lock().unwrap().acknowledged.push((number, position.index));
            }
        } else {
            let outside = outside.clone();
            let committed = move |outcome: Result<holdfast_consensus::LogPosition, _>| {
                if let Ok(position) = outcome {
                    outside.lock().unwrap().acknowledged.push((number, position.index));
                }
            };
            group.propose_detached(entry, Box::new(committed)).await;
        }
        outside.lock().unwrap().under_way -= 1;
    }
}

struct World {
    cluster: Cluster,
    outside: Shared,
    rng: SmallRng,
}

impl World {
    fn kill(&mut self, id: NodeId) {
        self.outside.lock().unwrap().up.remove(&id);
        self.cluster.kill(id);
    }

    async fn start(&mut self, id: NodeId) {
        if !self.cluster.nodes.contains_key(&id) {
            self.cluster.start(id).await;
            let group = self.cluster.group(id).clone();
            self.outside.lock().unwrap().up.insert(id, group);
        }
    }

    /// Something bad, or its end.
    async fn step(&mut self) {
        let id = NodeId(self.rng.random_range(1..=3));
        match self.rng.random_range(0..100) {
            0..18 => self.kill(id),
            18..24 => (1..=3).map(NodeId).for_each(|id| self.kill(id)),
            24..45 => {
                for id in (1..=3).map(NodeId) {
                    self.start(id).await;
                }
            }
            45..55 => self.cluster.network.isolate(id),
            55..60 => {
                let other = NodeId(1 + id.get() % 3);
                self.cluster.network.cut_one_way(id, other);
            }
            60..75 => self.cluster.network.heal_all(),
            75..80 => {
                let most = Duration::from_millis(self.rng.random_range(1..60));
                self.cluster.network.set_delay(Duration::from_micros(50)..=most);
            }
            80..85 => {
                let loss = self.rng.random_range(0.0..0.2);
                self.cluster.network.set_loss(loss);
            }
            85..90 => {
                if let Some(node) = self.cluster.nodes.get(&id) {
                    let to = NodeId(1 + id.get() % 3);
                    let group = node.group.clone();
                    holdfast_tasks::spawn("transfer", async move {
                        let _ = group.transfer_leader(to).await;
                    });
                }
            }
            _ => {
                // After this only a snapshot brings the entries that the others lack.
                if let Some(node) = self.cluster.nodes.get(&id) {
                    node.group.trim(0).await.unwrap();
                    self.cluster.disks[&id].flush().unwrap();
                    node.group.trim(u64::MAX).await.unwrap();
                }
            }
        }
        let pause = Duration::from_millis(self.rng.random_range(1..1_200));
        tokio::time::sleep(pause).await;
    }

    /// The others have applied everything that one node has, or will apply it.
    fn check_prefixes(&self) -> Result<(), String> {
        let applied: Vec<_> = self
            .cluster
            .nodes
            .iter()
            .map(|(id, node)| (*id, numbers(&node.applied())))
            .collect();
        for pair in applied.windows(2) {
            let ((a, first), (b, second)) = (&pair[0], &pair[1]);
            let common = first.len().min(second.len());
            if first[..common] != second[..common] {
                return Err(format!(
                    "nodes {a} and {b} applied different entries: {first:?}, {second:?}"
                ));
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<Vec<u64>, String> {
        self.cluster.network.heal_all();
        self.cluster.network.set_loss(0.0);
        self.cluster
            .network
            .set_delay(Duration::from_micros(100)..=Duration::from_micros(500));
        for id in (1..=3).map(NodeId) {
            self.start(id).await;
        }
        let leader = self.cluster.leader().await;
        self.outside.lock().unwrap().stop = true;
        holdfast_testkit::eventually("an outcome of every call", || {
            self.outside.lock().unwrap().under_way == 0
        })
        .await;
        let last = entry(u64::MAX, 0);
        let group = self.cluster.group(leader).clone();
        group
            .propose(last.clone())
            .await
            .map_err(|error| format!("at the end: {error}"))?;
        holdfast_testkit::eventually("the last entry everywhere", || {
            self.cluster
                .nodes
                .values()
                .all(|node| node.applied().last() == Some(&last))
        })
        .await;
        self.check_prefixes()?;
        let applied = numbers(&self.cluster.nodes[&NodeId(1)].applied());
        for (id, node) in &self.cluster.nodes {
            if numbers(&node.applied()) != applied {
                return Err(format!("node {id} applied something else in the end"));
            }
        }
        Ok(applied)
    }

    fn check(&self, applied: &[u64]) -> Result<(), String> {
        let once: BTreeSet<_> = applied.iter().collect();
        if once.len() != applied.len() {
            return Err(format!("something was applied twice: {applied:?}"));
        }
        let outside = self.outside.lock().unwrap();
        let mut acknowledged = outside.acknowledged.clone();
        acknowledged.sort_by_key(|(_, index)| *index);
        let mut rest = applied.iter();
        for (number, index) in &acknowledged {
            if !rest.any(|applied| applied == number) {
                return Err(format!("{number}, acknowledged at {index}, is lost or out of order"));
            }
        }
        Ok(())
    }
}

/// The result of a seed.
#[derive(Debug, PartialEq, Eq)]
struct RunResult {
    applied: Vec<u64>,
    acknowledged: usize,
    calls: u64,
    took: Duration,
}

async fn run_seed(seed: u64) -> Result<RunResult, String> {
    let begun = tokio::time::Instant::now();
    let cluster = Cluster::of(seed, 3).await;
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let outside = Shared::default();
    for (id, node) in &cluster.nodes {
        outside.lock().unwrap().up.insert(*id, node.group.clone());
    }
    for _ in 0..CLIENTS {
        let rng = SmallRng::seed_from_u64(rng.random());
        holdfast_tasks::spawn("client", client(outside.clone(), rng));
    }
    let mut world = World { cluster, outside, rng };
    for _ in 0..STEPS {
        world.step().await;
        world.check_prefixes()?;
    }
    let applied = world.end().await?;
    world.check(&applied)?;
    let acknowledged = world.outside.lock().unwrap().acknowledged.len();
    world.outside.lock().unwrap().up.clear();
    Ok(RunResult {
        applied,
        acknowledged,
        calls: world.cluster.network.calls(),
        took: begun.elapsed(),
    })
}

fn run(seed: u64) -> Result<RunResult, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime
        .block_on(run_seed(seed))
        .map_err(|error| format!("seed {seed}: {error}"))
}

#[expect(clippy::disallowed_methods, reason = "how many seeds is the caller's choice")]
fn seeds() -> u64 {
    std::env::var("HOLDFAST_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap())
}

#[test]
fn acknowledged_entries_are_applied_once_and_in_one_order() {
    let seeds = seeds();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let some = |first| move || (first..seeds).step_by(threads as usize).map(run).collect::<Vec<_>>();
    let running: Vec<_> = (0..threads).map(|first| std::thread::spawn(some(first))).collect();
    let courses = running.into_iter().flat_map(|thread| thread.join().unwrap());
    let acknowledged: usize = courses
        .map(|course| course.unwrap_or_else(|error| panic!("{error}")).acknowledged)
        .sum();
    assert!(
        acknowledged > 50 * seeds as usize,
        "too little happened: {acknowledged}"
    );
}

#[test]
fn one_seed() {
    let course = run(7).unwrap();
    assert_eq!(run(7).unwrap(), course, "a seed replays");
}
