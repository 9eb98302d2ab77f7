//! How long a query takes over many devices with twins, with and without an index, what memory it needs, and what the twins need on
//! disk.
//!
//! `cargo test --release -p holdfast-service-api --test query_scale -- --ignored --nocapture` (`HOLDFAST_DEVICES` for another
//! number than 1,000,000)
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

#[path = "support/node.rs"]
mod node;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use holdfast_consensus::sim::SimNetwork;
use holdfast_device_hub::{DeviceHub, DeviceHubConfig, QueryPosition, TwinWrite, TwinsConfig, WriteMode};
use holdfast_model::{DeviceId, IdentityId, NodeId};
use holdfast_query::Query;
use holdfast_registry::{IdentityContent, IdentityWrite, WriteOperation};
use holdfast_storage::Family;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

const BULK: usize = 100;
const WRITERS: usize = 256;
const HITS: usize = 100;

fn device(number: usize) -> IdentityId {
    IdentityId::device(DeviceId::parse(&format!("sensor-{number:07}-of-the-fleet")).unwrap())
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Bytes of all files below `dir`.
fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    // Files that a compaction has just deleted count nothing.
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// The size of the data directory once everything is in files and compactions have ended: it has not changed for five seconds.
async fn settled_bytes(node: &node::Node) -> u64 {
    let (disk, dir) = (node.host.disk.clone(), node.dir.path().to_owned());
    holdfast_tasks::spawn_blocking(move || disk.flush()).await.unwrap();
    let (mut bytes, mut unchanged) = (bytes_below(&dir), 0);
    while unchanged < 10 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = bytes_below(&dir);
        unchanged = if now == bytes { unchanged + 1 } else { 0 };
        bytes = now;
    }
    bytes
}

/// Hexadecimal digits that no compression shortens much: twins of devices repeat less than a test's.
fn digits(number: usize, count: usize) -> String {
    let mut rng = SmallRng::seed_from_u64(number as u64);
    (0..count)
        .map(|_| char::from(b"0123456789abcdef"[rng.random_range(0..16)]))
        .collect()
}

/// Each has a twin of some 500 bytes; a hundred are at site `hit`.
async fn write_twin(hub: Arc<DeviceHub>, number: usize, every: usize) {
    let id = device(number);
    let generation = hub.registry().identity(&id).unwrap().unwrap().generation.clone();
    let site = if number.is_multiple_of(every) { "hit" } else { "miss" };
    let write = TwinWrite {
        mode: WriteMode::Replace,
        tags: Some(json!({"site": site, "floor": number % 50, "note": digits(number, 200)}).to_string()),
        desired: Some(json!({"rate": 10, "config": {"mode": "eco", "text": digits(!number, 200)}}).to_string()),
        if_etag: None,
    };
    hub.write_twin(&id, &generation, write, Duration::from_secs(60))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes"]
async fn a_query_over_many_devices() {
    let count = std::env::var_os("HOLDFAST_DEVICES");
    let count = count.map_or(1_000_000, |text| text.to_str().unwrap().parse::<usize>().unwrap());
    let config = DeviceHubConfig {
        twins: TwinsConfig {
            indexes: vec!["tags.site".to_owned(), "tags.floor".to_owned()],
            ..TwinsConfig::default()
        },
        ..DeviceHubConfig::default()
    };
    let node = node::Node::start_with(NodeId(7), &SimNetwork::new(1), config).await;
    for id in node.partitions.count().iter() {
        let replica = node.partition(id).await;
        node.partitions.host(replica);
    }
    let began = Instant::now();
    for first in (0..count).step_by(BULK) {
        let writes = (first..count.min(first + BULK)).map(|number| IdentityWrite {
            id: device(number),
            operation: WriteOperation::Create(IdentityContent::default()),
        });
        node.registry.write_bulk(writes.collect()).await.unwrap();
    }
    println!("{count} devices created in {:?}", began.elapsed());
    let began = Instant::now();
    let every = (count / HITS).max(1);
    let writes = (0..count).map(|number| write_twin(node.hub.clone(), number, every));
    stream::iter(writes).buffer_unordered(WRITERS).collect::<()>().await;
    println!(
        "{count} twins written in {:?}; {} MiB resident",
        began.elapsed(),
        resident_mib()
    );
    let bytes = settled_bytes(&node).await;
    println!(
        "{} MiB on disk, the log of the writes included: {} bytes a device with its twin",
        bytes >> 20,
        bytes / count as u64
    );
    for family in Family::ALL {
        let bytes = node.host.disk.file_bytes(family).unwrap();
        println!("{:>10} bytes a device in {}", bytes / count as u64, family.name());
    }
    for (text, results) in [
        (
            "SELECT * FROM devices WHERE deviceId = 'sensor-0000001-of-the-fleet'",
            1,
        ),
        // With the index.
        ("SELECT * FROM devices WHERE tags.site = 'hit'", count.div_ceil(every)),
        // Without it.
        (
            "SELECT * FROM devices WHERE NOT NOT (tags.site = 'hit')",
            count.div_ceil(every),
        ),
        (
            "SELECT deviceId FROM devices WHERE STARTSWITH(tags.site, 'h')",
            count.div_ceil(every),
        ),
        // Many hits, of which the condition selects none.
        (
            "SELECT deviceId FROM devices WHERE tags.floor = 7 AND tags.site = 'none'",
            0,
        ),
        ("SELECT COUNT() AS n FROM devices WHERE tags.floor IN [7, 8]", 1),
        (
            "SELECT deviceId FROM devices WHERE properties.desired.config.mode = 'other'",
            0,
        ),
        ("SELECT COUNT() AS n FROM devices", 1),
        (
            "SELECT status, COUNT() AS n FROM devices WHERE connectionState = 'Disconnected' GROUP BY status",
            1,
        ),
        (
            "SELECT tags.floor AS floor, COUNT() AS n FROM devices GROUP BY tags.floor",
            50.min(count),
        ),
    ] {
        let query = Query::parse(text).unwrap();
        let (before, began) = (resident_mib(), Instant::now());
        let (mut found, mut pages, mut position) = (0, 0, QueryPosition::Start);
        loop {
            let page = node
                .hub
                .query_page(text, &query, &position, 1000, Duration::from_secs(120));
            let page = page.await.unwrap();
            found += page.results.len();
            pages += 1;
            match page.next {
                Some(next) => position = next,
                None => break,
            }
        }
        let took = began.elapsed();
        println!(
            "{took:>10.1?}  {pages} pages  {before} -> {} MiB  {text}",
            resident_mib()
        );
        assert_eq!(found, results, "{text}");
    }
}
