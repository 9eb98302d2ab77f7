//! The devices that were answered `assigned`, as a file: one line each, device and hub.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

/// A device that was assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Its id there.
    pub device: String,
    /// The hub's name.
    pub hub: String,
}

/// Writes the file.
pub struct Ledger(Mutex<BufWriter<File>>);

impl Ledger {
    /// Appends to the file, which is created if it is missing.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn append_to(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self(Mutex::new(BufWriter::new(file))))
    }

    pub(super) fn record(&self, assigned: &Assigned) -> Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{} {}", assigned.device, assigned.hub).context("the ledger")
    }

    pub(super) fn flush(&self) -> Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush().context("the ledger")
    }

    /// Reads a file: the hub of each device that it was assigned to last.
    ///
    /// # Errors
    /// When it cannot be read, or has other lines.
    pub fn read(path: &Path) -> Result<BTreeMap<String, String>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        text.lines()
            .map(|line| {
                let (device, hub) = line.split_once(' ').context("a line of the ledger")?;
                Ok((device.to_owned(), hub.to_owned()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_assignment_counts_and_runs_add_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        for hub in ["a.example.com", "b.example.com"] {
            let ledger = Ledger::append_to(&path).unwrap();
            for device in ["d1", hub] {
                let (device, hub) = (device.to_owned(), hub.to_owned());
                ledger.record(&Assigned { device, hub }).unwrap();
            }
            ledger.flush().unwrap();
        }
        let read = Ledger::read(&path).unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read["d1"], "b.example.com");
        std::fs::write(&path, "nothing\n").unwrap();
        assert!(Ledger::read(&path).is_err());
    }
}
