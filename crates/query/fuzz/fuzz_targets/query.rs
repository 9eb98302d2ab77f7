//! Any text as a query: no panic; what parses prints to a text that parses to the same; groups that are sent
//! arrive as they were.
#![no_main]

use std::sync::LazyLock;

use holdfast_query::{Aggregator, DocumentRow, Groups, Query, QueryErrorKind};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static DEVICES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    vec![
        json!({"deviceId": "d1", "status": "enabled", "tags": {"a": 1, "s": "x", "l": [1, "x", null], "b": true},
               "properties": {"desired": {"c": 10, "$version": 1}, "reported": {"c": 10.5, "t": "2026"}}}),
        json!({"deviceId": "d2", "statusReason": null, "tags": {"a": "1", "o": {"x": {"y": -3}}}}),
        json!({}),
    ]
});

fuzz_target!(|text: &str| {
    let query = match Query::parse(text) {
        Ok(query) => query,
        Err(error) => {
            assert!(error.to_string().len() < 1000);
            return;
        }
    };
    match Query::parse(&query.to_string()) {
        Ok(again) => assert_eq!(again, query),
        Err(error) => assert!(
            matches!(error.kind, QueryErrorKind::TooLong | QueryErrorKind::TooManyTerms),
            "{error}"
        ),
    }
    let _ = (query.lookups(), query.condition_fields(), query.output_fields());
    let mut aggregator = Aggregator::new(&query, None, 2);
    for device in DEVICES.iter() {
        let row = DocumentRow(device.as_object().expect("an object"));
        if query.selects(&row) {
            let _ = query.project(&row);
            if query.is_aggregate() {
                aggregator.add(&row);
            }
        }
    }
    let groups = aggregator.into_groups();
    assert_eq!(Groups::from_bytes(&groups.to_bytes(), &query).as_ref(), Ok(&groups));
    let mut whole = Aggregator::new(&query, None, 2);
    whole.merge(groups);
    let _ = whole.finish();
});
