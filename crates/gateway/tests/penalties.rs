//! A client that guesses credentials, and the devices beside it.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::Duration;

use holdfast_model::RefusalReason;
use holdfast_mqtt::codec::{Connect, Packet};
use holdfast_simulation::{HOST, simulate};
use support::{Bench, DEVICE, encoded};
use tokio::time::Instant;

/// A well-formed token for the device that its key has not signed.
fn guessed(number: u32) -> String {
    format!("SharedAccessSignature sr=hub1.example.com%2Fdevices%2Fdev-1&sig={number:044}&se=1999999999")
}

/// The CONNECT of the device with `token`.
fn connect(token: &str) -> Vec<u8> {
    let username = format!("{HOST}/{DEVICE}/?api-version=2021-04-12");
    encoded(&Packet::Connect(Connect {
        clean: true,
        keep_alive: 60,
        client_id: DEVICE,
        username: Some(&username),
        password: Some(token.as_bytes()),
        ..Connect::default()
    }))
}

/// Shows `token` and returns how long the answer took.
async fn refused(bench: &Bench, token: &str) -> Duration {
    let mut device = bench.open();
    device.send(&connect(token)).await;
    let began = Instant::now();
    assert_eq!(device.receive(4).await, [0x20, 2, 0, 5]);
    began.elapsed()
}

async fn connects_at_once(bench: &Bench) {
    let began = Instant::now();
    bench.connect().await;
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
}

#[test]
fn a_credential_that_is_repeated_is_answered_later_and_later_and_the_right_one_at_once() {
    simulate(async {
        let bench = Bench::start().await;
        let token = guessed(7);
        let mut answers = Vec::new();
        for _ in 0..14 {
            answers.push(refused(&bench, &token).await);
            connects_at_once(&bench).await;
        }
        assert!(
            answers[..5].iter().all(|took| *took < Duration::from_millis(200)),
            "{answers:?}"
        );
        assert!(answers[5] >= Duration::from_millis(240), "{answers:?}");
        assert!(
            answers[13] >= Duration::from_secs(7) && answers[13] < Duration::from_secs(9),
            "{answers:?}"
        );
        let records = bench.diagnosis(DEVICE).await;
        let guessing = records
            .iter()
            .filter(|record| record.reason == RefusalReason::Guessing)
            .count();
        assert!(guessing <= 1, "{records:?}");
    });
}

#[test]
fn a_client_that_guesses_for_a_device_from_its_address_does_not_delay_the_device() {
    simulate(async {
        let bench = Bench::start().await;
        for guess in 0..200 {
            refused(&bench, &guessed(guess)).await;
        }
        // Many at once, each of which waits for its answer, while the device connects again and again.
        let mut guesses = Vec::new();
        for guess in 200..400 {
            let mut device = bench.open();
            let token = guessed(guess);
            device.send(&connect(&token)).await;
            guesses.push(device);
        }
        for _ in 0..5 {
            connects_at_once(&bench).await;
        }
        for mut device in guesses {
            assert_eq!(device.receive(4).await, [0x20, 2, 0, 5]);
        }
        let slow = refused(&bench, &guessed(1000)).await;
        assert!(
            slow >= Duration::from_secs(1) && slow < Duration::from_secs(3),
            "{slow:?}"
        );
        connects_at_once(&bench).await;
    });
}

#[test]
fn a_client_with_several_credentials_tries_them_one_after_the_other_without_a_delay() {
    simulate(async {
        let bench = Bench::start().await;
        for _ in 0..3 {
            for credential in 0..4 {
                assert!(refused(&bench, &guessed(credential)).await < Duration::from_millis(200));
            }
            connects_at_once(&bench).await;
        }
    });
}

#[test]
fn a_source_that_waits_is_answered_at_once_again() {
    simulate(async {
        let bench = Bench::start().await;
        for _ in 0..9 {
            refused(&bench, &guessed(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(refused(&bench, &guessed(1)).await < Duration::from_millis(200));
    });
}
