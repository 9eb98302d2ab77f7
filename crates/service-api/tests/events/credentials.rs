//! Tokens and keys: the rights that they grant, and the effect of expiry and revocation.

use holdfast_amqp::selector::Start;
use holdfast_amqp::{AttachSpec, ClientSasl, Event};
use holdfast_auth::{KeyPair, sign};
use holdfast_consensus::sim::SimNetwork;
use holdfast_device_hub::{DeviceHubConfig, ThrottlesConfig};
use holdfast_model::{NodeId, Rate};
use holdfast_registry::{PolicyCondition, PolicyKeys, PolicyWrite};
use holdfast_service_api::events::EventsConfig;

use crate::events_hub::{Client, HOST, Hub, Site, now, on_a_core};
use crate::on_a_hub;
use crate::redirects::redirected;

/// A change of a policy's keys.
fn with_keys(name: &str, keys: &KeyPair) -> PolicyWrite {
    PolicyWrite {
        name: name.to_owned(),
        condition: PolicyCondition::Present,
        rights: None,
        keys: PolicyKeys::Set {
            primary: Some(keys.primary.clone()),
            secondary: Some(keys.secondary.clone()),
        },
    }
}

#[test]
fn put_token_answers_with_the_status_that_clients_map() {
    on_a_hub(|hub| async move {
        let mut client = hub.connect(ClientSasl::Mssbcbs).await;
        let resource = "sb://hub1.example.com/hub1";
        let expiry = now().seconds() + 600;
        for (token, status, condition) in [
            (
                sign(resource, b"wrong key", Some("service"), expiry),
                401,
                "amqp:unauthorized-access",
            ),
            (
                sign(resource, b"key", Some("nobody"), expiry),
                401,
                "amqp:unauthorized-access",
            ),
            (hub.token("device", resource, 600), 403, "amqp:unauthorized-access"),
            (hub.token("service", resource, -301), 401, "amqp:unauthorized-access"),
            (
                hub.token("service", "sb://other.example.com/hub1", 600),
                401,
                "amqp:unauthorized-access",
            ),
            ("nonsense".to_owned(), 400, "amqp:unauthorized-access"),
            (sign(resource, b"key", None, expiry), 404, "amqp:not-implemented"),
        ] {
            let answer = client.put(&token).await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.condition.as_deref(), Some(condition));
            assert!(answer.description.contains(" TrackingId:"), "{answer:?}");
        }
        let refused = client.receive(0, Start::Oldest, &[]).await.unwrap_err();
        assert_eq!(refused.0, "amqp:unauthorized-access");
        let audited = hub.hub.audit().refusals_of("-");
        assert_eq!(audited.last().unwrap().code.number(), 401_002);
        assert_eq!(client.put(&hub.token("service", resource, 600)).await.status, 200);
        assert!(client.receive(0, Start::Oldest, &[]).await.is_ok());
        // A failed renewal leaves the token that there is.
        assert_eq!(
            client
                .put(&sign(resource, b"wrong key", Some("service"), expiry))
                .await
                .status,
            401
        );
        assert!(client.receive(0, Start::Oldest, &[]).await.is_ok());
    });
}

#[test]
fn a_token_for_one_partition_opens_that_one_only() {
    on_a_hub(|hub| async move {
        let mut client = hub.connect(ClientSasl::None).await;
        let resource = "sb://hub1.example.com/hub1/ConsumerGroups/$Default/Partitions/1";
        assert_eq!(client.put(&hub.token("service", resource, 600)).await.status, 200);
        assert!(client.receive(1, Start::Oldest, &[]).await.is_ok());
        assert_eq!(
            client.receive(2, Start::Oldest, &[]).await.unwrap_err().0,
            "amqp:unauthorized-access"
        );
        assert_eq!(client.management("hub1", None).await.status, 200);
    });
}

#[test]
fn plain_takes_a_policy_with_its_token_or_its_key_and_refuses_others_with_code_1() {
    on_a_hub(|hub| async move {
        let plain = |user: &str, password: String| ClientSasl::Plain {
            user: user.to_owned(),
            password,
        };
        let token = hub.token("service", "hub1.example.com/messages", 600);
        let key = |policy: &str| hub.registry.policy(policy).unwrap().keys.clone();
        let (primary, secondary) = (key("service").primary.to_base64(), key("service").secondary.to_base64());
        let whole = hub.token("service", "sb://hub1.example.com/hub1", 600);
        let mut key_reader = None;
        for (user, password) in [
            ("service@sas.root.hub1", token.clone()),
            ("service@sas.root.hub1", primary.to_string()),
            ("service", whole),
            ("SERVICE", secondary.to_string()),
            ("service", primary.to_string()),
        ] {
            let mut client = hub.connect(plain(user, password)).await;
            // The token is for messages/events only, where every link is redirected.
            if user == "service@sas.root.hub1" {
                let spec = AttachSpec::receiver("h", "messages/events/ConsumerGroups/$Default/Partitions/0");
                let link = client.attach(&spec).await.unwrap();
                redirected(&mut client, link).await;
            } else {
                let spec = AttachSpec::receiver("r", "hub1/ConsumerGroups/$Default/Partitions/0");
                let link = client.attach(&spec).await.unwrap();
                key_reader = Some((client, link));
            }
        }
        let bad = sign("hub1.example.com", b"wrong", Some("service"), now().seconds() + 600);
        let other_key = key("iothubowner").primary.to_base64().to_string();
        let weak_key = key("device").primary.to_base64().to_string();
        for (user, password) in [
            ("service@sas.root.hub1", bad),
            ("iothubowner@sas.root.hub1", token),
            ("somebody", String::new()),
            ("somebody", other_key.clone()),
            ("service", other_key),
            ("service", "not a key".to_owned()),
            ("device", weak_key),
            ("device-1@sas.hub1", primary.to_string()),
        ] {
            let mut client = Client::new(hub.raw(), HOST, plain(user, password));
            let code = client
                .until(|_, event| {
                    if let Event::SaslFailed(code) = event {
                        Some(*code)
                    } else {
                        None
                    }
                })
                .await;
            assert_eq!(code, 1, "{user}");
        }
        assert_eq!(hub.hub.audit().refusals_of("service@sas.root.hub1").len(), 1);
        // A reader that logged in with a key loses its link with the key.
        let (mut client, link) = key_reader.unwrap();
        let other = key("device");
        hub.registry.write_policy(&with_keys("service", &other)).await.unwrap();
        assert_eq!(client.detached(link).await.0, "amqp:unauthorized-access");
    });
}

#[test]
fn an_expired_token_detaches_its_receivers() {
    on_a_hub(|hub| async move {
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        // Within the five minutes that clocks may differ; they end in a second or two.
        let token = hub.token("service", "sb://hub1.example.com/hub1", -299);
        assert_eq!(client.put(&token).await.status, 200);
        let link = client.receive(0, Start::Oldest, &[]).await.unwrap();
        let (condition, text) = client.detached(link).await;
        assert_eq!(condition, "amqp:unauthorized-access");
        assert!(
            text.starts_with("ExpiredToken: The token is expired. TrackingId:"),
            "{text}"
        );
        assert_eq!(
            client.receive(0, Start::Oldest, &[]).await.unwrap_err().0,
            "amqp:unauthorized-access"
        );
    });
}

#[test]
fn new_keys_of_a_policy_and_a_removed_consumer_group_detach_receivers() {
    on_a_hub(|hub| async move {
        hub.registry.add_consumer_group("analytics").await.unwrap();
        let mut client = hub.reader().await;
        let spec = AttachSpec::receiver("r", "hub1/ConsumerGroups/Analytics/Partitions/0");
        let analytics = client.attach(&spec).await.unwrap();
        let link = client.receive(0, Start::Oldest, &[]).await.unwrap();
        hub.registry.remove_consumer_group("analytics").await.unwrap();
        assert_eq!(client.detached(analytics).await.0, "amqp:not-found");
        let other = hub.registry.policy("device").unwrap().keys.clone();
        hub.registry.write_policy(&with_keys("service", &other)).await.unwrap();
        assert_eq!(client.detached(link).await.0, "amqp:unauthorized-access");
    });
}

#[test]
fn tokens_and_requests_beyond_their_rate_get_429_at_once_and_refused_tokens_use_up_nothing() {
    on_a_core(|| async {
        let site = Site {
            node: NodeId(7),
            owner: NodeId(7),
            network: SimNetwork::new(1),
        };
        let config = DeviceHubConfig {
            throttles: ThrottlesConfig {
                amqp_tokens: Some(Rate::PerMinute(2)),
                amqp_management: Some(Rate::PerMinute(2)),
                ..ThrottlesConfig::default()
            },
            ..DeviceHubConfig::default()
        };
        let hub = Hub::start_with(EventsConfig::default(), config, site).await;
        let mut client = hub.connect(ClientSasl::None).await;
        let resource = "sb://hub1.example.com/hub1";
        let wrong = sign(resource, b"wrong key", Some("service"), now().seconds() + 600);
        for _ in 0..3 {
            assert_eq!(client.put(&wrong).await.status, 401);
        }
        let token = hub.token("service", resource, 600);
        assert_eq!(client.put(&token).await.status, 200);
        for _ in 0..2 {
            assert_eq!(client.management("hub1", None).await.status, 200);
        }
        let beyond = client.management("hub1", None).await;
        // 429001.
        assert_eq!(
            (beyond.status, beyond.condition.as_deref()),
            (429, Some("amqp:resource-limit-exceeded"))
        );
        assert!(
            beyond
                .description
                .starts_with("requests to $management are limited to 2/min; retry after "),
            "{beyond:?}"
        );
        let mut answer = client.put(&token).await;
        for _ in 0..2 {
            answer = client.put(&token).await;
        }
        assert_eq!(
            (answer.status, answer.condition.as_deref()),
            (429, Some("amqp:resource-limit-exceeded"))
        );
        assert!(
            answer
                .description
                .starts_with("tokens over AMQP are limited to 2/min; retry after "),
            "{answer:?}"
        );
    });
}

#[test]
fn one_connection_holds_a_thousand_tokens_and_the_next_is_refused_with_403005() {
    on_a_hub(|hub| async move {
        let mut client = hub.connect(ClientSasl::None).await;
        let token = |number| {
            hub.token(
                "service",
                &format!("hub1.example.com/hub1/ConsumerGroups/g{number}"),
                600,
            )
        };
        for number in 0..1000 {
            assert_eq!(client.put(&token(number)).await.status, 200, "{number}");
        }
        let beyond = client.put(&token(1000)).await;
        assert_eq!(
            (beyond.status, beyond.condition.as_deref()),
            (403, Some("amqp:resource-limit-exceeded"))
        );
        assert_eq!(client.put(&token(7)).await.status, 200, "a renewal");
    });
}
