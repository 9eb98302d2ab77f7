//! Storing while reading: its bound, its order, and what a failed or killed backup leaves.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod hub;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use holdfast_backup::{BackupError, Directory, Progress, Target, TargetError, Work, verify};
use holdfast_testkit::eventually;
use tokio::sync::Semaphore;

use hub::{Hub, MIB};

/// A folder that stores only as many segments as it is allowed to.
struct Gate {
    folder: Directory,
    allowed: Semaphore,
    /// Segments that are being stored, the most at a time, and those that have been.
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
    /// The segment that begins with this entry fails.
    fails: Option<u64>,
}

impl Gate {
    fn new(folder: Directory, allowed: usize, fails: Option<u64>) -> Self {
        Self {
            folder,
            allowed: Semaphore::new(allowed),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
            fails,
        }
    }
}

impl Target for Gate {
    fn put<'a>(&'a self, name: &'a str, content: Bytes) -> Work<'a, ()> {
        async move {
            if content.len() < SEGMENT_BYTES {
                return self.folder.put(name, content).await;
            }
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            self.allowed.acquire().await.unwrap().forget();
            let outcome = if self.fails.is_some_and(|batch| begins_with(&content, batch)) {
                Err(TargetError::Store {
                    operation: "cannot write",
                    name: name.to_owned(),
                    reason: "as the test wants".to_owned(),
                })
            } else {
                self.folder.put(name, content).await
            };
            self.all.fetch_add(1, Ordering::SeqCst);
            self.now.fetch_sub(1, Ordering::SeqCst);
            outcome
        }
        .boxed()
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> Work<'a, Option<Bytes>> {
        self.folder.get(name, max_bytes)
    }

    fn size<'a>(&'a self, name: &'a str) -> Work<'a, Option<u64>> {
        self.folder.size(name)
    }

    fn list<'a>(&'a self, name: &'a str) -> Work<'a, Vec<String>> {
        self.folder.list(name)
    }

    fn delete<'a>(&'a self, name: &'a str) -> Work<'a, ()> {
        self.folder.delete(name)
    }
}

/// A content that is a whole segment.
const SEGMENT_BYTES: usize = 32 << 20;
/// Entries of a segment: each has ten messages of 200 KiB.
const ENTRIES: u64 = 17;

/// Whether the first message of a segment is the first of the entry `batch`.
fn begins_with(segment: &[u8], batch: u64) -> bool {
    let first = (batch << 32).to_be_bytes();
    segment[..4096].windows(first.len()).any(|bytes| bytes == first)
}

/// Whole segments in the log of partition 0; a short one follows.
const SEGMENTS: u64 = 6;

async fn long_log(data: &Path) -> Hub {
    let mut hub = Hub::start(data).await;
    for _ in 0..SEGMENTS * ENTRIES + 3 {
        hub.append(1_000).await;
    }
    hub
}

/// The objects that a manifest in this file names.
fn named(manifest: &Path) -> HashSet<String> {
    fn collect(value: &serde_json::Value, found: &mut HashSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                if let Some(name) = fields.get("sha256").and_then(|name| name.as_str()) {
                    found.insert(name.to_owned());
                }
                fields.values().for_each(|value| collect(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = HashSet::new();
    let content = std::fs::read(manifest).unwrap();
    collect(&serde_json::from_slice(&content).unwrap(), &mut found);
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storing_while_reading_is_bounded_and_loses_nothing() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // One log for all: writing it takes longest.
    let hub = long_log(data.path()).await;
    a_slow_target_holds_the_reader_back(&hub, &folder.path().join("slow")).await;
    a_content_that_cannot_be_stored_is_the_error_and_the_rest_is_used(&hub, &folder.path().join("failing")).await;
    a_backup_that_is_killed_continues_and_is_whole(&hub, &folder.path().join("killed")).await;
}

async fn a_slow_target_holds_the_reader_back(hub: &Hub, root: &Path) {
    let gate = Gate::new(Directory::writable(root).unwrap(), 0, None);
    let mut read = 0;
    let mut progress = |now: Progress| read = now.read;
    {
        let backup = hub.create(&gate, "one", &mut progress);
        tokio::pin!(backup);
        // Two are being stored, and wait; the third is full, and the reader with it.
        let both = eventually("two are being stored", || gate.now.load(Ordering::SeqCst) == 2);
        tokio::select! {
            made = &mut backup => panic!("it has ended: {made:?}"),
            () = both => {}
        }
        gate.allowed.add_permits(1_000);
        let manifest = backup.await.unwrap();
        assert_eq!(manifest.partition[0].segments.len(), 7);
        verify(&gate, &manifest, &mut |_| ()).await.unwrap();
    }
    assert!(read > 200 * MIB, "{read} bytes");
    assert_eq!(gate.most.load(Ordering::SeqCst), 2);
}

async fn a_content_that_cannot_be_stored_is_the_error_and_the_rest_is_used(hub: &Hub, root: &Path) {
    // The fourth segment fails; the fifth may be stored by then.
    let gate = Gate::new(Directory::writable(root).unwrap(), 1_000, Some(3 * ENTRIES));
    let error = hub.create(&gate, "one", &mut |_| ()).await.unwrap_err();
    assert!(matches!(error, BackupError::Target(_)), "{error}");
    assert!(error.to_string().contains("as the test wants"), "{error}");
    assert_eq!(gate.now.load(Ordering::SeqCst), 0, "nothing is being written any more");
    assert!(!root.join("backups").exists(), "no backup is complete");
    // The kept manifest names the three before it, and no object that is missing.
    let names = named(&root.join("unfinished.json"));
    assert_eq!(names.len(), 3);
    for name in &names {
        assert!(root.join("objects").join(&name[..2]).join(name).exists(), "{name}");
    }
    drop(gate);

    let target = Directory::writable(root).unwrap();
    let (manifest, progress) = hub.backup(&target, "one").await;
    assert_eq!(manifest.partition[0].segments.len(), 7);
    assert!(progress.read < 120 * MIB, "{progress:?}");
    assert!(!root.join("unfinished.json").exists());
}

async fn a_backup_that_is_killed_continues_and_is_whole(hub: &Hub, root: &Path) {
    // Five segments are stored, and nothing afterwards.
    let gate = Gate::new(Directory::writable(root).unwrap(), 5, None);
    let kept = root.join("unfinished.json");
    let is_stuck = eventually("five are stored, and one waits", || {
        gate.all.load(Ordering::SeqCst) == 5 && gate.now.load(Ordering::SeqCst) > 0 && kept.exists()
    });
    let mut progress = |_| ();
    tokio::select! {
        made = hub.create(&gate, "one", &mut progress) => panic!("it has ended: {made:?}"),
        () = is_stuck => {}
    }
    let names = named(&kept);
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        assert!(root.join("objects").join(&name[..2]).join(name).exists(), "{name}");
    }
    drop(gate);
    let target = Directory::writable(root).unwrap();
    let (manifest, progress) = hub.backup(&target, "one").await;
    assert_eq!(manifest.partition[0].segments.len(), 7);
    // Those that the kept manifest does not name are read again, and found.
    assert!(progress.read < 90 * MIB && progress.reused >= 32 * MIB, "{progress:?}");
}
