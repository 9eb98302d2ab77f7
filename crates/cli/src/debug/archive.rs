//! A tar archive (ustar, POSIX.1-1988) of small texts, compressed by gzip.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

const BLOCK: usize = 512;

/// An archive being written.
pub(super) struct Archive {
    tar: Vec<u8>,
    /// Of all files, seconds since 1970.
    time: u64,
}

impl Archive {
    pub(super) fn new(time: i64) -> Self {
        Self {
            tar: Vec::new(),
            time: u64::try_from(time).unwrap_or(0),
        }
    }

    /// Adds a file; a path of more than 100 bytes is cut.
    pub(super) fn add(&mut self, path: &str, content: &[u8]) {
        let mut head = [0_u8; BLOCK];
        let mut put = |at: usize, field: &[u8]| head[at..at + field.len()].copy_from_slice(field);
        let path = path.as_bytes();
        put(0, &path[..path.len().min(100)]);
        put(100, b"0000600\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, format!("{:011o}\0", self.time).as_bytes());
        // Of the sum itself, while it is computed.
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        let sum: u32 = head.iter().copied().map(u32::from).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.tar.extend_from_slice(&head);
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(BLOCK), 0);
    }

    /// The whole archive, compressed.
    pub(super) fn finish(mut self) -> std::io::Result<Vec<u8>> {
        self.tar.resize(self.tar.len() + 2 * BLOCK, 0);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&self.tar)?;
        gzip.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_what_was_written() {
        let mut archive = Archive::new(1_700_000_000);
        archive.add("a/one.txt", b"one\n");
        archive.add("a/empty.txt", b"");
        archive.add("a/large.txt", &[b'x'; 1500]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar.gz");
        std::fs::write(&file, archive.finish().unwrap()).unwrap();
        let status = std::process::Command::new("tar")
            .arg("-xzf")
            .arg(&file)
            .arg("-C")
            .arg(dir.path())
            .status();
        assert!(status.unwrap().success());
        let read = |name: &str| std::fs::read(dir.path().join("a").join(name)).unwrap();
        assert_eq!(read("one.txt"), b"one\n");
        assert_eq!(read("empty.txt"), b"");
        assert_eq!(read("large.txt").len(), 1500);
    }
}
