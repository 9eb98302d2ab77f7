//! Rules that the page `docs/query.md` does not show.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod groups;
mod page;
mod round_trip;

use serde_json::{Value as Json, json};

use crate::{
    Constant, DocumentRow, Field, Lookup, MAX_NESTING, MAX_QUERY_CHARACTERS, MAX_TERMS, Query, QueryErrorKind, Root,
};

fn parse(text: &str) -> Query {
    Query::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> QueryErrorKind {
    Query::parse(text).expect_err(text).kind
}

/// Whether `condition` is true for a device with these tags.
fn selects(condition: &str, tags: &Json) -> bool {
    let document = json!({"deviceId": "d1", "tags": tags});
    let row = DocumentRow(document.as_object().unwrap());
    parse(&format!("SELECT * FROM devices WHERE {condition}")).selects(&row)
}

#[test]
fn queries_that_real_clients_send_parse() {
    for text in [
        "select * from devices where deviceId = 'x'",
        "SELECT deviceId, deviceScope FROM devices",
        "select deviceId from devices where array_contains(parentScopes, 'ms-azure-iot-edge://gw-1234')",
        "select * from devices where capabilities.iotEdge = true",
        "select * from devices.modules where devices.deviceId = 'x'",
        "select deviceId from devices where not startswith(deviceId, 'a') and not startswith(deviceId,'b')",
        "SELECT * FROM devices WHERE STARTSWITH(id, 'pre')",
        "select count() AS numberOfDevices from devices",
        "SELECT properties.desired.k AS k, COUNT() AS numberOfDevices FROM devices GROUP BY properties.desired.k",
        "select deviceId from devices.modules where moduleId = '$edgeAgent' and configurations.[[dep-1]].status != 'Applied'",
        "SELECT * FROM devices WHERE tags.[[group]].name = 'v'",
        "SELECT tags.Floor, AVG(properties.reported.temperature) AS AvgTemperature FROM devices WHERE tags.building = '43'",
        "SELECT * FROM devices WHERE properties.reported.$version > 1 AND tags.$metadata.$lastUpdated > '2016'",
    ] {
        parse(text);
    }
    let jobs = "SELECT * FROM devices.jobs WHERE devices.jobs.jobId='j' and devices.jobs.jobType='scheduleUpdateTwin'";
    assert_eq!(refusal(jobs), QueryErrorKind::Jobs);
}

#[test]
fn a_text_of_100_kilobytes_is_too_long() {
    let long = format!("SELECT * FROM devices WHERE tags.a = '{}'", "x".repeat(100_000));
    assert_eq!(refusal(&long), QueryErrorKind::TooLong);
    let bare = "SELECT * FROM devices WHERE tags.a = ''".len();
    let wide = format!(
        "SELECT * FROM devices WHERE tags.a = '{}'",
        "ü".repeat(MAX_QUERY_CHARACTERS - bare)
    );
    parse(&wide);
    assert_eq!(refusal(&format!("{wide} ")), QueryErrorKind::TooLong);
}

#[test]
fn nesting_is_bounded_whatever_it_is_made_of() {
    for (open, close) in [("(", ")"), ("NOT ", ""), ("- ", ""), ("LOWER(", ")")] {
        let text = |levels: usize| {
            format!(
                "SELECT * FROM devices WHERE {}tags.a{}",
                open.repeat(levels),
                close.repeat(levels)
            )
        };
        parse(&text(MAX_NESTING));
        assert_eq!(refusal(&text(MAX_NESTING + 1)), QueryErrorKind::TooDeep, "{open}");
        assert_eq!(refusal(&text(1000)), QueryErrorKind::TooDeep, "{open}");
    }
}

#[test]
fn terms_are_bounded_and_chains_may_use_all_of_them() {
    let chain = |terms: usize| format!("SELECT * FROM devices WHERE {}", vec!["1"; terms].join("+"));
    let query = parse(&chain(MAX_TERMS));
    assert!(!query.selects(&DocumentRow(json!({}).as_object().unwrap())));
    assert_eq!(refusal(&chain(MAX_TERMS + 1)), QueryErrorKind::TooManyTerms);
    let list = format!(
        "SELECT * FROM devices WHERE deviceId IN [{}]",
        vec!["1"; MAX_TERMS].join(",")
    );
    assert_eq!(refusal(&list), QueryErrorKind::TooManyTerms);
    let columns: Vec<String> = (0..=MAX_TERMS).map(|column| format!("a{column}")).collect();
    let columns = format!("SELECT {} FROM devices", columns.join(","));
    assert!(matches!(refusal(&columns), QueryErrorKind::TooManyTerms));
}

#[test]
fn positions_count_lines_and_characters() {
    let error = Query::parse("SELECT *\nFROM devices\nWHERE tags.ü = 'ü' ? 1").unwrap_err();
    assert_eq!((error.position.line, error.position.column), (3, 20));
    assert_eq!(
        error.to_string(),
        "line 3, column 20: the character '?' has no meaning here"
    );
}

#[test]
fn an_error_repeats_only_the_beginning_of_a_long_word() {
    let error = Query::parse(&format!("SELECT * FROM {}", "x".repeat(5000))).unwrap_err();
    assert!(error.to_string().len() < 200, "{error}");
}

#[test]
fn logic_has_three_values() {
    let tags = json!({"t": true, "f": false, "n": [null]});
    for (condition, selected) in [
        ("tags.f AND tags.none", false),
        ("NOT (tags.f AND tags.none)", true),
        ("NOT (tags.t AND tags.none)", false),
        ("tags.t OR tags.none", true),
        ("NOT (tags.f OR tags.none)", false),
        ("NOT tags.none", false),
        ("NOT tags.n[0]", true),
        ("tags.n[0] OR tags.t", true),
        ("NOT (tags.n[0] OR tags.f)", true),
        ("NOT (tags.n[0] AND tags.t)", true),
        ("IS_NULL(tags.n[0] AND tags.t)", true),
        ("IS_DEFINED(tags.n[0] AND tags.none)", false),
        ("undefined = undefined", false),
        ("null = null", true),
    ] {
        assert_eq!(selects(condition, &tags), selected, "{condition}");
    }
}

#[test]
fn values_of_different_types_never_compare() {
    let tags = json!({"s": "5", "i": 5, "b": true, "o": {}, "a": [5]});
    for left in ["tags.s", "tags.i", "tags.b", "tags.o", "tags.a", "tags.none"] {
        for right in ["tags.s", "tags.i", "tags.b", "tags.o", "tags.a", "tags.none"] {
            for operator in ["=", "!=", "<", "<=", ">", ">="] {
                let primitive = ["tags.s", "tags.i", "tags.b"].contains(&left);
                let expected = left == right && primitive && ["=", "<=", ">="].contains(&operator);
                let condition = format!("{left} {operator} {right}");
                assert_eq!(selects(&condition, &tags), expected, "{condition}");
                let defined = left == right && primitive;
                assert_eq!(
                    selects(&format!("IS_DEFINED({condition})"), &tags),
                    defined,
                    "{condition}"
                );
            }
        }
    }
}

#[test]
fn functions_of_wrong_types_are_undefined() {
    let tags = json!({"s": "x", "i": 5, "o": {}});
    for call in [
        "ABS(tags.s)",
        "LENGTH(tags.i)",
        "CONCAT(tags.s, tags.i)",
        "POWER(tags.i, tags.s)",
        "SUBSTRING(tags.s, 2)",
        "SUBSTRING(tags.s, 0, 2)",
        "SUBSTRING(tags.s, -1)",
        "SUBSTRING(tags.s, 0.5)",
        "SUBSTRING('𝄞', 1)",
        "AS_NUMBER('inf')",
        "AS_NUMBER('x')",
        "AS_NUMBER(true)",
        "ARRAY_CONTAINS(tags.o, 1)",
        "SQRT(-1)",
        "tags.i % 0",
        "tags.s + 1",
        "-tags.s",
        "LOWER(tags.none)",
    ] {
        assert!(selects(&format!("NOT IS_DEFINED({call})"), &tags), "{call}");
    }
}

#[test]
fn strings_have_the_four_escapes() {
    let tags = json!({"s": "it's \"é𝄞\"\\"});
    assert!(selects(r#"tags.s = 'it\'s "\u00e9\uD834\uDD1E"\\'"#, &tags));
    for bad in [
        r"'\n'",
        r"'\u12'",
        r"'\uD834'",
        r"'\uD834x'",
        r"'\uDD1E'",
        r"'\u+123'",
        r"'\",
    ] {
        assert_eq!(
            refusal(&format!("SELECT * FROM devices WHERE tags.s = {bad}")),
            QueryErrorKind::Escape,
            "{bad}"
        );
    }
}

#[test]
fn lookups_are_the_parts_that_every_result_satisfies() {
    let of = |condition: &str| {
        let query = parse(&format!("SELECT * FROM devices WHERE {condition}"));
        let lookups = query.lookups();
        lookups
            .iter()
            .map(|lookup| match lookup {
                Lookup::Equals(path, values) => {
                    let values: Vec<String> = values.iter().map(|value| value.to_string()).collect();
                    format!("{path}={}", values.join("|"))
                }
                Lookup::StartsWith(path, prefix) => format!("{path}^{prefix}"),
                Lookup::Compares(path, operator, constant) => format!("{path}{operator:?}{constant}"),
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(of("deviceId = 'a'"), "deviceId='a'");
    assert_eq!(
        of("'a' = id AND tags.x > 1 AND tags.y IN [1, 2]"),
        "deviceId='a' tags.xGreater1 tags.y=1|2"
    );
    assert_eq!(
        of("tags.x = 1 OR tags.x IN ['b'] OR tags.x = null"),
        "tags.x=1|'b'|null"
    );
    assert_eq!(of("startswith(devices.deviceId, 'ab')"), "deviceId^ab");
    assert_eq!(
        of("2 <= tags.x AND 'b' > tags.x"),
        "tags.xGreaterOrEqual2 tags.xLess'b'"
    );
    for none in [
        "tags.x = 1 OR tags.y = 1",
        "NOT tags.x = 1",
        "tags.x NIN [1]",
        "tags.x = tags.y",
        "tags.x != 1",
    ] {
        assert_eq!(of(none), "", "{none}");
    }
}

#[test]
fn a_query_says_which_properties_it_reads() {
    let query = parse("SELECT tags.a, COUNT() AS n FROM devices WHERE NOT LOWER(status) = 'x' GROUP BY tags.a");
    assert!(query.condition_fields().contains(Field::Status));
    assert!(!query.condition_fields().contains(Field::Tags));
    assert!(query.output_fields().contains(Field::Tags));
    assert!(
        parse("SELECT * FROM devices")
            .output_fields()
            .contains(Field::Configurations)
    );
}

#[test]
fn prefixes_are_removed_and_escaped_names_are_no_prefixes() {
    let path = |text: &str| match parse(&format!("SELECT * FROM devices WHERE {text}")).condition.unwrap() {
        crate::Expr::Path(path) => path,
        other => panic!("{other:?}"),
    };
    for text in [
        "deviceid",
        "devices.DeviceId",
        "DEVICES.modules.deviceId",
        "devices.jobs.id",
        "[[deviceId]]",
    ] {
        assert!(path(text).is(Field::DeviceId), "{text}");
    }
    assert_eq!(path("[[devices]].deviceId").root, Root::Unknown("devices".to_owned()));
    assert_eq!(path("devices.tags[0].x").to_string(), "tags[0].x");
}

#[test]
fn numbers_are_decimal_or_hexadecimal() {
    let number = |text: &str| match parse(&format!("SELECT * FROM devices WHERE {text}")).condition.unwrap() {
        crate::Expr::Constant(Constant::Number(number)) => number,
        other => panic!("{other:?}"),
    };
    for (text, value) in [
        ("5", 5.0),
        ("-.5", -0.5),
        ("1.25e2", 125.0),
        ("1E-2", 0.01),
        ("0xFf", 255.0),
        ("-0x10", -16.0),
    ] {
        assert_eq!(number(text), value, "{text}");
    }
    for bad in ["1e999", "2nd", "0x", "0xg", "0x20000000000001", "1.2.3"] {
        let error = Query::parse(&format!("SELECT * FROM devices WHERE tags.a = {bad}"));
        assert!(error.is_err(), "{bad}");
    }
}
