//! Device state in memory: keys, look-ups around writes, the cache's limit, dead generations.

use proptest::prelude::*;

use super::*;
use crate::log::record::{DeviceStateKey, DeviceStateKind};

const KIND: DeviceStateKind = DeviceStateKind::SUBSCRIPTIONS;

fn name<'a>(device: &'a str, generation: &'a str) -> DeviceStateKey<'a> {
    DeviceStateKey {
        kind: KIND,
        device,
        module: None,
        generation,
        item: b"",
    }
}

fn set(states: &mut DeviceStates, device: &str, value: Option<&[u8]>) {
    states.apply(
        7,
        &DeviceStateChange {
            key: name(device, "1"),
            value,
        },
    );
}

/// The value in memory; `None` when only the disk knows.
fn in_memory(states: &mut DeviceStates, device: &str) -> Option<Option<Bytes>> {
    match states.lookup(&encode_key(&name(device, "1"))) {
        Lookup::Known(record) => Some(record.map(|record| decode_record(&record).unwrap())),
        Lookup::OnDisk(_) => None,
    }
}

#[test]
fn a_value_is_readable_before_during_and_after_its_write() {
    let mut states = DeviceStates::new(1, 0);
    set(&mut states, "a", Some(b"1"));
    let one = Some(Some(Bytes::from_static(b"1")));
    assert_eq!(in_memory(&mut states, "a"), one);
    let writing = states.start_write();
    assert_eq!(writing.len(), 1);
    assert_eq!(in_memory(&mut states, "a"), one, "the write is in flight");
    set(&mut states, "a", None);
    assert_eq!(in_memory(&mut states, "a"), Some(None), "the newer change wins");
    states.written();
    assert_eq!(in_memory(&mut states, "a"), Some(None));
    assert_eq!(states.start_write().len(), 1);
    states.written();
    assert_eq!(in_memory(&mut states, "a"), None, "without a cache the disk knows");
}

#[test]
fn a_read_from_disk_that_a_change_has_overtaken_is_not_cached() {
    let mut states = DeviceStates::new(1, 10_000);
    let key = encode_key(&name("a", "1"));
    let Lookup::OnDisk(lookup) = states.lookup(&key) else {
        panic!("nothing is known");
    };
    set(&mut states, "a", Some(b"new"));
    states.start_write();
    states.written();
    states.found(lookup, key.clone().into(), None);
    assert_eq!(in_memory(&mut states, "a"), Some(Some(Bytes::from_static(b"new"))));
    let other = encode_key(&name("b", "1"));
    let Lookup::OnDisk(lookup) = states.lookup(&other) else {
        panic!("nothing is known");
    };
    states.found(lookup, other.into(), None);
    assert_eq!(in_memory(&mut states, "b"), Some(None), "that there is none is cached");
}

#[test]
fn the_cache_keeps_its_limit_and_drops_the_least_recently_used() {
    let limit = 4_000;
    let mut states = DeviceStates::new(1, limit);
    for device in 0..100 {
        set(&mut states, &format!("device-{device}"), Some(&[7; 200]));
        set(&mut states, "hot", Some(&[7; 200]));
        assert!(states.cached_bytes() <= limit);
    }
    states.start_write();
    states.written();
    assert!(states.cached_bytes() > limit / 2);
    assert!(in_memory(&mut states, "hot").is_some());
    assert!(in_memory(&mut states, "device-99").is_some());
    assert!(in_memory(&mut states, "device-1").is_none());
    set(&mut states, "large", Some(&[7; 5_000]));
    assert!(states.cached_bytes() <= limit, "a value above the limit is not cached");
}

#[test]
fn state_of_dead_generations_alone_is_removed() {
    let entries: Vec<_> = [("a", "1"), ("a", "2"), ("b", "1")]
        .map(|(device, generation)| DeviceStateEntry {
            key: encode_key(&name(device, generation)).into(),
            value: Bytes::new(),
        })
        .into();
    let liveness = |key: &DeviceStateKey<'_>| match (key.device, key.generation) {
        ("a", "1") => Liveness::Dead,
        _ => Liveness::Live,
    };
    let removed: Vec<_> = dead_states(&entries, liveness).collect();
    assert_eq!(
        removed,
        [DeviceStateChange {
            key: name("a", "1"),
            value: None
        }]
    );
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9.:$äß-]{0,12}"
}

proptest! {
    #[test]
    fn keys_read_back_and_sort_by_kind_and_device(
        kind in 1_u8..,
        (device, module, generation) in ("[a-z]{1,9}", text(), text()),
        item in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        let key = DeviceStateKey {
            kind: DeviceStateKind(kind),
            device: &device,
            module: Some(&module[..]).filter(|module| !module.is_empty()),
            generation: &generation,
            item: &item,
        };
        let bytes = encode_key(&key);
        prop_assert!(bytes.starts_with(&kind_prefix(key.kind)));
        prop_assert_eq!(decode_key(&bytes), Some(key));
    }

    #[test]
    fn no_bytes_panic_as_a_key(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Some(key) = decode_key(&bytes) {
            prop_assert_eq!(encode_key(&key), bytes);
        }
    }
}
