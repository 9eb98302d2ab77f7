//! A hub whose back ends log in with tokens of an issuer, which the test runs: by role, while keys rotate and the issuer is down, and
//! with shared access policies switched off.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use harness::{Hub, holdfast, holds, run, text};
use holdfast_testkit::issuer::{IssuerServer, SigningKey};
use serde_json::json;

/// An issuer, and the tokens that it gives.
struct Issuer {
    server: IssuerServer,
    dir: tempfile::TempDir,
}

impl Issuer {
    fn start(keys: &[&SigningKey]) -> Self {
        Self {
            server: IssuerServer::start(keys),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The options of a hub that trusts it.
    fn options(&self) -> Vec<String> {
        [
            format!("auth.oidc.issuer={}", self.server.url),
            format!("auth.oidc.ca_file={}", self.server.ca_file.display()),
            "auth.oidc.audiences=my-hub".to_owned(),
            "auth.oidc.role_claim=realm.roles".to_owned(),
            "auth.oidc.roles=hub-admins=IoT Hub Data Contributor,hub-readers=IoT Hub Data Reader".to_owned(),
            "auth.oidc.subjects=twin-robot=IoT Hub Twin Contributor".to_owned(),
            "auth.oidc.unknown_key_interval=100ms".to_owned(),
        ]
        .into_iter()
        .flat_map(|assignment| ["--set".to_owned(), assignment])
        .collect()
    }

    /// A file with a token.
    fn token(&self, key: &SigningKey, subject: &str, roles: &[&str]) -> PathBuf {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let token = key.token(&json!({
            "iss": self.server.url,
            "aud": ["account", "my-hub"],
            "sub": subject,
            "exp": now + 600,
            "realm": {"roles": roles},
        }));
        let file = self.dir.path().join(format!("{subject}-{}", key.id));
        std::fs::write(&file, token).unwrap();
        file
    }
}

impl Hub {
    /// Runs a command with a bearer token: its exit code, and what it printed.
    fn with_token(&self, token: &std::path::Path, args: &[&str]) -> (Option<i32>, String) {
        let output = self.command(&[args, &["--token-file", token.to_str().unwrap()]].concat());
        let printed = text(&output.stdout) + &text(&output.stderr);
        (output.status.code(), printed)
    }
}

#[test]
fn back_ends_need_no_shared_key() {
    let (first, second) = (SigningKey::rsa("first"), SigningKey::ed25519("second"));
    let issuer = Issuer::start(&[&first]);
    let mut options = issuer.options();
    options.extend(["--set".to_owned(), "auth.service.shared_policies=false".to_owned()]);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut hub = Hub::start(&options);
    let admin = issuer.token(&first, "alice", &["others", "hub-admins"]);
    let reader = issuer.token(&first, "bob", &["hub-readers"]);
    let robot = issuer.token(&first, "twin-robot", &[]);
    let nobody = issuer.token(&first, "mallory", &["IoT Hub Data Contributor"]);

    hub.until("the keys of the issuer have been read", |hub| {
        hub.with_token(&admin, &["device", "list"]).0 == Some(0)
    });
    let (code, created) = hub.with_token(&admin, &["device", "create", "dev-1"]);
    assert_eq!(code, Some(0), "{created}");
    let (code, listed) = hub.with_token(&reader, &["device", "list"]);
    assert!(code == Some(0) && listed.contains("dev-1"), "{listed}");
    for (token, args, part) in [
        (
            &reader,
            &["device", "delete", "dev-1"][..],
            "Principal bob is not authorized for DELETE on /devices/dev-1",
        ),
        (
            &robot,
            &["device", "show", "dev-1"],
            "Principal twin-robot is not authorized for GET",
        ),
        (
            &nobody,
            &["device", "show", "dev-1"],
            "Principal mallory is not authorized for GET",
        ),
    ] {
        let (code, refused) = hub.with_token(token, args);
        assert!(code == Some(5) && refused.contains(part), "{code:?} {refused}");
    }
    let (code, patched) = hub.with_token(&robot, &["twin", "update", "dev-1", "--tags", r#"{"floor":3}"#]);
    assert!(code == Some(0) && patched.contains("floor"), "{patched}");

    // Telemetry.
    let (code, read) = hub.with_token(&reader, &["monitor-events", "--from", "oldest", "--timeout", "1"]);
    assert_eq!(code, Some(0), "{read}");
    let (code, refused) = hub.with_token(&robot, &["monitor-events", "--timeout", "1"]);
    assert!(
        code != Some(0) && refused.contains("Principal twin-robot is not authorized"),
        "{code:?} {refused}"
    );

    // Policies: neither REST nor AMQP.
    let refused = hub.command(&["device", "list"]);
    assert_eq!(refused.status.code(), Some(5));
    assert!(
        text(&refused.stderr).contains("auth.service.shared_policies"),
        "{}",
        text(&refused.stderr)
    );
    let refused = hub.command(&["monitor-events", "--timeout", "1"]);
    assert!(
        text(&refused.stderr).contains("PoliciesDisabled"),
        "{}",
        text(&refused.stderr)
    );

    // The issuer has new keys, while the hub runs.
    let renewed = issuer.token(&second, "alice", &["hub-admins"]);
    issuer.server.rotate(&[&second]);
    hub.until("the new key counts", |hub| {
        hub.with_token(&renewed, &["device", "list"]).0 == Some(0)
    });
    let (code, refused) = hub.with_token(&admin, &["device", "list"]);
    assert!(code == Some(5) && refused.contains("no key"), "{code:?} {refused}");

    // It is down: the last keys stay, but a hub that starts has none.
    issuer.server.set_down(true);
    assert_eq!(hub.with_token(&renewed, &["device", "show", "dev-1"]).0, Some(0));
    hub.stop();
    hub.launch(&options);
    let (code, refused) = hub.with_token(&renewed, &["device", "list"]);
    assert!(code == Some(1) && refused.contains("503"), "{code:?} {refused}");
    issuer.server.set_down(false);
    hub.until("the keys have been read", |hub| {
        hub.with_token(&renewed, &["device", "list"]).0 == Some(0)
    });

    hub.audit_with(&["bearer alice", "bearer bob", "sas_disabled"]);
    let token = std::fs::read_to_string(&renewed).unwrap();
    let signature = token.rsplit('.').next().unwrap();
    assert!(
        !holds(&hub.data_dir, signature.as_bytes()) && !hub.log().contains(signature),
        "a token is in a log"
    );
}

#[test]
fn policies_cannot_be_switched_off_without_an_issuer() {
    let output = run(&["config", "check", "--set", "auth.service.shared_policies=false"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(
        error.contains("auth.service.shared_policies") && error.contains("auth.oidc.issuer"),
        "{error}"
    );
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let output = run(&[
        "dev",
        "--ports",
        "0",
        "--data-dir",
        dir,
        "--set",
        "auth.service.shared_policies=false",
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn every_node_of_a_hub_without_policies_takes_the_tokens() {
    let (first, second) = (SigningKey::rsa("first"), SigningKey::p256("second"));
    let issuer = Issuer::start(&[&first]);
    let admin = issuer.token(&first, "alice", &["hub-admins"]);
    let reader = issuer.token(&first, "bob", &["hub-readers"]);
    let renewed = issuer.token(&second, "alice", &["hub-admins"]);
    let mut options = issuer.options();
    options.extend(
        [
            "--set",
            "auth.service.shared_policies=false",
            "--nodes",
            "3",
            "--token-file",
        ]
        .map(str::to_owned),
    );
    options.push(admin.display().to_string());
    let hub = Hub::start(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let nodes: Vec<PathBuf> = (hub.connection()["nodes"].as_array().unwrap().iter())
        .map(|node| PathBuf::from(node["dataDir"].as_str().unwrap()).join("node.json"))
        .collect();
    assert_eq!(nodes.len(), 3);
    // One node's own file, with a token or without.
    let at = |node: &Path, token: Option<&Path>, args: &[&str]| {
        let mut command = holdfast();
        command.args(args).arg("--connection-file").arg(node);
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for (number, node) in nodes.iter().enumerate() {
        let device = format!("dev-{number}");
        hub.until("the keys of the issuer have been read", |_| {
            at(node, Some(&admin), &["device", "list"]).0 == Some(0)
        });
        let (code, created) = at(node, Some(&admin), &["device", "create", &device]);
        assert_eq!(code, Some(0), "{created}");
        let (code, refused) = at(node, Some(&reader), &["device", "delete", &device]);
        assert!(
            code == Some(5) && refused.contains("Principal bob is not authorized"),
            "{refused}"
        );
        let (code, refused) = at(node, None, &["device", "list"]);
        assert!(
            code == Some(5) && refused.contains("auth.service.shared_policies"),
            "{refused}"
        );
        let (code, refused) = at(node, None, &["monitor-events", "--timeout", "1"]);
        assert!(code != Some(0) && refused.contains("PoliciesDisabled"), "{refused}");
    }
    // Each node reads the keys for itself.
    issuer.server.rotate(&[&second]);
    for node in &nodes {
        hub.until("the new key counts", |_| {
            at(node, Some(&renewed), &["device", "list"]).0 == Some(0)
        });
        let (code, refused) = at(node, Some(&admin), &["device", "list"]);
        assert!(code == Some(5) && refused.contains("no key"), "{refused}");
    }
}

#[test]
fn further_nodes_without_policies_need_a_token() {
    let issuer = Issuer::start(&[&SigningKey::p256("only")]);
    let dir = tempfile::tempdir().unwrap();
    let mut args = vec![
        "dev",
        "--ports",
        "0",
        "--nodes",
        "3",
        "--data-dir",
        dir.path().to_str().unwrap(),
    ];
    let options = issuer.options();
    args.extend(options.iter().map(String::as_str));
    args.extend(["--set", "auth.service.shared_policies=false"]);
    let output = run(&args);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("auth.service.shared_policies") && error.contains("--token-file"),
        "{error}"
    );
}
