//! A disk that forgets what was not synced: `tests/durability/unsynced.c`, preloaded into the hub.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The library's source.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/durability/unsynced.c");
/// The unit in which an operating system writes.
const PAGE: usize = 4096;

/// When names of files become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// Once their directory has been synced.
    Synced,
    /// At once, before the bytes are.
    Eager,
}

/// How much of what was written to the end of a log and not synced survives; a power cut leaves any of these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tail {
    /// Nothing.
    Gone,
    /// This share of the bytes.
    Cut(f64),
    /// The same, and zeros instead of the rest: the length had been written.
    Zeros(f64),
}

impl Tail {
    /// How many of the `length` bytes behind `durable` survive, and how many zeros follow them.
    fn survives(self, durable: usize, length: usize) -> (usize, usize) {
        let part = |share: f64| (length as f64 * share) as usize;
        match self {
            Self::Gone => (0, 0),
            Self::Cut(share) => (part(share), 0),
            Self::Zeros(share) => {
                // Whole pages were not written.
                let survives = ((durable + part(share)) / PAGE * PAGE).saturating_sub(durable);
                (survives, length - survives)
            }
        }
    }
}

/// A fault of the disk, from some moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Syncs succeed and keep nothing.
    Lie,
    /// Syncs fail.
    Fail,
    /// Writes find no room.
    Full,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Lie, Self::Fail, Self::Full];

    fn variable(self) -> &'static str {
        match self {
            Self::Lie => "UNSYNCED_LIE",
            Self::Fail => "UNSYNCED_FAIL",
            Self::Full => "UNSYNCED_FULL",
        }
    }
}

/// The library and the mirror of one directory.
pub(crate) struct Unsynced {
    library: PathBuf,
    directory: PathBuf,
    mirror: PathBuf,
    pub(crate) names: Names,
    pub(crate) tail: Tail,
    /// Bytes at the ends of logs that were written, not synced, and forgotten so far.
    pub(crate) forgotten: u64,
}

impl Unsynced {
    /// Compiles the library into `folder` for a process that keeps its data in `directory`, a folder beside or below.
    pub(crate) fn new(folder: &Path, directory: &Path) -> Result<Self> {
        let library = folder.join("unsynced.so");
        let compiled = Command::new("cc")
            .args(["-O1", "-Wall", "-shared", "-fPIC", "-o"])
            .args([&library, Path::new(SOURCE)])
            .args(["-ldl", "-lpthread"])
            .output()
            .context("cannot run cc")?;
        ensure!(
            compiled.status.success(),
            "cc refuses the library: {}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let mirror = folder.join("mirror");
        Ok(Self {
            library,
            directory: directory.to_owned(),
            mirror,
            names: Names::Synced,
            tail: Tail::Gone,
            forgotten: 0,
        })
    }

    /// Makes `command` run on this disk.
    pub(crate) fn preload(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("UNSYNCED_DIR", &self.directory)
            .env("UNSYNCED_MIRROR", &self.mirror)
            .env(
                "UNSYNCED_NAMES",
                if self.names == Names::Eager { "eager" } else { "synced" },
            );
        for fault in Fault::ALL {
            command.env(fault.variable(), self.trigger(fault));
        }
    }

    /// Begins with `fault`.
    pub(crate) fn begin(&self, fault: Fault) -> Result<()> {
        Ok(File::create(self.trigger(fault)).map(drop)?)
    }

    /// Ends `fault`.
    pub(crate) fn end(&self, fault: Fault) -> Result<()> {
        Ok(fs::remove_file(self.trigger(fault))?)
    }

    /// Leaves of the directory what a power cut leaves. The process must have ended.
    pub(crate) fn forget(&mut self) -> Result<()> {
        // Killed before it had begun: it has changed nothing.
        if self.mirror.join("made").exists() {
            self.keep_tails()?;
            // Killed before it had made its directory.
            if self.directory.exists() {
                fs::remove_dir_all(&self.directory).context("cannot remove what was not synced")?;
            }
            fs::rename(self.mirror.join("tree"), &self.directory).context("cannot put the mirror in its place")?;
        }
        if self.mirror.exists() {
            fs::remove_dir_all(&self.mirror)?;
        }
        Ok(())
    }

    /// Gives the logs in the mirror the parts of their tails that survive, and counts the rest.
    fn keep_tails(&mut self) -> Result<()> {
        for entry in fs::read_dir(self.mirror.join("tree/db")).into_iter().flatten() {
            let kept = entry?.path();
            let name = kept.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let written = self.directory.join("db").join(&name);
            if !(name.ends_with(".log") || name.starts_with("MANIFEST-")) || !written.exists() {
                continue;
            }
            let durable = usize::try_from(fs::metadata(&kept)?.len())?;
            let bytes = fs::read(&written)?;
            let Some(tail) = bytes.get(durable..) else { continue };
            let (survives, zeros) = self.tail.survives(durable, tail.len());
            self.forgotten += (tail.len() - survives) as u64;
            let mut file = File::options().append(true).open(&kept)?;
            file.write_all(&tail[..survives])?;
            file.write_all(&vec![0; zeros])?;
        }
        Ok(())
    }

    fn trigger(&self, fault: Fault) -> PathBuf {
        self.library.with_file_name(fault.variable())
    }
}
