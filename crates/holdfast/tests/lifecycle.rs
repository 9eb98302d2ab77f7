//! A hub process from its start to its end.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::os::unix::fs::PermissionsExt as _;

use harness::{Hub, get, text};
use rustix::process::Signal;

#[test]
fn a_hub_starts_prints_how_to_reach_it_and_stops_in_order() {
    let mut hub = Hub::start(&[]);
    assert_eq!(hub.ops("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(hub.ops("/readyz"), (200, "ok\n".to_owned()));
    let metrics = hub.ops("/metrics").1;
    assert!(
        metrics.contains("holdfast_build_info{version=") && metrics.contains("# HELP holdfast_storage_syncs_total")
    );
    let mode = std::fs::metadata(hub.connection_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the connection file holds keys");

    let status = hub.stop();
    assert_eq!(status.code(), Some(0), "{}", hub.last_lines());
    assert!(
        !hub.connection_file().exists(),
        "its presence means that the hub is ready"
    );
}

#[test]
fn a_killed_hub_starts_again_with_the_same_keys_and_ca() {
    let mut hub = Hub::start(&[]);
    let before = hub.connection();
    hub.kill();
    // Left over; the next start must not be taken for ready because of it.
    assert!(hub.connection_file().exists());
    std::fs::remove_file(hub.connection_file()).unwrap();
    hub.launch(&[]);
    let after = hub.connection();
    for key in [
        "owner",
        "service",
        "device",
        "registryRead",
        "registryReadWrite",
        "eventHub",
        "caFile",
    ] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_ne!(before["pids"], after["pids"]);
}

#[test]
fn a_second_hub_does_not_get_the_directory_of_a_running_one_and_leaves_it_alone() {
    let hub = Hub::start(&[]);
    let second = harness::run(&["dev", "--ports", "0", "--data-dir", hub.data_dir.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(6), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains("in use"), "{}", text(&second.stderr));
    assert!(hub.connection_file().exists(), "the first hub's file is gone");
    assert_eq!(hub.ops("/readyz").0, 200);
}

#[test]
fn many_hubs_run_side_by_side_on_loopback_addresses_of_their_own() {
    let hubs = ["127.91.0.1", "127.91.0.2"].map(|host| (host, Hub::start(&["--host", host])));
    for (host, hub) in &hubs {
        let connection = hub.connection();
        assert_eq!(connection["hostName"], *host);
        assert!(
            connection["metrics"]
                .as_str()
                .unwrap()
                .starts_with(&format!("http://{host}:"))
        );
        for port in ["mqtt", "mqttPlain", "amqp", "amqpPlain", "https"] {
            let port = connection["ports"][port].as_u64().unwrap();
            std::net::TcpStream::connect(format!("{host}:{port}")).unwrap();
        }
    }
}

#[test]
fn a_hub_with_a_name_is_bound_to_one_loopback_address_and_found_there() {
    let hub = Hub::start(&["--host", "hub.test", "--bind", "127.91.0.4"]);
    let connection = hub.connection();
    assert_eq!(connection["hostName"], "hub.test");
    assert!(
        connection["metrics"]
            .as_str()
            .unwrap()
            .starts_with("http://127.91.0.4:")
    );
    for port in ["mqtt", "mqttPlain", "amqp", "amqpPlain", "https"] {
        let port = connection["ports"][port].as_u64().unwrap();
        std::net::TcpStream::connect(format!("127.91.0.4:{port}")).unwrap();
    }
    // The name resolves nowhere; the connection file says where the hub is.
    hub.ok(&["device", "create", "dev-1"]);
    hub.ok(&["simulate", "-n", "1", "--messages", "1", "--interval", "0.01"]);
    hub.ok(&["monitor-events", "--from", "oldest", "--count", "1"]);
}

#[test]
fn ctrl_c_is_as_good_as_sigterm() {
    let mut hub = Hub::start(&[]);
    hub.signal(Signal::INT);
    assert_eq!(hub.wait().code(), Some(0), "{}", hub.last_lines());
}

#[test]
fn a_start_with_the_wrong_sealing_key_says_so() {
    let mut hub = Hub::start(&[]);
    hub.stop();
    let other = hub.data_dir.join("other.key");
    std::fs::write(&other, "00".repeat(32)).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
    let assignment = format!("secrets.key_file={}", other.display());
    let output = harness::run(&[
        "dev",
        "--ports",
        "0",
        "--data-dir",
        hub.data_dir.to_str().unwrap(),
        "--set",
        &assignment,
    ]);
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("secrets.key_file"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_configured_hub_starts_from_a_file() {
    let dev = Hub::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let connection = dir.path().join("connection.json");
    let config = dir.path().join("hub.toml");
    let certs = dev.data_dir.display();
    std::fs::write(
        &config,
        format!(
            "[hub]\nhost = 'localhost'\ndata_dir = '{0}/data'\nconnection_file = '{1}'\n\
             [listen]\nmqtts = ['127.0.0.1:0']\namqps = ['127.0.0.1:0']\nhttps = ['127.0.0.1:0']\n\
             [tls]\ncertificate_file = '{certs}/server.pem'\nkey_file = '{certs}/server.key'\n\
             [ops]\nlisten = '127.0.0.1:0'\n[log]\nformat = 'json'\n",
            dir.path().display(),
            connection.display()
        ),
    )
    .unwrap();
    let mut child = harness::holdfast()
        .args(["start", "--config", config.to_str().unwrap()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !connection.exists() {
        assert!(
            child.try_wait().unwrap().is_none() && std::time::Instant::now() < deadline,
            "it does not become ready"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let ops: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&connection).unwrap()).unwrap();
    let ops = ops["metrics"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(get(&ops, "/readyz").0, 200);
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    for line in text(&output.stderr).lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}
