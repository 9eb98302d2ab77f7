//! The ledger of a fleet: per device and connection, which messages were sent and which were acknowledged.
//!
//! Acknowledgements come in order, so a connection needs a span and not a set; the ledger of a million messages over
//! a thousand devices is a thousand spans. Several processes of one fleet (other device numbers, same run) merge.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// One connection's messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Which connection of the device.
    pub epoch: u32,
    /// The first message that it sent.
    pub first: u64,
    /// One past the last message that it handed to its socket.
    pub sent_below: u64,
    /// All from `first` to below this one were acknowledged.
    pub acknowledged_below: u64,
    /// Acknowledged at or above `acknowledged_below`, ascending: only when a server acknowledges out of order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acknowledged_early: Vec<u64>,
    /// The protocol has no sessions (HTTPS): an unacknowledged message may still be stored after those of the next connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sessionless: bool,
}

impl Span {
    /// How many acknowledgements it holds.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged_below - self.first + self.acknowledged_early.len() as u64
    }
}

/// All spans of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The run's number in every marker.
    pub run: u64,
    /// The prefix of the devices' names.
    pub device_prefix: String,
    /// The length of every payload.
    pub payload_bytes: usize,
    /// Spans by device number, in the order of the connections.
    pub devices: BTreeMap<u32, Vec<Span>>,
}

impl Ledger {
    /// A ledger without entries.
    #[must_use]
    pub fn new(run: u64, device_prefix: &str, payload_bytes: usize) -> Self {
        Self {
            run,
            device_prefix: device_prefix.to_owned(),
            payload_bytes,
            devices: BTreeMap::new(),
        }
    }

    /// How many acknowledgements it holds; a message that two connections got acknowledged counts twice.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.devices.values().flatten().map(Span::acknowledged).sum()
    }

    /// Whether a message may be stored after those of later connections.
    pub(crate) fn may_be_late(&self, device: u32, epoch: u32, number: u64) -> bool {
        let mut spans = self.devices.get(&device).into_iter().flatten();
        spans.any(|span| span.epoch == epoch && span.is_sessionless && number >= span.acknowledged_below)
    }

    /// Merges the devices of `other`, a part of the same run.
    ///
    /// # Errors
    /// When it is another run, or has a device that is here already.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        ensure!(self.run == other.run, "ledgers of runs {} and {}", self.run, other.run);
        for (device, spans) in other.devices {
            ensure!(
                self.devices.insert(device, spans).is_none(),
                "device {device} is in two ledgers"
            );
        }
        Ok(())
    }

    /// Reads a ledger file.
    ///
    /// # Errors
    /// When the file cannot be read or is not a ledger.
    pub fn load(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open the ledger {}", path.display()))?;
        serde_json::from_reader(BufReader::new(file)).with_context(|| format!("{} is not a ledger", path.display()))
    }

    /// Writes the ledger, replacing the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        serde_json::to_writer(&mut file, self)?;
        file.flush()
            .with_context(|| format!("cannot write the ledger {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, below: u64) -> Span {
        Span {
            epoch: 0,
            first,
            sent_below: below + 2,
            acknowledged_below: below,
            acknowledged_early: vec![below + 1],
            is_sessionless: false,
        }
    }

    #[test]
    fn parts_of_a_run_merge_and_survive_a_file() {
        let mut ledger = Ledger::new(9, "swarm-", 256);
        ledger.devices.insert(0, vec![span(0, 10)]);
        let mut other = Ledger::new(9, "swarm-", 256);
        other.devices.insert(1, vec![span(0, 5), span(5, 6)]);
        ledger.merge(other.clone()).unwrap();
        assert_eq!(ledger.acknowledged(), 10 + 5 + 1 + 3);
        assert!(ledger.merge(other).is_err(), "the same device twice");
        assert!(ledger.merge(Ledger::new(8, "swarm-", 256)).is_err(), "another run");
        let file = tempfile::NamedTempFile::new().unwrap();
        ledger.save(file.path()).unwrap();
        assert_eq!(Ledger::load(file.path()).unwrap(), ledger);
    }
}
