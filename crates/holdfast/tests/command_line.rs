//! Output and exit codes of the command line, without a hub.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use harness::{run, text};

#[test]
fn a_wrong_configuration_ends_with_2_and_names_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hub.toml");
    std::fs::write(
        &file,
        "[hub]\nhots = 'x'\n\n[storage]\nmin_fre = '1GiB'\nblock_cache = 5\n",
    )
    .unwrap();
    for command in [&["config", "check"][..], &["start"][..]] {
        let output = run(&[command, &["--config", file.to_str().unwrap()]].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        for expected in [
            ":2: unknown key hub.hots; did you mean hub.host?",
            ":5: unknown key storage.min_fre; did you mean storage.min_free?",
            ":6: storage.block_cache: must be a size such as \"64KiB\", found 5",
        ] {
            assert!(message.contains(expected), "{expected} is not in\n{message}");
        }
    }
}

#[test]
fn the_default_configuration_is_valid_and_can_be_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hub.toml");
    std::fs::write(&file, run(&["config", "default"]).stdout).unwrap();
    let output = run(&["config", "check", "--print", "--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("[storage]\nmin_free = \"1GiB\""),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn weak_settings_are_named_and_end_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hub.toml");
    std::fs::write(
        &file,
        "[mqtt]\nfault_injection = true\n[ops]\nlisten = '0.0.0.0:9600'\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let output = run(&["config", "check", "--production", "--config", file]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for expected in [
        "HIGH    mqtt.fault_injection: ",
        "HIGH    ops.listen: 0.0.0.0:9600",
        "MEDIUM  throttles.profile: ",
    ] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    let output = run(&["config", "check", "--production", "--json", "--config", file]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["weaknesses"][0]["severity"], "high", "{report:#}");
    // Without --production the file is valid.
    assert!(run(&["config", "check", "--config", file]).status.success());
}

#[test]
fn every_way_to_fail_has_its_exit_code() {
    let nowhere = "HostName=127.0.0.1:1;SharedAccessKeyName=iothubowner;SharedAccessKey=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let device = "HostName=127.0.0.1;DeviceId=d;SharedAccessKey=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for (args, code, expected) in [
        (&["frobnicate"][..], 2, "unrecognized subcommand"),
        (&["device", "show"], 2, "which device"),
        (&["device", "show", "a b"], 2, "is no device id"),
        (&["device", "show", "d", "--login", "nonsense"], 2, "no ="),
        (
            &["device", "show", "d", "--connection-file", "/nowhere.json"],
            4,
            "holdfast dev",
        ),
        (
            &["device", "show", "d", "--login", nowhere],
            4,
            "cannot reach the hub at 127.0.0.1:1",
        ),
        (&["sas-token", "--login", device], 2, "no policy's key"),
        (&["dev", "--nodes", "33"], 2, "1..=32"),
        (&["dev", "--nodes", "2", "--bind", "0.0.0.0"], 2, "127.0.0.0/8"),
        (
            &["start", "--set", "hub.data_dir=/proc/nowhere"],
            2,
            "tls.certificate_file is not set",
        ),
        (
            &[
                "start",
                "--set",
                "hub.data_dir=/proc/nowhere",
                "--set",
                "listen.mqtts=",
                "--set",
                "listen.amqps=",
                "--set",
                "listen.https=",
            ],
            6,
            "cannot write to the data directory",
        ),
    ] {
        let output = run(args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}

#[test]
fn a_key_on_the_command_line_is_not_repeated_in_messages() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let login = format!("HostName=127.0.0.1:1;SharedAccessKeyName=iothubowner;SharedAccessKey={key}");
    for login in [login.clone(), format!("{login};{key}")] {
        let output = run(&["device", "list", "--login", &login]);
        assert!(!text(&output.stderr).contains(key), "{}", text(&output.stderr));
    }
}

#[test]
fn a_token_can_be_made_without_reaching_the_hub() {
    let login = "HostName=hub1.example.com;SharedAccessKeyName=service;SharedAccessKey=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let output = run(&["sas-token", "--login", login, "--duration", "60", "-o", "json"]);
    let token: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let sas = token["sas"].as_str().unwrap();
    assert!(
        sas.starts_with("SharedAccessSignature sr=hub1.example.com&sig=") && sas.ends_with("&skn=service"),
        "{sas}"
    );
}
