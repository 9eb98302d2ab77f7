//! Aggregates in parts and pages.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::parse;
use crate::{Aggregator, DocumentRow, GroupKey, Groups, Query};

const QUERY: &str = "SELECT tags.k AS k, COUNT() AS n, SUM(tags.v) AS s, AVG(tags.v) AS a, MIN(tags.v) AS least, \
                     MAX(tags.v) AS most FROM devices GROUP BY tags.k";

fn add(aggregator: &mut Aggregator<'_>, documents: &[Json]) {
    for document in documents {
        aggregator.add(&DocumentRow(document.as_object().unwrap()));
    }
}

/// All results, in pages of `limit`, the rows spread over `owners`.
fn in_pages(query: &Query, documents: &[Json], owners: usize, limit: usize) -> Vec<Json> {
    let mut results = Vec::new();
    let mut after: Option<GroupKey> = None;
    loop {
        let mut whole = Aggregator::new(query, after.clone(), limit);
        for owner in 0..owners {
            let mut part = Aggregator::new(query, after.clone(), limit);
            let rows: Vec<Json> = documents.iter().skip(owner).step_by(owners).cloned().collect();
            add(&mut part, &rows);
            let bytes = part.into_groups().to_bytes();
            whole.merge(Groups::from_bytes(&bytes, query).unwrap());
        }
        let (page, next) = whole.finish();
        assert!(page.len() <= limit);
        results.extend(page);
        match next {
            Some(key) => after = Some(GroupKey::of(key.as_str())),
            None => return results,
        }
    }
}

fn value() -> impl Strategy<Value = Json> {
    prop_oneof![
        (-50_i64..50).prop_map(Json::from),
        "[a-c]{0,2}".prop_map(Json::from),
        Just(Json::Null),
        Just(json!({"o": 1})),
        Just(json!(true)),
    ]
}

proptest! {
    #[test]
    fn parts_and_pages_have_the_results_of_one_pass(
        rows in prop::collection::vec((prop::option::of(value()), prop::option::of(value())), 0..60),
        owners in 1_usize..4,
        limit in 1_usize..5,
    ) {
        let query = parse(QUERY);
        let documents: Vec<Json> = rows
            .into_iter()
            .map(|(key, value)| {
                let mut tags = serde_json::Map::new();
                key.into_iter().for_each(|key| { tags.insert("k".to_owned(), key); });
                value.into_iter().for_each(|value| { tags.insert("v".to_owned(), value); });
                json!({"tags": tags})
            })
            .collect();
        let mut whole = Aggregator::new(&query, None, usize::MAX);
        add(&mut whole, &documents);
        let (expected, next) = whole.finish();
        prop_assert_eq!(next, None);
        prop_assert_eq!(in_pages(&query, &documents, owners, limit), expected);
    }
}

#[test]
fn groups_with_large_keys_are_paged_by_their_bytes() {
    let query = parse("SELECT tags.k AS k, COUNT() AS n FROM devices GROUP BY tags.k");
    let documents: Vec<Json> = (0..40)
        .map(|index| json!({"tags": {"k": format!("{index:02}{}", "x".repeat(300_000))}}))
        .collect();
    let mut page = Aggregator::new(&query, None, 1000);
    add(&mut page, &documents);
    let (results, next) = page.finish();
    assert!((2..40).contains(&results.len()), "{}", results.len());
    assert!(next.is_some());
    assert_eq!(in_pages(&query, &documents, 3, 1000).len(), 40);
}

#[test]
fn aggregates_of_no_row_are_one_result() {
    let query = parse("SELECT COUNT() AS n, SUM(tags.v) AS s, MIN(tags.v) FROM devices");
    assert_eq!(
        Aggregator::new(&query, None, 10).finish(),
        (vec![json!({"n": 0})], None)
    );
    let grouped = parse(QUERY);
    assert_eq!(Aggregator::new(&grouped, None, 10).finish(), (vec![], None));
}

#[test]
fn groups_of_another_query_are_refused() {
    let query = parse(QUERY);
    let other = parse("SELECT COUNT() AS n FROM devices");
    let mut aggregator = Aggregator::new(&query, None, 10);
    add(&mut aggregator, &[json!({"tags": {"k": 1, "v": 2}})]);
    let bytes = aggregator.into_groups().to_bytes();
    assert!(Groups::from_bytes(&bytes, &query).is_ok());
    assert!(Groups::from_bytes(&bytes, &other).is_err());
    for bad in [
        "",
        "null",
        "[]",
        "[null]",
        "[1,[]]",
        "[null,[[1,[]]]]",
        "[null,[[\"k\",[1,2,3,4,5]]]]",
    ] {
        assert!(Groups::from_bytes(bad.as_bytes(), &query).is_err(), "{bad}");
    }
}
