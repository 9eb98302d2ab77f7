//! A view that outlives its call: an iterator of RocksDB borrows the database, so a thread of its own holds both.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rocksdb::{DB, ReadOptions};

use super::{READAHEAD_BYTES, errors};
use crate::view::{BLOCK_BYTES, Block};
use crate::{IoFailure, StorageError, View};

/// Blocks that wait to be taken.
const AHEAD: usize = 2;

type Sent = Result<Block, StorageError>;

/// Opens a view of `[from, to)` in the column family `column`.
pub(super) fn open(db: Arc<DB>, column: String, from: &[u8], to: &[u8]) -> Result<View, StorageError> {
    let (blocks, received) = sync_channel::<Sent>(AHEAD);
    let (opened, is_open) = sync_channel::<()>(1);
    let (from, to) = (from.to_vec(), to.to_vec());
    thread::Builder::new()
        .name("holdfast-view".to_owned())
        .spawn(move || {
            if let Err(error) = read(&db, &column, &from, &to, &opened, &blocks) {
                // If the view has been dropped, its user does not need the error.
                let _ = blocks.send(Err(error));
            }
        })
        .map_err(|error| StorageError::Io(IoFailure::new("cannot start a thread for a view", error)))?;
    // Fails when opening failed: the first block says why.
    let _ = is_open.recv();
    Ok(View::new(Box::new(move || received.recv().ok().transpose())))
}

fn read(
    db: &DB,
    column: &str,
    from: &[u8],
    to: &[u8],
    opened: &SyncSender<()>,
    blocks: &SyncSender<Sent>,
) -> Result<(), StorageError> {
    let handle = db
        .cf_handle(column)
        .ok_or_else(|| StorageError::Io(format!("column family {column} is missing").into()))?;
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options.fill_cache(false);
    options.set_readahead_size(READAHEAD_BYTES);
    let mut iterator = db.raw_iterator_cf_opt(handle, options);
    // From here on the iterator sees neither later writes nor deletions.
    if opened.send(()).is_err() {
        return Ok(());
    }
    iterator.seek_to_first();
    let mut block = Block::default();
    while let Some((key, value)) = iterator.item() {
        block.push(key, value);
        if block.len_bytes() >= BLOCK_BYTES && blocks.send(Ok(std::mem::take(&mut block))).is_err() {
            // The view was dropped.
            return Ok(());
        }
        iterator.next();
    }
    iterator.status().map_err(|error| errors::of_use(&error))?;
    if !block.is_empty() {
        // As above.
        let _ = blocks.send(Ok(block));
    }
    Ok(())
}
