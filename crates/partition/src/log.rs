//! Entries of a partition's log: their bytes, the chunks that readers get, and the newest entries in memory.
//!
//! Not here: where entries are stored and how they are replicated (`consensus`), the effect of applying one (`state`).

pub(crate) mod chunk;
pub(crate) mod entry_cache;
pub mod record;
