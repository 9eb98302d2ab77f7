//! The entries of a stored twin.
//!
//! Invariant: a value is read by the same code as in a scan, so that both see the same.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_partition::ValueIndexing;
use holdfast_partition::record::{DeviceStateKey, DeviceStateKind};
use holdfast_partition::state::{StateIndexer, UnreadableState};
use holdfast_query::Path;

use super::{TwinIndexes, encode};
use crate::TwinsConfig;
use crate::queries::plan::TwinReads;
use crate::queries::row::TwinParts;

/// Devices and modules have ranges of their own, since a query is about one of both.
pub(super) const DEVICE: u8 = b'd';
pub(super) const MODULE: u8 = b'm';

pub(super) struct TwinIndexer {
    paths: Vec<Path>,
    reads: TwinReads,
}

/// The declared indexes, for the partitions of a node; `None` without any.
#[must_use]
pub fn twin_indexing(config: &TwinsConfig) -> Option<Arc<ValueIndexing>> {
    let declared = TwinIndexes::of(&config.indexes);
    if declared.is_empty() {
        return None;
    }
    Some(Arc::new(ValueIndexing::new(TwinIndexer::new(&declared))))
}

impl TwinIndexer {
    pub(super) fn new(declared: &TwinIndexes) -> Self {
        let paths = declared.paths().to_vec();
        let reads = TwinReads::of(&paths.iter().collect::<Vec<_>>());
        Self { paths, reads }
    }
}

impl StateIndexer for TwinIndexer {
    fn kind(&self) -> DeviceStateKind {
        DeviceStateKind::TWIN
    }

    fn encoding(&self) -> u32 {
        encode::VERSION
    }

    fn names(&self) -> Vec<String> {
        self.paths.iter().map(ToString::to_string).collect()
    }

    fn index(
        &self,
        key: &DeviceStateKey<'_>,
        state: &[u8],
        found: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), UnreadableState> {
        let state = Bytes::copy_from_slice(state);
        let twin = TwinParts::read(state, &self.reads).map_err(|error| UnreadableState(error.into()))?;
        let collection = match key.module {
            None => DEVICE,
            Some(_) => MODULE,
        };
        for (place, path) in self.paths.iter().enumerate() {
            if let Some(value) = encode::encode(&twin.at(path)) {
                found(place, &[&[collection][..], &value].concat());
            }
        }
        Ok(())
    }
}
