//! An index never leaves out a value that its condition selects; declarations are checked.

use holdfast_config::Section as _;
use holdfast_partition::record::{DeviceStateKey, DeviceStateKind};
use holdfast_query::{DocumentRow, Query, Value};
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::choice::IndexChoice;
use super::declared::{TwinIndexes, problem};
use super::encode::{MAX_STRING_BYTES, encode};

fn declared(paths: &[&str]) -> TwinIndexes {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(problem(&paths), None);
    TwinIndexes::of(&paths)
}

fn choice(condition: &str, paths: &[&str]) -> Option<IndexChoice> {
    let query = Query::parse(&format!("SELECT * FROM devices WHERE {condition}")).unwrap();
    IndexChoice::of(&query, &declared(paths))
}

#[test]
fn a_declaration_is_checked_in_words_that_help() {
    let of = |paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        problem(&paths).unwrap_or_default()
    };
    for valid in [
        "tags.site",
        "devices.tags.site",
        "tags.[[my-key]].a",
        "properties.desired.list[2]",
        "properties.reported.fw",
    ] {
        assert_eq!(of(&[valid]), "", "{valid}");
    }
    let paths = "must be a list of paths below tags, properties.desired or properties.reported, found ";
    for other in [
        "tags",
        "deviceId",
        "properties.desired",
        "properties.fw",
        "colour.a",
        "tags[0]",
    ] {
        assert_eq!(of(&[other]), format!("{paths}{other}"));
    }
    assert_eq!(
        of(&["properties.reported.$version"]),
        "must not have paths of metadata, found properties.reported.$version"
    );
    assert_eq!(
        of(&["tags.a", "Tags.[[a]]"]),
        "must name each path once, found Tags.[[a]] twice"
    );
    assert_eq!(
        of(&["tags.a b"]),
        "must be a list of paths; \"tags.a b\": line 1, column 8: \"b\" where the end of the path is expected"
    );
    let many: Vec<String> = (0..17).map(|number| format!("tags.a{number}")).collect();
    assert_eq!(problem(&many), Some("must have at most 16 paths, found 17".to_owned()));
    let long = format!("tags.{}", "a".repeat(600));
    assert_eq!(of(&[&long]), "must have paths of at most 512 characters");
    let config = crate::TwinsConfig {
        indexes: vec!["deviceId".to_owned()],
        ..crate::TwinsConfig::default()
    };
    let refusal = config.validate().unwrap_err().to_string();
    assert_eq!(refusal, format!("twins.indexes: {paths}deviceId"));
}

#[test]
fn an_equality_is_preferred_and_what_may_be_missing_has_no_index() {
    let index = |condition: &str| choice(condition, &["tags.a", "tags.b"]).map(|choice| choice.name);
    assert_eq!(index("tags.a > 1 AND tags.b = 1").as_deref(), Some("tags.b"));
    assert_eq!(index("tags.a > 1 AND tags.c = 1").as_deref(), Some("tags.a"));
    assert_eq!(
        index("tags.b IN ['x', 1] AND NOT tags.a = 1").as_deref(),
        Some("tags.b")
    );
    assert_eq!(index("tags.a = 1 OR tags.a = null").as_deref(), Some("tags.a"));
    assert_eq!(index("STARTSWITH(tags.a, 'x')").as_deref(), Some("tags.a"));
    for none in [
        "tags.a = 1 OR tags.b = 1",
        "tags.a != 1",
        "NOT tags.a = 1",
        "tags.a NIN [1]",
        "tags.c = 1",
        "IS_DEFINED(tags.a)",
        "tags.a.b = 1",
        "LOWER(tags.a) = 'x'",
        "tags.a = 1 / 0",
    ] {
        assert_eq!(index(none), None, "{none}");
    }
    let values: Vec<String> = (0..200).map(|value| value.to_string()).collect();
    assert_eq!(
        index(&format!("tags.a IN [{}]", values.join(", "))),
        None,
        "too many values"
    );
}

#[test]
fn contradicting_ranges_find_nothing() {
    for condition in [
        "tags.a > 5 AND tags.a < 3",
        "tags.a > 5 AND tags.a < 'x'",
        "tags.a > undefined",
        "tags.a = undefined",
        "tags.a IN []",
    ] {
        let choice = choice(condition, &["tags.a"]).unwrap();
        for value in [json!(4), json!("a"), json!(null), json!(true)] {
            assert!(!has(&choice, &value), "{condition}: {value}");
        }
    }
}

/// Whether the index finds a device with this value.
fn has(choice: &IndexChoice, value: &Json) -> bool {
    // As the content of a twin that was never written.
    let seed = holdfast_registry::TwinSeed {
        tags: Some(json!({"a": value}).to_string()),
        desired: None,
        reported: None,
    };
    choice.may_select(&seed)
}

#[test]
fn stored_bytes_never_change() {
    let of = |value: Json| encode(&Value::of(&value));
    assert_eq!(of(json!(null)), Some(vec![1]));
    assert_eq!(of(json!(false)), Some(vec![2]));
    assert_eq!(of(json!(true)), Some(vec![3]));
    assert_eq!(of(json!(1)), Some(vec![4, 0xbf, 0xf0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(of(json!(-1)), Some(vec![4, 0x40, 0x0f, 255, 255, 255, 255, 255, 255]));
    assert_eq!(of(json!(-0.0)), of(json!(0)));
    assert_eq!(of(json!("a\0b")), Some(vec![5, b'a', 0, 0xff, b'b', 0, 1]));
    assert_eq!(of(json!("x".repeat(10_000))).unwrap().len(), MAX_STRING_BYTES + 3);
    assert_eq!((of(json!([1])), of(json!({}))), (None, None));
}

#[test]
fn a_twin_that_cannot_be_read_is_an_error() {
    use holdfast_partition::state::StateIndexer as _;
    let config = crate::TwinsConfig {
        indexes: vec!["tags.a".to_owned()],
        ..crate::TwinsConfig::default()
    };
    assert!(super::twin_indexing(&config).is_some());
    assert!(super::twin_indexing(&crate::TwinsConfig::default()).is_none());
    let indexer = super::indexer::TwinIndexer::new(&declared(&["tags.a"]));
    let key = DeviceStateKey {
        kind: DeviceStateKind::TWIN,
        device: "d",
        module: None,
        generation: "1",
        item: b"",
    };
    for damaged in [&b"\x08\x63"[..], b"\xff", b""] {
        assert!(indexer.index(&key, damaged, &mut |_, _| {}).is_err(), "{damaged:?}");
    }
}

fn text() -> impl Strategy<Value = String> {
    let long = (0..4_usize, "[ab\u{0}ß]{0,3}").prop_map(|(more, end)| "x".repeat(MAX_STRING_BYTES - 2 + more) + &end);
    prop_oneof!["[ab\u{0}\u{1}ÿ]{0,4}", long]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        (-3..4_i32).prop_map(f64::from),
        Just(-0.0),
        Just(1e300),
        Just(-1e300),
        Just(0.1),
        any::<f64>().prop_filter("JSON has no others", |number| number.is_finite()),
    ]
}

fn scalar() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        number().prop_map(Json::from),
        text().prop_map(Json::from),
    ]
}

fn value() -> impl Strategy<Value = Json> {
    prop_oneof![
        8 => scalar(),
        1 => proptest::collection::vec(scalar(), 0..2).prop_map(Json::from),
        1 => scalar().prop_map(|inner| json!({"a": inner})),
    ]
}

fn document(tags: &Json) -> Map<String, Json> {
    Map::from_iter([("tags".to_owned(), tags.clone())])
}

/// As a constant of the language.
fn constant(value: &Json) -> String {
    match value {
        Json::String(text) => {
            let escaped = text.chars().map(|c| match c {
                '\'' | '\\' => format!("\\{c}"),
                c if (c as u32) < 32 => format!("\\u{:04x}", c as u32),
                c => c.to_string(),
            });
            format!("'{}'", escaped.collect::<String>())
        }
        other => other.to_string(),
    }
}

fn condition() -> impl Strategy<Value = String> {
    let compared = (
        prop_oneof![Just("="), Just("<"), Just("<="), Just(">"), Just(">=")],
        scalar(),
    );
    let comparison = compared.prop_map(|(operator, value)| format!("tags.a {operator} {}", constant(&value)));
    let list = proptest::collection::vec(scalar(), 0..4).prop_map(|list| {
        format!(
            "tags.a IN [{}]",
            list.iter().map(constant).collect::<Vec<_>>().join(", ")
        )
    });
    let prefix = text().prop_map(|text| format!("STARTSWITH(tags.a, {})", constant(&json!(text))));
    let single = prop_oneof![4 => comparison, 1 => list, 2 => prefix];
    proptest::collection::vec(single, 1..4).prop_map(|parts| parts.join(" AND "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_a_condition_selects_its_index_has(condition in condition(), values in proptest::collection::vec(value(), 1..12)) {
        let query = Query::parse(&format!("SELECT * FROM devices WHERE {condition}")).unwrap();
        let choice = choice(&condition, &["tags.a"]).unwrap();
        for value in values {
            if query.selects(&DocumentRow(&document(&json!({"a": value})))) {
                prop_assert!(has(&choice, &value), "{condition}: {value}");
            }
        }
        prop_assert!(!query.selects(&DocumentRow(&document(&json!({})))), "{condition} of nothing");
    }

    #[test]
    fn the_order_of_forms_is_that_of_values_and_none_is_the_begin_of_another(
        (one, other) in prop_oneof![
            (number(), number()).prop_map(|(one, other)| (json!(one), json!(other))),
            (text(), text()).prop_map(|(one, other)| (json!(one), json!(other))),
        ],
    ) {
        let (first, second) = (encode(&Value::of(&one)).unwrap(), encode(&Value::of(&other)).unwrap());
        prop_assert_eq!(first == second || !second.starts_with(&first), true);
        let ordering = match (&one, &other) {
            (Json::Number(one), Json::Number(other)) => one.as_f64().partial_cmp(&other.as_f64()).unwrap(),
            (Json::String(one), Json::String(other)) => one.cmp(other),
            _ => unreachable!(),
        };
        // Long strings may have the same form.
        prop_assert!(first == second || first.cmp(&second) == ordering, "{} {}", one, other);
        prop_assert!(ordering.is_ne() || first == second);
    }
}
