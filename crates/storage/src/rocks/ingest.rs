//! The staging area on a real disk: tables that RocksDB ingests as they are.
//!
//! They are in the data directory, so that ingesting one is a link and not a copy. Their names end in `.sst`, those of
//! journal records in `.note`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rocksdb::{IngestExternalFileOptions, Options, SstFileWriter};

use super::{RocksDisk, errors, options};
use crate::{Bulk, Family, FileSum, Stage, StorageError};

const TABLE: &str = "sst";
const JOURNAL_EXTENSION: &str = "note";
const UNFINISHED: &str = "part";

/// Reads of a file that is compared with its checksum.
const READ_BYTES: usize = 1 << 20;

/// A table that is being written.
struct Table {
    writer: SstFileWriter<'static>,
    path: PathBuf,
    finished: bool,
}

/// The writer wants its options to outlive it.
fn table_options(family: Family) -> &'static Options {
    static LOG: OnceLock<Options> = OnceLock::new();
    static STATE: OnceLock<Options> = OnceLock::new();
    match family {
        Family::Log => LOG.get_or_init(|| options::staged(true)),
        _ => STATE.get_or_init(|| options::staged(false)),
    }
}

impl Bulk for Table {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.writer.put(key, value).map_err(|error| errors::of_use(&error))
    }

    fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        self.writer
            .delete_range(from, to)
            .map_err(|error| errors::of_use(&error))
    }

    fn finish(mut self: Box<Self>) -> Result<FileSum, StorageError> {
        // Ends with a sync of the file.
        self.writer.finish().map_err(|error| errors::of_use(&error))?;
        let sum = sum_of(&self.path)?.ok_or_else(|| StorageError::Damaged {
            file: self.path.display().to_string(),
            offset: None,
            reason: "it has vanished".to_owned(),
        })?;
        if let Some(dir) = self.path.parent() {
            sync_dir(dir)?;
        }
        self.finished = true;
        Ok(sum)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if !self.finished {
            // The next start removes remaining files.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn sum_of(path: &Path) -> Result<Option<FileSum>, StorageError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(errors::of_io(path, error)),
    };
    let mut buffer = vec![0; READ_BYTES];
    let mut sum = FileSum { bytes: 0, crc32c: 0 };
    loop {
        let read = file.read(&mut buffer).map_err(|error| errors::of_io(path, error))?;
        if read == 0 {
            return Ok(Some(sum));
        }
        sum.bytes += read as u64;
        sum.crc32c = crc32c::crc32c_append(sum.crc32c, &buffer[..read]);
    }
}

fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| errors::of_io(dir, error))
}

fn remove_file(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(errors::of_io(path, error)),
        _ => Ok(()),
    }
}

impl RocksDisk {
    fn staged(&self, name: &str, extension: &str) -> PathBuf {
        self.dir.staged().join(format!("{name}.{extension}"))
    }

    fn make_staged_dir(&self) -> Result<PathBuf, StorageError> {
        let dir = self.dir.staged();
        if !dir.exists() {
            fs::create_dir_all(&dir).map_err(|error| errors::of_io(&dir, error))?;
            sync_dir(self.dir.path())?;
        }
        Ok(dir)
    }

    /// Names of files with one of the extensions, without it, and their paths.
    fn staged_files(&self, extensions: &[&str]) -> Result<Vec<(String, PathBuf)>, StorageError> {
        let dir = self.dir.staged();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(errors::of_io(&dir, error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| errors::of_io(&dir, error))?.path();
            let of = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_owned);
            if let (Some(name), Some(extension)) = (of(path.file_stem()), of(path.extension()))
                && extensions.contains(&extension.as_str())
            {
                found.push((name, path));
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Stage for RocksDisk {
    fn create(&self, name: &str, family: Family, _key: &[u8]) -> Result<Box<dyn Bulk>, StorageError> {
        self.make_staged_dir()?;
        let path = self.staged(name, TABLE);
        let writer = SstFileWriter::create(table_options(family));
        writer.open(&path).map_err(|error| errors::of_use(&error))?;
        Ok(Box::new(Table {
            writer,
            path,
            finished: false,
        }))
    }

    fn sum(&self, name: &str) -> Result<Option<FileSum>, StorageError> {
        sum_of(&self.staged(name, TABLE))
    }

    fn ingest(&self, family: Family, key: &[u8], names: &[&str]) -> Result<(), StorageError> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.staged(name, TABLE)).collect();
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db
            .ingest_external_file_cf_opts(self.column(family, key)?, &options, paths)
            .map_err(|error| errors::of_use(&error))
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        remove_file(&self.staged(name, TABLE))?;
        remove_file(&self.staged(name, UNFINISHED))
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        let files = self.staged_files(&[TABLE, UNFINISHED])?;
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }

    fn write_journal(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        let dir = self.make_staged_dir()?;
        let (part, path) = (self.staged(name, UNFINISHED), self.staged(name, JOURNAL_EXTENSION));
        File::create(&part)
            .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&part, &path))
            .map_err(|error| errors::of_io(&path, error))?;
        sync_dir(&dir)
    }

    fn journal(&self) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        self.staged_files(&[JOURNAL_EXTENSION])?
            .into_iter()
            .map(|(name, path)| {
                let content = fs::read(&path).map_err(|error| errors::of_io(&path, error))?;
                Ok((name, content))
            })
            .collect()
    }

    fn remove_journal(&self, name: &str) -> Result<(), StorageError> {
        remove_file(&self.staged(name, JOURNAL_EXTENSION))?;
        sync_dir(&self.dir.staged())
    }
}
