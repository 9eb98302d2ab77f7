//! A hub's settings are changed by the command line, exported to a file, and made those of another hub.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use harness::{Hub, text};

#[test]
fn the_later_change_of_the_retention_counts_in_the_configuration_or_by_a_command() {
    let mut hub = Hub::start(&["--set", "partition.retention=1d"]);
    let retention = |hub: &Hub| hub.json(&["settings", "show"])["retentionSeconds"].as_u64().unwrap() / 86_400;
    assert_eq!(retention(&hub), 1);
    hub.ok(&["settings", "update", "--retention", "2d", "--max-identities", "500"]);
    assert_eq!(retention(&hub), 2);
    let nothing = hub.command(&["settings", "update"]);
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing.stderr));
    let wrong = hub.command(&["settings", "update", "--retention", "30d"]);
    assert_eq!(wrong.status.code(), Some(1), "{}", text(&wrong.stderr));

    hub.stop();
    hub.launch(&["--set", "partition.retention=1d"]);
    assert_eq!(retention(&hub), 2, "the configuration says what it said before");
    hub.stop();
    hub.launch(&["--set", "partition.retention=3d"]);
    hub.until("the retention is the configuration's new one", |hub| {
        retention(hub) == 3
    });
    assert_eq!(hub.json(&["settings", "show"])["maxIdentities"], 500);
}

#[test]
fn the_settings_of_one_hub_become_those_of_another() {
    let (first, second) = (Hub::start(&[]), Hub::start(&[]));
    first.ok(&["settings", "update", "--retention-size", "1GiB"]);
    first.ok(&["consumer-group", "create", "analytics"]);
    first.ok(&["policy", "create", "reader", "--rights", "RegistryRead"]);
    first.ok(&["policy", "delete", "registryRead"]);
    first.ok(&[
        "query",
        "save",
        "all",
        "SELECT * FROM devices",
        "--description",
        "every \"one\"",
    ]);
    let ca = device_ca();
    let pem = first.data_dir.join("devices-ca.pem");
    std::fs::write(&pem, &ca).unwrap();
    first.ok(&["ca", "add", "devices", "--file", pem.to_str().unwrap(), "--verified"]);
    let file = first.data_dir.join("hub.toml");
    let file = file.to_str().unwrap();
    first.ok(&["export", "-f", file]);
    let exported = std::fs::read_to_string(file).unwrap();
    for key in ["primary", "secondary"] {
        let policy = first.json(&["policy", "show", "reader"]);
        assert!(
            !exported.contains(policy[format!("{key}Key")].as_str().unwrap()),
            "a key was exported"
        );
    }
    assert_eq!(
        first.ok(&["apply", "-f", file, "--prune"]),
        "the hub has these settings already\n"
    );

    let planned = second.ok(&["apply", "-f", file, "--prune", "--dry-run"]);
    let expected = [
        "would update settings: retention_size 1GiB",
        "would create consumer group analytics",
        "would create policy reader",
        "would create CA devices",
        "would create saved query all",
        "would delete policy registryRead",
    ];
    assert_eq!(planned.lines().collect::<Vec<_>>(), expected);
    assert!(
        !second.ok(&["policy", "list"]).contains("reader"),
        "a dry run has changed something"
    );
    second.ok(&["apply", "-f", file, "--prune"]);
    assert_eq!(second.ok(&["export"]), exported);
    assert_eq!(
        second.ok(&["apply", "-f", file, "--prune"]),
        "the hub has these settings already\n"
    );
    second.audit_with(&[
        "updateSettings",
        "createConsumerGroup",
        "putPolicy",
        "putSavedQuery",
        "deletePolicy",
    ]);

    // The first refused change ends it, and the message says what was done.
    std::fs::write(file, "consumer_groups = [\"one\", \"-bad\", \"two\"]\n").unwrap();
    let refused = second.command(&["apply", "-f", file]);
    assert_eq!(refused.status.code(), Some(1));
    let message = text(&refused.stderr);
    assert!(
        message.contains("create consumer group -bad") && message.contains("1 of 3 changes"),
        "{message}"
    );
    std::fs::write(file, "consumer_groups = 7\n").unwrap();
    let invalid = second.command(&["apply", "-f", file]);
    assert_eq!(invalid.status.code(), Some(2), "{}", text(&invalid.stderr));
}

/// A CA's certificate, PEM.
fn device_ca() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "devices");
    params.self_signed(&key).unwrap().pem()
}
