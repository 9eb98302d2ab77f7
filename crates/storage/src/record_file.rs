//! Checks RocksDB's record files (write-ahead logs and manifests) before RocksDB reads them.
//!
//! Why: RocksDB's recovery handles a record that does not match according to a mode, and its error names neither file nor
//! offset. We need a stricter rule: a last record that a crash has cut off is dropped (it was never acknowledged), and any
//! other mismatch stops the node and names the place. So every record is checked here first, and a cut-off tail is
//! removed, after which RocksDB reads clean files only.
//!
//! Format (RocksDB `db/log_format.h`, stable since LevelDB): blocks of 32 KiB; in them records of masked CRC32C (4),
//! length (2), type (1) and payload; a record that does not fit is split into first, middle and last; fewer than 7
//! bytes at a block's end are zeros. Files are not recycled, so that their record types do not occur.
//!
//! A cut-off tail differs from damage: it runs beyond the end of the file, or ends in bytes that were never written (zeros
//! from a page boundary to the end of the file), and nothing valid follows it. A last record that is complete but does
//! not match its checksum is damage.

use std::fs::File;
use std::io::Read;
use std::path::Path;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
/// Smallest unit of a write by the operating system.
const PAGE: usize = 4096;
/// Fewer zeros at the end of a page may as well be data.
const FEWEST_ZEROS: usize = 16;

/// Result of checking a record file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Length of the file in bytes.
    pub(crate) length: u64,
    /// Offset after the last complete record; below `length` when the tail was cut off.
    pub(crate) whole: u64,
    /// Number of complete records.
    pub(crate) records: u64,
}

/// Why a record file is not valid.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The content does not match.
    Damaged {
        /// Byte offset of the record.
        offset: u64,
        /// The mismatch.
        reason: &'static str,
    },
    /// The operating system refused.
    Io(std::io::Error),
}

/// Reads all of `path` and checks every record.
pub(crate) fn check(path: &Path) -> Result<Checked, Unreadable> {
    let mut file = File::open(path).map_err(Unreadable::Io)?;
    let mut checker = Checker::default();
    // Two blocks, so that the decision about a tail sees everything from its record on.
    let mut content = Vec::with_capacity(1 << 20);
    loop {
        content.clear();
        let read = (&mut file)
            .take(1 << 20)
            .read_to_end(&mut content)
            .map_err(Unreadable::Io)?;
        if read == 0 {
            break;
        }
        for block in content.chunks(BLOCK) {
            checker.block(block)?;
        }
    }
    checker.finish()
}

#[derive(Default)]
struct Checker {
    /// Offset of the next block.
    offset: u64,
    whole: u64,
    records: u64,
    /// Offset of the first part of a record that is not complete yet.
    part: Option<u64>,
    /// Offset of bytes that may be a cut-off tail: then only zeros may follow.
    tail: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Full,
    First,
    Middle,
    Last,
    /// A full record about the file itself.
    Meta,
}

fn part_of(kind: u8) -> Option<Part> {
    Some(match kind {
        1 => Part::Full,
        2 => Part::First,
        3 => Part::Middle,
        4 => Part::Last,
        9 | 10 | 130 => Part::Meta,
        _ => return None,
    })
}

impl Checker {
    fn block(&mut self, block: &[u8]) -> Result<(), Unreadable> {
        if let Some(tail) = self.tail {
            if block.iter().any(|byte| *byte != 0) {
                return Err(Unreadable::Damaged {
                    offset: tail,
                    reason: "records follow an incomplete record",
                });
            }
            self.offset += block.len() as u64;
            return Ok(());
        }
        let at_end = block.len() < BLOCK;
        let mut at = 0;
        while block.len() - at >= HEADER {
            let rest = &block[at..];
            let offset = self.offset + at as u64;
            match read(rest) {
                Record::Whole { part, size } => {
                    self.accept(part, offset, size)?;
                    at += size;
                }
                Record::Zeros => {
                    self.tail = Some(offset);
                    break;
                }
                Record::Bad { reason, beyond_end } => {
                    // A block that is not the file's last is followed by whole blocks, so that nothing was cut off
                    // there, unless all that follows was never written.
                    if !(cut_off(rest, beyond_end && at_end) || ends_in_unwritten_pages(rest, offset)) {
                        return Err(Unreadable::Damaged { offset, reason });
                    }
                    self.tail = Some(offset);
                    break;
                }
            }
        }
        if self.tail.is_none() && at < block.len() {
            let rest = &block[at..];
            if at_end && rest.iter().any(|byte| *byte != 0) {
                // Fewer bytes than a header.
                self.tail = Some(self.offset + at as u64);
            } else if !at_end && rest.iter().any(|byte| *byte != 0) {
                let offset = self.offset + at as u64;
                return Err(Unreadable::Damaged {
                    offset,
                    reason: "the end of a block is not zero",
                });
            }
        }
        self.offset += block.len() as u64;
        Ok(())
    }

    fn accept(&mut self, part: Part, offset: u64, size: usize) -> Result<(), Unreadable> {
        let end = offset + size as u64;
        match (part, self.part) {
            (Part::Full | Part::Meta, None) => {
                self.whole = end;
                self.records += u64::from(part == Part::Full);
            }
            (Part::First, None) => self.part = Some(offset),
            (Part::Middle, Some(_)) => {}
            (Part::Last, Some(_)) => {
                self.part = None;
                self.whole = end;
                self.records += 1;
            }
            (Part::Middle | Part::Last, None) => {
                return Err(Unreadable::Damaged {
                    offset,
                    reason: "the first part of a record is missing",
                });
            }
            (Part::Full | Part::Meta | Part::First, Some(first)) => {
                return Err(Unreadable::Damaged {
                    offset: first,
                    reason: "the last part of a record is missing",
                });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Checked, Unreadable> {
        // Zeros after the last complete record are space that was allocated ahead.
        Ok(Checked {
            length: self.offset,
            whole: self.whole,
            records: self.records,
        })
    }
}

enum Record {
    Whole {
        part: Part,
        size: usize,
    },
    /// Never written.
    Zeros,
    Bad {
        reason: &'static str,
        beyond_end: bool,
    },
}

/// The record at the start of `rest`, which has at least a header's length.
fn read(rest: &[u8]) -> Record {
    let length = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
    let kind = rest[6];
    if rest[..HEADER] == [0; HEADER] {
        return if rest.iter().all(|byte| *byte == 0) {
            Record::Zeros
        } else {
            Record::Bad {
                reason: "zeros where a record should be",
                beyond_end: false,
            }
        };
    }
    let Some(part) = part_of(kind) else {
        return Record::Bad {
            reason: "unknown type of record",
            beyond_end: false,
        };
    };
    let size = HEADER + length;
    if size > rest.len() {
        return Record::Bad {
            reason: "the length of a record exceeds its block",
            beyond_end: true,
        };
    }
    let stored = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
    if unmask(stored) == crc32c::crc32c(&rest[6..size]) {
        Record::Whole { part, size }
    } else {
        Record::Bad {
            reason: "the checksum of a record does not match",
            beyond_end: false,
        }
    }
}

/// Whether `rest` begins with a record that the end of the file cut off: it claims more than there is, its length is
/// not itself the damage, and nothing valid follows.
fn cut_off(rest: &[u8], beyond_end: bool) -> bool {
    if !beyond_end {
        return false;
    }
    let stored = unmask(u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]));
    // The checksum covers type and payload, not the length: if it matches with all that is there, or a part of it, then
    // the record is whole and its length is wrong.
    let mut sum = crc32c::crc32c(&rest[6..HEADER]);
    if sum == stored {
        return false;
    }
    for byte in rest[HEADER..].chunks(1) {
        sum = crc32c::crc32c_append(sum, byte);
        if sum == stored {
            return false;
        }
    }
    !(HEADER..rest.len().saturating_sub(HEADER)).any(|at| {
        // A length of zero matches too easily to prove anything.
        let length = u16::from_le_bytes([rest[at + 4], rest[at + 5]]);
        length > 0 && matches!(read(&rest[at..]), Record::Whole { .. })
    })
}

/// Whether `rest`, which lies at `offset` in the file, is zero from a page boundary inside it to its end.
fn ends_in_unwritten_pages(rest: &[u8], offset: u64) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of 4096")]
    let into_page = (offset % PAGE as u64) as usize;
    let boundary = PAGE - into_page;
    let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
    let first_zero = rest.len() - zeros;
    // The last page boundary at or before the end must lie in the zeros.
    let mut at = boundary;
    while at < rest.len() {
        if at >= first_zero {
            return rest.len() - at >= FEWEST_ZEROS;
        }
        at += PAGE;
    }
    false
}

/// RocksDB stores checksums rotated and shifted, since a checksum of data that holds checksums is a weak one.
fn unmask(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_right(17)
}

#[cfg(test)]
mod tests;
