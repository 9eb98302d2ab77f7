use std::sync::Arc;

use holdfast_model::{DeviceId, GenerationId, IdentityId, UnixMillis};
use holdfast_registry::TwinSeed;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::decide::{self, CheckedWrite, Written};
use super::document::Twin;
use super::history::{self, TwinVersion};
use super::limits::{SectionName, TwinRefusal};
use super::patch::{SectionWrite, WriteMode, parse_reported};
use super::stored::UnreadableTwin;

const NOW: UnixMillis = UnixMillis(1_795_429_230_123);
const NOW_TEXT: &str = "2026-11-23T10:20:30.1230000Z";

fn generation() -> GenerationId {
    // 2020-01-01T00:00:00Z.
    GenerationId(Arc::from("637134336000000000"))
}

fn device() -> IdentityId {
    IdentityId::device(DeviceId::parse("dev-1").unwrap())
}

fn empty() -> Twin {
    Twin::empty(&generation())
}

fn checked(mode: WriteMode, tags: Option<&Value>, desired: Option<&Value>) -> Result<CheckedWrite, TwinRefusal> {
    let section = |name, value: Option<&Value>| {
        let parsed = value.map(|value| SectionWrite::parse(name, mode, &value.to_string()));
        parsed.transpose()
    };
    Ok(CheckedWrite {
        mode,
        tags: section(SectionName::Tags, tags)?,
        desired: section(SectionName::Desired, desired)?,
        if_etag: None,
    })
}

fn write(twin: &Twin, mode: WriteMode, tags: Option<Value>, desired: Option<Value>) -> Result<Written, TwinRefusal> {
    let write = checked(mode, tags.as_ref(), desired.as_ref())?;
    decide::write(twin.clone(), write, NOW, 10)
}

fn desired(twin: &Twin, patch: Value) -> Written {
    write(twin, WriteMode::Merge, None, Some(patch)).unwrap()
}

fn report(twin: &Twin, patch: &Value) -> Result<Written, TwinRefusal> {
    decide::report(twin.clone(), parse_reported(patch.to_string().as_bytes())?, None, NOW)
}

#[test]
fn the_empty_twin_is_as_old_as_its_identity() {
    let twin = empty();
    assert_eq!((twin.version, &*twin.etag()), (1, "AAAAAAAAAAE="));
    let section = json!({"$metadata": {"$lastUpdated": "2020-01-01T00:00:00.0000000Z"}, "$version": 1});
    assert_eq!(twin.properties(), json!({"desired": section, "reported": section}));
    assert_eq!(
        twin.device_view().to_string(),
        r#"{"desired":{"$version":1},"reported":{"$version":1}}"#
    );
    let unknown = Twin::empty(&GenerationId(Arc::from("1")));
    assert_eq!(
        unknown.properties()["desired"]["$metadata"]["$lastUpdated"],
        "0001-01-01T00:00:00Z"
    );
}

#[test]
fn a_patch_merges_and_its_metadata_say_when_and_in_which_version() {
    let first = desired(&empty(), json!({"a": {"b": 1, "c": [1, {"d": null}]}, "keep": "x"})).twin;
    let second = desired(&first, json!({"a": {"b": null, "e": true}, "gone": null})).twin;
    let section = second.properties()["desired"].clone();
    let (one, two) = (
        json!({"$lastUpdated": NOW_TEXT, "$lastUpdatedVersion": 2}),
        json!({"$lastUpdated": NOW_TEXT, "$lastUpdatedVersion": 3}),
    );
    let mut of_a = two.clone();
    of_a["c"] = one.clone();
    of_a["e"] = two.clone();
    let mut metadata = two;
    metadata["a"] = of_a;
    metadata["keep"] = one;
    let expected = json!({"a": {"c": [1, {"d": null}], "e": true}, "keep": "x", "$metadata": metadata, "$version": 3});
    assert_eq!(section, expected);
    assert_eq!(
        (second.version, second.desired_version(), second.reported_version()),
        (3, 3, 1)
    );
    let reported = report(&second, &json!({"r": 1})).unwrap().twin;
    assert_eq!(
        reported.properties()["reported"]["$metadata"]["r"],
        json!({"$lastUpdated": NOW_TEXT})
    );
    assert_eq!(reported.etag(), second.etag(), "reports do not change the tag");
}

#[test]
fn a_replaced_section_is_new_and_the_others_stay() {
    let before = write(
        &empty(),
        WriteMode::Merge,
        Some(json!({"t": 1})),
        Some(json!({"a": 1, "b": 2})),
    );
    let before = before.unwrap().twin;
    assert_eq!((before.version, before.desired_version()), (2, 2), "one write");
    let after = write(&before, WriteMode::Replace, None, Some(json!({"b": 3, "n": null}))).unwrap();
    assert_eq!(after.twin.desired_view(), json!({"b": 3, "$version": 3}));
    assert_eq!(after.twin.tags()["t"], 1);
    assert_eq!(after.notification, Some((3, json!({"b": 3, "$version": 3}))));
    assert_eq!(after.event(&device()).operation, "replaceTwin");
    assert_eq!(after.event(&device()).body["deviceId"], "dev-1");
    assert_eq!(after.event(&device()).body["properties"], after.twin.properties());
    // A device merges what it gets: the Node SDK's own suite expects it to have nothing left.
    let merged = (json!({"b": null, "$version": 4}), "updateTwin");
    let replaced = (json!({"$version": 4}), "replaceTwin");
    for (mode, (notification, operation)) in [(WriteMode::Merge, merged), (WriteMode::Replace, replaced)] {
        let emptied = write(&after.twin, mode, Some(Value::Null), Some(Value::Null)).unwrap();
        assert!(emptied.twin.tags().is_empty());
        assert_eq!(emptied.twin.desired_view(), json!({"$version": 4}));
        assert_eq!(emptied.notification, Some((4, notification)));
        assert_eq!(emptied.event(&device()).operation, operation);
    }
}

#[test]
fn the_notification_is_the_patch_and_the_event_adds_the_metadata() {
    let twin = desired(&empty(), json!({"u": 1})).twin;
    let written = desired(&twin, json!({"t": 5, "u": null, "$version": 99, "$metadata": {"x": 1}}));
    let (version, body) = written.notification.clone().unwrap();
    assert_eq!((version, &*body.to_string()), (3, r#"{"t":5,"u":null,"$version":3}"#));
    let stamp = json!({"$lastUpdated": NOW_TEXT, "$lastUpdatedVersion": 3});
    let mut metadata = stamp.clone();
    metadata["t"] = stamp;
    assert_eq!(
        written.event(&device()).body,
        json!({"version": 3, "properties": {"desired": {"t": 5, "u": null, "$metadata": metadata, "$version": 3}}})
    );
    assert_eq!(written.event(&device()).operation, "updateTwin");
    let written = report(&written.twin, &json!({"r": {"s": 1}})).unwrap();
    assert_eq!(written.notification, None);
    assert_eq!(written.event(&device()).body["version"], 3);
    assert_eq!(written.event(&device()).body["properties"]["reported"]["$version"], 2);
}

#[test]
fn a_write_that_changes_nothing_counts() {
    let twin = desired(&empty(), json!({"a": 1})).twin;
    let again = desired(&twin, json!({"a": 1}));
    assert_eq!(again.twin.desired_version(), 3);
    assert!(again.notification.is_some());
}

#[test]
fn a_condition_is_the_exact_tag() {
    let conditional = |etag: &str| {
        let mut write = checked(WriteMode::Merge, None, Some(&json!({}))).unwrap();
        write.if_etag = Some(etag.to_owned());
        decide::write(empty(), write, NOW, 10)
    };
    assert!(conditional(&empty().etag()).is_ok());
    let refused = conditional("AAAAAAAAAAI=").unwrap_err();
    assert_eq!(refused.code().number(), 412_001);
    let refused = decide::report(empty(), Map::new(), Some(2), NOW).unwrap_err();
    assert_eq!(refused.code().number(), 412_001);
    assert!(decide::report(empty(), Map::new(), Some(1), NOW).is_ok());
}

/// The number and text of the refusal of a report.
fn refusal(body: &[u8]) -> (u32, String) {
    let refused = parse_reported(body).and_then(|patch| decide::report(empty(), patch, None, NOW));
    let refused = refused.expect_err("a refusal");
    (refused.code().number(), refused.to_string())
}

#[test]
fn what_a_twin_cannot_hold_is_refused_with_path_size_and_limit() {
    let levels = |count: usize| format!("{}1{}", "{\"k\":".repeat(count + 1), "}".repeat(count + 1));
    assert!(parse_reported(levels(10).as_bytes()).is_ok());
    let long_key = format!("{{\"a\":{{\"{}\":1}}}}", "k".repeat(1025));
    for (body, number, text) in [
        (levels(11).as_str(), 400_004, "more than 10 levels"),
        (r#"{"a":{"b.c":1}}"#, 400_004, "properties.reported.a.b.c"),
        (r#"{"a b":1}"#, 400_004, "' '"),
        (r#"{"$x":1}"#, 400_004, "'$'"),
        (r#"{"a":[{"$x":1}]}"#, 400_004, "properties.reported.a.[].$x"),
        (r#"{"a\u0007":1}"#, 400_004, "control characters"),
        (r#"{"":1}"#, 400_004, "must not be empty"),
        (&long_key, 400_004, "1025 bytes, at most 1024"),
        (r#"{"a":4503599627370496}"#, 400_004, "4503599627370496 is outside"),
        (r#"{"a":-4503599627370497}"#, 400_004, "outside"),
        (r#"{"a":18446744073709551615}"#, 400_004, "outside"),
        ("[1]", 400_006, "arrays and plain values"),
        ("null", 400_006, "must be a JSON object"),
        ("7", 400_006, "must be a JSON object"),
        (r#"{"a":1,"a":2}"#, 400_006, "duplicate key"),
        ("{", 400_006, "not valid JSON"),
    ] {
        let (found, message) = refusal(body.as_bytes());
        assert_eq!(found, number, "{body}: {message}");
        assert!(message.contains(text), "{body}: {message}");
    }
    assert_eq!(refusal(b"{\"a\":\"\xff\"}").0, 400_006);
    let (number, text) = refusal(json!({"a": "x".repeat(4097)}).to_string().as_bytes());
    assert!(number == 400_004 && text.contains("4097 bytes, at most 4096"), "{text}");
    for fits in [
        json!({"a": "x".repeat(4096)}),
        json!({"a": [4_503_599_627_370_495_i64, -4_503_599_627_370_496_i64, 1.5, 1e300]}),
    ] {
        let twin = report(&empty(), &fits).unwrap().twin;
        assert_eq!(twin.reported.root.to_value(), fits);
    }
}

#[test]
fn each_section_has_its_size_counted_without_syntax() {
    // 8 keys of 1 byte and values of 4095 bytes: exactly 32 KiB.
    let full = |count: usize| -> Value {
        let entries = (0..count).map(|number| (number.to_string(), json!("x".repeat(4095))));
        Value::Object(entries.collect())
    };
    let twin = report(&empty(), &full(8)).unwrap().twin;
    let refused = report(&twin, &json!({"n": 1})).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "properties.reported would have 32777 bytes, at most 32768 are allowed"
    );
    assert_eq!(refused.code().number(), 413_001);
    assert!(report(&twin, &json!({"0": null, "n": 1})).is_ok(), "room was made");
    let refused = write(&empty(), WriteMode::Merge, Some(full(3)), Some(json!({"a": 1}))).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "tags would have 12288 bytes, at most 8192 are allowed"
    );
    assert!(write(&empty(), WriteMode::Merge, Some(full(2)), Some(full(8))).is_ok());
    let control = json!({"a": "\u{1}".repeat(4096), "b": "\u{1}".repeat(4096), "c": [null, true, 1]});
    assert_eq!(
        report(&empty(), &control).unwrap().twin.reported.root.size(),
        3 + 4 + 4 + 8
    );
}

#[test]
fn the_history_has_the_versions_before_within_its_limit() {
    let mut twin = empty();
    let mut stored = std::collections::BTreeMap::new();
    let mut step = |twin: &mut Twin, limit: u64| {
        let patch = checked(WriteMode::Merge, None, Some(&json!({"v": twin.version}))).unwrap();
        let written = decide::write(twin.clone(), patch, NOW, limit).unwrap();
        for (version, value) in written.history {
            match value {
                Some(value) => {
                    stored.insert(version, value);
                }
                None => {
                    stored.remove(&version);
                }
            }
        }
        *twin = written.twin;
        (stored.keys().copied().collect::<Vec<_>>(), stored.clone())
    };
    for _ in 0..5 {
        step(&mut twin, 3);
    }
    let (versions, values) = step(&mut twin, 3);
    assert_eq!((twin.version, versions), (7, vec![4, 5, 6]));
    assert_eq!(history::kept(&twin, 3), 4..7);
    let entry = TwinVersion::decode(&values[&6]).unwrap().document();
    assert_eq!(
        entry,
        json!({"version": 6, "etag": "AAAAAAAAAAY=", "updatedTime": NOW_TEXT, "tags": {}, "desired": {"v": 5, "$version": 6}})
    );
    // A smaller limit, a larger one, and none.
    assert_eq!(step(&mut twin, 1).0, [7]);
    for _ in 0..30 {
        step(&mut twin, 20);
    }
    let (versions, _) = step(&mut twin, 20);
    assert_eq!((versions.len(), history::kept(&twin, 20).count()), (20, 20));
    let (versions, _) = step(&mut twin, 0);
    assert_eq!(versions.len(), 4, "16 at a time");
    assert!(step(&mut twin, 0).0.is_empty());
    assert!(history::kept(&twin, 0).is_empty());
}

#[test]
fn content_given_with_the_creation_is_the_first_write() {
    let seed = TwinSeed {
        tags: Some(r#"{"site":"B"}"#.to_owned()),
        desired: Some(r#"{"rate":1}"#.to_owned()),
        reported: None,
    };
    let twin = decide::current(None, &device(), &generation(), Some(&seed)).unwrap();
    assert_eq!(
        (twin.version, twin.desired_view()),
        (2, json!({"rate": 1, "$version": 2}))
    );
    assert_eq!(twin.tags()["site"], "B");
    let invalid = TwinSeed {
        tags: Some("[]".to_owned()),
        ..seed.clone()
    };
    let twin = decide::current(None, &device(), &generation(), Some(&invalid)).unwrap();
    assert!(twin.tags().is_empty() && twin.desired_version() == 2);
    let stored = desired(&empty(), json!({})).twin.encode();
    let twin = decide::current(Some(&stored), &device(), &generation(), Some(&seed)).unwrap();
    assert!(twin.tags().is_empty(), "a stored twin counts");
}

#[test]
fn stored_bytes_never_change() {
    let twin = write(
        &empty(),
        WriteMode::Merge,
        Some(json!({"t": "x"})),
        Some(json!({"a": {"b": 1}})),
    )
    .unwrap()
    .twin;
    let bytes = twin.encode();
    #[rustfmt::skip]
    let expected: &[u8] = &[
        0x08, 1, 0x10, 2, 0x19, 0x2b, 0xe6, 0xeb, 0x07, 0xa2, 1, 0, 0, 0x20, 1,
        0x2a, 9, b'{', b'"', b't', b'"', b':', b'"', b'x', b'"', b'}',
        0x32, 35, 0x08, 2, 0x12, 13, b'{', b'"', b'a', b'"', b':', b'{', b'"', b'b', b'"', b':', b'1', b'}', b'}',
        0x1a, 11, 0x09, 0x2b, 0xe6, 0xeb, 0x07, 0xa2, 1, 0, 0, 0x10, 2, 0x22, 3, 0, 0, 0,
        0x3a, 16, 0x08, 1, 0x1a, 9, 0x09, 0, 0xe8, 0x66, 0x5e, 0x6f, 1, 0, 0, 0x22, 1, 0,
    ];
    assert_eq!(bytes, expected, "{bytes:02x?}");
    assert_eq!(Twin::decode(&bytes).unwrap(), twin);
}

#[test]
fn a_value_that_cannot_be_read_is_an_error() {
    let good = desired(&empty(), json!({"a": 1})).twin.encode();
    assert!(matches!(Twin::decode(&[8, 2]), Err(UnreadableTwin::Version(2))));
    assert!(matches!(Twin::decode(&[8, 1]), Err(UnreadableTwin::Inconsistent)));
    for length in 1..good.len() {
        assert!(Twin::decode(&good[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_twin_of_500_bytes_is_stored_in_less_than_1024() {
    let mut twin = empty();
    for number in 0..20 {
        let patch = json!({format!("property-{number}"): "0123456789"});
        twin = report(&twin, &patch).unwrap().twin;
    }
    twin = write(
        &twin,
        WriteMode::Merge,
        Some(json!({"site": "hall-7", "line": 12})),
        Some(json!({"interval": 30})),
    )
    .unwrap()
    .twin;
    let size = twin.reported.root.size() + 40;
    assert!((450..550).contains(&size), "{size}");
    assert!(twin.encode().len() <= 1024, "{}", twin.encode().len());
}

/// JSON objects that a twin takes.
fn content() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 52)..(1 << 52)).prop_map(Value::from),
        "[ -~\u{0}-\u{1f}äß✓]{0,12}".prop_map(Value::from),
        prop::collection::vec(any::<i32>(), 0..3).prop_map(Value::from),
    ];
    let key = "[a-eA-E_\\-äß✓]{1,3}";
    let object = leaf.prop_recursive(4, 32, 5, move |inner| {
        prop::collection::btree_map(key, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    prop::collection::btree_map(key, object, 0..6).prop_map(|map| Value::Object(map.into_iter().collect()))
}

/// RFC 7396, as it is written there.
fn merge_patch(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut merged = target.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        if value.is_null() {
            merged.remove(name);
        } else {
            let before = merged.get(name).cloned().unwrap_or(Value::Null);
            merged.insert(name.clone(), merge_patch(&before, value));
        }
    }
    Value::Object(merged)
}

/// Every property has metadata of its own, no newer than that of its object, and nothing else has.
fn check_metadata(value: &Value, metadata: &Value) {
    let stamp = |of: &Value| of["$lastUpdatedVersion"].as_u64().unwrap_or(0);
    let names = |of: &Value| -> Vec<String> {
        let keys = of.as_object().into_iter().flat_map(Map::keys);
        let mut names: Vec<_> = keys.filter(|key| !key.starts_with('$')).cloned().collect();
        names.sort_unstable();
        names
    };
    assert!(metadata["$lastUpdated"].is_string());
    assert_eq!(names(value), names(metadata), "{value} {metadata}");
    for name in names(value) {
        assert!(stamp(&metadata[&name]) <= stamp(metadata));
        check_metadata(&value[&name], &metadata[&name]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn patches_merge_as_the_standard_says_and_survive_storing(patches in prop::collection::vec(content(), 1..6)) {
        let mut twin = empty();
        let mut model = json!({});
        for (number, patch) in patches.iter().enumerate() {
            let written = desired(&twin, patch.clone());
            model = merge_patch(&model, patch);
            twin = written.twin;
            prop_assert_eq!(twin.desired_version(), number as u64 + 2);
            prop_assert_eq!(&twin.desired.root.to_value(), &model);
            let document = twin.properties()["desired"].clone();
            check_metadata(&model, &document["$metadata"]);
            prop_assert_eq!(&Twin::decode(&twin.encode()).unwrap(), &twin);
            let (_, body) = written.notification.unwrap();
            // A device that applies the notification has the same properties.
            let mut notified = body;
            notified.as_object_mut().unwrap().remove("$version");
            prop_assert_eq!(&notified, patch);
        }
    }

    #[test]
    fn nothing_that_is_sent_or_stored_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[{}\\[\\]\":,a$0-9.e-]{0,24}") {
        let _ = parse_reported(&bytes);
        if let Ok(patch) = parse_reported(text.as_bytes()) {
            let _ = decide::report(empty(), patch, None, NOW);
        }
        let _ = Twin::decode(&bytes);
        let _ = TwinVersion::decode(&bytes);
    }
}
