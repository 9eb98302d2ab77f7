//! An entry without some of its records.

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::entry;
use super::wire::Cursor;
use super::{EntryError, EntryView};

/// The entry without the records for which `keep` returns `false`, by index; the header stays, so that the entry keeps
/// its place in its stream. Allocates only when a record is removed.
///
/// # Errors
/// [`EntryError`]: the bytes are no entry.
pub fn retain_records(bytes: &Bytes, keep: impl Fn(usize) -> bool) -> Result<Bytes, EntryError> {
    let header = EntryView::parse(bytes)?.header();
    if (0..header.records as usize).all(&keep) {
        return Ok(bytes.clone());
    }
    let mut kept = BytesMut::with_capacity(bytes.len());
    let mut count_at = None;
    let (mut index, mut count) = (0, 0_u32);
    let mut cursor = Cursor::new(bytes);
    while !cursor.is_at_end() {
        let start = cursor.offset();
        let tag = cursor.tag()?;
        match tag {
            entry::RECORD => {
                cursor.bytes()?;
                let stays = keep(index);
                index += 1;
                if !stays {
                    continue;
                }
                count += 1;
            }
            entry::RECORD_COUNT => {
                count_at = Some(kept.len() + cursor.offset() - start);
                cursor.fixed32()?;
            }
            other => cursor.skip(other)?,
        }
        kept.put_slice(&bytes[start..cursor.offset()]);
    }
    if let Some(at) = count_at {
        kept[at..at + 4].copy_from_slice(&count.to_le_bytes());
    }
    Ok(kept.freeze())
}
