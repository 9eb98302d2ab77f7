//! Printing and reading again.

use proptest::prelude::*;

use crate::{DocumentRow, Query, QueryErrorKind};

fn words() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "SELECT",
        "TOP",
        "*",
        "COUNT(",
        "AVG(",
        "MIN(",
        "FROM",
        "devices",
        "devices.modules",
        "WHERE",
        "GROUP",
        "BY",
        "AS",
        "AND",
        "OR",
        "NOT",
        "IN",
        "NIN",
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        "+",
        "-",
        "*",
        "/",
        "%",
        "=",
        "!=",
        "<",
        ">=",
        "1",
        "0x1F",
        ".5",
        "1e3",
        "'s'",
        "\"t\\u0041\"",
        "true",
        "null",
        "undefined",
        "deviceId",
        "tags.a",
        "tags.[[x y]]",
        "$version",
        "[[group]]",
        "IS_DEFINED(",
        "LOWER(",
        "SUBSTRING(",
        "STARTS_WITH(",
        "x[0]",
    ])
}

fn constant() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>()
            .prop_filter("a literal is finite", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "[a-z'\\\\é𝄞\"]{0,4}".prop_map(|text| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))),
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("undefined".to_owned()),
    ]
}

/// Conditions of any form.
fn condition() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        constant(),
        prop::sample::select(vec![
            "deviceId",
            "tags.a",
            "tags.[[b c]].d[2]",
            "nothing",
            "properties.reported.$version"
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 24, 3, |inner| {
        let binary = prop::sample::select(vec![
            "AND", "OR", "=", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%",
        ]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            inner.clone().prop_map(|a| format!("NOT ({a})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            inner.clone().prop_map(|a| format!("- -{a}")),
            (inner.clone(), constant()).prop_map(|(a, b)| format!("({a}) IN [{b}]")),
            (inner.clone(), constant()).prop_map(|(a, b)| format!("({a}) NIN [{b}, 1]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("CONTAINS({a}, IS_DEFINED({b}))")),
        ]
    })
}

fn survives(query: &Query) {
    let printed = query.to_string();
    match Query::parse(&printed) {
        Ok(again) => assert_eq!(again, *query, "{printed}"),
        // Names and columns that were left to their defaults are printed.
        Err(error) => assert!(
            matches!(error.kind, QueryErrorKind::TooLong | QueryErrorKind::TooManyTerms),
            "{printed}: {error}"
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 2_000 } else { 1_000_000 }))]

    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        let _ = Query::parse(&text);
        let _ = Query::parse(&format!("SELECT * FROM devices WHERE {text}"));
    }

    #[test]
    fn no_sequence_of_words_panics(list in prop::collection::vec(words(), 0..25)) {
        let text = list.join(" ");
        for text in [format!("SELECT {text}"), format!("SELECT * FROM devices WHERE {text}")] {
            if let Ok(query) = Query::parse(&text) {
                survives(&query);
            }
        }
    }

    #[test]
    fn a_printed_query_is_the_same_query(text in condition()) {
        if let Ok(query) = Query::parse(&format!("SELECT TOP 3 *FROM devices WHERE {text}")) {
            survives(&query);
            let document = serde_json::json!({"deviceId": "d", "tags": {"a": [1, "x", null]}});
            let _ = query.selects(&DocumentRow(document.as_object().unwrap()));
        }
    }
}
