//! When each message was acknowledged: a file with a record for each, so that a gap in which a partition acknowledged nothing can be found.
//!
//! A record is 12 bytes, little-endian: microseconds since 1970 (u64) and the number of the device (u32). The records of a thread are in the
//! order of their times; those of several threads mix.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// The file. All threads of a fleet write to it.
#[derive(Debug)]
pub struct Acknowledgements(Mutex<Open>);

#[derive(Debug)]
struct Open {
    file: BufWriter<File>,
    /// The first error of a write, after which nothing is written.
    failed: Option<std::io::Error>,
}

impl Acknowledgements {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(Mutex::new(Open {
            file: BufWriter::new(file),
            failed: None,
        })))
    }

    /// A message of `device` was acknowledged at `unix_us`.
    pub(crate) fn add(&self, device: u32, unix_us: u64) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.failed.is_some() {
            return;
        }
        let mut record = [0; 12];
        record[..8].copy_from_slice(&unix_us.to_le_bytes());
        record[8..].copy_from_slice(&device.to_le_bytes());
        open.failed = open.file.write_all(&record).err();
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// When a write has failed.
    pub fn finish(&self) -> Result<()> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.failed.take() {
            Some(error) => Err(error),
            None => open.file.flush(),
        }
        .context("cannot write the times of acknowledgements")
    }
}
