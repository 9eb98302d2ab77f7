//! Which test produces which number, through a client as people have it: `docs/error-tests.md`.
//!
//! Why checked: the text of a refusal that no test produces has not been read.
//! Invariants: every number that the hub sends is in exactly one of the two tables; each test that is named exists, and says the number or
//! its name.

use std::fmt::Write as _;
use std::path::Path;

use super::ErrorCode;
use super::tests::root;

const CODES: &str = "tests/sdk/python/test_error_codes.py";
const REQUESTS: &str = "tests/sdk/python/test_bad_requests.py";
const REGISTRY: &str = "tests/sdk/python/test_registry.py";
const READERS: &str = "crates/service-api/tests/events/credentials.rs";
const QUEUES: &str = "crates/service-api/tests/events/messages.rs";
const DEVICES: &str = "crates/gateway/tests/mqtt.rs";
const PROVISIONING: &str = "tests/sdk/python/test_provisioning.py";
const OPERATIONS: &str = "crates/gateway/tests/provisioning/operations.rs";
const LINKED_HUBS: &str = "crates/holdfast/tests/linked_hubs.rs";
const UPLOADS: &str = "tests/sdk/python/test_upload.py";
const UPLOADS_MOVED: &str = "crates/gateway/tests/uploads.rs";
const RATES: &str = "crates/gateway/tests/throttles.rs";

/// A number, and the tests that produce it: file and name.
type Row = (u32, &'static [(&'static str, &'static str)]);

/// Numbers of the paths of credentials, rates, quotas and administration, and of those beside them that have a test already.
const TESTED: &[Row] = &[
    (
        400_000,
        &[
            (CODES, "test_what_is_no_mqtt_is_400000"),
            (DEVICES, "every_broken_rule_is_explained_with_packet_rule_and_section"),
        ],
    ),
    (
        400_001,
        &[
            (REQUESTS, "test_a_call_without_a_known_api_version_is_400001"),
            (
                "crates/service-api/tests/rest/rights.rs",
                "the_api_version_is_checked_before_anything_else",
            ),
        ],
    ),
    (
        400_003,
        &[
            (CODES, "test_policies_are_refused_with_their_numbers"),
            (CODES, "test_cas_are_refused_with_their_numbers"),
        ],
    ),
    (
        400_004,
        &[
            (CODES, "test_policies_are_refused_with_their_numbers"),
            (REQUESTS, "test_an_illegal_id_is_refused"),
        ],
    ),
    (
        400_005,
        &[
            (CODES, "test_policies_are_refused_with_their_numbers"),
            (
                "crates/service-api/tests/rest/policies.rs",
                "what_cannot_be_a_policy_is_refused_with_the_rule",
            ),
        ],
    ),
    (
        400_006,
        &[
            (CODES, "test_policies_are_refused_with_their_numbers"),
            (REQUESTS, "test_bulk_has_its_bounds"),
        ],
    ),
    (
        400_011,
        &[
            (REQUESTS, "test_bulk_has_its_bounds"),
            (
                "crates/service-api/tests/rest/identities.rs",
                "a_bulk_answers_200_or_400_with_errors_in_order_and_does_the_rest",
            ),
        ],
    ),
    (
        400_015,
        &[
            (UPLOADS, "test_bad_calls_are_refused_with_their_numbers"),
            (UPLOADS_MOVED, "a_slot_ends_with_its_time_and_a_report_then_says_so"),
        ],
    ),
    (
        400_016,
        &[(UPLOADS_MOVED, "a_slot_ends_with_its_time_and_a_report_then_says_so")],
    ),
    (400_019, &[(UPLOADS, "test_bad_calls_are_refused_with_their_numbers")]),
    (
        400_020,
        &[
            (UPLOADS, "test_bad_calls_are_refused_with_their_numbers"),
            (UPLOADS_MOVED, "the_storage_decides_whether_there_is_a_file"),
        ],
    ),
    (400_022, &[(UPLOADS, "test_without_storage_a_device_is_told_so")]),
    (
        400_027,
        &[
            (CODES, "test_the_older_of_two_connections_is_closed_with_400027"),
            (DEVICES, "silence_and_a_second_connection_are_explained"),
        ],
    ),
    (
        400_028,
        &[
            (CODES, "test_edge_devices_are_refused_with_their_numbers"),
            (
                "crates/service-api/tests/rest/identities.rs",
                "an_edge_device_has_a_scope_and_system_modules_that_cannot_be_deleted",
            ),
        ],
    ),
    (
        400_040,
        &[(
            "crates/gateway/tests/issuance.rs",
            "a_connected_device_renews_its_certificate_over_its_session",
        )],
    ),
    (
        400_301,
        &[
            (CODES, "test_edge_devices_are_refused_with_their_numbers"),
            (
                "crates/service-api/tests/rest/identities.rs",
                "modules_answer_201_on_create_and_carry_their_own_fields",
            ),
        ],
    ),
    (
        400_207,
        &[
            (OPERATIONS, "a_webhook_that_fails_fails_the_registration_at_once"),
            (LINKED_HUBS, "a_webhook_over_http_chooses_the_hub"),
        ],
    ),
    (
        400_208,
        &[(
            PROVISIONING,
            "test_a_disabled_enrollment_says_so_and_no_hub_is_explained",
        )],
    ),
    (
        400_209,
        &[(
            LINKED_HUBS,
            "a_link_whose_credentials_are_refused_fails_the_registration",
        )],
    ),
    (401_000, &[(PROVISIONING, "test_what_is_wrong_is_answered_by_number")]),
    (
        401_002,
        &[
            (CODES, "test_a_device_with_a_wrong_key_is_refused_with_401002"),
            (
                REQUESTS,
                "test_a_bad_token_is_401_and_does_not_say_whether_the_device_exists",
            ),
        ],
    ),
    (
        401_003,
        &[
            (
                CODES,
                "test_a_bearer_token_is_503001_while_the_issuer_is_down_and_401003_once_it_is_over",
            ),
            (CODES, "test_a_token_whose_time_is_over_is_401003"),
        ],
    ),
    (
        401_100,
        &[
            (CODES, "test_edge_devices_are_refused_with_their_numbers"),
            (
                "crates/service-api/tests/rest/identities.rs",
                "an_edge_device_has_a_scope_and_system_modules_that_cannot_be_deleted",
            ),
        ],
    ),
    (
        403_002,
        &[
            (
                "tests/sdk/python/test_quota.py",
                "test_a_message_beyond_the_quota_is_not_acknowledged_and_ends_the_connection",
            ),
            (
                QUEUES,
                "a_message_beyond_the_daily_quota_is_rejected_as_such_and_not_queued",
            ),
        ],
    ),
    (
        403_004,
        &[
            (QUEUES, "each_message_has_the_outcome_that_clients_know"),
            (
                "crates/service-api/tests/rest/c2d.rs",
                "calls_about_queues_are_refused_with_their_number",
            ),
        ],
    ),
    (
        403_005,
        &[(
            READERS,
            "one_connection_holds_a_thousand_tokens_and_the_next_is_refused_with_403005",
        )],
    ),
    (403_009, &[(QUEUES, "each_message_has_the_outcome_that_clients_know")]),
    (
        403_006,
        &[
            (UPLOADS, "test_a_device_has_ten_slots_and_reports_free_them"),
            (UPLOADS_MOVED, "slots_reports_and_notifications_outlive_every_owner"),
        ],
    ),
    (
        403_012,
        &[
            (CODES, "test_messages_to_devices_are_refused_with_their_numbers"),
            (QUEUES, "each_message_has_the_outcome_that_clients_know"),
        ],
    ),
    (
        404_000,
        &[
            (CODES, "test_policies_are_refused_with_their_numbers"),
            (REQUESTS, "test_paths_and_methods_that_do_not_exist"),
        ],
    ),
    (
        404_001,
        &[
            (CODES, "test_messages_to_devices_are_refused_with_their_numbers"),
            (REQUESTS, "test_a_device_is_not_created_from"),
        ],
    ),
    (
        404_006,
        &[
            (
                CODES,
                "test_a_feature_of_later_is_404013_and_a_consumer_group_that_is_not_there_404006",
            ),
            (
                "crates/amqp-server/tests/server.rs",
                "a_service_answers_on_its_addresses_and_the_server_on_all_others",
            ),
        ],
    ),
    (
        404_008,
        &[
            (CODES, "test_cas_are_refused_with_their_numbers"),
            (
                "crates/service-api/tests/rest/certificates.rs",
                "a_ca_is_added_proved_listed_and_removed",
            ),
        ],
    ),
    (
        404_010,
        &[
            (REGISTRY, "test_modules_live_and_die_with_their_device"),
            (
                "crates/service-api/tests/rest/identities.rs",
                "modules_answer_201_on_create_and_carry_their_own_fields",
            ),
        ],
    ),
    (
        404_013,
        &[
            (
                CODES,
                "test_a_feature_of_later_is_404013_and_a_consumer_group_that_is_not_there_404006",
            ),
            (
                "crates/amqp-server/tests/server.rs",
                "a_service_answers_on_its_addresses_and_the_server_on_all_others",
            ),
        ],
    ),
    (
        404_103,
        &[
            (
                "tests/sdk/python/test_methods.py",
                "test_a_module_is_called_by_its_own_name",
            ),
            ("tests/sdk/python/test_methods.py", "test_why_there_is_no_answer"),
        ],
    ),
    (404_104, &[(DEVICES, "silence_and_a_second_connection_are_explained")]),
    (404_201, &[(PROVISIONING, "test_registrations_are_read_and_deleted")]),
    (404_202, &[(PROVISIONING, "test_enrollments_have_etags")]),
    (
        404_203,
        &[(
            PROVISIONING,
            "test_the_first_answer_over_https_is_final_and_polls_find_it",
        )],
    ),
    (404_204, &[(PROVISIONING, "test_what_is_wrong_is_answered_by_number")]),
    (
        405_000,
        &[
            (REQUESTS, "test_paths_and_methods_that_do_not_exist"),
            (
                "crates/service-api/tests/rest/methods.rs",
                "a_malformed_call_is_refused_before_the_device_is_looked_for",
            ),
        ],
    ),
    (
        409_000,
        &[
            (CODES, "test_policies_are_refused_with_their_numbers"),
            (CODES, "test_cas_are_refused_with_their_numbers"),
        ],
    ),
    (
        409_001,
        &[
            (REGISTRY, "test_creating_twice_is_refused_with_409001"),
            (REGISTRY, "test_bulk_reports_each_failure_and_does_the_rest"),
        ],
    ),
    (409_201, &[(PROVISIONING, "test_bulk_calls_and_pages")]),
    (409_202, &[(PROVISIONING, "test_enrollments_have_etags")]),
    (
        409_005,
        &[(
            "crates/gateway/tests/issuance.rs",
            "a_connected_device_renews_its_certificate_over_its_session",
        )],
    ),
    (
        409_203,
        &[(
            "crates/registry/src/state/tests/provisioning.rs",
            "an_individual_enrollment_that_appears_refuses_the_decision_of_a_group",
        )],
    ),
    (
        409_301,
        &[
            (REGISTRY, "test_modules_live_and_die_with_their_device"),
            (
                "crates/service-api/tests/rest/identities.rs",
                "modules_answer_201_on_create_and_carry_their_own_fields",
            ),
        ],
    ),
    (
        412_001,
        &[
            (CODES, "test_cas_are_refused_with_their_numbers"),
            (REGISTRY, "test_an_update_needs_the_current_etag"),
        ],
    ),
    (
        413_001,
        &[
            (REQUESTS, "test_a_body_above_a_mebibyte_is_refused"),
            ("tests/sdk/python/test_twins.py", "test_a_condition_and_limits_are_kept"),
        ],
    ),
    (
        413_002,
        &[
            (REQUESTS, "test_bulk_has_its_bounds"),
            (
                "crates/service-api/tests/rest/identities.rs",
                "a_bulk_answers_200_or_400_with_errors_in_order_and_does_the_rest",
            ),
        ],
    ),
    (
        413_003,
        &[(
            REGISTRY,
            "test_a_device_has_fifty_modules_and_the_next_is_refused_with_413003",
        )],
    ),
    (
        429_001,
        &[
            (
                CODES,
                "test_a_query_beyond_the_rate_is_refused_by_the_bound_that_it_meets",
            ),
            (
                "tests/sdk/python/test_throttles.py",
                "test_a_back_end_gets_429_with_the_time_after_which_its_query_succeeds",
            ),
            (
                READERS,
                "tokens_and_requests_beyond_their_rate_get_429_at_once_and_refused_tokens_use_up_nothing",
            ),
            (
                QUEUES,
                "a_message_beyond_the_rate_is_rejected_as_throttled_and_not_queued",
            ),
        ],
    ),
    (
        429_002,
        &[
            (
                CODES,
                "test_a_query_beyond_the_rate_is_refused_by_the_bound_that_it_meets",
            ),
            (
                "crates/service-api/tests/rest/throttles.rs",
                "a_call_waits_for_its_turn_and_the_queue_is_bounded",
            ),
        ],
    ),
    (
        429_003,
        &[
            (
                CODES,
                "test_a_query_beyond_the_rate_is_refused_by_the_bound_that_it_meets",
            ),
            (
                RATES,
                "a_device_that_sends_on_and_on_is_not_read_and_then_closed_with_the_reason",
            ),
        ],
    ),
    (
        429_005,
        &[
            (
                RATES,
                "the_rate_of_a_device_counts_for_each_alone_and_begins_with_a_second_of_it",
            ),
            (
                RATES,
                "a_request_about_the_twin_beyond_a_rate_is_answered_with_429_and_its_rid",
            ),
        ],
    ),
    (
        503_001,
        &[
            (
                CODES,
                "test_a_bearer_token_is_503001_while_the_issuer_is_down_and_401003_once_it_is_over",
            ),
            (
                "crates/service-api/tests/rest/refusals.rs",
                "while_the_group_has_no_leader_calls_are_answered_with_503",
            ),
        ],
    ),
    (
        504_101,
        &[("tests/sdk/python/test_methods.py", "test_why_there_is_no_answer")],
    ),
];

/// Numbers that those paths cannot produce, and why.
const ELSEWHERE: &[(u32, &str)] = &[
    (400_013, "not produced: a bulk request names the number of each entry"),
    (
        401_001,
        "not produced through a client: only a node before the creation of the hub has it, and that one has no listeners",
    ),
    (403_000, "not produced: every refusal has a closer number"),
    (
        403_800,
        "methods; `crates/gateway/tests/methods.rs` has the bound, the number is in `service-api`'s own tests",
    ),
    (
        409_002,
        "the events endpoint; a reader with an epoch, over AMQP `amqp:link:stolen` without a number",
    ),
    (415_000, "not produced: bodies are read whatever their type is called"),
    (500_001, "stored data that cannot be read; no client brings that about"),
    (
        500_008,
        "a write whose outcome is unknown since its leader has failed; the simulation has it",
    ),
    (502_000, "methods; an answer of a device that is no JSON"),
    (503_003, "a partition without an owner; the simulation has it"),
    (503_005, "an overloaded or full node; the load tests have it"),
    (503_008, "the events endpoint; more readers of a partition than it has"),
];

/// The part of `text` that is the test `name`; from its head to the next one's.
fn test<'a>(file: &str, text: &'a str, name: &str) -> Option<&'a str> {
    let (head, next) = match file.rsplit('.').next() {
        Some("py") => (format!("def {name}("), "\ndef test_"),
        Some("mjs") => (format!("test('{name}'"), "\ntest("),
        _ => (format!("fn {name}("), "test]\n"),
    };
    let begin = text.find(&head)?;
    let rest = &text[begin..];
    // A Python test's decorators come before its head.
    let ends = [next, "\n@pytest"].into_iter().filter_map(|next| rest[1..].find(next));
    let end = ends.min().map_or(rest.len(), |end| end + 1);
    Some(&rest[..end])
}

#[test]
fn every_number_that_is_sent_is_in_one_table() {
    for code in ErrorCode::ALL {
        let number = code.number();
        let tested = TESTED.iter().filter(|row| row.0 == number).count();
        let elsewhere = ELSEWHERE.iter().filter(|row| row.0 == number).count();
        assert_eq!(tested + elsewhere, usize::from(code.is_sent()), "{code}");
    }
    assert!(TESTED.iter().all(|row| !row.1.is_empty()));
}

#[test]
fn every_test_of_the_table_exists_and_says_its_number() {
    for (number, tests) in TESTED {
        let code = ErrorCode::from_number(*number).unwrap_or_else(|| panic!("{number} is not in the catalogue"));
        let (plain, grouped) = (number.to_string(), format!("{}_{:03}", number / 1000, number % 1000));
        for (file, name) in *tests {
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let test = test(file, &text, name).unwrap_or_else(|| panic!("{file} has no test {name}"));
            assert!(
                [&plain, &grouped, code.name()]
                    .into_iter()
                    .any(|word| test.contains(word)),
                "{name} in {file} does not say {code}"
            );
        }
    }
}

/// `HOLDFAST_REWRITE=1 cargo test -p holdfast-model` writes the page anew.
#[test]
fn the_page_docs_error_tests_md_is_not_stale() {
    let path = root().join("docs/error-tests.md");
    let fresh = page();
    if std::env::var_os("HOLDFAST_REWRITE").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == fresh,
        "docs/error-tests.md is stale: HOLDFAST_REWRITE=1 cargo test -p holdfast-model"
    );
}

fn page() -> String {
    let mut page = String::from(
        "# Tests of the error codes\n\n\
         Generated from `crates/model/src/error_code/tested.rs` by its tests; change it there, then run\n\
         `HOLDFAST_REWRITE=1 cargo test -p holdfast-model`. The same tests check that each test named here exists and says its number.\n\n\
         [errors.md](errors.md) says what each number means. The tests use the released SDKs of Python and Node, plain HTTPS, the command line, or\n\
         MQTT and AMQP clients over a connection to a hub.\n\n\
         | code | name | produced by |\n| --- | --- | --- |\n",
    );
    for (number, tests) in TESTED {
        let name = ErrorCode::from_number(*number).map_or("", ErrorCode::name);
        let named = tests.iter().map(|(file, test)| {
            let base = Path::new(file)
                .file_name()
                .map_or_else(String::new, |base| base.to_string_lossy().into_owned());
            format!("[{base}](../{file}) `{test}`")
        });
        let named: Vec<String> = named.collect();
        let _ = writeln!(page, "| {number} | {name} | {} |", named.join("<br>"));
    }
    page.push_str(
        "\n## Codes that the paths of credentials, rates and administration cannot produce\n\n| code | name | why |\n| --- | --- | --- |\n",
    );
    for (number, why) in ELSEWHERE {
        let name = ErrorCode::from_number(*number).map_or("", ErrorCode::name);
        let _ = writeln!(page, "| {number} | {name} | {why} |");
    }
    let unsent = ErrorCode::ALL.iter().filter(|code| !code.is_sent()).count();
    let _ = writeln!(
        page,
        "\nThe other {unsent} codes of the catalogue belong to features that this version does not have: not produced yet \
         (errors.md, \"Codes that this version never sends\")."
    );
    page
}
