//! Bearer tokens at the built-in endpoint and for messages: by role, until they expire, renewed.

use holdfast_amqp::selector::Start;
use holdfast_amqp::{AttachSpec, ClientSasl, Event};
use holdfast_consensus::sim::SimNetwork;
use holdfast_device_hub::DeviceHubConfig;
use holdfast_model::NodeId;
use holdfast_service_api::events::EventsConfig;
use holdfast_testkit::issuer::SigningKey;

use crate::events_hub::{Client, HOST, Hub, Site, on_a_core};
use crate::issuer::{KEY, bearer, claims, issuer};

fn on_a_hub_with<F: Future<Output = ()>>(shared_policies: bool, test: impl FnOnce(Hub) -> F) {
    on_a_core(|| async {
        let site = Site {
            node: NodeId(7),
            owner: NodeId(7),
            network: SimNetwork::new(1),
        };
        let config = DeviceHubConfig {
            shared_policies,
            ..DeviceHubConfig::default()
        };
        test(Hub::start_with_issuer(EventsConfig::default(), config, Some(issuer()), site).await).await;
    });
}

const READER: &str = "hub1/ConsumerGroups/$Default/Partitions/0";
const SENDER: &str = "/messages/devicebound";
const FEEDBACK: &str = "/messages/serviceBound/feedback";

#[test]
fn each_role_opens_the_links_of_its_actions() {
    on_a_hub_with(true, |hub| async move {
        for (role, events, messages) in [
            ("Data Contributor", true, true),
            ("Data Reader", true, false),
            ("Registry Contributor", false, false),
            ("Twin Contributor", false, false),
        ] {
            let mut client = hub.connect(ClientSasl::Anonymous).await;
            assert_eq!(client.put(&bearer("alice", role)).await.status, 200, "{role}");
            for (spec, expected) in [
                (AttachSpec::receiver("r", READER), events),
                (AttachSpec::sender("s", SENDER), messages),
                (AttachSpec::receiver("f", FEEDBACK), messages),
            ] {
                let attached = client.attach(&spec).await;
                assert_eq!(attached.is_ok(), expected, "{role} {spec:?}: {attached:?}");
                if let Err((condition, text)) = attached {
                    assert_eq!(condition, "amqp:unauthorized-access");
                    assert!(text.starts_with("Principal alice is not authorized for "), "{text}");
                    assert!(text.contains(" due to no assigned permissions."), "{text}");
                }
            }
            let status = client.management("hub1", None).await.status;
            assert_eq!(status == 200, events, "{role}: {status}");
        }
    });
}

#[test]
fn what_is_no_valid_bearer_token_is_refused_with_its_status() {
    on_a_hub_with(true, |hub| async move {
        let mut client = hub.connect(ClientSasl::None).await;
        let reader = ["IoT Hub Data Reader"];
        let mut other = claims("a", &reader, 600);
        other["aud"] = "other".into();
        for (token, status, part) in [
            (KEY.token(&claims("a", &reader, -301)), 401, "ExpiredToken: "),
            (
                SigningKey::p256("k").token(&claims("a", &reader, 600)),
                401,
                "InvalidSignature: ",
            ),
            (
                SigningKey::p256("x").token(&claims("a", &reader, 600)),
                401,
                "InvalidToken: ",
            ),
            (KEY.token(&other), 401, "InvalidAudience: "),
            ("eyJnonsense".to_owned(), 400, "MalformedToken: "),
            ("eyJhbGciOiJub25lIn0.e30.AA".to_owned(), 400, "MalformedToken: "),
        ] {
            for text in [token.clone(), format!("Bearer {token}")] {
                let answer = client.put(&text).await;
                assert_eq!(answer.status, status, "{answer:?}");
                assert!(answer.description.starts_with(part), "{answer:?}");
                assert_eq!(answer.condition.as_deref(), Some("amqp:unauthorized-access"));
            }
        }
        let refused = client.receive(0, Start::Oldest, &[]).await.unwrap_err();
        assert_eq!(refused.0, "amqp:unauthorized-access");
    });
}

#[test]
fn a_link_lives_as_long_as_the_newest_token_of_its_principal() {
    on_a_hub_with(true, |hub| async move {
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        let reader = ["IoT Hub Data Reader"];
        // Within the five minutes that clocks may differ; it ends in a second or two.
        assert_eq!(client.put(&KEY.token(&claims("a", &reader, -299))).await.status, 200);
        let first = client.receive(0, Start::Oldest, &[]).await.unwrap();
        let (condition, text) = client.detached(first).await;
        assert_eq!(condition, "amqp:unauthorized-access");
        assert!(text.starts_with("ExpiredToken: "), "{text}");
        // Renewed, it stays, until a token of the same principal without the role replaces that.
        assert_eq!(client.put(&KEY.token(&claims("a", &reader, 600))).await.status, 200);
        let second = client.receive(0, Start::Oldest, &[]).await.unwrap();
        assert_eq!(client.put(&KEY.token(&claims("a", &reader, 3600))).await.status, 200);
        assert_eq!(client.put(&KEY.token(&claims("a", &[], -299))).await.status, 200);
        let (condition, _) = client.detached(second).await;
        assert_eq!(condition, "amqp:unauthorized-access");
    });
}

#[test]
fn with_policies_switched_off_neither_their_tokens_nor_their_keys_count() {
    on_a_hub_with(false, |hub| async move {
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        let answer = client
            .put(&hub.token("service", "sb://hub1.example.com/hub1", 600))
            .await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.description.starts_with("PoliciesDisabled: "), "{answer:?}");
        assert_eq!(client.put(&bearer("a", "Data Reader")).await.status, 200);
        assert!(client.receive(0, Start::Oldest, &[]).await.is_ok());
        let keys = hub.registry.policy("service").unwrap().keys.clone();
        for password in [
            keys.primary.to_base64().to_string(),
            hub.token("service", "sb://hub1.example.com/hub1", 600),
        ] {
            let plain = ClientSasl::Plain {
                user: "service@sas.root.hub1".to_owned(),
                password,
            };
            let mut client = Client::new(hub.raw(), HOST, plain);
            let code = client
                .until(|_, event| match event {
                    Event::SaslFailed(code) => Some(*code),
                    _ => None,
                })
                .await;
            assert_eq!(code, 1);
        }
        let reasons = hub.hub.audit().refusals_of("service@sas.root.hub1");
        assert!(
            reasons
                .iter()
                .all(|refusal| refusal.reason.to_string() == "sas_disabled")
        );
    });
}
