//! Links under the hub's own path are redirected, unless redirects are off.

use holdfast_amqp::types::Value;
use holdfast_amqp::{AttachSpec, ClientSasl, Event, LinkId};
use holdfast_service_api::events::EventsConfig;

use crate::events_hub::{Client, HOST, Hub, on_a_core};
use crate::on_a_hub;

/// The address to which `link` is redirected.
pub(crate) async fn redirected(client: &mut Client<tokio::io::DuplexStream>, link: LinkId) -> String {
    client
        .until(|_, event| match event {
            Event::Detached { link: found, error, .. } if *found == link => {
                let error = error.unwrap();
                assert_eq!(error.condition, "amqp:link:redirect");
                let Value::Map(info) = error.received_info.unwrap().value().unwrap() else {
                    panic!()
                };
                let text = |key| info.get(key).unwrap().unwrap().text();
                assert_eq!(info.get("port"), Ok(Some(Value::Int(5671))));
                assert_eq!((text("hostname"), text("network-host")), (Some(HOST), Some(HOST)));
                Some(text("address").unwrap().to_owned())
            }
            _ => None,
        })
        .await
}

#[test]
fn every_link_under_the_hubs_own_path_is_redirected() {
    on_a_hub(|hub| async move {
        let partition = "messages/events/ConsumerGroups/$Default/Partitions/0";
        for (address, tail) in [
            ("messages/events", ""),
            ("/messages/events/", ""),
            ("amqps://hub1.example.com/messages/events/$management", "$management"),
            ("/messages/events/$management", "$management"),
            (partition, "ConsumerGroups/$Default/Partitions/0"),
        ] {
            let mut client = hub.reader().await;
            let link = client.attach(&AttachSpec::receiver("r", address)).await.unwrap();
            let location = redirected(&mut client, link).await;
            assert_eq!(location, format!("amqps://{HOST}:5671/hub1/{tail}"), "{address}");
        }
        // `createFromIotHubConnectionString` of @azure/event-hubs 2 attaches a pair, the sender first.
        let mut client = hub.reader().await;
        for spec in [
            AttachSpec::sender("s", "/messages/events/$management"),
            AttachSpec::receiver("r", "/messages/events/$management"),
        ] {
            let link = client.attach(&spec).await.unwrap();
            let location = redirected(&mut client, link).await;
            assert_eq!(location, format!("amqps://{HOST}:5671/hub1/$management"));
        }
        // A redirect is for callers with a token that covers the address, and there is nothing to send to.
        let mut stranger = hub.connect(ClientSasl::Anonymous).await;
        let refused = stranger
            .attach(&AttachSpec::receiver("r", partition))
            .await
            .unwrap_err();
        assert_eq!(refused.0, "amqp:unauthorized-access");
        let refused = client
            .attach(&AttachSpec::sender("w", "messages/events"))
            .await
            .unwrap_err();
        assert_eq!(refused.0, "amqp:not-allowed");
    });
}

#[test]
fn without_redirects_links_under_the_hubs_own_path_are_served_but_for_a_lookup() {
    let config = EventsConfig {
        redirect: false,
        ..EventsConfig::default()
    };
    on_a_core(|| async {
        let hub = Hub::start(config).await;
        hub.append_texts(0, &["a"]).await;
        let mut client = hub.reader().await;
        let spec = AttachSpec::receiver("direct", "messages/events/ConsumerGroups/$Default/Partitions/0");
        let link = client.attach(&spec).await.unwrap();
        assert_eq!(client.bodies(link, 1).await, ["a"]);
        let spec = AttachSpec::receiver("lookup", "messages/events/$management");
        let link = client.attach(&spec).await.unwrap();
        let location = redirected(&mut client, link).await;
        assert_eq!(location, format!("amqps://{HOST}:5671/hub1/$management"));
        client
            .attach(&AttachSpec::sender("s", "messages/events/$management"))
            .await
            .unwrap();
        let refused = client
            .attach(&AttachSpec::receiver("x", "messages/events"))
            .await
            .unwrap_err();
        assert!(
            refused.1.starts_with("A receiver must name a partition"),
            "{}",
            refused.1
        );
    });
}
