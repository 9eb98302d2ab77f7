//! A seeded course of faults, with devices that roam between nodes and send again what was not acknowledged.
//!
//! Checked: every acknowledged message is stored once per acknowledgement; nothing of an older connection follows a newer
//! one's messages; within a connection nothing is missing and nothing out of order; an older connection gets no
//! acknowledgement once the newer one has been let in; in the end everything is stored.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use holdfast_device_hub::Refusal;
use holdfast_model::PartitionCount;
use rand::Rng as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::common::{Client, Cluster, NODES, SECOND};

const STEP: Duration = Duration::from_millis(10);
const DEVICES: usize = 6;
/// Steps with faults.
const STEPS: usize = 1_500;
/// What a device sends before it waits.
const WINDOW: usize = 20;
/// Numbers of messages are below it.
const NUMBERS: u64 = 1_000_000;

struct Device {
    name: String,
    next: u64,
    unacked: VecDeque<u64>,
    /// Counts connections that were let in.
    connection: u64,
    current: Option<Connected>,
    connecting: Option<(JoinHandle<Result<Client, Refusal>>, u64)>,
    /// Older connections, and how much they had been acknowledged when they became that.
    older: Vec<(Connected, usize)>,
    /// What was acknowledged, as connection and number.
    acked: BTreeSet<(u64, u64)>,
}

struct Connected {
    client: Client,
    number: u64,
    node: u64,
    seen: usize,
}

impl Device {
    fn code(connection: u64, number: u64) -> u64 {
        connection * NUMBERS + number
    }

    fn take_acks(&mut self) {
        let Some(current) = &mut self.current else { return };
        let acked = current.client.acked();
        for code in &acked[current.seen..] {
            let number = code % NUMBERS;
            self.acked.insert((current.number, number));
            assert_eq!(self.unacked.pop_front(), Some(number), "{}: out of order", self.name);
        }
        current.seen = acked.len();
    }

    fn retire(&mut self) {
        self.take_acks();
        if let Some(current) = self.current.take() {
            let seen = current.seen;
            self.older.push((current, seen));
        }
    }

    fn send(&mut self) {
        let Some(current) = &self.current else { return };
        if self.unacked.len() < WINDOW {
            current.client.send(Self::code(current.number, self.next));
            self.unacked.push_back(self.next);
            self.next += 1;
        }
    }

    async fn step(&mut self, cluster: &mut Cluster, goes_on: bool) {
        if self
            .connecting
            .as_ref()
            .is_some_and(|(connecting, _)| connecting.is_finished())
        {
            let (connecting, node) = self.connecting.take().unwrap();
            if let Ok(client) = connecting.await.unwrap() {
                self.retire();
                self.connection += 1;
                for number in &self.unacked {
                    client.send(Self::code(self.connection, *number));
                }
                self.current = Some(Connected {
                    client,
                    number: self.connection,
                    node,
                    seen: 0,
                });
            }
        }
        self.take_acks();
        let is_over = self
            .current
            .as_ref()
            .is_some_and(|current| current.client.closed().is_some() || !cluster.nodes.contains_key(&current.node));
        if is_over {
            self.retire();
        }
        let chance = cluster.rng.random_range(0..1000);
        if self.current.is_some() && self.connecting.is_none() {
            match chance {
                0..5 if goes_on => self.connect(cluster),
                5..8 if goes_on => {
                    self.retire();
                    self.older.last_mut().unwrap().0.client.disconnect();
                }
                8..500 if goes_on => self.send(),
                _ => {}
            }
        } else if self.current.is_none() && self.connecting.is_none() && chance < 200 {
            self.connect(cluster);
        }
    }

    fn connect(&mut self, cluster: &mut Cluster) {
        let nodes: Vec<u64> = cluster.nodes.keys().copied().collect();
        let node = nodes[cluster.rng.random_range(0..nodes.len())];
        let core = cluster.rng.random_range(0..2);
        self.connecting = Some((cluster.connecting(node, core, &self.name), node));
    }
}

async fn fault(cluster: &mut Cluster, log: &mut Vec<String>) {
    let [a, b] = [(); 2].map(|()| NODES[cluster.rng.random_range(0..3)]);
    let what = cluster.rng.random_range(0..10);
    let dead = NODES.iter().find(|node| !cluster.nodes.contains_key(node));
    match (what, dead) {
        (0..3, Some(node)) => {
            cluster.network.heal_all();
            cluster.start_node(*node).await;
            log.push(format!("{node} is back"));
        }
        (0..2, None) => {
            cluster.network.heal_all();
            cluster.kill(a);
            log.push(format!("{a} dies"));
        }
        (2..4, None) => {
            cluster.network.isolate(a);
            log.push(format!("{a} is cut off"));
        }
        (4..6, None) if a != b => {
            cluster.network.cut_one_way(a, b);
            log.push(format!("{a} does not reach {b}"));
        }
        (6, _) => {
            cluster.network.set_loss(0.05);
            log.push("losses".to_owned());
        }
        (7, _) => {
            let count = PartitionCount::DEFAULT.get();
            let id = holdfast_model::PartitionId(cluster.rng.random_range(0..count));
            if let Some(replica) = cluster.nodes.get(&a).and_then(|node| node.partitions.local(id)) {
                holdfast_tasks::spawn(
                    "transfer",
                    Box::pin(async move {
                        let _ = replica.group().transfer_leader(b).await;
                    }),
                );
                log.push(format!("partition {} to {b}", id.0));
            }
        }
        _ => {
            cluster.network.heal_all();
            cluster.network.set_loss(0.0);
            log.push("healed".to_owned());
        }
    }
}

pub(crate) async fn run(seed: u64) {
    let mut cluster = Cluster::start(seed).await;
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let name = format!("device-{number}");
        cluster.create(&name).await;
        devices.push(Device {
            name,
            next: 0,
            unacked: VecDeque::new(),
            connection: 0,
            current: None,
            connecting: None,
            older: Vec::new(),
            acked: BTreeSet::new(),
        });
    }
    let mut log = Vec::new();
    let mut next_fault = 100;
    for step in 0..STEPS {
        if step == next_fault {
            fault(&mut cluster, &mut log).await;
            next_fault += cluster.rng.random_range(20..250);
        }
        for device in &mut devices {
            device.step(&mut cluster, true).await;
        }
        tokio::time::sleep(STEP).await;
    }
    cluster.network.heal_all();
    cluster.network.set_loss(0.0);
    for node in NODES {
        if !cluster.nodes.contains_key(&node) {
            cluster.start_node(node).await;
        }
    }
    let give_up = Instant::now() + 60 * SECOND;
    while devices.iter().any(|device| !device.unacked.is_empty()) {
        assert!(
            Instant::now() < give_up,
            "seed {seed}: some are never acknowledged, after {log:?}"
        );
        for device in &mut devices {
            device.step(&mut cluster, false).await;
        }
        tokio::time::sleep(STEP).await;
    }
    cluster.settled().await;
    for device in &devices {
        check(
            &cluster,
            device,
            &format!("seed {seed}, {}, after {log:?}", device.name),
        )
        .await;
    }
}

async fn check(cluster: &Cluster, device: &Device, what: &str) {
    for (older, seen) in &device.older {
        assert_eq!(
            older.client.acked().len(),
            *seen,
            "{what}: connection {} goes on",
            older.number
        );
    }
    let stored = cluster.events(1, &device.name).await;
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut newest = 0;
    for code in &stored {
        let (connection, number) = (code / NUMBERS, code % NUMBERS);
        assert!(connection >= newest, "{what}: connection {connection} follows {newest}");
        newest = connection;
        if let Some(before) = last.insert(connection, number) {
            assert_eq!(number, before + 1, "{what}: connection {connection}");
        }
    }
    let all: BTreeSet<(u64, u64)> = stored.iter().map(|code| (code / NUMBERS, code % NUMBERS)).collect();
    let lost: Vec<_> = device.acked.difference(&all).collect();
    assert!(lost.is_empty(), "{what}: acknowledged and lost {lost:?}");
    let numbers: BTreeSet<u64> = all.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len() as u64, device.next, "{what}");
}
