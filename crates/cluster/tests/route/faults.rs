//! Random faults: gateways on all nodes send, readers on all nodes read, nodes die and the network fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_cluster::route::Partitions;
use holdfast_tasks::sync::Mutex;
use rand::Rng as _;

use super::common::{BatchSender, CORE, Cluster, GATEWAY, P, oldest, read};
use holdfast_testkit::eventually;

/// The events that a reader has seen.
type Seen = Arc<Mutex<Vec<String>>>;

fn keep_reading(partitions: &Partitions) -> Seen {
    let (seen, partitions) = (Seen::default(), partitions.clone());
    let into = seen.clone();
    let task = async move {
        let mut reader = oldest(&partitions, P).await;
        let mut next = 0;
        loop {
            let bodies = read_some(&mut reader, &mut next).await;
            into.lock().extend(bodies);
        }
    };
    holdfast_tasks::spawn("reader", Box::pin(task));
    seen
}

async fn read_some(reader: &mut holdfast_cluster::route::PartitionReader, next: &mut u64) -> Vec<String> {
    let mut chunk = reader.next().await.unwrap();
    let mut bodies = Vec::new();
    while let Some(event) = chunk.next_event() {
        let event = event.unwrap();
        assert_eq!(event.sequence.0, *next);
        *next += 1;
        bodies.push(String::from_utf8(event.record.payload.to_vec()).unwrap());
    }
    bodies
}

async fn run(seed: u64) {
    let mut cluster = Cluster::start(seed).await;
    let stop = Arc::new(AtomicBool::new(false));
    // Two gateways on the node without replicas, which does not die.
    let mut senders = Vec::new();
    for core in 0..2 {
        let mut sender = BatchSender::new(cluster.on(GATEWAY), P, core);
        let stop = stop.clone();
        let (done, sent) = tokio::sync::oneshot::channel();
        let task = async move {
            while !stop.load(Ordering::Relaxed) {
                sender.send().await;
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
            let _ = done.send((core, sender.sent, sender.retries));
        };
        holdfast_tasks::spawn("sender", Box::pin(task));
        senders.push(sent);
    }
    let seen = keep_reading(cluster.on(GATEWAY));
    for _ in 0..6 {
        let victim = CORE[cluster.rng.random_range(0..CORE.len())];
        match cluster.rng.random_range(0..4) {
            0 => {
                cluster.kill(victim);
                tokio::time::sleep(Duration::from_millis(cluster.rng.random_range(100..4_000))).await;
                cluster.start_node(victim, false).await;
            }
            1 => {
                cluster.network.isolate(victim);
                tokio::time::sleep(Duration::from_millis(cluster.rng.random_range(100..6_000))).await;
                cluster.network.heal_all();
            }
            2 => {
                let other = CORE[cluster.rng.random_range(0..CORE.len())];
                cluster.network.cut_one_way(victim, other);
                tokio::time::sleep(Duration::from_millis(cluster.rng.random_range(100..4_000))).await;
                cluster.network.heal_all();
            }
            _ => {
                cluster.network.cut(victim, GATEWAY);
                tokio::time::sleep(Duration::from_millis(cluster.rng.random_range(100..6_000))).await;
                cluster.network.heal_all();
            }
        }
        tokio::time::sleep(Duration::from_millis(cluster.rng.random_range(500..3_000))).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = BTreeMap::new();
    for sender in senders {
        let (core, count, _) = tokio::time::timeout(Duration::from_secs(60), sender)
            .await
            .unwrap()
            .unwrap();
        sent.insert(core, count);
    }
    let total = usize::try_from(sent.values().sum::<u64>()).unwrap();
    assert!(total > 100, "seed {seed}: hardly anything was sent: {total}");
    eventually("the reader has everything", || seen.lock().len() >= total).await;
    let seen = seen.lock().clone();
    for (core, count) in sent {
        let prefix = format!("{GATEWAY}/{core}/");
        let own: Vec<u64> = seen
            .iter()
            .filter_map(|body| body.strip_prefix(&prefix)?.parse().ok())
            .collect();
        let expected: Vec<u64> = (0..count).collect();
        assert!(
            own == expected,
            "seed {seed}: stream {core} is not what was sent, once and in order"
        );
    }
    for node in CORE {
        let mut next = 0;
        let here = read(&mut oldest(cluster.on(node), P).await, &mut next, total).await;
        assert!(here == seen, "seed {seed}: node {node} has something else");
    }
}

/// The number of seeds: `HOLDFAST_SEEDS`, or a few.
#[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
fn seeds() -> u64 {
    let given = std::env::var("HOLDFAST_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(2)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_doubled_or_out_of_order() {
    for seed in 100..100 + seeds() {
        run(seed).await;
    }
}
