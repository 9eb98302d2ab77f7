//! The catalogue is complete and consistent, and `docs/errors.md` shows it as it is.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::*;

#[test]
fn no_cell_of_the_catalogue_is_empty() {
    for code in ErrorCode::ALL {
        for (column, text) in [
            ("name", code.name()),
            ("meaning", code.meaning()),
            ("device action", code.device_action()),
            ("operator action", code.operator_action()),
            ("AMQP condition", code.amqp_condition()),
            ("MQTT answer", code.mqtt().describe()),
        ] {
            assert!(text.len() > 3, "{code}: {column} is empty");
            assert!(
                !text.ends_with('.') && !text.contains('|'),
                "{code}: {column} does not fit the page: {text}"
            );
        }
    }
}

#[test]
fn numbers_ascend_names_are_unique_and_the_status_is_known_to_http() {
    let numbers: Vec<_> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
    let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), ErrorCode::ALL.len());
    for code in ErrorCode::ALL {
        assert!(matches!(
            code.http_status(),
            400 | 401 | 403 | 404 | 405 | 409 | 412 | 413 | 415 | 429 | 499 | 500 | 502 | 503 | 504
        ));
        assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        assert_eq!(ErrorCode::from_name(&code.name().to_lowercase()), Some(*code));
    }
    assert_eq!(ErrorCode::from_number(404_003), None);
    assert_eq!(ErrorCode::DeviceNotFound.to_string(), "404001 DeviceNotFound");
}

#[test]
fn the_catalogue_is_that_of_the_specification() {
    let spec = std::fs::read_to_string(root().join("docs/spec/auth-and-limits.md")).unwrap();
    let start = spec.find("### 8.2").unwrap();
    let section = &spec[start..start + spec[start..].find("### 8.3").unwrap()];
    let mut listed = BTreeSet::new();
    for (at, _) in section.match_indices(" · ").chain(section.match_indices("| ")) {
        let entry = section[at..].trim_start_matches([' ', '·', '|']);
        let (number, rest) = entry.split_once(' ').unwrap_or((entry, ""));
        if let (6, Ok(number)) = (number.len(), number.parse::<u32>()) {
            listed.insert(number);
            let code = ErrorCode::from_number(number).unwrap_or_else(|| panic!("{number} is not in the catalogue"));
            let name: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            assert!(
                name == code.name() || code == ErrorCode::GenericServerError,
                "{number}: {name} or {}?",
                code.name()
            );
        }
    }
    assert!(ErrorCode::ALL.iter().all(|code| listed.contains(&code.number())));
}

#[test]
fn the_classes_answer_as_the_specification_says() {
    let check = |code: ErrorCode, http, amqp, mqtt, retriable| {
        assert_eq!(
            (code.http_status(), code.amqp_condition(), code.mqtt(), code.retriable()),
            (http, amqp, mqtt, retriable),
            "{code}"
        );
    };
    check(
        ErrorCode::IotHubUnauthorizedAccess,
        401,
        "amqp:unauthorized-access",
        MqttAnswer::NotAuthorized,
        false,
    );
    check(
        ErrorCode::InvalidProtocolVersion,
        400,
        "amqp:not-implemented",
        MqttAnswer::RefuseVersion,
        false,
    );
    check(
        ErrorCode::ConnectionForcefullyClosedOnNewConnection,
        400,
        "com.microsoft:link-creation-conflict",
        MqttAnswer::Close,
        true,
    );
    check(
        ErrorCode::MessageTooLarge,
        413,
        "amqp:link:message-size-exceeded",
        MqttAnswer::Status,
        false,
    );
    check(
        ErrorCode::ThrottlingException,
        429,
        "com.microsoft:device-container-throttled",
        MqttAnswer::Throttle,
        true,
    );
    check(
        ErrorCode::ServerBusy,
        503,
        "amqp:link:detach-forced",
        MqttAnswer::Unavailable,
        true,
    );
    check(
        ErrorCode::PreconditionFailed,
        412,
        "com.microsoft:precondition-failed",
        MqttAnswer::Status,
        false,
    );
}

/// `HOLDFAST_REWRITE=1 cargo test -p holdfast-model` writes the page anew.
#[test]
fn the_page_docs_errors_md_is_not_stale() {
    let path = root().join("docs/errors.md");
    let fresh = page();
    if std::env::var_os("HOLDFAST_REWRITE").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == fresh,
        "docs/errors.md is stale: run HOLDFAST_REWRITE=1 cargo test -p holdfast-model"
    );
}

pub(super) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn page() -> String {
    let mut out = String::from(
        "# Error codes\n\n\
         Generated from `crates/model/src/error_code/catalogue.rs` by its tests; change it there, then run\n\
         `HOLDFAST_REWRITE=1 cargo test -p holdfast-model`.\n\n\
         Every refusal carries one of these numbers: in `errorCode` of an HTTPS answer, in `com.microsoft:error-code` of an\n\
         AMQP error, in the audit log, and in `holdfast device diagnose ID`. MQTT 3.1.1 has no error packet: the column says\n\
         what its connections see. *Again?* tells whether the same request may succeed later without a change.\n\n\
         ## Codes that this version sends\n",
    );
    for code in ErrorCode::ALL.iter().filter(|code| code.is_sent()) {
        let again = if code.retriable() { "yes" } else { "no" };
        let _ = write!(
            out,
            "\n### {} {}\n\n{}.\n\n\
             | HTTP | AMQP | MQTT | Again? |\n| --- | --- | --- | --- |\n| {} | `{}` | {} | {again} |\n\n\
             - Owner of the device or back end: {}.\n- Operator of the hub: {}.\n",
            code.number(),
            code.name(),
            capital(code.meaning()),
            code.http_status(),
            code.amqp_condition(),
            code.mqtt().describe(),
            code.device_action(),
            code.operator_action(),
        );
    }
    out.push_str(
        "\n## Codes that this version never sends\n\n\
         Listed because SDKs know them, and so that no number is given a second meaning.\n\n\
         | Number | Name | Meaning | AMQP | Again? |\n| --- | --- | --- | --- | --- |\n",
    );
    for code in ErrorCode::ALL.iter().filter(|code| !code.is_sent()) {
        let again = if code.retriable() { "yes" } else { "no" };
        let _ = writeln!(
            out,
            "| {} | {} | {} | `{}` | {again} |",
            code.number(),
            code.name(),
            code.meaning(),
            code.amqp_condition()
        );
    }
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
