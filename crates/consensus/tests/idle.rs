//! The cost of idle groups: their timers and heartbeats, without disk and sockets.
//!
//! `cargo test --release -p holdfast-consensus --test idle -- --ignored --nocapture`
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Journal, stop_the_test};
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::{Dispatch, Service};
use holdfast_consensus::{ConsensusConfig, Group, GroupHost, GroupId};
use holdfast_model::NodeId;
use holdfast_storage::SimDisk;

const NODES: u64 = 3;
const GROUPS: u16 = 64;
const MEASURED: Duration = Duration::from_secs(20);

/// User and system time of this process in clock ticks of 10 ms.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn host(network: &SimNetwork, node: NodeId) -> GroupHost {
    let disk = Arc::new(SimDisk::new());
    let host = holdfast_testkit::on_runtime(node, disk, stop_the_test(), || Duration::ZERO);
    let dispatch = Dispatch::new();
    dispatch.enter(Service::Raft, Arc::new(host.groups.clone()));
    GroupHost {
        transport: network.node(node, dispatch),
        ..host
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_idle_groups() {
    let network = SimNetwork::new(1);
    let hosts: BTreeMap<u64, GroupHost> = (1..=NODES).map(|node| (node, host(&network, NodeId(node)))).collect();
    let mut kept = Vec::new();
    for number in 0..GROUPS {
        let id = GroupId::partition(number);
        let mut members = BTreeMap::new();
        for (node, host) in &hosts {
            let journal = Journal::recover(id, host.disk.clone());
            let group = Group::start(id, host, Box::new(journal), &ConsensusConfig::default())
                .await
                .unwrap();
            members.insert(*node, group);
        }
        let first = &members[&(1 + u64::from(number) % NODES)];
        first.bootstrap().await.unwrap();
        for node in members.keys() {
            first.add_learner(NodeId(*node)).await.unwrap();
        }
        first
            .set_voters(members.keys().copied().map(NodeId).collect())
            .await
            .unwrap();
        kept.push(members);
    }
    let (begun, ticks, calls) = (Instant::now(), cpu_ticks(), network.calls());
    tokio::time::sleep(MEASURED).await;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = (cpu_ticks() - ticks) as f64 / 100.0 / seconds / NODES as f64;
    let calls = (network.calls() - calls) as f64 / seconds / NODES as f64;
    println!(
        "{GROUPS} idle groups on {NODES} nodes: {:.1} % of a core and {calls:.0} calls/s a node, {:.1} us CPU a call",
        cpu * 100.0,
        cpu / calls * 1e6
    );
    drop(kept);
}
