//! The changes of indexed values in an entry of the log.
//!
//! Why apart from apply: values are decoded for it, which must not happen under the lock that readers wait for. The old values
//! cannot change in between, since entries are applied one after the other.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Derived, UnreadableState, ValueIndexes};
use crate::log::record::{Effect, EntryView, PartitionCommand};
use crate::shared::Shared;
use crate::state::device_state::{Lookup, decode_record, encode_key};

/// A value's old and new entries.
struct IndexedChange {
    state: Bytes,
    /// `None`: the old value is not in memory.
    old: Option<Derived>,
    new: Result<Derived, UnreadableState>,
}

/// See the module. `None`: the entry seems to have no effects, as most, and was not read.
#[derive(Default)]
pub(crate) struct IndexedChanges(Option<Vec<IndexedChange>>);

impl IndexedChanges {
    /// Those of an entry that is about to be applied.
    pub(crate) fn of(shared: &Shared, entry: &[u8]) -> Self {
        let Some(indexing) = &shared.indexing else {
            return Self::default();
        };
        if !EntryView::may_have_effects(entry) {
            return Self::default();
        }
        // `State::apply` answers for entries that cannot be read.
        let Ok(view) = EntryView::parse(entry) else {
            return Self::default();
        };
        let changes = view.commands().filter_map(|command| match command {
            PartitionCommand::Effect(Effect::DeviceState(change)) if change.key.kind == indexing.kind() => {
                Some((Bytes::from(encode_key(&change.key)), change.value))
            }
            _ => None,
        });
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return Self(Some(Vec::new()));
        }
        let known: Vec<Lookup> = {
            let mut inner = shared.lock();
            let lookups = changes.iter().map(|(key, _)| inner.device_states.lookup(key));
            lookups.collect()
        };
        let mut newest: HashMap<Bytes, Derived> = HashMap::new();
        let indexed = changes.into_iter().zip(known).map(|((state, value), known)| {
            let old = match (newest.remove(&state), known) {
                (Some(derived), _) => Some(derived),
                (None, Lookup::Known(None)) => Some(Derived::new()),
                (None, Lookup::Known(Some(record))) => {
                    let value = decode_record(&record).ok();
                    value.and_then(|value| indexing.derive(&state, &value).ok())
                }
                (None, Lookup::OnDisk(_)) => None,
            };
            let new = value.map_or(Ok(Derived::new()), |value| indexing.derive(&state, value));
            if let Ok(new) = &new {
                newest.insert(state.clone(), new.clone());
            }
            IndexedChange { state, old, new }
        });
        Self(Some(indexed.collect()))
    }

    /// Under the lock under which the entry is applied, which has changes of device state.
    pub(crate) fn apply(&self, indexes: &mut ValueIndexes) {
        let Some(changes) = &self.0 else {
            // No writer of this version makes such an entry, but an index must not miss one.
            tracing::error!(
                "an entry with effects has an unknown layout; its partition's indexes are not used before the next start"
            );
            return indexes.give_up();
        };
        for change in changes {
            match &change.new {
                Ok(new) => indexes.apply(&change.state, change.old.as_ref(), new),
                Err(_) => indexes.give_up(),
            }
        }
    }

    /// Why no index can be used any more.
    pub(crate) fn unreadable(&self) -> Option<&UnreadableState> {
        let mut changes = self.0.iter().flatten();
        changes.find_map(|change| change.new.as_ref().err())
    }
}
