//! The keys of a real issuer: an HTTPS server with keys that change, goes down and answers nonsense.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_auth::bearer::{BearerRefusal, Role, Roles};
use holdfast_model::{HumanDuration, UnixMillis};
use holdfast_oidc::{Issuer, OidcConfig};
use holdfast_tasks::{Phase, Stop};
use holdfast_testkit::eventually;
use holdfast_testkit::issuer::{IssuerServer, SigningKey};
use serde_json::json;

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(since.as_millis()).unwrap())
}

fn config(server: &IssuerServer) -> OidcConfig {
    OidcConfig {
        issuer: server.url.clone(),
        ca_file: Some(server.ca_file.clone()),
        unknown_key_interval: HumanDuration::millis(100),
        ..OidcConfig::default()
    }
}

fn token(server: &IssuerServer, key: &SigningKey) -> String {
    key.token(&json!({
        "iss": server.url,
        "aud": "https://iothubs.azure.net",
        "sub": "robot",
        "exp": now().seconds() + 600,
        "roles": ["IoT Hub Data Reader"],
    }))
}

/// Follows the issuer until it is dropped.
struct Followed {
    issuer: Issuer,
    stop: Stop,
}

impl Followed {
    fn start(config: &OidcConfig) -> Self {
        let (issuer, stop) = (Issuer::new(config), Stop::new());
        holdfast_tasks::spawn("issuer-keys", issuer.clone().follow(stop.clone()));
        Self { issuer, stop }
    }

    async fn check(&self, text: &str) -> Result<(), BearerRefusal> {
        self.issuer.check_with_newest(text, now()).await.map(|_| ())
    }

    /// Waits until the token is answered like that.
    async fn answers(&self, text: &str, expected: Result<(), BearerRefusal>) {
        eventually("the token is answered as expected", || {
            self.issuer.check(text, now()).map(|_| ()) == expected
        })
        .await;
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.enter(Phase::Closing);
    }
}

#[tokio::test]
async fn keys_are_found_rotated_and_kept_while_the_issuer_is_down() {
    let (old, new) = (SigningKey::rsa("2025"), SigningKey::p256("2026"));
    let server = IssuerServer::start(&[&old]);
    let hub = Followed::start(&config(&server));
    // The first keys are waited for.
    hub.answers(&token(&server, &old), Ok(())).await;
    let principal = hub.issuer.check(&token(&server, &old), now()).unwrap();
    assert_eq!(
        (&*principal.name, principal.roles),
        ("robot", Roles::NONE.with(Role::DataReader))
    );
    // A new key is fetched when the first token that it has signed comes.
    server.rotate(&[&old, &new]);
    hub.answers(&token(&server, &new), Ok(())).await;
    hub.answers(&token(&server, &old), Ok(())).await;
    // One that is gone counts no more, once the keys have been read.
    server.rotate(&[&new]);
    let (gone, unknown) = (token(&server, &old), token(&server, &SigningKey::p256("nobody's")));
    eventually("the old key is gone", || {
        // Has them fetched, at most every tenth of a second.
        let _ = hub.issuer.check(&unknown, now());
        hub.issuer.check(&gone, now()).map(|_| ()) == Err(BearerRefusal::UnknownKey)
    })
    .await;
    assert_eq!(hub.check(&token(&server, &new)).await, Ok(()));

    // Nothing that the issuer answers takes the good keys away.
    for document in [&b"{}"[..], b"<html>", br#"{"keys":[]}"#, &vec![b' '; 1 << 20]] {
        server.set_document(document.to_vec());
        let asked = server.key_requests();
        let unknown = token(&server, &SigningKey::p256("nobody's"));
        eventually("the keys are requested", || {
            let _ = hub.issuer.check(&unknown, now());
            server.key_requests() > asked
        })
        .await;
        hub.issuer.settled().await;
        assert_eq!(hub.check(&token(&server, &new)).await, Ok(()));
    }
    server.set_down(true);
    let unknown = token(&server, &SigningKey::p256("nobody's"));
    assert_eq!(hub.check(&unknown).await, Err(BearerRefusal::UnknownKey));
    assert_eq!(hub.check(&token(&server, &new)).await, Ok(()));
    // And back.
    server.set_down(false);
    server.rotate(&[&old]);
    hub.answers(&token(&server, &old), Ok(())).await;
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch_per_interval() {
    let key = SigningKey::p256("k");
    let server = IssuerServer::start(&[&key]);
    let config = OidcConfig {
        unknown_key_interval: HumanDuration::secs(3600),
        ..config(&server)
    };
    let hub = Followed::start(&config);
    hub.answers(&token(&server, &key), Ok(())).await;
    // Waiting for the first keys may have asked once.
    hub.issuer.settled().await;
    let before = server.key_requests();
    for number in 0..200 {
        let unknown = token(&server, &SigningKey::p256(&format!("nobody's {number}")));
        assert_eq!(hub.check(&unknown).await, Err(BearerRefusal::UnknownKey));
    }
    assert!(
        server.key_requests() <= before + 1,
        "{} fetches",
        server.key_requests() - before
    );
    assert_eq!(hub.check(&token(&server, &key)).await, Ok(()));
}

#[tokio::test]
async fn keys_are_fetched_at_intervals_without_being_asked_for() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let server = IssuerServer::start(&[&old]);
    let config = OidcConfig {
        refresh_interval: HumanDuration::millis(50),
        unknown_key_interval: HumanDuration::secs(3600),
        ..config(&server)
    };
    let hub = Followed::start(&config);
    hub.answers(&token(&server, &old), Ok(())).await;
    server.rotate(&[&new]);
    hub.answers(&token(&server, &old), Err(BearerRefusal::UnknownKey)).await;
    hub.answers(&token(&server, &new), Ok(())).await;
}

#[tokio::test]
async fn without_keys_a_token_is_neither_accepted_nor_refused_for_good() {
    let key = SigningKey::p256("k");
    let server = IssuerServer::start(&[&key]);
    server.set_down(true);
    let hub = Followed::start(&config(&server));
    assert_eq!(hub.check(&token(&server, &key)).await, Err(BearerRefusal::NoKeys));
    server.set_down(false);
    hub.answers(&token(&server, &key), Ok(())).await;

    // An issuer that is not the one: by its certificate, and by its own word.
    let stranger = IssuerServer::start(&[&key]);
    let other_ca = OidcConfig {
        ca_file: Some(stranger.ca_file.clone()),
        ..config(&server)
    };
    let other_name = OidcConfig {
        issuer: format!("{}/", server.url),
        ..config(&server)
    };
    for config in [other_ca, other_name] {
        let hub = Followed::start(&config);
        let claims = json!({"iss": config.issuer, "aud": "https://iothubs.azure.net", "exp": now().seconds() + 600});
        let text = key.token(&claims);
        assert_eq!(hub.check(&text).await, Err(BearerRefusal::NoKeys), "{}", config.issuer);
        // Also when a fetch has certainly been tried.
        tokio::time::timeout(Duration::from_secs(30), hub.issuer.settled())
            .await
            .unwrap();
        assert_eq!(hub.check(&text).await, Err(BearerRefusal::NoKeys), "{}", config.issuer);
    }
}
