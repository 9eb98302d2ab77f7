//! Backups in an object store: a bucket of S3, a container of Azure Blob.
//!
//! Invariants: one process writes at a time. The lock is an object with the writer's random number and is renewed while it works; one that
//! has not been renewed for [`LOCK_EXPIRY`] counts as left behind. A writer waits before it reads its lock back, so that of two that come
//! at once the later one has it; a writer that has lost its lock writes nothing more.
//! Not here: the client, its credentials and its errors in words (`blob`), names and contents (`manifest`, `object`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_tasks::sync::Mutex;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutPayload};

use crate::target::{LOCK, Target, TargetError, Work};

/// A lock that has not been renewed for this long belongs to no one.
pub const LOCK_EXPIRY: Duration = Duration::from_secs(10 * 60);
/// How often it is renewed, by writes.
const RENEW_AFTER: Duration = Duration::from_secs(60);
/// How long another writer may take between looking for a lock and writing its own.
const SETTLE: Duration = Duration::from_secs(2);
/// Longer than the number in a lock.
const MAX_LOCK_BYTES: u64 = 64;

/// See the module.
pub struct ObjectTarget {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// For messages: the URL.
    name: String,
    describe: fn(Error) -> String,
    lock: Option<Lock>,
}

struct Lock {
    number: String,
    renewed: Mutex<Instant>,
}

impl ObjectTarget {
    /// The backups below `prefix` for reading. `name` is the place in messages, `describe` says what an error means.
    #[must_use]
    pub fn read_only(store: Arc<dyn ObjectStore>, prefix: &str, name: &str, describe: fn(Error) -> String) -> Self {
        Self {
            store,
            root: Path::from(prefix),
            name: name.to_owned(),
            describe,
            lock: None,
        }
    }

    /// The same for writing. Takes some seconds.
    ///
    /// # Errors
    /// [`TargetError::InUse`] while another process writes there; [`TargetError::Store`].
    pub async fn writable(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        name: &str,
        describe: fn(Error) -> String,
    ) -> Result<Self, TargetError> {
        Self::locked(store, prefix, name, describe, SETTLE).await
    }

    async fn locked(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        name: &str,
        describe: fn(Error) -> String,
        settle: Duration,
    ) -> Result<Self, TargetError> {
        let mut target = Self::read_only(store, prefix, name, describe);
        let number = format!("{:032x}", rand::random::<u128>());
        let path = target.path(LOCK);
        match target.store.head(&path).await {
            Ok(found) => {
                let age = (time::OffsetDateTime::now_utc().unix_timestamp() - found.last_modified.timestamp()).max(0);
                if u64::try_from(age).unwrap_or(0) < LOCK_EXPIRY.as_secs() {
                    return Err(target.in_use());
                }
                tracing::warn!(
                    target = name,
                    age_s = age,
                    "a backup has ended without removing its lock; taking it over"
                );
            }
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(target.failed("cannot read", LOCK, error)),
        }
        let content = PutPayload::from(number.clone());
        let put = target.store.put(&path, content).await;
        put.map_err(|error| target.failed("cannot write", LOCK, error))?;
        tokio::time::sleep(settle).await;
        target.lock = Some(Lock {
            number,
            renewed: Mutex::new(Instant::now()),
        });
        target.check_lock().await?;
        Ok(target)
    }

    fn path(&self, name: &str) -> Path {
        name.split('/')
            .filter(|part| !part.is_empty())
            .fold(self.root.clone(), |path, part| path.join(part))
    }

    fn in_use(&self) -> TargetError {
        TargetError::InUse(PathBuf::from(&self.name))
    }

    fn failed(&self, operation: &'static str, name: &str, error: Error) -> TargetError {
        TargetError::Store {
            operation,
            name: format!("{}/{name}", self.name),
            reason: (self.describe)(error),
        }
    }

    async fn read(&self, name: &str, max_bytes: u64) -> Result<Option<Bytes>, TargetError> {
        let found = match self.store.get(&self.path(name)).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("cannot read", name, error)),
        };
        if found.meta.size > max_bytes {
            return Err(TargetError::TooLong(PathBuf::from(format!("{}/{name}", self.name))));
        }
        let content = found.bytes().await;
        content
            .map(Some)
            .map_err(|error| self.failed("cannot read", name, error))
    }

    /// Refuses when another writer has taken the lock.
    async fn check_lock(&self) -> Result<(), TargetError> {
        let Some(lock) = &self.lock else {
            return Err(TargetError::Store {
                operation: "cannot write",
                name: self.name.clone(),
                reason: "it was opened for reading".to_owned(),
            });
        };
        match self.read(LOCK, MAX_LOCK_BYTES).await? {
            Some(content) if content == lock.number => Ok(()),
            _ => Err(self.in_use()),
        }
    }

    /// Before a change: this process still has the lock, and says so to others.
    async fn renew(&self) -> Result<(), TargetError> {
        if let Some(lock) = &self.lock {
            if lock.renewed.lock().elapsed() < RENEW_AFTER {
                return Ok(());
            }
            self.check_lock().await?;
            let content = PutPayload::from(lock.number.clone());
            let put = self.store.put(&self.path(LOCK), content).await;
            put.map_err(|error| self.failed("cannot write", LOCK, error))?;
            *lock.renewed.lock() = Instant::now();
            return Ok(());
        }
        self.check_lock().await
    }
}

impl Target for ObjectTarget {
    fn put<'a>(&'a self, name: &'a str, content: Bytes) -> Work<'a, ()> {
        Box::pin(async move {
            self.renew().await?;
            let put = self.store.put(&self.path(name), PutPayload::from(content)).await;
            put.map(drop).map_err(|error| self.failed("cannot write", name, error))
        })
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> Work<'a, Option<Bytes>> {
        Box::pin(self.read(name, max_bytes))
    }

    fn size<'a>(&'a self, name: &'a str) -> Work<'a, Option<u64>> {
        Box::pin(async move {
            match self.store.head(&self.path(name)).await {
                Ok(found) => Ok(Some(found.size)),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(self.failed("cannot read", name, error)),
            }
        })
    }

    fn list<'a>(&'a self, name: &'a str) -> Work<'a, Vec<String>> {
        Box::pin(async move {
            let found = self.store.list_with_delimiter(Some(&self.path(name))).await;
            let found = found.map_err(|error| self.failed("cannot list", name, error))?;
            let folders = found.common_prefixes.iter();
            let objects = found.objects.iter().map(|object| &object.location);
            let mut names: Vec<String> = folders
                .chain(objects)
                .filter_map(|path| path.filename().map(str::to_owned))
                .collect();
            names.sort_unstable();
            Ok(names)
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            self.renew().await?;
            match self.store.delete(&self.path(name)).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.failed("cannot remove", name, error)),
            }
        })
    }

    fn release(&self) -> Work<'_, ()> {
        Box::pin(async move {
            if self.lock.is_some() && self.check_lock().await.is_ok() {
                let removed = self.store.delete(&self.path(LOCK)).await;
                removed.map_err(|error| self.failed("cannot remove", LOCK, error))?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    async fn writer(store: &Arc<dyn ObjectStore>, settle: Duration) -> Result<ObjectTarget, TargetError> {
        ObjectTarget::locked(
            Arc::clone(store),
            "a/b",
            "s3://bucket/a/b",
            |error| error.to_string(),
            settle,
        )
        .await
    }

    fn memory() -> Arc<dyn ObjectStore> {
        Arc::new(InMemory::new())
    }

    #[tokio::test]
    async fn a_content_is_replaced_listed_and_removed() {
        let store = memory();
        let target = writer(&store, Duration::ZERO).await.unwrap();
        assert_eq!(target.list("objects").await.unwrap(), Vec::<String>::new());
        for (name, content) in [
            ("objects/ab/2", "two"),
            ("objects/ab/1", "one"),
            ("objects/ab/1", "eins"),
        ] {
            target.put(name, Bytes::from_static(content.as_bytes())).await.unwrap();
        }
        assert_eq!(target.list("").await.unwrap(), ["backup.lock", "objects"]);
        assert_eq!(target.list("objects").await.unwrap(), ["ab"]);
        assert_eq!(target.list("objects/ab").await.unwrap(), ["1", "2"]);
        assert_eq!(target.get("objects/ab/1", 4).await.unwrap().unwrap(), "eins");
        assert!(matches!(
            target.get("objects/ab/1", 3).await,
            Err(TargetError::TooLong(_))
        ));
        assert_eq!(target.size("objects/ab/1").await.unwrap(), Some(4));
        target.delete("objects/ab/1").await.unwrap();
        target.delete("objects/ab/1").await.unwrap();
        assert_eq!(target.get("objects/ab/1", 9).await.unwrap(), None);
        assert_eq!(target.size("objects/ab/1").await.unwrap(), None);
    }

    #[tokio::test]
    async fn one_process_writes_and_a_reader_does_not() {
        let store = memory();
        let first = writer(&store, Duration::ZERO).await.unwrap();
        assert!(matches!(
            writer(&store, Duration::ZERO).await,
            Err(TargetError::InUse(_))
        ));
        let reader = ObjectTarget::read_only(Arc::clone(&store), "a/b", "there", |error| error.to_string());
        assert!(matches!(
            reader.put("x", Bytes::new()).await,
            Err(TargetError::Store { .. })
        ));
        first.release().await.unwrap();
        let second = writer(&store, Duration::ZERO).await.unwrap();
        // The first one was suspended for so long that its lock was taken over.
        *first.lock.as_ref().unwrap().renewed.lock() = Instant::now().checked_sub(RENEW_AFTER).unwrap();
        assert!(matches!(first.put("x", Bytes::new()).await, Err(TargetError::InUse(_))));
        first.release().await.unwrap();
        second.put("x", Bytes::new()).await.unwrap();
        assert!(second.check_lock().await.is_ok(), "the lock of another is not removed");
    }

    #[tokio::test]
    async fn of_two_that_come_at_once_the_later_one_writes() {
        let store = memory();
        let settle = Duration::from_millis(100);
        let (one, two) = tokio::join!(writer(&store, settle), writer(&store, settle));
        assert!(one.is_ok() != two.is_ok(), "one of them has it");
    }
}
