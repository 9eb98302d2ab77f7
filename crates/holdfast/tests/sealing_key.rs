//! The key that seals stored keys: from the environment, a command and a file, and exchanged.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::path::Path;
use std::process::Output;

use harness::{Hub, text};

const VARIABLE: &str = "TEST_SEALING_KEY";
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const BY_VARIABLE: [&str; 2] = ["--set", "secrets.key_variable=TEST_SEALING_KEY"];

fn rotate(data: &Path, now: &[&str], new: &Path) -> Output {
    let mut command = harness::holdfast();
    command.env(VARIABLE, KEY).args(["secrets", "rotate"]).args(now);
    command.arg("--set").arg(format!("hub.data_dir={}", data.display()));
    command.arg("--new-key-file").arg(new).output().unwrap()
}

#[test]
fn a_node_gets_another_key_and_opens_what_it_stored_before() {
    let mut hub = Hub::start_with(&BY_VARIABLE, &[(VARIABLE, KEY)]);
    hub.ok(&["device", "create", "d"]);
    let before = hub.ok(&["device", "connection-string", "d"]);
    let new = hub.data_dir.parent().unwrap().join("new.key");
    let running = rotate(&hub.data_dir, &BY_VARIABLE, &new);
    assert_eq!(running.status.code(), Some(6), "{}", text(&running.stderr));
    hub.stop();
    assert!(
        !hub.data_dir.join("sealing.key").exists(),
        "a key was written to the data directory"
    );

    let wrong = rotate(&hub.data_dir, &["--set", "secrets.key_command=false"], &new);
    assert_eq!(wrong.status.code(), Some(6));
    assert!(
        text(&wrong.stderr).contains("secrets.key_command"),
        "{}",
        text(&wrong.stderr)
    );
    let rotated = rotate(&hub.data_dir, &BY_VARIABLE, &new);
    assert!(rotated.status.success(), "{}", text(&rotated.stderr));
    let again = rotate(&hub.data_dir, &BY_VARIABLE, &new);
    assert!(text(&again.stdout).contains("already"), "{}", text(&again.stdout));

    let by_file = format!("secrets.key_file={}", new.display());
    hub.launch(&["--set", &by_file]);
    assert_eq!(hub.ok(&["device", "connection-string", "d"]), before);
    hub.stop();
    let by_command = format!("secrets.key_command=cat,{}", new.display());
    hub.launch(&["--set", &by_command]);
    assert_eq!(hub.ok(&["device", "connection-string", "d"]), before);
    let log = hub.log();
    let new_key = std::fs::read_to_string(&new).unwrap();
    for key in [KEY, new_key.trim()] {
        assert!(!log.contains(key), "a key is in the log");
    }

    let two = harness::run(&[
        "config",
        "check",
        "--set",
        "secrets.key_file=/k",
        BY_VARIABLE[0],
        BY_VARIABLE[1],
    ]);
    assert_eq!(two.status.code(), Some(2), "{}", text(&two.stderr));
}
