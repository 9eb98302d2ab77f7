//! RocksDB's errors as ours: RocksDB names file and offset only in its text.

use std::path::{Path, PathBuf};

use rocksdb::ErrorKind;

use crate::{IoFailure, OpenError, StorageError};

pub(super) fn of_use(error: &rocksdb::Error) -> StorageError {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Corruption => {
            let (file, offset) = place(&text);
            let file = file.map_or_else(|| "database".to_owned(), |file| file.display().to_string());
            StorageError::Damaged {
                file,
                offset,
                reason: text,
            }
        }
        _ if text.contains("No space left") => StorageError::NoSpace(IoFailure::of(error.clone())),
        ErrorKind::ShutdownInProgress => StorageError::Stopped(IoFailure::of(error.clone())),
        _ => StorageError::Io(IoFailure::of(error.clone())),
    }
}

pub(super) fn of_open(error: &rocksdb::Error, database: &Path) -> OpenError {
    let text = error.to_string();
    let (file, offset) = place(&text);
    // A missing file that the manifest names is damage too, though RocksDB calls it an input error.
    let missing = text.contains("No such file") && file.is_some();
    if error.kind() == ErrorKind::Corruption || missing {
        return OpenError::Damaged {
            file: file.unwrap_or_else(|| database.to_owned()),
            offset,
            reason: text,
        };
    }
    if text.contains("lock") && text.contains("LOCK") {
        return OpenError::InUse(database.to_owned());
    }
    OpenError::Io {
        path: database.to_owned(),
        reason: IoFailure::of(error.clone()),
    }
}

pub(super) fn of_io(path: &Path, error: std::io::Error) -> StorageError {
    let is_full = error.kind() == std::io::ErrorKind::StorageFull;
    let failure = IoFailure::new(path.display(), error);
    if is_full {
        StorageError::NoSpace(failure)
    } else {
        StorageError::Io(failure)
    }
}

/// An installation that could not be finished; `staged` is the directory of its files.
pub(super) fn of_install(error: StorageError, staged: &Path) -> OpenError {
    match error {
        StorageError::Damaged { file, offset, reason } => OpenError::Damaged {
            file: staged.join(file),
            offset,
            reason,
        },
        error => OpenError::Io {
            path: staged.to_owned(),
            reason: IoFailure::of(error),
        },
    }
}

/// The file and offset that a text such as `… in /data/db/000012.sst offset 4096 size 32768` names.
fn place(text: &str) -> (Option<PathBuf>, Option<u64>) {
    let mut words = text
        .split([' ', ',', ';'])
        .map(|word| word.trim_matches(['.', ':', '"', '\'', '(', ')']));
    let is_file = |word: &str| {
        word.contains('/') && (word.ends_with(".sst") || word.ends_with(".log") || word.contains("MANIFEST-"))
    };
    let file = words.clone().find(|word| is_file(word)).map(PathBuf::from);
    let offset = words
        .find(|word| *word == "offset")
        .and_then(|_| words.next())
        .and_then(|word| word.parse().ok());
    (file, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_offset_are_read_from_the_text() {
        let text = "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in /d/db/000012.sst offset 4096 size 32768";
        assert_eq!(place(text), (Some(PathBuf::from("/d/db/000012.sst")), Some(4096)));
        assert_eq!(
            place("IO error: /d/db/000009.log: x"),
            (Some(PathBuf::from("/d/db/000009.log")), None)
        );
        assert_eq!(place("Corruption: nothing known"), (None, None));
    }
}
