//! Indexes in memory: what is set, removed and written, and what a new declaration changes.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::partition::v1 as proto;
use prost::Message as _;

use super::*;
use crate::log::record::DeviceStateKey;
use crate::state::device_state::encode_key;

/// The first byte of a value is its entry in the index `first`, the second one in `second`.
struct Letters(Vec<String>);

impl StateIndexer for Letters {
    fn kind(&self) -> DeviceStateKind {
        DeviceStateKind::TWIN
    }

    fn encoding(&self) -> u32 {
        7
    }

    fn names(&self) -> Vec<String> {
        self.0.clone()
    }

    fn index(
        &self,
        _: &DeviceStateKey<'_>,
        state: &[u8],
        found: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), UnreadableState> {
        for (place, letter) in state.chunks(1).enumerate() {
            found(place, letter);
        }
        Ok(())
    }
}

fn indexes(names: &[&str], stored: Option<proto::ValueIndexState>) -> ValueIndexes {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    ValueIndexes::new(Arc::new(ValueIndexing::new(Letters(names))), stored)
}

fn state(device: &str) -> Vec<u8> {
    encode_key(&DeviceStateKey {
        kind: DeviceStateKind::TWIN,
        device,
        module: None,
        generation: "1",
        item: b"",
    })
}

fn derived(letters: &'static [u8]) -> Derived {
    letters.chunks(1).map(Bytes::from_static).enumerate().collect()
}

/// Value, device and whether it is set, of the entries that are not on disk.
fn unwritten(indexes: &ValueIndexes) -> Vec<(u8, String, bool)> {
    let changes = indexes.unflushed(&[], &[0xff]);
    let entries = changes.iter().map(|(entry, change)| {
        let state = IndexedState(entry.state(1).unwrap());
        let device = state.key().unwrap().device.to_owned();
        (entry.value(1).unwrap()[0], device, *change != EntryChange::Removed)
    });
    entries.collect()
}

fn built(names: &[&str]) -> ValueIndexes {
    let mut indexes = indexes(names, None);
    indexes.built(None);
    indexes
}

fn stored(indexes: &mut ValueIndexes) -> proto::ValueIndexState {
    let write = indexes.start_write();
    indexes.written();
    proto::ValueIndexState::decode(&write.state.unwrap()[..]).unwrap()
}

#[test]
fn a_change_moves_an_entry() {
    let mut indexes = built(&["first"]);
    indexes.apply(&state("a"), Some(&derived(b"")), &derived(b"x"));
    assert_eq!(unwritten(&indexes), [(b'x', "a".to_owned(), true)]);
    indexes.start_write();
    indexes.apply(&state("a"), Some(&derived(b"x")), &derived(b"y"));
    let expected = [(b'x', "a".to_owned(), false), (b'y', "a".to_owned(), true)];
    assert_eq!(
        unwritten(&indexes),
        expected,
        "the newer change wins over that being written"
    );
    indexes.written();
    indexes.apply(&state("a"), Some(&derived(b"y")), &derived(b"x"));
    let expected = [(b'x', "a".to_owned(), true), (b'y', "a".to_owned(), false)];
    assert_eq!(unwritten(&indexes), expected);
    indexes.start_write();
    indexes.written();
    assert_eq!(unwritten(&indexes), []);
    indexes.apply(&state("a"), Some(&derived(b"x")), &derived(b"x"));
    assert_eq!(unwritten(&indexes), [], "an entry that is there is not written again");
}

#[test]
fn an_entry_is_set_again_while_its_index_is_being_built() {
    let mut indexes = indexes(&["first"], None);
    indexes.apply(&state("a"), Some(&derived(b"x")), &derived(b"x"));
    assert_eq!(unwritten(&indexes), [(b'x', "a".to_owned(), true)]);
}

#[test]
fn a_change_whose_old_value_is_not_in_memory_may_leave_an_outdated_entry() {
    let mut indexes = built(&["first"]);
    for _ in 0..1025 {
        indexes.apply(&state("a"), None, &derived(b"x"));
    }
    assert!(indexes.needs_sweep());
    let before = indexes.outdated();
    indexes.apply(&state("a"), None, &derived(b"x"));
    indexes.swept(1, before);
    assert_eq!(indexes.outdated(), 1, "what came during the sweep");
    assert!(!indexes.needs_sweep());
}

#[test]
fn a_sweep_does_not_remove_what_was_set_since() {
    let mut indexes = built(&["first"]);
    indexes.apply(&state("a"), None, &derived(b"x"));
    let (entry, _) = indexes.unflushed(&[], &[0xff]).pop_first().unwrap();
    indexes.remove_outdated(entry.clone());
    assert_eq!(unwritten(&indexes), [(b'x', "a".to_owned(), true)]);
    indexes.start_write();
    indexes.remove_outdated(entry.clone());
    assert_eq!(unwritten(&indexes), [(b'x', "a".to_owned(), true)]);
    indexes.written();
    indexes.remove_outdated(entry);
    assert_eq!(unwritten(&indexes), [(b'x', "a".to_owned(), false)]);
}

#[test]
fn a_declaration_keeps_what_is_complete_and_builds_what_is_new() {
    let mut before = built(&["first", "second"]);
    let kept = before.number_of("second").unwrap();
    let mut after = indexes(&["second", "third"], Some(stored(&mut before)));
    assert_eq!(after.number_of("second"), Some(kept));
    assert_eq!((after.number_of("first"), after.number_of("third")), (None, None));
    assert_eq!(*after.progress(), IndexProgress::Building(Bytes::new()));
    let dropped = after.start_write().dropped;
    assert_eq!(dropped, [before.number_of("first").unwrap()]);
    after.written();
    assert_eq!(after.start_write().dropped, Vec::<u32>::new());
    after.built(None);
    let third = after.number_of("third").unwrap();
    assert!(third != kept && !dropped.contains(&third), "numbers are not used again");
}

#[test]
fn building_continues_where_it_was_and_a_new_index_begins_again() {
    let mut before = indexes(&["first"], None);
    before.built(Some(Bytes::from_static(b"place")));
    let stored = stored(&mut before);
    let again = indexes(&["first"], Some(stored.clone()));
    assert_eq!(*again.progress(), IndexProgress::Building(Bytes::from_static(b"place")));
    let more = indexes(&["first", "second"], Some(stored.clone()));
    assert_eq!(*more.progress(), IndexProgress::Building(Bytes::new()));
    let other = proto::ValueIndexState { encoding: 6, ..stored };
    let other = indexes(&["first"], Some(other));
    assert_eq!(
        *other.progress(),
        IndexProgress::Building(Bytes::new()),
        "of another encoding"
    );
}

#[test]
fn a_value_that_cannot_be_read_makes_all_indexes_incomplete() {
    let mut before = built(&["first"]);
    before.give_up();
    assert_eq!(before.number_of("first"), None);
    let again = indexes(&["first"], Some(stored(&mut before)));
    assert_eq!(*again.progress(), IndexProgress::Building(Bytes::new()));
}

#[test]
fn stored_bytes_never_change() {
    let mut indexes = built(&["first"]);
    indexes.apply(&state("d"), Some(&derived(b"")), &derived(b"x"));
    let write = indexes.start_write();
    let (entry, change) = write.entries.first_key_value().unwrap();
    assert_eq!(entry.0[..], [0, 0, 0, 0, b'x', 4, b'd', 0, 0, b'1', 0]);
    assert_eq!(*change, EntryChange::Set(1));
    let expected = [
        &[0x08, 1, 0x10, 7, 0x1a, 9, 0x12, 5][..],
        b"first",
        &[0x18, 1, 0x20, 1, 0x30, 1],
    ];
    assert_eq!(write.state.unwrap(), expected.concat());
}
