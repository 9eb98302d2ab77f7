//! Libraries that are preloaded into nodes: one disturbs clock and syncs ([`Machine`]), one makes the disk lose unsynced
//! data.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

const MACHINE: &str = include_str!("machine.c");
/// Shared with the durability tests of one hub, which prove that it loses exactly the unsynced data.
const UNSYNCED: &str = include_str!("../../../../tests/durability/unsynced.c");

/// The compiled libraries.
#[derive(Debug, Clone)]
pub struct Shims {
    pub(super) machine: PathBuf,
    pub(super) unsynced: PathBuf,
}

impl Shims {
    /// Compiles them into `folder`.
    ///
    /// # Errors
    /// When there is no C compiler, or it fails.
    pub fn compile(folder: &Path) -> Result<Self> {
        Ok(Self {
            machine: compile(folder, "machine", MACHINE)?,
            unsynced: compile(folder, "unsynced", UNSYNCED)?,
        })
    }
}

fn compile(folder: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let (file, library) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    std::fs::write(&file, source)?;
    let output = Command::new("cc")
        .args(["-O1", "-Wall", "-shared", "-fPIC", "-o"])
        .args([&library, &file])
        .args(["-ldl", "-lpthread"])
        .output()
        .context("cannot run cc")?;
    ensure!(
        output.status.success(),
        "cc refuses {name}.c: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(library)
}

/// The disturbances of one node's machine.
#[derive(Debug)]
pub struct Machine(File);

impl Machine {
    /// A machine without disturbances, controlled by the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(path: &Path) -> Result<Self> {
        let machine = Self(
            File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(path)?,
        );
        machine.set(0, 0)?;
        machine.set(8, 0)?;
        Ok(machine)
    }

    /// Shifts the wall clock by this many seconds.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn clock(&self, seconds: i64) -> Result<()> {
        self.set(0, seconds * 1_000_000_000)
    }

    /// Makes every sync take this much longer.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn slow_syncs(&self, by: Duration) -> Result<()> {
        self.set(8, i64::try_from(by.as_micros())?)
    }

    fn set(&self, at: u64, value: i64) -> Result<()> {
        Ok(self.0.write_all_at(&value.to_ne_bytes(), at)?)
    }
}
