//! Backups of real hubs, restored into other directories: what is the same, what is refused, and what an interruption costs.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use harness::{Hub, holdfast, text};
use holdfast_backup::{Directory, latest, registry_records};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(120);

fn create(hub: &Hub, to: &Path, more: &[&str]) -> Output {
    let mut args = vec!["backup", "create", "--to", to.to_str().unwrap()];
    args.extend(more);
    hub.command(&args)
}

fn made(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn offline(args: &[&str]) -> Output {
    holdfast().args(args).stdin(Stdio::null()).output().unwrap()
}

fn verify(folder: &Path) -> Output {
    offline(&["backup", "verify", folder.to_str().unwrap(), "--all"])
}

/// Restores the newest backup to a hub that has not been started, with the key of `from`.
fn restore(to: &Hub, from: &Hub, folder: &Path, more: &[&str]) -> Output {
    std::fs::create_dir_all(&to.data_dir).unwrap();
    let key = to.data_dir.join("sealing.key");
    if !key.exists() {
        std::fs::copy(from.data_dir.join("sealing.key"), &key).unwrap();
    }
    let data_dir = to.data_dir.to_str().unwrap();
    let mut args = vec!["restore", "--from", folder.to_str().unwrap(), "--data-dir", data_dir];
    args.extend(more);
    offline(&args)
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
}

/// The events that can be read: time, device, partition and sequence number, content.
fn events(hub: &Hub) -> BTreeSet<String> {
    let read = hub.ok(&["monitor-events", "--from", "oldest", "--timeout", "3", "-o", "text"]);
    read.lines().map(str::to_owned).collect()
}

/// The highest sequence number of each partition among `events`.
fn last_numbers(events: &BTreeSet<String>) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    for event in events {
        let place = event.split_whitespace().nth(2).unwrap();
        let (partition, number) = place.split_once(':').unwrap();
        let number: u64 = number.parse().unwrap();
        let highest = last.entry(partition.to_owned()).or_insert(number);
        *highest = number.max(*highest);
    }
    last
}

/// The records of the registry in the newest backup, without those of the cluster.
fn records(folder: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let target = Directory::read_only(folder);
        let manifest = latest(&target).await.unwrap();
        let mut records = BTreeMap::new();
        let mut take = |(key, value): (bytes::Bytes, bytes::Bytes)| {
            // n, k, p, j: the cluster; r: removed nodes; u: the quota's use, which counts on.
            if !b"nkpjru".contains(&key[0]) {
                records.insert(key.to_vec(), value.to_vec());
            }
            Ok(())
        };
        registry_records(&target, &manifest, &mut take, &mut |_| ())
            .await
            .unwrap();
        records
    })
}

/// Every file of the objects of a folder.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(folder.join("objects")).unwrap();
    let files = folders.flat_map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap());
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn fill(hub: &Hub) {
    hub.ok(&["simulate", "-n", "4", "--messages", "25", "--interval", "0.02"]);
    hub.ok(&["device", "create", "quiet"]);
    hub.ok(&[
        "twin",
        "update",
        "sim-0001",
        "--tags",
        r#"{"place": "roof"}"#,
        "--desired",
        r#"{"rate": 7}"#,
    ]);
    hub.ok(&["c2d", "send", "quiet", "--data", "wait for me"]);
    hub.ok(&["consumer-group", "create", "billing"]);
}

#[test]
fn a_hub_under_load_is_restored_and_grows_to_three_nodes() {
    let mut hub = Hub::start(&[]);
    let other = tempfile::tempdir().unwrap();
    let folder = other.path().join("backups");
    fill(&hub);
    let acknowledged = events(&hub);
    assert!(acknowledged.len() >= 100, "{} events", acknowledged.len());
    made(&create(&hub, &folder, &["--with-log"]));

    // Devices send while the second one is made; it builds on the first.
    let mut load = holdfast()
        .args([
            "simulate",
            "-n",
            "4",
            "--interval",
            "0.01",
            "--until-stdin-closes",
            "--connection-file",
        ])
        .arg(hub.connection_file())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let count = (acknowledged.len() + 40).to_string();
    let read = hub.ok(&["monitor-events", "--from", "oldest", "--count", &count, "-o", "text"]);
    let acknowledged: BTreeSet<String> = read.lines().map(str::to_owned).collect();
    let twin = |hub: &Hub, id: &str| {
        let mut twin = hub.json(&["twin", "show", id, "-o", "json"]);
        for changing in ["connectionState", "lastActivityTime"] {
            twin.as_object_mut().unwrap().remove(changing);
        }
        twin
    };
    let facts = |hub: &Hub| -> Vec<String> {
        ["sim-0000", "sim-0001", "quiet"]
            .iter()
            .map(|id| hub.ok(&["device", "connection-string", id]))
            .chain([
                hub.ok(&["consumer-group", "list"]),
                hub.json(&["policy", "list", "-o", "json"]).to_string(),
            ])
            .collect()
    };
    let (known, quiet) = (facts(&hub), twin(&hub, "quiet"));
    made(&create(&hub, &folder, &["--with-log"]));
    drop(load.stdin.take());
    load.wait().unwrap();
    hub.kill();

    let checked = verify(&folder);
    assert!(
        made(&checked).matches("is whole").count() == 2,
        "{}",
        text(&checked.stdout)
    );
    let listed = offline(&["backup", "list", folder.to_str().unwrap(), "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let (name, files) = (folder.to_str().unwrap(), objects(&folder).len());
    refused(&offline(&["backup", "prune", name]), 2, &["--keep"]);
    made(&offline(&["backup", "prune", name, "--keep", "2"]));
    assert_eq!(objects(&folder).len(), files, "every file is of a backup");
    let would = made(&offline(&["backup", "prune", name, "--keep", "1", "--dry-run"]));
    assert!(would.contains("Would be removed: 1 backups"), "{would}");
    assert_eq!(objects(&folder).len(), files);
    made(&offline(&["backup", "prune", name, "--keep", "1", "--keep-days", "2"]));
    assert_eq!(objects(&folder).len(), files, "either rule keeps");
    made(&offline(&["backup", "prune", name, "--keep", "1"]));
    assert!(objects(&folder).len() < files);
    assert!(made(&verify(&folder)).matches("is whole").count() == 1);

    let mut restored = Hub::idle();
    made(&restore(&restored, &hub, &folder, &[]));
    restored.launch(&[]);
    assert_eq!(facts(&restored), known, "old keys and policies");
    assert_eq!(twin(&restored, "quiet"), quiet);
    let tags = restored.json(&["twin", "show", "sim-0001", "-o", "json"])["tags"]["place"].clone();
    assert_eq!(tags, "roof");
    let queue = restored.json(&["c2d", "list", "quiet", "-o", "json"]);
    assert_eq!(queue.as_array().unwrap().len(), 1, "{queue}");
    let found = events(&restored);
    let missing: Vec<_> = acknowledged.difference(&found).collect();
    assert_eq!(
        missing,
        Vec::<&String>::new(),
        "acknowledged before the backup, with their numbers"
    );
    let registry = records(&folder);
    let again = other.path().join("again");
    made(&create(&restored, &again, &[]));
    assert_eq!(records(&again), registry, "the registry, record by record");
    // They connect with the keys of old, and numbers continue.
    restored.ok(&["simulate", "-n", "4", "--messages", "5", "--interval", "0.02"]);
    assert!(events(&restored).is_superset(&found));

    restored.stop();
    restored.launch(&["--nodes", "3"]);
    let status = || restored.json(&["cluster", "status", "--json"]);
    let deadline = Instant::now() + TIMEOUT;
    while status()["healthy"] != true {
        assert!(Instant::now() < deadline, "{}\n{}", status(), restored.last_lines());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(status()["nodes"].as_array().unwrap().len(), 3);
    assert!(events(&restored).is_superset(&acknowledged));
    assert_eq!(facts(&restored), known);
    // Any node can be asked.
    made(&create(&restored, &other.path().join("of-three"), &["--with-log"]));
    let of_three = verify(&other.path().join("of-three"));
    assert!(made(&of_three).contains("is whole"));
}

#[test]
fn the_hub_backs_itself_up_by_its_schedule() {
    let other = tempfile::tempdir().unwrap();
    let folder = other.path().join("backups");
    let place = folder.to_str().unwrap();
    let target = format!("backup.target={place}");
    let args = [
        "--set",
        &target,
        "--set",
        "backup.schedule=1h",
        "--set",
        "backup.keep=2",
    ];
    let mut hub = Hub::start(&args);
    hub.ok(&["device", "create", "d"]);
    let backups = || std::fs::read_dir(folder.join("backups")).map_or(0, Iterator::count);
    hub.until("the first backup", |_| backups() == 1);
    // Nothing is due any more, for another leader neither.
    hub.stop();
    hub.launch(&args);
    hub.until("the newest backup is known", |hub| {
        let (_, metrics) = hub.ops("/metrics");
        metrics.contains("holdfast_backup_interval_seconds 3600\n")
            && metrics.contains("holdfast_backup_last_success_timestamp_seconds 1")
    });
    assert_eq!(backups(), 1);
    assert!(made(&verify(&folder)).contains("is whole"));

    // Older than any backup, and now.
    let restored = Hub::idle();
    let early = restore(&restored, &hub, &folder, &["--at", "2020-01-01T00:00:00Z"]);
    refused(&early, 3, &["oldest one ended at"]);
    refused(
        &restore(&restored, &hub, &folder, &["--at", "yesterday"]),
        2,
        &["is no time"],
    );
    let now = restore(&restored, &hub, &folder, &["--at", "2100-01-01T00:00:00Z"]);
    assert!(made(&now).contains("with its own registry"));
    hub.stop();
    for (wrong, word) in [
        ("backup.schedule=daily", "02:30"),
        ("backup.target=ftp://x/y", "s3://BUCKET/PREFIX"),
        ("backup.registry_interval=5s", "at least 1m"),
    ] {
        let args = [
            "config",
            "check",
            "--set",
            &target,
            "--set",
            "backup.schedule=1h",
            "--set",
            wrong,
        ];
        refused(&offline(&args), 2, &[word]);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_touched() {
    let mut hub = Hub::start(&[]);
    let other = tempfile::tempdir().unwrap();
    let folder = other.path().join("backups");
    hub.ok(&["device", "create", "d"]);
    hub.ok(&["simulate", "-n", "2", "--messages", "5", "--interval", "0.02"]);

    let strange = other.path().join("strange");
    std::fs::create_dir(&strange).unwrap();
    std::fs::write(strange.join("notes.txt"), "mine").unwrap();
    refused(&create(&hub, &strange, &[]), 1, &["not empty", "notes.txt"]);
    made(&create(&hub, &folder, &["--with-log"]));
    let device = hub.ok(&["device", "connection-string", "d"]);
    let as_device = offline(&[
        "backup",
        "create",
        "--to",
        folder.to_str().unwrap(),
        "--login",
        device.trim(),
    ]);
    assert_ne!(as_device.status.code(), Some(0));

    // Another hub does not write into the folder, and does not start on the backup's data.
    let mut another = Hub::start(&[]);
    refused(&create(&another, &folder, &[]), 1, &["another hub"]);
    another.stop();
    let full = restore(&another, &hub, &folder, &[]);
    refused(&full, 6, &["is not empty"]);

    let target = Hub::idle();
    refused(
        &restore(&target, &hub, &folder, &["--set", "hub.partitions=7"]),
        2,
        &["hub.partitions = 4"],
    );
    std::fs::remove_file(target.data_dir.join("sealing.key")).unwrap();
    std::fs::copy(
        another.data_dir.join("sealing.key"),
        target.data_dir.join("sealing.key"),
    )
    .unwrap();
    refused(
        &restore(&target, &hub, &folder, &[]),
        6,
        &["another key-encryption key"],
    );
    std::fs::remove_file(target.data_dir.join("sealing.key")).unwrap();
    let data_dir = target.data_dir.to_str().unwrap();
    let keyless = offline(&["restore", "--from", folder.to_str().unwrap(), "--data-dir", data_dir]);
    refused(&keyless, 6, &["no key-encryption key", "sealing.key"]);
    assert_eq!(
        std::fs::read_dir(&target.data_dir).unwrap().count(),
        0,
        "nothing was written"
    );
    refused(
        &restore(&target, &hub, &folder, &["--backup", "20010101T000000Z"]),
        3,
        &["backup list"],
    );

    // One changed byte of any file, or one that is cut or gone.
    for file in objects(&folder) {
        let whole = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        std::fs::write(&file, &changed).unwrap();
        refused(&verify(&folder), 7, &[name, "damaged"]);
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        refused(&verify(&folder), 7, &[name]);
        std::fs::remove_file(&file).unwrap();
        refused(&verify(&folder), 7, &[name, "missing"]);
        std::fs::write(&file, &whole).unwrap();
    }
    let manifest = std::fs::read_dir(folder.join("backups"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, good.replacen("\"begunMs\": 1", "\"begunMs\": 2", 1)).unwrap();
    refused(&verify(&folder), 7, &["checksum"]);
    std::fs::write(&manifest, good.replacen("\"format\": 1", "\"format\": 2", 1)).unwrap();
    refused(&restore(&target, &hub, &folder, &[]), 1, &["format 2", "a later one"]);
    std::fs::write(&manifest, good).unwrap();

    // A restore of a damaged backup ends half-way, the hub does not start there, and the repaired backup continues it.
    let file = objects(&folder).into_iter().next_back().unwrap();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, b"gone").unwrap();
    refused(&restore(&target, &hub, &folder, &[]), 7, &["damaged"]);
    let start = holdfast()
        .args(["dev", "--ports", "0", "--data-dir"])
        .arg(&target.data_dir)
        .output()
        .unwrap();
    refused(&start, 6, &["has begun and not ended"]);
    std::fs::write(&file, whole).unwrap();
    made(&restore(&target, &hub, &folder, &[]));
    hub.stop();
}

#[test]
fn a_killed_backup_and_a_killed_restore_continue() {
    let mut hub = Hub::start(&[]);
    let other = tempfile::tempdir().unwrap();
    let folder = other.path().join("backups");
    fill(&hub);
    let acknowledged = events(&hub);
    for millis in [40, 80, 160, 320, 640] {
        let mut running = holdfast()
            .args(["backup", "create", "--with-log", "--to"])
            .arg(&folder)
            .arg("--connection-file")
            .arg(hub.connection_file())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        running.kill().unwrap();
        running.wait().unwrap();
    }
    made(&create(&hub, &folder, &["--with-log"]));
    assert!(made(&verify(&folder)).contains("is whole"));
    assert!(!folder.join("unfinished.json").exists());
    let without = other.path().join("without-log");
    made(&create(&hub, &without, &[]));
    hub.kill();

    let mut restored = Hub::idle();
    std::fs::create_dir_all(&restored.data_dir).unwrap();
    std::fs::copy(hub.data_dir.join("sealing.key"), restored.data_dir.join("sealing.key")).unwrap();
    for millis in [60, 120, 240, 480, 960] {
        let mut running = holdfast()
            .args(["restore", "--from"])
            .arg(&folder)
            .arg("--data-dir")
            .arg(&restored.data_dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        running.kill().unwrap();
        running.wait().unwrap();
    }
    if restored.data_dir.join("restoring").exists() || !restored.data_dir.join("db").exists() {
        made(&restore(&restored, &hub, &folder, &[]));
    }
    restored.launch(&[]);
    assert!(events(&restored).is_superset(&acknowledged));

    // Without the log: no events, and the numbers continue behind those of the backup.
    let mut bare = Hub::idle();
    made(&restore(&bare, &hub, &without, &[]));
    bare.launch(&[]);
    assert_eq!(events(&bare), BTreeSet::new());
    bare.ok(&["simulate", "-n", "4", "--messages", "3", "--interval", "0.02"]);
    let (before, after) = (last_numbers(&acknowledged), events(&bare));
    assert!(after.len() >= 12, "{after:?}");
    for event in &after {
        let place = event.split_whitespace().nth(2).unwrap();
        let (partition, number) = place.split_once(':').unwrap();
        let behind = before
            .get(partition)
            .is_none_or(|last| number.parse::<u64>().unwrap() > *last);
        assert!(behind, "{event} is not behind {before:?}");
    }
}
