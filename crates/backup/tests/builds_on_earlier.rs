//! Backups of a registry and a partition in this process: what a second one reads, and what retention takes away.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod hub;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_backup::{
    BackupError, Directory, Keep, Manifest, at, create_point, prune, registry_records, verify, verify_points,
};
use holdfast_model::{Clock, DeviceId, IdentityId, UnixMillis};
use holdfast_registry::{IdentityContent, IdentityWrite, WriteOperation};

use hub::{Hub, MIB};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_backup_reads_what_is_new_and_leaves_what_retention_has_deleted() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut hub = Hub::start(data.path()).await;
    let target = Directory::writable(&folder.path().join("backups")).unwrap();
    for _ in 0..20 {
        hub.append(1_000).await;
    }
    let (first, progress) = hub.backup(&target, "one").await;
    assert_eq!(first.events(), 200);
    assert!(progress.read > 38 * MIB, "{progress:?}");
    assert_eq!(first.partition[0].segments.len(), 2, "one that is full, and the rest");

    for _ in 0..3 {
        hub.append(2_000).await;
    }
    let (second, progress) = hub.backup(&target, "one").await;
    assert_eq!(second.events(), 230);
    // The short segment is read again, so that segments do not become many.
    assert!(progress.read < 16 * MIB, "{progress:?}");
    assert_eq!(second.partition[0].segments[0], first.partition[0].segments[0]);
    assert_eq!(second.partition[0].segments.len(), 2);

    // Another cluster of the same hub: equal indexes are other entries.
    let (_, progress) = hub.backup(&target, "two").await;
    assert!(progress.read > 44 * MIB, "{progress:?}");

    hub.clock.store(2_500, Ordering::Relaxed);
    hub.partitions[0].enforce_retention().await.unwrap();
    let (third, _) = hub.backup(&target, "one").await;
    assert!(third.events() < 60, "{} events", third.events());
    assert!(third.partition[0].first_index > second.partition[0].first_index);
    assert!(third.partition[0].begin >= 170, "{}", third.partition[0].begin);
}

/// The devices of the registry in what is to be restored.
async fn devices(target: &Directory, manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    let mut take = |(key, _): (Bytes, Bytes)| {
        if let Some(id) = key.strip_prefix(b"d") {
            found.push(String::from_utf8(id.to_vec()).unwrap());
        }
        Ok(())
    };
    registry_records(target, manifest, &mut take, &mut |_| ())
        .await
        .unwrap();
    found
}

/// Every file below `folder`, without the lock.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("backup.lock") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_finds_its_registry_and_pruning_leaves_the_rest_whole() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut hub = Hub::start(data.path()).await;
    let root = folder.path().join("backups");
    let target = Directory::writable(&root).unwrap();
    let now = || Clock::system().now();
    let create_device = async |hub: &Hub, id: &str| {
        let write = IdentityWrite {
            id: IdentityId::device(DeviceId::parse(id).unwrap()),
            operation: WriteOperation::Create(IdentityContent::default()),
        };
        hub.registry.write(write).await.unwrap();
    };
    hub.append(1_000).await;
    create_device(&hub, "first").await;
    let (first, _) = hub.backup(&target, "one").await;
    create_device(&hub, "second").await;
    let point = create_point(&hub, &hub.facts("one"), &target, now).await.unwrap();
    create_device(&hub, "third").await;
    // Of another cluster, it is the registry of another hub.
    let two = create_point(&hub, &hub.facts("two"), &target, now).await.unwrap();
    assert_ne!(two.id, point.id, "of the same second");

    let early = at(&target, UnixMillis(first.ended_ms - 1)).await.unwrap_err();
    assert!(matches!(early, BackupError::NotFound(_)), "{early}");
    let (manifest, kept) = at(&target, UnixMillis(first.ended_ms)).await.unwrap();
    assert_eq!((manifest.id.as_str(), kept), (first.id.as_str(), None));
    assert_eq!(devices(&target, &manifest).await, ["first"]);
    let (manifest, kept) = at(&target, now()).await.unwrap();
    assert_eq!(
        (manifest.id.as_str(), kept),
        (first.id.as_str(), Some(point.id.clone()))
    );
    assert_eq!(devices(&target, &manifest).await, ["first", "second"]);
    assert_eq!(manifest.partition, first.partition);
    assert_eq!(verify_points(&target, &mut |_| ()).await.unwrap(), 2);

    hub.append(2_000).await;
    let (second, _) = hub.backup(&target, "one").await;
    let (manifest, kept) = at(&target, now()).await.unwrap();
    assert_eq!((manifest.id.as_str(), kept), (second.id.as_str(), None));
    assert_eq!(devices(&target, &manifest).await, ["first", "second", "third"]);

    // What either rule keeps stays; a dry run and a manifest that cannot be read remove nothing.
    let before = files(&root);
    let keep = |newest, days: u64| Keep {
        newest,
        within: Duration::from_secs(days * 86_400),
    };
    let kept = prune(&target, keep(1, 1), now(), false).await.unwrap();
    assert_eq!((kept.backups.len(), kept.objects, kept.kept), (0, 0, 2));
    let would = prune(&target, keep(1, 0), now(), true).await.unwrap();
    assert_eq!(would.backups, std::slice::from_ref(&first.id));
    assert!(would.objects > 0 && would.bytes > 0 && would.points == 2, "{would:?}");
    assert_eq!(files(&root), before);
    let manifest = root.join(format!("backups/{}.json", second.id));
    let good = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, b"{\"format\": 1}").unwrap();
    assert!(prune(&target, keep(1, 0), now(), false).await.is_err());
    std::fs::write(&manifest, good).unwrap();
    assert_eq!(files(&root), before);

    let pruned = prune(&target, keep(1, 0), now(), false).await.unwrap();
    assert_eq!(pruned, would);
    verify(&target, &second, &mut |_| ()).await.unwrap();
    let again = prune(&target, keep(1, 0), now(), false).await.unwrap();
    assert_eq!((again.objects, again.points, again.kept), (0, 0, 1));
    assert_eq!(
        before.len() - files(&root).len(),
        1 + 2 + usize::try_from(pruned.objects).unwrap()
    );
}
