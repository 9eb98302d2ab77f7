//! Data directories of earlier versions: they open, serve what they hold, and take more.
//!
//! The directory was left by a killed process, so that its write-ahead log is read as well (tests/fixtures/README.md).
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use harness::Hub;
use holdfast_amqp::selector::Start;
use holdfast_swarm::events::EventHub;
use holdfast_swarm::target::Transport;

/// The hub's name in the directory, which is an address of its own. Retention would remove events of that age.
const ARGS: [&str; 4] = ["--host", "127.77.0.1", "--set", "partition.retention_interval=1h"];
const TIMEOUT: Duration = Duration::from_secs(60);

/// The numbers in the messages of each device in the order in which they are read, over all partitions.
fn messages(hub: &Hub) -> BTreeMap<String, Vec<u64>> {
    let target = holdfast_swarm::hub::Hub::load(&hub.connection_file()).unwrap();
    let events = EventHub::of(&target, Transport::Plain).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut read: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut client = events.connect().await.unwrap();
        for partition in client.partitions().await.unwrap() {
            let state = client.partition(&partition).await.unwrap();
            assert_eq!(state.begin, 0, "nothing has been removed from partition {partition}");
            if state.last < state.begin {
                continue;
            }
            let link = client.receive(&partition, Start::Oldest).await.unwrap();
            let mut expected = 0;
            let read_all = client.events(link, TIMEOUT, |event| {
                assert_eq!(event.sequence(), Some(expected), "in partition {partition}");
                expected += 1;
                let body: serde_json::Value = serde_json::from_slice(event.body())?;
                let device = event.device().unwrap_or_default().to_owned();
                read.entry(device).or_default().push(body["message"].as_u64().unwrap());
                Ok(expected <= state.last)
            });
            read_all.await.unwrap();
            client.leave(link).await.unwrap();
        }
        read
    })
}

#[test]
fn an_earlier_directory_can_be_set_back_until_its_feature_level_is_raised() {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-9bf2ea5.tar.gz");
    let mut args = ARGS.to_vec();
    // What the configuration says of retention is a command of version 9.
    args.extend([
        "--set",
        "cluster.raise_feature_level=false",
        "--set",
        "partition.retention=3d",
    ]);
    let mut hub = Hub::unpack(&archive, &args);
    let level = |hub: &Hub| hub.json(&["cluster", "status", "--json"])["featureLevel"].clone();
    let marker = |hub: &Hub| std::fs::read_to_string(hub.data_dir.join("holdfast.node")).unwrap();
    let save = ["query", "save", "all", "SELECT * FROM devices"];
    assert_eq!(level(&hub), 3);
    hub.ok(&["device", "create", "new"]);
    let refused = hub.command(&save);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("503001"), "{said}");
    assert!(said.contains("needs feature level 5, and the hub has 3"), "{said}");
    assert!(marker(&hub).contains("format = 1\n"), "the earlier version opens it");

    let raised = hub.ok(&["cluster", "feature-level", "--raise"]);
    assert!(raised.contains("is 12; it was 3"), "{raised}");
    hub.ok(&save);
    hub.until("the marker has the level", |hub| {
        marker(hub).contains("feature_level = 12\n")
    });
    hub.until("the retention of the configuration", |hub| {
        hub.json(&["settings", "show", "-o", "json"])["retentionSeconds"] == 3 * 86_400
    });

    // By itself, and for good.
    let mut other = Hub::unpack(&archive, &ARGS);
    other.until("the level is raised", |hub| level(hub) == 12);
    other.until("it is in the marker", |hub| {
        marker(hub).contains("feature_level = 12\n")
    });
    assert_eq!(other.stop().code(), Some(0));
    assert_eq!(hub.stop().code(), Some(0));
}

#[test]
fn a_directory_of_commit_9bf2ea5_opens_serves_and_takes_more() {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-9bf2ea5.tar.gz");
    let mut hub = Hub::unpack(&archive, &ARGS);

    let device = hub.json(&["device", "show", "pump-1"]);
    assert_eq!(device["generationId"], "639315016492560000");
    let key = &device["authentication"]["symmetricKey"]["primaryKey"];
    assert_eq!(key, "Nhnqhb4LYuUP5Kg4xk9E2S47Iw2Jn9+Icnq55Go/sv0=");
    assert_eq!(hub.json(&["device", "show", "pump-2"])["status"], "disabled");
    assert!(hub.ok(&["consumer-group", "list"]).contains("analytics"));

    // Three runs of the old version, of which the last is in the write-ahead log alone.
    let mut expected: Vec<u64> = (1..=40).chain(1..=20).chain(1..=10).collect();
    let check = |hub: &Hub, expected: &[u64]| {
        let read = messages(hub);
        let devices: Vec<&str> = read.keys().map(String::as_str).collect();
        let old: Vec<String> = (0..8).map(|number| format!("old-{number:04}")).collect();
        assert_eq!(devices, old);
        for (device, messages) in read {
            assert_eq!(messages, expected, "of {device}");
        }
    };
    check(&hub, &expected);

    hub.ok(&[
        "simulate",
        "-n",
        "8",
        "--prefix",
        "old-",
        "--interval",
        "0.05",
        "--messages",
        "5",
    ]);
    expected.extend(1..=5);
    check(&hub, &expected);

    assert_eq!(hub.stop().code(), Some(0), "{}", hub.last_lines());
    hub.launch(&ARGS);
    check(&hub, &expected);
}
