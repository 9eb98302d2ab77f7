//! A node's disk: it loses unsynced data, fills up, fails, and has bits flipped.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;

/// The mount source of small disks, followed by this process's id.
const SOURCE: &str = "hfchaos-";
/// The size of one write.
const PAGE: usize = 4096;
/// In a shorter file a flipped bit may not be read.
const LEAST_LENGTH: u64 = 4096;

/// A fault of a disk, until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// Syncs fail.
    SyncFails,
    /// Writes find no free space.
    Full,
    /// Syncs succeed without effect: the checker must then find losses.
    Lies,
}

impl DiskFault {
    /// All faults.
    pub const ALL: [Self; 3] = [Self::SyncFails, Self::Full, Self::Lies];

    fn variable(self) -> &'static str {
        match self {
            Self::SyncFails => "UNSYNCED_FAIL",
            Self::Full => "UNSYNCED_FULL",
            Self::Lies => "UNSYNCED_LIE",
        }
    }
}

/// The directory of one node's data, and a mirror of the part that would survive a power cut.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// A disk of a folder of this machine.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn folder(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            is_mounted: false,
        })
    }

    /// A small disk of its own, in memory: it can be filled without harm to others.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn small(folder: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let options = format!("size={bytes},mode=0700");
        remove_stale();
        let source = format!("{SOURCE}{}", std::process::id());
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, &source])
            .arg(folder)
            .output()?;
        ensure!(
            output.status.success(),
            "cannot mount: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(Self {
            folder: folder.to_owned(),
            is_mounted: true,
        })
    }

    /// Whether it has a size of its own.
    #[must_use]
    pub fn is_small(&self) -> bool {
        self.is_mounted
    }

    /// The node's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn mirror(&self) -> PathBuf {
        self.folder.join("mirror")
    }

    fn trigger(&self, fault: DiskFault) -> PathBuf {
        self.folder.join(fault.variable())
    }

    /// The environment variables of the library that loses unsynced data.
    pub(super) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let mut variables = vec![("UNSYNCED_DIR", self.data()), ("UNSYNCED_MIRROR", self.mirror())];
        variables.extend(DiskFault::ALL.map(|fault| (fault.variable(), self.trigger(fault))));
        variables
    }

    /// Begins `fault`.
    ///
    /// # Errors
    /// When the trigger cannot be made.
    pub fn begin(&self, fault: DiskFault) -> Result<()> {
        Ok(File::create(self.trigger(fault)).map(drop)?)
    }

    /// Ends all faults, a filled disk included.
    pub fn heal(&self) {
        for fault in DiskFault::ALL {
            let _ = fs::remove_file(self.trigger(fault));
        }
        let _ = fs::remove_file(self.folder.join("ballast"));
    }

    /// Fills a small disk until only `left` bytes are free.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn fill(&self, left: u64) -> Result<()> {
        ensure!(self.is_mounted, "only a small disk is filled");
        let about = rustix::fs::statvfs(&self.folder)?;
        let bytes = (about.f_bavail * about.f_frsize).saturating_sub(left);
        let ballast = File::create(self.folder.join("ballast"))?;
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, bytes).context("filling the disk")
    }

    /// The node was killed, but the machine kept running: nothing is lost.
    ///
    /// # Errors
    /// When the mirror cannot be removed.
    pub fn remember(&self) -> Result<()> {
        if self.mirror().exists() {
            fs::remove_dir_all(self.mirror()).context("cannot remove the mirror")?;
        }
        Ok(())
    }

    /// The power was cut: of the unsynced data only a random part of the logs' ends survives. Returns the number of bytes
    /// lost. The node must have ended.
    ///
    /// # Errors
    /// When files cannot be moved.
    pub fn forget(&self, rng: &mut StdRng) -> Result<u64> {
        let mut forgotten = 0;
        // Killed before its first write: nothing has changed.
        if self.mirror().join("made").exists() {
            for entry in fs::read_dir(self.mirror().join("tree/db")).into_iter().flatten() {
                forgotten += self.keep_tail(&entry?.path(), rng)?;
            }
            fs::remove_dir_all(self.data()).context("cannot remove the unsynced data")?;
            fs::rename(self.mirror().join("tree"), self.data()).context("cannot put the mirror in its place")?;
        }
        self.remember()?;
        Ok(forgotten)
    }

    /// Gives a log in the mirror the part of its tail that survives.
    fn keep_tail(&self, kept: &Path, rng: &mut StdRng) -> Result<u64> {
        let name = kept.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let written = self.data().join("db").join(&name);
        if !(name.ends_with(".log") || name.starts_with("MANIFEST-")) || !written.exists() {
            return Ok(0);
        }
        let durable = usize::try_from(fs::metadata(kept)?.len())?;
        let bytes = fs::read(&written)?;
        let Some(tail) = bytes.get(durable..) else { return Ok(0) };
        let part = (tail.len() as f64 * rng.random::<f64>()) as usize;
        let (survives, zeros) = match rng.random_range(0..3) {
            0 => (0, 0),
            1 => (part, 0),
            // The length was written, but whole pages were not.
            _ => {
                let survives = ((durable + part) / PAGE * PAGE).saturating_sub(durable);
                (survives, tail.len() - survives)
            }
        };
        let mut file = File::options().append(true).open(kept)?;
        file.write_all(&tail[..survives])?;
        file.write_all(&vec![0; zeros])?;
        Ok((tail.len() - survives) as u64)
    }

    /// Flips a bit in the newest log (`log`) or the largest table (`sst`) of the database, always in the older half, which
    /// a crash cannot have truncated; returns the position. The node must have ended.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn flip_bit(&self, extension: &str, rng: &mut StdRng) -> Result<(PathBuf, u64)> {
        let by_size = extension != "log";
        let mut files: Vec<(u64, PathBuf, u64)> = Vec::new();
        for entry in fs::read_dir(self.data().join("db"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension) {
                let length = fs::metadata(&path)?.len();
                // Names of logs are numbers of one length. An empty log is not read.
                let rank = if by_size {
                    length
                } else {
                    u64::from(length > LEAST_LENGTH)
                };
                files.push((rank, path, length));
            }
        }
        let (_, path, length) = files
            .into_iter()
            .max()
            .with_context(|| format!("there is no .{extension} file"))?;
        ensure!(
            length > LEAST_LENGTH,
            "{} is too short to flip a bit that is read",
            path.display()
        );
        let at = rng.random_range(0..length / 2);
        flip(&path, at)?;
        Ok((path, at))
    }

    /// Removes all data: the node restarts with an empty disk.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn wipe(&self) -> Result<()> {
        self.remember()?;
        if self.data().exists() {
            fs::remove_dir_all(self.data()).context("cannot wipe the disk")?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: an ending process may still hold a file open.
            let _ = Command::new("umount").arg("-l").arg(&self.folder).output();
        }
    }
}

/// Unmounts the disks that killed runs left behind.
fn remove_stale() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let process = words.next().and_then(|source| source.strip_prefix(SOURCE));
        if let (Some(process), Some(place)) = (process, words.next())
            && !Path::new(&format!("/proc/{process}")).exists()
        {
            let _ = Command::new("umount").arg("-l").arg(place).output();
        }
    }
}

/// Flips a bit of one byte; the second flip restores it.
///
/// # Errors
/// When the file cannot be changed.
pub fn flip(file: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ 0x10], at)?)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_flipped_bit_is_in_the_older_half_of_the_largest_file_and_only_there() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::folder(folder.path()).unwrap();
        let database = disk.data().join("db");
        fs::create_dir_all(&database).unwrap();
        fs::write(database.join("1.log"), vec![7; 100]).unwrap();
        fs::write(database.join("2.log"), vec![7; 10_000]).unwrap();
        let (path, at) = disk.flip_bit("log", &mut StdRng::seed_from_u64(1)).unwrap();
        assert!(path.ends_with("2.log") && at < 5_000);
        let differing: Vec<usize> = fs::read(&path)
            .unwrap()
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte != 7)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(differing, [usize::try_from(at).unwrap()]);
        assert!(disk.flip_bit("sst", &mut StdRng::seed_from_u64(1)).is_err());
    }

    #[test]
    fn forgetting_puts_the_mirror_in_the_place_of_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::folder(folder.path()).unwrap();
        let (data, tree) = (disk.data().join("db"), disk.mirror().join("tree/db"));
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&tree).unwrap();
        fs::write(data.join("1.log"), b"durable and not").unwrap();
        fs::write(data.join("new.sst"), b"never synced").unwrap();
        fs::write(tree.join("1.log"), b"durable").unwrap();
        File::create(disk.mirror().join("made")).unwrap();
        let forgotten = disk.forget(&mut StdRng::seed_from_u64(3)).unwrap();
        let left = fs::read(data.join("1.log")).unwrap();
        assert!(left.starts_with(b"durable") && !data.join("new.sst").exists() && !disk.mirror().exists());
        assert!(forgotten <= 8);
    }
}
