//! A database of an earlier version (crates/holdfast/tests/fixtures/README.md).
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::process::Command;

use holdfast_consensus::GroupId;
use holdfast_model::NodeId;
use holdfast_partition::state::{GatewayPresence, Spacing, State};
use holdfast_storage::{DataDir, Disk, Family, NodeIdentity, StorageConfig, layout};

const GATEWAY: NodeId = NodeId(3_300_522_203_717_571);

#[test]
fn a_database_of_commit_9bf2ea5_opens_and_its_absent_gateways_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/absent-gateway-9bf2ea5.tar.gz");
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(unpacked.success());
    // It has no family for device state, and 16 lanes of logs, whatever is configured now.
    let config = StorageConfig {
        log_lanes: 4,
        ..StorageConfig::default()
    };
    let data = DataDir::open(&dir.path().join("node"), || NodeIdentity {
        cluster: "another".to_owned(),
        incarnation: 1,
    })
    .unwrap();
    let disk = holdfast_storage::open(&data, &config).unwrap();
    let spacing = Spacing { bytes: 1, entries: 1 };
    let absent_in = |partition| {
        let group = GroupId::partition(partition).0;
        let key = layout::state_key(group, 0, &[]);
        let head = disk.get(Family::Device, &key).unwrap().unwrap();
        let (_, state) = State::restore(&head, VecDeque::new(), BTreeSet::new(), spacing).unwrap();
        assert!(state.next().0 > 0);
        let log = (layout::log_key(group, 0), layout::log_end(group));
        assert!(
            disk.last(Family::Log, &log.0, &log.1).unwrap().is_some(),
            "its log is there"
        );
        let absent: Vec<_> = state.absent_gateways().iter().collect();
        assert_eq!(
            absent.contains(&GATEWAY),
            state.absent_gateways().presence(GATEWAY) == GatewayPresence::Absent
        );
        absent
    };
    assert_eq!(absent_in(2), [GATEWAY]);
    assert_eq!(disk.last(Family::DeviceState, &[], &[0xff]).unwrap(), None);
}
