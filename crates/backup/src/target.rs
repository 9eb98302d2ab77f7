//! Where backups lie: named contents in a folder, or in an object store (`remote`).
//!
//! Invariants: a content is either there completely and durably, or not at all; one process writes to a folder at a time; files
//! are readable by their owner alone, since they hold messages and twins.
//! Not here: names and contents (`manifest`, `object`).

use std::fs::{self, File, TryLockError};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::direct;

/// The lock of a folder.
pub(crate) const LOCK: &str = "backup.lock";
/// Where contents are written before they get their names.
const UNFINISHED: &str = "unfinished";

/// Why a store fails.
#[derive(Debug, Error)]
pub enum TargetError {
    /// An operation of the operating system failed.
    #[error("{operation} {}", .path.display())]
    Io {
        /// The operation.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another process writes there.
    #[error("another process makes a backup in {}: wait until it has ended", .0.display())]
    InUse(PathBuf),
    /// The object store does not do it.
    #[error("{operation} {name}: {reason}")]
    Store {
        /// The operation.
        operation: &'static str,
        /// Where.
        name: String,
        /// Why not, in words for an operator.
        reason: String,
    },
    /// The file is longer than what it should hold.
    #[error("{} is longer than it was written", .0.display())]
    TooLong(PathBuf),
}

/// A future of a [`Target`].
pub type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, TargetError>> + Send + 'a>>;

/// A store of named contents; names are relative paths with `/`.
pub trait Target: Send + Sync {
    /// Stores `content` under `name`, replacing what was there; durable when it returns.
    fn put<'a>(&'a self, name: &'a str, content: Bytes) -> Work<'a, ()>;

    /// The content of `name`, of at most `max_bytes`; `None` when there is none.
    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> Work<'a, Option<Bytes>>;

    /// The length of `name` in bytes; `None` when there is none.
    fn size<'a>(&'a self, name: &'a str) -> Work<'a, Option<u64>>;

    /// The names directly below the folder `name`, ascending; none when it does not exist.
    fn list<'a>(&'a self, name: &'a str) -> Work<'a, Vec<String>>;

    /// Removes `name`; nothing happens when it is not there.
    fn delete<'a>(&'a self, name: &'a str) -> Work<'a, ()>;

    /// Lets another process write there. A folder does so by itself when the process ends.
    fn release(&self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// A folder of this machine.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    /// Held while it is written to.
    _lock: Option<Arc<File>>,
}

impl Directory {
    /// A folder for reading.
    #[must_use]
    pub fn read_only(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            _lock: None,
        }
    }

    /// A folder to write to; it is made when it does not exist, and locked for this process.
    ///
    /// # Errors
    /// [`TargetError::InUse`], [`TargetError::Io`].
    pub fn writable(root: &Path) -> Result<Self, TargetError> {
        make_folder(root)?;
        let path = root.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("cannot open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TargetError::InUse(root.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed("cannot lock", &path)(error)),
        }
        // What a process has left that was stopped while it wrote.
        let unfinished = root.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(failed("cannot remove", &unfinished))?;
        }
        make_folder(&unfinished)?;
        Ok(Self {
            root: root.to_owned(),
            _lock: Some(Arc::new(lock)),
        })
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, TargetError> + Send + 'static,
    ) -> Work<'static, T> {
        let root = self.root.clone();
        Box::pin(holdfast_tasks::spawn_blocking(move || work(&root)))
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TargetError {
    let path = path.to_owned();
    move |source| TargetError::Io {
        operation,
        path,
        source,
    }
}

fn make_folder(path: &Path) -> Result<(), TargetError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("cannot create", path))
}

fn sync_folder(path: &Path) -> Result<(), TargetError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("cannot sync", path))
}

fn write(root: &Path, name: &str, content: &[u8]) -> Result<(), TargetError> {
    let path = root.join(name);
    let unfinished = root.join(UNFINISHED).join(name.replace('/', "-"));
    direct::write(&unfinished, content).map_err(failed("cannot write", &unfinished))?;
    let parent = path.parent().unwrap_or(root);
    if !parent.exists() {
        make_folder(parent)?;
        sync_folder(parent.parent().unwrap_or(root))?;
    }
    fs::rename(&unfinished, &path).map_err(failed("cannot rename", &path))?;
    sync_folder(parent)
}

/// The value of a file that may be missing.
fn if_there<T>(outcome: std::io::Result<T>, path: &Path) -> Result<Option<T>, TargetError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("cannot read", path)(error)),
    }
}

impl Target for Directory {
    fn put<'a>(&'a self, name: &'a str, content: Bytes) -> Work<'a, ()> {
        let name = name.to_owned();
        self.blocking(move |root| write(root, &name, &content))
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> Work<'a, Option<Bytes>> {
        let name = name.to_owned();
        self.blocking(move |root| {
            let path = root.join(name);
            let Some(file) = if_there(File::open(&path), &path)? else {
                return Ok(None);
            };
            let mut content = Vec::new();
            // One more, so that a longer file is seen.
            file.take(max_bytes.saturating_add(1))
                .read_to_end(&mut content)
                .map_err(failed("cannot read", &path))?;
            if content.len() as u64 > max_bytes {
                return Err(TargetError::TooLong(path));
            }
            Ok(Some(content.into()))
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Work<'a, Option<u64>> {
        let name = name.to_owned();
        self.blocking(move |root| {
            let path = root.join(name);
            Ok(if_there(fs::metadata(&path), &path)?.map(|metadata| metadata.len()))
        })
    }

    fn list<'a>(&'a self, name: &'a str) -> Work<'a, Vec<String>> {
        let name = name.to_owned();
        self.blocking(move |root| {
            let path = root.join(name);
            let Some(entries) = if_there(fs::read_dir(&path), &path)? else {
                return Ok(Vec::new());
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry.map_err(failed("cannot read", &path))?;
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
            names.sort_unstable();
            Ok(names)
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Work<'a, ()> {
        let name = name.to_owned();
        self.blocking(move |root| {
            let path = root.join(name);
            if_there(fs::remove_file(&path), &path).map(|_| ())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_content_is_replaced_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("new");
        let target = Directory::writable(&root).unwrap();
        assert_eq!(target.list("a").await.unwrap(), Vec::<String>::new());
        target.put("a/2", Bytes::from_static(b"two")).await.unwrap();
        target.put("a/1", Bytes::from_static(b"one")).await.unwrap();
        target.put("a/1", Bytes::from_static(b"eins")).await.unwrap();
        assert_eq!(target.list("a").await.unwrap(), ["1", "2"]);
        assert_eq!(target.get("a/1", 4).await.unwrap().unwrap(), "eins");
        assert!(matches!(target.get("a/1", 3).await, Err(TargetError::TooLong(_))));
        assert_eq!(target.size("a/1").await.unwrap(), Some(4));
        target.delete("a/1").await.unwrap();
        target.delete("a/1").await.unwrap();
        assert_eq!(
            (target.get("a/1", 9).await.unwrap(), target.size("a/1").await.unwrap()),
            (None, None)
        );
    }

    #[test]
    fn a_second_writer_is_refused_and_a_reader_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = Directory::writable(folder.path()).unwrap();
        assert!(matches!(Directory::writable(folder.path()), Err(TargetError::InUse(_))));
        let _reader = Directory::read_only(folder.path());
        drop(first);
        assert!(Directory::writable(folder.path()).is_ok());
    }
}
