//! The data directory: its owner, its format, and the lock that keeps other processes out.
//!
//! Why: a voter that returned with an empty or foreign disk would have lost entries that it has acknowledged. So the
//! directory carries the cluster's id and the node's incarnation, which is its Raft node id, and a directory whose
//! database is missing is refused instead of being filled anew.
//! The marker is text, since it is the first file that an operator reads.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_model::FEATURE_LEVEL;

use crate::OpenError;

/// The version of a marker without a feature level, which all versions of the program read.
const FIRST_FORMAT: u32 = 1;

/// The version of a marker with a feature level. Versions of the program that know no levels refuse it.
pub const FORMAT_VERSION: u32 = 2;

const MARKER: &str = "holdfast.node";
const LOCK: &str = "holdfast.lock";
const DATABASE: &str = "db";
const STAGED: &str = "staged";

/// The owner of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster, the same on all its nodes; empty while a new node has not joined one.
    pub cluster: String,
    /// The node's incarnation, which is its Raft node id: a node that has lost its directory gets another.
    pub incarnation: u64,
}

/// An open and locked data directory; clones share the lock, which is released with the last.
#[derive(Debug, Clone)]
pub struct DataDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    identity: NodeIdentity,
    fresh: bool,
    lock: Arc<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    /// The directory exists, its database perhaps not.
    Pending,
    /// The database has been created: from now on it must exist.
    Made,
    /// The node has left its cluster: what it stored goes.
    Left,
}

/// What the marker says.
#[derive(Debug, Clone)]
struct Marker {
    identity: NodeIdentity,
    database: Database,
    /// The hub's; 0: none, or not known yet.
    feature_level: u32,
}

impl Marker {
    fn new(identity: &NodeIdentity, database: Database) -> Self {
        Self {
            identity: identity.clone(),
            database,
            feature_level: 0,
        }
    }
}

impl DataDir {
    /// Opens `path`, creating it when it does not exist or is empty; then `new` names its owner.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing has been changed then.
    pub fn open(path: &Path, new: impl FnOnce() -> NodeIdentity) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(|error| OpenError::io(path, error))?;
        let lock = lock(path)?;
        let found = match read_marker(path)? {
            // It died before all was gone.
            Some(marker) if marker.database == Database::Left => {
                clear(path)?;
                None
            }
            found => found,
        };
        let has_database = path.join(DATABASE).join("CURRENT").exists();
        let (identity, state) = match found {
            Some(found) if found.feature_level > FEATURE_LEVEL => {
                return Err(OpenError::FeatureLevel {
                    dir: path.to_owned(),
                    found: found.feature_level,
                });
            }
            Some(found) => (found.identity, found.database),
            None if has_database => {
                return Err(OpenError::MarkerGone {
                    dir: path.to_owned(),
                    marker: MARKER,
                });
            }
            None => {
                let identity = new();
                write_marker(path, &Marker::new(&identity, Database::Pending))?;
                (identity, Database::Pending)
            }
        };
        if state == Database::Made && !has_database {
            return Err(OpenError::DatabaseGone {
                dir: path.to_owned(),
                incarnation: identity.incarnation,
            });
        }
        let fresh = state == Database::Pending;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            identity,
            fresh,
            lock: Arc::new(lock),
        })))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The directory of the database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.0.path.join(DATABASE)
    }

    /// The directory for files that are ingested into the database.
    pub(crate) fn staged(&self) -> PathBuf {
        self.0.path.join(STAGED)
    }

    /// Its owner.
    #[must_use]
    pub fn identity(&self) -> &NodeIdentity {
        &self.0.identity
    }

    /// Whether the database has not been created yet.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.0.fresh
    }

    /// The node of this fresh directory has become a member of `cluster`. Its incarnation stays, so that a join that was
    /// cut off is repeated as the same node.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when it belongs to another cluster, or has a database of no cluster.
    pub fn enter_cluster(&self, cluster: &str) -> Result<Self, OpenError> {
        let identity = self.identity();
        if identity.cluster == cluster {
            return Ok(self.clone());
        }
        if !identity.cluster.is_empty() || !self.is_fresh() {
            return Err(OpenError::Damaged {
                file: self.0.path.join(MARKER),
                offset: None,
                reason: format!(
                    "the directory belongs to cluster {:?}, not {cluster:?}",
                    identity.cluster
                ),
            });
        }
        let identity = NodeIdentity {
            cluster: cluster.to_owned(),
            incarnation: identity.incarnation,
        };
        write_marker(&self.0.path, &Marker::new(&identity, Database::Pending))?;
        Ok(Self(Arc::new(Inner {
            path: self.0.path.clone(),
            identity,
            fresh: true,
            lock: Arc::clone(&self.0.lock),
        })))
    }

    /// The node is not a member of its cluster any more: deletes its database and its keys, so that the next start is that of a new
    /// node. Nothing may have the database open. Other files, such as logs, stay.
    ///
    /// # Errors
    /// [`OpenError::Io`]; the next start continues.
    pub fn leave(&self) -> Result<(), OpenError> {
        write_marker(&self.0.path, &Marker::new(&self.0.identity, Database::Left))?;
        clear(&self.0.path)
    }

    /// Records the hub's feature level, so that a version that does not support it is refused before it opens the database. Blocks
    /// on the disk, when the level is a higher one.
    ///
    /// # Errors
    /// [`OpenError`]; the marker is as before.
    pub fn record_feature_level(&self, level: u32) -> Result<(), OpenError> {
        match read_marker(&self.0.path)? {
            Some(marker) if marker.feature_level < level => write_marker(
                &self.0.path,
                &Marker {
                    feature_level: level,
                    ..marker
                },
            ),
            _ => Ok(()),
        }
    }

    /// Records that the database has been created.
    pub(crate) fn database_made(&self) -> Result<(), OpenError> {
        if self.0.fresh {
            write_marker(&self.0.path, &Marker::new(&self.0.identity, Database::Made))
        } else {
            Ok(())
        }
    }
}

/// Deletes what a node has stored in `path`, its marker last.
fn clear(path: &Path) -> Result<(), OpenError> {
    let check = |file: &Path, outcome: std::io::Result<()>| match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(OpenError::io(file, error)),
        _ => Ok(()),
    };
    for name in [DATABASE, STAGED] {
        let directory = path.join(name);
        check(&directory, fs::remove_dir_all(&directory))?;
    }
    for name in [crate::envelope_encryption::WRAPPED_KEY, MARKER] {
        let file = path.join(name);
        check(&file, fs::remove_file(&file))?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file = path.join(LOCK);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file)
        .map_err(|error| OpenError::io(&file, error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::io(&file, error)),
    }
}

fn read_marker(path: &Path) -> Result<Option<Marker>, OpenError> {
    let file = path.join(MARKER);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(&file, error)),
    };
    let damaged = |reason: &str| OpenError::Damaged {
        file: file.clone(),
        offset: None,
        reason: reason.to_owned(),
    };
    let (body, sum) = text
        .rsplit_once("crc32c = ")
        .ok_or_else(|| damaged("it has no checksum"))?;
    if sum.trim() != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum does not match"));
    }
    let value = |key: &str| {
        body.lines()
            .filter_map(|line| line.split_once(" = "))
            .find_map(|(name, value)| (name == key).then_some(value))
            .ok_or_else(|| damaged("a line is missing"))
    };
    let found: u32 = value("format")?
        .parse()
        .map_err(|_| damaged("the format is not a number"))?;
    if !(FIRST_FORMAT..=FORMAT_VERSION).contains(&found) {
        return Err(OpenError::Format {
            dir: path.to_owned(),
            found,
            supported: FORMAT_VERSION,
        });
    }
    let identity = NodeIdentity {
        cluster: value("cluster")?.to_owned(),
        incarnation: value("incarnation")?
            .parse()
            .map_err(|_| damaged("the incarnation is not a number"))?,
    };
    let database = match value("database")? {
        "made" => Database::Made,
        "left" => Database::Left,
        _ => Database::Pending,
    };
    let feature_level = match found {
        FIRST_FORMAT => 0,
        _ => value("feature_level")?
            .parse()
            .map_err(|_| damaged("the feature level is not a number"))?,
    };
    Ok(Some(Marker {
        identity,
        database,
        feature_level,
    }))
}

fn write_marker(path: &Path, marker: &Marker) -> Result<(), OpenError> {
    let database = match marker.database {
        Database::Pending => "pending",
        Database::Made => "made",
        Database::Left => "left",
    };
    let (format, level) = match marker.feature_level {
        0 => (FIRST_FORMAT, String::new()),
        level => (FORMAT_VERSION, format!("feature_level = {level}\n")),
    };
    let body = format!(
        "# Holdfast node. Do not edit, do not copy to another node.\nformat = {format}\ncluster = {}\nincarnation = {}\ndatabase = {database}\n{level}",
        marker.identity.cluster, marker.identity.incarnation
    );
    let text = format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes()));
    write_durably(&path.join(MARKER), text.as_bytes()).map_err(|error| OpenError::io(path.join(MARKER), error))
}

/// Replaces `file` so that after a crash it has either its old or its new content.
pub(crate) fn write_durably(file: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = file.with_extension("new");
    let mut new = File::create(&temporary)?;
    new.write_all(content)?;
    new.sync_all()?;
    fs::rename(&temporary, file)?;
    if let Some(parent) = file.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> NodeIdentity {
        NodeIdentity {
            cluster: "c-1".to_owned(),
            incarnation: 42,
        }
    }

    fn unexpected() -> NodeIdentity {
        panic!("the directory has an owner")
    }

    #[test]
    fn a_directory_keeps_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), identity).unwrap());
        let again = DataDir::open(dir.path(), unexpected).unwrap();
        assert_eq!(again.identity(), &identity());
        assert!(again.is_fresh(), "no database has been made");
    }

    #[test]
    fn a_new_node_enters_one_cluster_once_and_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let alone = || NodeIdentity {
            cluster: String::new(),
            incarnation: 42,
        };
        drop(DataDir::open(dir.path(), alone).unwrap());
        let joined = DataDir::open(dir.path(), unexpected)
            .unwrap()
            .enter_cluster("c-1")
            .unwrap();
        assert_eq!(joined.identity(), &identity());
        assert!(joined.enter_cluster("c-1").is_ok() && joined.enter_cluster("c-2").is_err());
        drop(joined);
        assert_eq!(DataDir::open(dir.path(), unexpected).unwrap().identity(), &identity());
    }

    #[test]
    fn a_directory_that_was_left_is_that_of_a_new_node_and_keeps_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let fill = || {
            fs::create_dir_all(dir.path().join("db")).unwrap();
            fs::write(dir.path().join("db/CURRENT"), "MANIFEST-000001\n").unwrap();
            fs::write(dir.path().join("data.key"), "wrapped").unwrap();
            fs::write(dir.path().join("audit.jsonl"), "{}\n").unwrap();
        };
        let other = || NodeIdentity {
            cluster: String::new(),
            incarnation: 43,
        };
        let data = DataDir::open(dir.path(), identity).unwrap();
        fill();
        data.database_made().unwrap();
        data.leave().unwrap();
        drop(data);
        let again = DataDir::open(dir.path(), other).unwrap();
        assert!(again.is_fresh());
        assert_eq!(again.identity(), &other());
        assert!(!dir.path().join("db").exists() && !dir.path().join("data.key").exists());
        assert!(dir.path().join("audit.jsonl").exists(), "what it logged stays");
        drop(again);

        // A crash between the marker and the end of the deletion.
        fill();
        write_marker(dir.path(), &Marker::new(&identity(), Database::Left)).unwrap();
        let again = DataDir::open(dir.path(), other).unwrap();
        assert!(again.is_fresh() && !dir.path().join("db").exists());
        assert_eq!(again.identity(), &other());
    }

    #[test]
    fn a_directory_of_a_higher_feature_level_is_refused_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), identity).unwrap();
        let marker = || fs::read_to_string(dir.path().join(MARKER)).unwrap();
        assert!(marker().contains("format = 1\n"), "earlier versions read it");
        data.record_feature_level(FEATURE_LEVEL).unwrap();
        assert!(marker().contains("format = 2\n"), "earlier versions refuse it");
        data.record_feature_level(FEATURE_LEVEL - 1).unwrap();
        drop(data);
        assert_eq!(DataDir::open(dir.path(), unexpected).unwrap().identity(), &identity());

        let newer = Marker {
            feature_level: FEATURE_LEVEL + 1,
            ..read_marker(dir.path()).unwrap().unwrap()
        };
        assert_eq!(newer.feature_level, FEATURE_LEVEL + 1);
        write_marker(dir.path(), &newer).unwrap();
        let before = marker();
        let refused = DataDir::open(dir.path(), unexpected).unwrap_err();
        assert!(
            matches!(refused, OpenError::FeatureLevel { found, .. } if found == FEATURE_LEVEL + 1),
            "{refused}"
        );
        assert_eq!(marker(), before);
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::open(dir.path(), identity).unwrap();
        assert!(matches!(
            DataDir::open(dir.path(), unexpected),
            Err(OpenError::InUse(_))
        ));
    }

    #[test]
    fn a_directory_whose_database_is_gone_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        DataDir::open(dir.path(), identity).unwrap().database_made().unwrap();
        let refused = DataDir::open(dir.path(), unexpected).unwrap_err();
        assert!(
            matches!(refused, OpenError::DatabaseGone { incarnation: 42, .. }),
            "{refused}"
        );
    }

    #[test]
    fn a_database_without_a_marker_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("db")).unwrap();
        fs::write(dir.path().join("db/CURRENT"), "MANIFEST-000001\n").unwrap();
        assert!(matches!(
            DataDir::open(dir.path(), identity),
            Err(OpenError::MarkerGone { .. })
        ));
    }

    #[test]
    fn a_changed_marker_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), identity).unwrap());
        let marker = dir.path().join(MARKER);
        let text = fs::read_to_string(&marker)
            .unwrap()
            .replace("incarnation = 42", "incarnation = 43");
        fs::write(&marker, text).unwrap();
        let refused = DataDir::open(dir.path(), unexpected).unwrap_err();
        assert!(
            matches!(&refused, OpenError::Damaged { file, .. } if *file == marker),
            "{refused}"
        );
    }

    #[test]
    fn another_format_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let body = "format = 3\ncluster = c\nincarnation = 1\ndatabase = made\n";
        fs::write(
            dir.path().join(MARKER),
            format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes())),
        )
        .unwrap();
        let refused = DataDir::open(dir.path(), unexpected).unwrap_err();
        assert!(
            matches!(
                refused,
                OpenError::Format {
                    found: 3,
                    supported: FORMAT_VERSION,
                    ..
                }
            ),
            "{refused}"
        );
    }
}
