//! A consistent view of a range of keys, which is read while writes continue.

use crate::StorageError;

/// About so many bytes are read from the database at once.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;

/// Keys and values of a view, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    /// Lengths of key and value.
    lengths: Vec<(usize, usize)>,
}

impl Block {
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.lengths.push((key.len(), value.len()));
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}

/// Gives the next block; `None` at the end.
pub(crate) type NextBlock = Box<dyn FnMut() -> Result<Option<Block>, StorageError> + Send>;

/// See the module; created by [`Disk::view`](crate::Disk::view). It keeps its keys readable and the database open until it
/// is dropped.
pub struct View {
    next_block: NextBlock,
    block: Block,
    /// The next entry of the block, and where it begins.
    entry: usize,
    offset: usize,
}

impl View {
    pub(crate) fn new(next_block: NextBlock) -> Self {
        Self {
            next_block,
            block: Block::default(),
            entry: 0,
            offset: 0,
        }
    }

    /// The next key and its value, ascending; `None` at the end. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Disk::get`](crate::Disk::get).
    #[expect(
        clippy::should_implement_trait,
        clippy::type_complexity,
        reason = "it lends its items"
    )]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, StorageError> {
        while self.entry == self.block.lengths.len() {
            let Some(block) = (self.next_block)()? else {
                return Ok(None);
            };
            (self.block, self.entry, self.offset) = (block, 0, 0);
        }
        let (key, value) = self.block.lengths[self.entry];
        let middle = self.offset + key;
        let end = middle + value;
        let item = (&self.block.bytes[self.offset..middle], &self.block.bytes[middle..end]);
        self.entry += 1;
        self.offset = end;
        Ok(Some(item))
    }
}
