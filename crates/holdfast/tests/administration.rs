//! Devices are registered, send, and are administered, all by the command line.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use harness::{Hub, holds, text};
use holdfast_client::software_tpm::SoftwareTpm;

#[test]
fn a_device_lives_from_create_to_delete() {
    let hub = Hub::start(&[]);
    let created = hub.json(&["device", "create", "dev-1"]);
    assert_eq!(
        (&created["deviceId"], &created["status"]),
        (&"dev-1".into(), &"enabled".into())
    );
    let again = hub.command(&["device", "create", "dev-1"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("409001"), "{}", text(&again.stderr));

    let disabled = hub.json(&[
        "device",
        "update",
        "dev-1",
        "--status",
        "disabled",
        "--status-reason",
        "stolen",
    ]);
    assert_eq!(
        (&disabled["status"], &disabled["statusReason"]),
        (&"disabled".into(), &"stolen".into())
    );
    let keys = "/authentication/symmetricKey";
    assert_eq!(
        created.pointer(keys),
        disabled.pointer(keys),
        "an update keeps what it does not name"
    );
    let stale = created["etag"].as_str().unwrap();
    let output = hub.command(&["device", "update", "dev-1", "--status", "enabled", "--etag", stale]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("412001"), "{}", text(&output.stderr));
    let renewed = hub.json(&[
        "device",
        "update",
        "-d",
        "dev-1",
        "--status",
        "enabled",
        "--new-keys",
        "primary",
    ]);
    let key = |document: &serde_json::Value, which: &str| {
        document
            .pointer(&format!("{keys}/{which}Key"))
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_ne!(key(&renewed, "primary"), key(&created, "primary"));
    assert_eq!(key(&renewed, "secondary"), key(&created, "secondary"));

    let module = hub.json(&["device", "create", "dev-1", "-m", "mod-1"]);
    assert_eq!(module["moduleId"], "mod-1");
    assert!(hub.ok(&["device", "list", "--modules-of", "dev-1"]).contains("mod-1"));
    let list = hub.ok(&["device", "list"]);
    assert!(list.starts_with("DEVICE") && list.contains("dev-1"), "{list}");
    assert!(
        !hub.ok(&["device", "list", "-o", "json"])
            .contains(&key(&renewed, "primary")),
        "lists show no keys"
    );

    let string = hub.ok(&["device", "connection-string", "dev-1", "--key-type", "secondary"]);
    let expected = format!(
        "HostName=localhost;DeviceId=dev-1;SharedAccessKey={}\n",
        key(&renewed, "secondary")
    );
    assert_eq!(string, expected);
    let token = hub.ok(&["sas-token", "-d", "dev-1"]);
    assert!(
        token.starts_with("SharedAccessSignature sr=localhost%2Fdevices%2Fdev-1&sig="),
        "{token}"
    );

    hub.ok(&["device", "delete", "dev-1"]);
    assert_eq!(hub.command(&["device", "show", "dev-1"]).status.code(), Some(3));
    let audit = hub.audit_with(&["createDevice", "updateDevice", "deleteDevice"]);
    for key in [key(&created, "primary"), key(&renewed, "primary")] {
        assert!(!audit.contains(&key), "a key is in the audit log");
    }
}

#[test]
fn policies_are_administered_and_the_connection_file_follows_their_keys() {
    let mut hub = Hub::start(&[]);
    let created = hub.json(&[
        "policy",
        "create",
        "readers",
        "--permissions",
        "ServiceConnect",
        "RegistryRead",
    ]);
    assert_eq!(created["rights"], "RegistryRead, ServiceConnect");
    let again = hub.command(&["policy", "create", "readers", "--rights", "ServiceConnect"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("409000"), "{}", text(&again.stderr));
    let list = hub.ok(&["policy", "list"]);
    assert!(
        list.starts_with("NAME") && list.contains("readers") && list.contains("iothubowner"),
        "{list}"
    );
    assert!(!list.contains(created["primaryKey"].as_str().unwrap()), "{list}");
    let updated = hub.json(&["policy", "update", "readers", "--permissions", "RegistryRead"]);
    assert_eq!(
        (&updated["rights"], &updated["primaryKey"]),
        (&"RegistryRead".into(), &created["primaryKey"])
    );
    // A login with fewer rights sees no keys.
    let login = format!(
        "HostName=localhost:{};SharedAccessKeyName=readers;SharedAccessKey={}",
        hub.connection()["ports"]["https"],
        created["secondaryKey"].as_str().unwrap()
    );
    let ca = hub.connection()["caFile"].as_str().unwrap().to_owned();
    let shown = hub.json(&["policy", "show", "readers", "--login", &login, "--ca-file", &ca]);
    assert!(
        shown["primaryKey"].is_null() && shown["secondaryKey"].is_null(),
        "{shown}"
    );
    let swapped = hub.json(&["policy", "swap-keys", "readers"]);
    assert_eq!(swapped["primaryKey"], created["secondaryKey"]);
    hub.ok(&["policy", "delete", "readers"]);
    assert_eq!(hub.command(&["policy", "show", "readers"]).status.code(), Some(3));

    // The key of the login itself: the file has the new one soon.
    let before = hub.connection()["owner"].clone();
    let renewed = hub.json(&["policy", "regenerate-key", "iothubowner", "--key-type", "primary"]);
    let key = renewed["primaryKey"].as_str().unwrap().to_owned();
    hub.until("the connection file has the new key", |hub| {
        hub.connection()["owner"]
            .as_str()
            .is_some_and(|owner| owner.ends_with(&key))
    });
    assert_ne!(hub.connection()["owner"], before);
    hub.ok(&["device", "list"]);
    // A hub starts without the default policies, as long as one has all rights.
    for name in ["service", "device", "registryRead", "registryReadWrite"] {
        hub.ok(&["policy", "delete", name]);
    }
    let last = hub.command(&["policy", "delete", "iothubowner"]);
    assert_eq!(last.status.code(), Some(1));
    assert!(text(&last.stderr).contains("400003"), "{}", text(&last.stderr));
    hub.stop();
    hub.launch(&[]);
    assert_eq!(hub.connection()["service"], hub.connection()["owner"]);
    let audit = std::fs::read_to_string(hub.data_dir.join("audit.jsonl")).unwrap();
    for operation in ["putPolicy", "deletePolicy", "swapPolicyKeys", "regeneratePolicyKey"] {
        assert!(audit.contains(operation), "{operation} is not in the audit log");
    }
    for key in [&key, created["primaryKey"].as_str().unwrap()] {
        assert!(!audit.contains(key) && !hub.log().contains(key), "a key is in a log");
    }
}

#[test]
fn the_monitor_shows_messages_of_simulated_devices() {
    let hub = Hub::start(&[]);
    hub.ok(&["simulate", "--devices", "3", "--interval", "0.05", "--messages", "4"]);
    let read = |args: &[&str]| hub.ok(&[&["monitor-events", "--from", "oldest", "-o", "json"], args].concat());
    let lines = read(&["--count", "12"]);
    let events: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for device in ["sim-0000", "sim-0001", "sim-0002"] {
        let own: Vec<_> = events
            .iter()
            .filter(|event| event["event"]["origin"] == device)
            .collect();
        let numbers: Vec<_> = own
            .iter()
            .map(|event| event["event"]["payload"]["message"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, [1, 2, 3, 4], "{device}");
        assert_eq!(
            own[0]["event"]["properties"]["system"]["content_type"],
            "application/json"
        );
    }
    let one = read(&["-d", "sim-0001", "--count", "4"]);
    assert!(
        one.lines().all(|line| line.contains("\"origin\":\"sim-0001\"")),
        "{one}"
    );
    assert!(read(&["-d", "sim-*", "--timeout", "1"]).lines().count() == 12);
    let unknown = hub.command(&["monitor-events", "--consumer-group", "nobody", "--count", "1"]);
    assert!(
        !unknown.status.success() && text(&unknown.stderr).contains("nobody"),
        "{}",
        text(&unknown.stderr)
    );
}

/// Publishes one message with QoS 1 over plain MQTT, as a device that may write any bytes.
fn publish(hub: &Hub, device: &str, properties: &str, payload: &[u8]) {
    let topic = format!("devices/{device}/messages/events/{properties}");
    let answer = publish_to(hub, device, &topic, payload);
    assert_eq!(answer, [0x40, 2, 0, 1]);
}

/// The same to any topic; the hub's answer, empty when it closes the connection.
fn publish_to(hub: &Hub, device: &str, topic: &str, payload: &[u8]) -> Vec<u8> {
    use std::io::{Read as _, Write as _};
    let token = hub.ok(&["sas-token", "-d", device]);
    let field = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let packet = |kind: u8, body: &[u8]| {
        let (mut head, mut length) = (vec![kind], body.len());
        while length >= 128 {
            head.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        head.push(u8::try_from(length).unwrap());
        [&head[..], body].concat()
    };
    let user = format!("localhost/{device}/?api-version=2021-04-12");
    let connect = [
        &b"\0\x04MQTT\x04\xc2\0\x3c"[..],
        &field(device.as_bytes()),
        &field(user.as_bytes()),
        &field(token.trim().as_bytes()),
    ];
    let message = [&field(topic.as_bytes())[..], b"\0\x01", payload];
    let port = hub.connection()["ports"]["mqttPlain"].as_u64().unwrap();
    let mut socket = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    socket.write_all(&packet(0x10, &connect.concat())).unwrap();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    socket.write_all(&packet(0x32, &message.concat())).unwrap();
    let mut answer = vec![0; 4];
    let read = socket.read(&mut answer).unwrap();
    answer.truncate(read);
    answer
}

#[test]
fn nothing_that_a_device_sends_controls_the_terminal_or_forges_a_line() {
    let hub = Hub::start(&[]);
    hub.ok(&["device", "create", "dev-1"]);
    let payload = "x\n2026-01-01T00:00:00.000Z  boiler-7  0:1  {\"alarm\":\"fire\"}\u{1b}[8m\u{9b}0m\u{202e}";
    publish(&hub, "dev-1", "na%0Ame=%1B%5B31mred", payload.as_bytes());
    let read = |form: &str| hub.ok(&["monitor-events", "--from", "oldest", "--count", "1", "-o", form]);
    for form in ["text", "json"] {
        let line = read(form);
        let is_control = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!line.trim_end_matches('\n').contains(is_control), "{form}: {line:?}");
        assert!(
            line.contains(r"x\n2026") && line.contains(r"\u001b[8m\u009b0m\u202e"),
            "{line}"
        );
        assert!(line.contains(r"na\nme") && line.contains(r"\u001b[31mred"), "{line}");
    }
    let event: serde_json::Value = serde_json::from_str(&read("json")).unwrap();
    assert_eq!(event["event"]["payload"], payload, "JSON means what was sent");
}

#[test]
fn a_list_longer_than_a_page_is_complete_and_a_part_says_so() {
    const DEVICES: usize = 1_103;
    let hub = Hub::start(&[]);
    let file = holdfast_swarm::hub::Hub::load(&hub.connection_file()).unwrap();
    let names = holdfast_swarm::target::DeviceNames::new("d-").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let created = holdfast_swarm::devices::create(&file, &names, 0..u32::try_from(DEVICES).unwrap());
    runtime.block_on(created).unwrap();
    for (top, shown, has_more) in [
        (None, DEVICES, false),
        (Some("1103"), DEVICES, false),
        (Some("1050"), 1_050, true),
    ] {
        let top: Vec<&str> = top.map(|top| ["--top", top]).into_iter().flatten().collect();
        let output = hub.command(&[&["device", "list", "-o", "json"][..], &top].concat());
        let devices: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(devices.len(), shown);
        assert_eq!(
            devices[shown - 1]["deviceId"],
            names.name(u32::try_from(shown).unwrap() - 1)
        );
        let said = text(&output.stderr);
        assert_eq!(said.contains("there are more"), has_more, "{said}");
    }
}

#[test]
fn a_consumer_group_is_added_read_with_and_removed() {
    let hub = Hub::start(&[]);
    hub.ok(&["simulate", "--devices", "1", "--interval", "0.01", "--messages", "2"]);
    hub.ok(&["consumer-group", "create", "analytics"]);
    assert_eq!(hub.ok(&["consumer-group", "list"]), "NAME\n$Default\nanalytics\n");
    let read = [
        "monitor-events",
        "--cg",
        "analytics",
        "--from",
        "oldest",
        "--count",
        "2",
        "-o",
        "json",
    ];
    assert_eq!(hub.ok(&read).lines().count(), 2);
    hub.ok(&["consumer-group", "delete", "analytics"]);
    assert_eq!(
        hub.command(&["consumer-group", "delete", "analytics"]).status.code(),
        Some(3)
    );
}

#[test]
fn a_query_is_saved_shown_run_measured_and_deleted() {
    let mut hub = Hub::start(&[]);
    for device in ["a-1", "a-2", "b-1"] {
        hub.ok(&["device", "create", device]);
    }
    let text_of = "SELECT deviceId FROM devices WHERE STARTSWITH(deviceId, 'a-')";
    let saved = hub.json(&[
        "query",
        "save",
        "site-a",
        text_of,
        "--description",
        "at site A",
        "--new",
    ]);
    assert_eq!(saved["query"], text_of);
    assert_eq!(
        hub.command(&["query", "save", "site-a", text_of, "--new"])
            .status
            .code(),
        Some(1)
    );
    let bad = hub.command(&["query", "save", "site-b", "SELECT FROM devices"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stderr).contains("line 1, column 8"), "{}", text(&bad.stderr));
    let list = hub.ok(&["query", "saved"]);
    assert!(
        list.starts_with("NAME") && list.contains("site-a") && list.contains("at site A"),
        "{list}"
    );
    let results = hub.json(&["query", "run", "site-a"]);
    assert_eq!(results, serde_json::json!([{"deviceId": "a-1"}, {"deviceId": "a-2"}]));
    assert_eq!(
        hub.ok(&["query", "run", "site-a", "--top", "1", "-o", "table"]),
        "deviceId\na-1\n"
    );
    assert_eq!(hub.json(&["query", text_of]), results, "a query needs no name");
    let gauge = "holdfast_saved_query_matches{query=\"site-a\"} 2\n";
    let shows_gauge = |hub: &Hub| {
        let begun = std::time::Instant::now();
        while !hub.ops("/metrics").1.contains(gauge) {
            assert!(begun.elapsed().as_secs() < 30, "{}", hub.ops("/metrics").1);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    shows_gauge(&hub);
    hub.stop();
    hub.launch(&[]);
    assert_eq!(hub.json(&["query", "show", "site-a"]), saved);
    shows_gauge(&hub);
    let stale = hub.command(&["query", "delete", "site-a", "--etag", "x"]);
    assert!(text(&stale.stderr).contains("412001"), "{}", text(&stale.stderr));
    hub.ok(&["query", "delete", "site-a"]);
    assert!(!hub.ops("/metrics").1.contains("holdfast_saved_query_matches"));
    assert_eq!(hub.command(&["query", "run", "site-a"]).status.code(), Some(3));
    hub.audit_with(&["putSavedQuery", "deleteSavedQuery"]);
}

#[test]
fn a_hub_that_gets_another_name_keeps_its_devices_and_is_read_under_the_new_one() {
    let mut hub = Hub::start(&[]);
    hub.ok(&["simulate", "--devices", "1", "--interval", "0.01", "--messages", "1"]);
    hub.stop();
    hub.launch(&["--host", "127.91.0.3"]);
    assert!(
        hub.connection()["eventHub"]
            .as_str()
            .unwrap()
            .ends_with(";EntityPath=127")
    );
    hub.ok(&["device", "show", "sim-0000"]);
    assert_eq!(
        hub.ok(&["monitor-events", "--from", "oldest", "--count", "1", "-o", "json"])
            .lines()
            .count(),
        1
    );
}

#[test]
fn a_simulated_fleet_registers_by_each_attestation_and_connects() {
    let hub = Hub::start(&[]);
    let has_tpm = SoftwareTpm::is_installed();
    assert!(
        has_tpm || std::env::var_os("CI").is_none(),
        "swtpm and tpm2-tools are not installed"
    );
    let kinds = ["group-key", "certificates", "csr", "tpm"];
    for kind in kinds.iter().filter(|kind| **kind != "tpm" || has_tpm) {
        let prefix = format!("{kind}-");
        let fleet = |devices| {
            let with = ["--provision", kind, "--prefix", &prefix, "--interval", "0.01"];
            hub.ok(&[&["simulate", "-n", devices, "--messages", "2"], &with[..]].concat())
        };
        assert!(fleet("2").contains("4 messages acknowledged"));
        // The second run finds what the first has made, and the TPM of a device is another one.
        assert!(fleet("1").contains("2 messages acknowledged"));
        let device = hub.json(&["provisioning", "registration", "show", &format!("{prefix}0001")]);
        assert_eq!(device["status"], "assigned", "{device}");
    }
    let many = hub.command(&["simulate", "-n", "101", "--provision", "tpm"]);
    assert!(text(&many.stderr).contains("at most 100 devices"));
}

#[test]
fn a_simulated_device_answers_methods_takes_messages_and_reports_its_twin() {
    let hub = Hub::start(&[]);
    let mut fleet = harness::holdfast()
        .args(["simulate", "-n", "1", "--until-stdin-closes", "--connection-file"])
        .arg(hub.connection_file())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !condition() {
            assert!(std::time::Instant::now() < deadline, "{what} never came");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let reported = || hub.command(&["twin", "show", "sim-0000", "-o", "json"]);
    let reports = |text: &str| {
        harness::text(&reported().stdout)
            .replace([' ', '\n'], "")
            .contains(text)
    };
    until("the first report", &|| reports("\"interval\":2.0"));
    let called = hub.json(&["device", "method", "echo", "sim-0000", "--payload", "[1]", "-o", "json"]);
    assert_eq!(
        (&called["status"], &called["payload"][0]),
        (&200.into(), &1.into()),
        "{called}"
    );
    hub.ok(&["twin", "update", "sim-0000", "--desired", r#"{"interval":0.5}"#]);
    until("the report of a desired change", &|| reports("\"interval\":0.5"));
    hub.ok(&["c2d", "send", "sim-0000", "--data", "hello"]);
    until("the acknowledgement", &|| {
        hub.json(&["c2d", "list", "sim-0000", "-o", "json"]) == serde_json::json!([])
    });
    drop(fleet.stdin.take());
    assert!(fleet.wait().unwrap().success());
}

#[test]
fn a_refused_device_can_be_diagnosed() {
    let hub = Hub::start(&[]);
    hub.ok(&["simulate", "--devices", "1", "--messages", "1", "--interval", "0.01"]);
    hub.ok(&["device", "update", "sim-0000", "--status", "disabled"]);
    // It retries until the end of its input.
    let mut fleet = harness::holdfast()
        .args([
            "simulate",
            "--devices",
            "1",
            "--until-stdin-closes",
            "--connection-file",
        ])
        .arg(hub.connection_file())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let refusal = loop {
        let diagnosis = hub.json(&["device", "diagnose", "sim-0000", "-o", "json"]);
        if let Some(refusal) = diagnosis["refusals"].as_array().and_then(|refusals| refusals.first()) {
            break refusal.clone();
        }
        assert!(std::time::Instant::now() < deadline, "no refusal is shown: {diagnosis}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(refusal["reason"], "disabled", "{refusal}");
    assert!(
        refusal["errorCode"].as_u64().is_some() && refusal["advice"].as_str().is_some(),
        "{refusal}"
    );
    drop(fleet.stdin.take());
    assert!(fleet.wait().unwrap().success());
    assert!(hub.ok(&["device", "diagnose", "sim-0000"]).contains("reason=disabled"));
}

#[test]
fn a_device_that_breaks_a_rule_can_be_diagnosed() {
    let hub = Hub::start(&[]);
    hub.ok(&["device", "create", "dev-1"]);
    let answer = publish_to(&hub, "dev-1", "devices/dev-2/messages/events/", b"x");
    assert_eq!(answer, b"", "MQTT 3.1.1 has no answer but the end of the connection");
    let text = hub.ok(&["device", "diagnose", "dev-1"]);
    assert!(
        text.contains("protocol_violation")
            && text.contains(r#"PUBLISH to "devices/dev-2/messages/events/""#)
            && text.contains("device-mqtt §5.1"),
        "{text}"
    );
}

#[test]
fn no_key_is_on_the_disk_or_in_the_logs_in_clear() {
    let mut hub = Hub::start(&[]);
    let key = "c2VjcmV0LWtleS1vZi1hLWRldmljZS0wMTIzNDU2Nzg=";
    hub.ok(&[
        "device",
        "create",
        "dev-1",
        "--primary-key",
        key,
        "--secondary-key",
        key,
    ]);
    hub.ok(&["device", "show", "dev-1"]);
    let output = hub.ok(&["device", "connection-string", "dev-1"]);
    assert!(output.contains(key), "the key is what was given");
    let owner = hub.connection()["owner"]
        .as_str()
        .unwrap()
        .rsplit_once("SharedAccessKey=")
        .unwrap()
        .1
        .to_owned();
    hub.stop();
    let log = hub.last_lines();
    for secret in [key.as_bytes(), b"secret-key-of-a-device-012345678", owner.as_bytes()] {
        assert!(!holds(&hub.data_dir, secret), "a secret is in the data directory");
        assert!(
            !log.as_bytes().windows(secret.len()).any(|window| window == secret),
            "a secret is in the log"
        );
    }
}
