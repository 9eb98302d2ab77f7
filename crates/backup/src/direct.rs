//! Writing a file durably, and a long one past the page cache.
//!
//! Why: a hub that runs on the same machine waits for its own syncs. Pages that a long file leaves dirty are written in front
//! of these, and take the memory of those that the hub reads; written directly there are none, and nothing is copied for them.
//! Invariants: the file has the content and is durable when [`write`] returns; a file system that cannot do it directly gets
//! it through the page cache.
//! Not here: names (`target`).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate};

/// Shorter contents go through the page cache, which is one write for them.
const MIN_DIRECT_BYTES: usize = 256 << 10;
/// Written at a time: long enough for the rate of a disk, and short enough that a sync of the hub does not wait long behind it.
const STEP_BYTES: usize = 256 << 10;
/// What addresses, offsets and lengths are multiples of: the block of any common disk.
const ALIGNMENT: usize = 4096;

/// Writes `content` to the new file `path`, readable by its owner alone; it is durable then.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if content.len() >= MIN_DIRECT_BYTES {
        match write_directly(path, content) {
            // The file system has no such writes, or wants another alignment.
            Err(error) if is_unsupported(&error) => {}
            outcome => return outcome,
        }
    }
    let mut file = create(path, OFlags::empty())?;
    file.write_all(content)?;
    file.sync_all()
}

fn create(path: &Path, flags: OFlags) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

fn write_directly(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = create(path, OFlags::DIRECT)?;
    let length = content.len().next_multiple_of(ALIGNMENT);
    // The blocks at once, so that the steps change nothing but the content; and a full disk is seen before them.
    match fallocate(&file, FallocateFlags::empty(), 0, length as u64).map_err(io::Error::from) {
        Err(error) if !is_unsupported(&error) => return Err(error),
        _ => {}
    }
    let mut room = vec![0_u8; STEP_BYTES + ALIGNMENT];
    let begin = room.as_ptr().align_offset(ALIGNMENT);
    let room = room.get_mut(begin..).unwrap_or_default();
    let mut at = 0;
    for step in content.chunks(STEP_BYTES) {
        let padded = step.len().next_multiple_of(ALIGNMENT);
        let aligned = room.get_mut(..padded).ok_or(io::ErrorKind::InvalidInput)?;
        aligned[..step.len()].copy_from_slice(step);
        aligned[step.len()..].fill(0);
        file.write_all_at(aligned, at)?;
        at += padded as u64;
    }
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_any_length_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..=250).cycle().take(3 * STEP_BYTES).collect();
        for length in [
            0,
            1,
            MIN_DIRECT_BYTES - 1,
            MIN_DIRECT_BYTES,
            MIN_DIRECT_BYTES + 1,
            STEP_BYTES,
            STEP_BYTES + ALIGNMENT,
            3 * STEP_BYTES - 1,
        ] {
            write(&path, &content[..length]).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content[..length], "{length} bytes");
        }
    }

    #[test]
    fn a_file_system_without_direct_writes_gets_the_content_as_well() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let (path, content) = (folder.path().join("file"), vec![7; MIN_DIRECT_BYTES + 5]);
        write(&path, &content).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}
