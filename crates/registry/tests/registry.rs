//! The registry on a real disk and a real group of one member.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::{Key, KeyPair};
use holdfast_consensus::ConsensusConfig;
use holdfast_model::{DeviceId, IdentityId, ModuleId, NodeId, PartitionCount, UnixMillis};
use holdfast_registry::{
    Authentication, AuthenticationWrite, ChangeKind, ClusterView, DeviceRange, Founding, Identity, IdentityContent,
    IdentityKind, IdentityWrite, IfMatch, KeyChoice, KeyRegeneration, LeaseState, NodeInfo, NodeRole, NodeState,
    Registry, RegistryConfig, RegistryError, RegistryEvent, SavedQueryCondition, SavedQueryWrite, Scan, SeedScan,
    Status, TwinSeed, WriteOperation,
};
use holdfast_storage::{DataDir, Kek, NodeIdentity, Sealer, StorageConfig};

struct Node {
    registry: Registry,
    disk: Arc<dyn holdfast_storage::Disk>,
}

fn founding() -> Founding {
    Founding {
        hub_name: "hub1".to_owned(),
        ..Founding::default()
    }
}

async fn open(path: &Path) -> Node {
    open_with(path, &RegistryConfig::default()).await
}

async fn open_with(path: &Path, config: &RegistryConfig) -> Node {
    let storage = StorageConfig {
        max_open_files: 64,
        ..StorageConfig::default()
    };
    let dir = DataDir::open(path, || NodeIdentity {
        cluster: "test".to_owned(),
        incarnation: 7,
    })
    .unwrap();
    let kek = Kek::new([5; 32]);
    let sealer = Arc::new(Sealer::of_directory(path, &kek, dir.is_fresh()).unwrap());
    let disk: Arc<dyn holdfast_storage::Disk> = holdfast_storage::open(&dir, &storage).unwrap();
    let host = holdfast_testkit::on_threads(NodeId(7), disk.clone(), holdfast_testkit::fail_the_test(), &storage);
    let clock = holdfast_model::Clock::from_fn(|| UnixMillis(1_700_000_000_000));
    let registry = Registry::start(
        &host,
        &ConsensusConfig::default(),
        sealer,
        &founding(),
        clock,
        config,
        true,
    )
    .await
    .unwrap();
    Node { registry, disk }
}

impl Node {
    /// Stops and waits until the data directory is free.
    async fn close(self) {
        self.registry.group().shutdown().await;
        let disk = Arc::downgrade(&self.disk);
        drop(self);
        for _ in 0..2_000 {
            if disk.upgrade().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("somebody still holds the disk");
    }

    async fn put(&self, id: &IdentityId, content: IdentityContent) -> Identity {
        let write = IdentityWrite {
            id: id.clone(),
            operation: WriteOperation::Create(content),
        };
        self.registry.write(write).await.unwrap().identity.unwrap()
    }
}

fn device(id: &str) -> IdentityId {
    IdentityId::device(DeviceId::parse(id).unwrap())
}

fn module(device: &str, id: &str) -> IdentityId {
    IdentityId::module(DeviceId::parse(device).unwrap(), ModuleId::parse(id).unwrap())
}

fn keys(identity: &Identity) -> &KeyPair {
    match &identity.authentication {
        Authentication::Sas(keys) => keys,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn writes_survive_a_restart_and_the_hub_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let hub = node.registry.settings().unwrap();
    assert_eq!(
        (hub.hub_name.as_str(), hub.partition_count),
        ("hub1", PartitionCount::DEFAULT)
    );
    assert_eq!(hub.policies.len(), 5);
    assert!(node.registry.policy("IotHubOwner").is_some());
    let first = node.put(&device("dev-1"), IdentityContent::default()).await;
    let agent = node.put(&module("dev-1", "m1"), IdentityContent::default()).await;
    node.registry.add_consumer_group("analytics").await.unwrap();
    let write = SavedQueryWrite {
        name: "Hot".to_owned(),
        query: "SELECT * FROM devices".to_owned(),
        description: Some("too warm".to_owned()),
        condition: SavedQueryCondition::Absent,
    };
    let (is_new, saved) = node.registry.put_saved_query(&write).await.unwrap();
    assert!(is_new && **node.registry.saved_queries().get("hot").unwrap() == saved);
    node.close().await;

    let node = open(dir.path()).await;
    assert_eq!(node.registry.settings().unwrap().hub_id, hub.hub_id);
    assert_eq!(node.registry.settings().unwrap().policies, hub.policies);
    assert_eq!(
        node.registry.settings().unwrap().consumer_groups,
        ["$Default", "analytics"]
    );
    assert_eq!(**node.registry.saved_queries().get("hot").unwrap(), saved);
    assert_eq!(*node.registry.get(&first.id).await.unwrap().unwrap(), first);
    assert_eq!(*node.registry.get(&agent.id).await.unwrap().unwrap(), agent);
    let statistics = node.registry.statistics().await.unwrap();
    assert_eq!((statistics.devices, statistics.modules), (1, 1));
    // The flushed state and the replayed one are the same.
    node.disk.flush().unwrap();
    node.close().await;
    let node = open(dir.path()).await;
    assert_eq!(*node.registry.get(&first.id).await.unwrap().unwrap(), first);
    node.close().await;
}

#[tokio::test]
async fn no_key_is_in_clear_in_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let (primary, secondary) = (b"a-key-that-anyone-would-find-001", b"a-key-that-anyone-would-find-002");
    let known = KeyPair {
        primary: Key::from_bytes(primary.to_vec()).unwrap(),
        secondary: Key::from_bytes(secondary.to_vec()).unwrap(),
    };
    let content = IdentityContent {
        authentication: Some(AuthenticationWrite::Sas(Some(known.clone()))),
        twin: TwinSeed {
            tags: Some(r#"{"a-text-that-is-no-secret":1}"#.to_owned()),
            desired: None,
            reported: None,
        },
        ..IdentityContent::default()
    };
    let identity = node.put(&device("dev-1"), content).await;
    assert_eq!(keys(&identity), &known);
    let generated = keys(&node.put(&device("dev-2"), IdentityContent::default()).await).clone();
    let owner = node.registry.policy("iothubowner").unwrap();
    node.disk.flush().unwrap();
    let mut needles: Vec<Vec<u8>> = Vec::new();
    for key in [
        &known.primary,
        &known.secondary,
        &generated.primary,
        &owner.keys.primary,
    ] {
        needles.push(key.as_bytes().to_vec());
        needles.push(key.to_base64().as_bytes().to_vec());
    }
    let mut bytes = 0;
    let mut id_seen = false;
    visit(dir.path(), &mut |file, content| {
        bytes += content.len();
        id_seen |= contains(content, b"a-text-that-is-no-secret");
        for needle in &needles {
            assert!(!contains(content, needle), "{} holds a key", file.display());
        }
    });
    assert!(bytes > 1_000 && id_seen, "the search must find what is there in clear");
    node.close().await;
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn visit(dir: &Path, check: &mut dyn FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, check);
        } else {
            check(&path, &std::fs::read(&path).unwrap());
        }
    }
}

#[tokio::test]
async fn a_change_is_seen_by_cache_and_feed_and_a_modules_status_is_its_devices() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let mut changes = node.registry.changes();
    let (dev, agent) = (device("dev-1"), module("dev-1", "m1"));
    node.put(&dev, IdentityContent::default()).await;
    node.put(&agent, IdentityContent::default()).await;
    assert!(node.registry.identity(&agent).unwrap().unwrap().is_enabled());
    let disabled = IdentityContent {
        status: Status::Disabled,
        ..IdentityContent::default()
    };
    let operation = WriteOperation::Update(IfMatch::Any, disabled);
    node.registry
        .write(IdentityWrite {
            id: dev.clone(),
            operation,
        })
        .await
        .unwrap();
    assert!(!node.registry.identity(&dev).unwrap().unwrap().is_enabled());
    assert!(!node.registry.identity(&agent).unwrap().unwrap().is_enabled());
    let operation = WriteOperation::Delete(IfMatch::Any);
    node.registry
        .write(IdentityWrite {
            id: dev.clone(),
            operation,
        })
        .await
        .unwrap();
    assert_eq!(node.registry.identity(&dev).unwrap(), None);
    assert_eq!(node.registry.identity(&agent).unwrap(), None);
    let mut seen = Vec::new();
    while let Some(event) = changes.try_next() {
        match event {
            RegistryEvent::Identity { change, .. } => seen.push((change.id.to_string(), change.kind)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        seen,
        [
            ("dev-1".to_owned(), ChangeKind::Created),
            ("dev-1/m1".to_owned(), ChangeKind::Created),
            ("dev-1".to_owned(), ChangeKind::Updated),
            ("dev-1/m1".to_owned(), ChangeKind::Deleted),
            ("dev-1".to_owned(), ChangeKind::Deleted),
        ]
    );
    node.close().await;
}

#[tokio::test]
async fn a_bulk_keeps_its_order_and_costs_one_entry_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    node.registry.read_barrier().await.unwrap();
    let before = node.registry.group().applied_index();
    let mut writes: Vec<_> = (0..100)
        .map(|number| IdentityWrite {
            id: device(&format!("dev-{number:03}")),
            operation: WriteOperation::Create(IdentityContent::default()),
        })
        .collect();
    writes[50].operation = WriteOperation::Delete(IfMatch::Any);
    writes[51].operation = WriteOperation::Create(IdentityContent {
        authentication: Some(AuthenticationWrite::None),
        ..IdentityContent::default()
    });
    let outcomes = node.registry.write_bulk(writes.clone()).await.unwrap();
    let failed: Vec<_> = outcomes
        .iter()
        .enumerate()
        .filter_map(|(at, outcome)| outcome.as_ref().err().map(|rejection| (at, rejection.code.number())))
        .collect();
    assert_eq!(failed, [(50, 404_001), (51, 400_004)]);
    assert_eq!(node.registry.group().applied_index(), before + 1);
    let listed = node.registry.list_devices(10).await.unwrap();
    let ids: Vec<_> = listed.iter().map(|identity| identity.id.to_string()).collect();
    assert_eq!(
        ids,
        (0..10).map(|number| format!("dev-{number:03}")).collect::<Vec<_>>()
    );
    assert_eq!(node.registry.list_devices(1000).await.unwrap().len(), 98);
    writes.push(writes[0].clone());
    assert!(matches!(
        node.registry.write_bulk(writes).await,
        Err(RegistryError::Rejected(_))
    ));
    node.close().await;
}

#[tokio::test]
async fn requested_keys_are_regenerated_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let before = node.put(&device("dev-1"), IdentityContent::default()).await;
    let entry = KeyRegeneration {
        id: before.id.clone(),
        if_match: IfMatch::ETag(before.etag.0.clone()),
    };
    let outcomes = node
        .registry
        .regenerate_keys(vec![entry.clone()], KeyChoice::Primary)
        .await
        .unwrap();
    let after = outcomes[0].as_ref().unwrap().identity.clone().unwrap();
    assert_ne!(keys(&after).primary, keys(&before).primary);
    assert_eq!(keys(&after).secondary, keys(&before).secondary);
    let outcomes = node
        .registry
        .regenerate_keys(vec![entry], KeyChoice::Both)
        .await
        .unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap_err().code.number(), 412_001);
    node.close().await;
}

#[tokio::test]
async fn a_wrong_key_encryption_key_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await;
    assert!(Sealer::of_directory(dir.path(), &Kek::new([6; 32]), false).is_err());
}

#[tokio::test]
async fn writes_past_the_limit_are_refused_and_those_under_way_are_done() {
    let dir = tempfile::tempdir().unwrap();
    let node = open_with(
        dir.path(),
        &RegistryConfig {
            max_writes: 2,
            ..RegistryConfig::default()
        },
    )
    .await;
    let writes = (0..20).map(|number| {
        let id = device(&format!("dev-{number}"));
        node.registry.write(IdentityWrite {
            id,
            operation: WriteOperation::Create(IdentityContent::default()),
        })
    });
    let outcomes = futures_util::future::join_all(writes).await;
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(
        done >= 2
            && outcomes
                .iter()
                .all(|o| o.is_ok() || matches!(o, Err(RegistryError::Overloaded)))
    );
    assert_eq!(node.registry.list_devices(1000).await.unwrap().len(), done);
    node.close().await;
}

#[tokio::test]
async fn the_log_is_trimmed_below_the_flushed_index_and_the_state_survives_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = RegistryConfig {
        log_entries: 5,
        ..RegistryConfig::default()
    };
    let node = open_with(dir.path(), &config).await;
    for number in 0..40 {
        node.put(&device(&format!("dev-{number}")), IdentityContent::default())
            .await;
    }
    let applied = node.registry.group().applied_index();
    let untouched = node.registry.trim_log().await.unwrap();
    assert_eq!(untouched, 0, "what is in no file yet is needed after a crash");
    node.disk.flush().unwrap();
    assert_eq!(node.registry.trim_log().await.unwrap(), applied - 5);
    node.put(&device("late"), IdentityContent::default()).await;
    node.close().await;
    let node = open_with(dir.path(), &config).await;
    assert_eq!(node.registry.statistics().await.unwrap().devices, 41);
    assert!(node.registry.get(&device("late")).await.unwrap().is_some());
    node.close().await;
}

fn first_node() -> NodeInfo {
    NodeInfo {
        id: NodeId(7),
        name: "n7".to_owned(),
        address: "127.0.0.1:9000".to_owned(),
        zone: String::new(),
        role: NodeRole::Core,
        state: NodeState::Active,
        version: "1.0.0".to_owned(),
        joined: UnixMillis(0),
    }
}

#[tokio::test]
async fn a_directory_from_before_the_cluster_opens_and_its_node_becomes_the_first_member() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let old = node.put(&device("dev-1"), IdentityContent::default()).await;
    let settings = node.registry.settings().unwrap();
    assert_eq!(*node.registry.cluster(), ClusterView::default());
    node.close().await;

    let node = open(dir.path()).await;
    let mut changes = node.registry.changes();
    for _ in 0..2 {
        node.registry.found_cluster("c1", 3, &first_node()).await.unwrap();
    }
    assert_eq!(changes.try_next(), Some(RegistryEvent::Cluster));
    assert_eq!(changes.try_next(), None, "the second time it does nothing");
    let view = node.registry.cluster();
    assert_eq!(
        (view.version, view.cluster.as_str(), view.replication_factor),
        (1, "c1", 3)
    );
    assert_eq!(view.placements.len(), usize::from(settings.partition_count.get()));
    assert!(
        view.placements
            .iter()
            .all(|placed| placed.replicas == [NodeId(7)] && placed.founder == NodeId(7))
    );
    let first = view.node(NodeId(7)).unwrap();
    assert_eq!((first.role, first.state), (NodeRole::Core, NodeState::Active));
    assert_eq!(*node.registry.settings().unwrap(), *settings);
    assert_eq!(*node.registry.get(&old.id).await.unwrap().unwrap(), old);
    node.close().await;

    // The one after that finds it in place, replayed from the log and from files.
    for _ in 0..2 {
        let node = open(dir.path()).await;
        assert_eq!(node.registry.cluster(), view);
        node.disk.flush().unwrap();
        node.close().await;
    }
}

#[tokio::test]
async fn a_sole_voter_is_in_its_lease_and_a_stopped_registry_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let mut watch = node.registry.lease_watch();
    watch.held().await;
    assert!(node.registry.in_lease());
    node.registry.group().shutdown().await;
    while !matches!(watch.changed().await, LeaseState::Lost { .. }) {}
    assert!(!node.registry.in_lease());
    node.close().await;
}

/// The ids that a scan visits in slices of `most`, and how many slices there are.
fn scanned(node: &Node, kind: IdentityKind, range: &DeviceRange, most: usize) -> (Vec<String>, usize) {
    let (mut visited, mut after, mut slices) = (Vec::new(), None, 0);
    loop {
        let scan = Scan {
            kind,
            range: range.clone(),
            after: after.clone(),
            most,
        };
        let scanned = node.registry.scan(
            &scan,
            |device| device.as_str() != "left-out",
            |identity| {
                visited.push(identity.id.to_string());
                ControlFlow::Continue(())
            },
        );
        slices += 1;
        let scanned = scanned.unwrap();
        assert!(scanned.count <= most);
        match scanned.through {
            Some(through) => after = Some(through),
            None => return (visited, slices),
        }
    }
}

#[tokio::test]
async fn a_scan_visits_each_identity_once_in_slices_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    for id in ["a", "a-b", "ab", "b", "left-out", "z"] {
        let disabled = IdentityContent {
            status: Status::Disabled,
            ..IdentityContent::default()
        };
        node.put(
            &device(id),
            if id == "b" {
                disabled
            } else {
                IdentityContent::default()
            },
        )
        .await;
    }
    for (device, id) in [("a", "m1"), ("a", "m2"), ("a-b", "m"), ("b", "m")] {
        node.put(&module(device, id), IdentityContent::default()).await;
    }
    let ids = DeviceRange::Ids(["a", "b", "none"].map(|id| DeviceId::parse(id).unwrap()).to_vec());
    for most in [1, 2, 3, 100] {
        let of = |kind, range: &DeviceRange| scanned(&node, kind, range, most).0;
        let (devices, modules) = (IdentityKind::Devices, IdentityKind::Modules);
        assert_eq!(of(devices, &DeviceRange::All), ["a", "a-b", "ab", "b", "z"]);
        assert_eq!(of(devices, &DeviceRange::Prefix("a".to_owned())), ["a", "a-b", "ab"]);
        assert_eq!(of(devices, &ids), ["a", "b"]);
        assert_eq!(of(modules, &DeviceRange::All), ["a/m1", "a/m2", "a-b/m", "b/m"]);
        assert_eq!(of(modules, &DeviceRange::Prefix("a-".to_owned())), ["a-b/m"]);
        assert_eq!(of(modules, &ids), ["a/m1", "a/m2", "b/m"]);
    }
    let mut statuses = Vec::new();
    let scan = Scan {
        kind: IdentityKind::Modules,
        range: DeviceRange::All,
        after: Some(module("a", "m2")),
        most: 100,
    };
    let visit = |identity: holdfast_registry::IdentitySummary| {
        statuses.push(identity.status);
        ControlFlow::Break(())
    };
    let scanned = node
        .registry
        .scan(&scan, |device| device.as_str() == "b", visit)
        .unwrap();
    assert_eq!(statuses, [Status::Disabled], "a module's status is its device's");
    assert_eq!((scanned.through, scanned.count), (Some(module("b", "m")), 2));
    node.close().await;
}

#[tokio::test]
async fn a_scan_of_twin_content_visits_those_that_were_created_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let with = |tags: &str| IdentityContent {
        twin: TwinSeed {
            tags: Some(tags.to_owned()),
            desired: None,
            reported: None,
        },
        ..IdentityContent::default()
    };
    for id in ["a", "a-b", "ab", "left-out", "z"] {
        node.put(&device(id), with(&format!("{{\"id\":\"{id}\"}}"))).await;
    }
    node.put(&device("b"), IdentityContent::default()).await;
    for (device, id) in [("a", "m1"), ("a", "m2"), ("b", "m")] {
        node.put(&module(device, id), with("{}")).await;
    }
    let scanned = |kind, after: Option<IdentityId>, through: Option<IdentityId>, most| {
        let mut visited = Vec::new();
        let scan = SeedScan {
            kind,
            after,
            through,
            most,
        };
        let wants = |device: &DeviceId| device.as_str() != "left-out";
        let scanned = node
            .registry
            .scan_twin_seeds(&scan, wants, |id, seed| {
                if id.module.is_none() {
                    assert_eq!(seed.tags, Some(format!("{{\"id\":\"{id}\"}}")));
                }
                visited.push(id.to_string());
            })
            .unwrap();
        (visited, scanned.through)
    };
    let (devices, modules) = (IdentityKind::Devices, IdentityKind::Modules);
    let strings = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        scanned(devices, None, None, 100),
        (strings(&["a", "a-b", "ab", "z"]), None)
    );
    assert_eq!(
        scanned(devices, None, None, 2),
        (strings(&["a", "a-b"]), Some(device("a-b")))
    );
    let behind = scanned(devices, Some(device("a")), Some(device("ab")), 100);
    assert_eq!(behind, (strings(&["a-b", "ab"]), None));
    assert_eq!(
        scanned(devices, Some(device("z")), Some(device("b")), 100),
        (Vec::new(), None)
    );
    assert_eq!(
        scanned(modules, None, None, 100),
        (strings(&["a/m1", "a/m2", "b/m"]), None)
    );
    let behind = scanned(modules, Some(module("a", "m1")), Some(module("a", "m2")), 100);
    assert_eq!(behind, (strings(&["a/m2"]), None));
    node.close().await;
}
