//! A hub with four partitions whose events endpoint is reached through memory, and a client for it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a panic is how a test fails; each test file uses its part"
)]

#[path = "../../../amqp-server/tests/support/client.rs"]
mod client;
#[path = "node.rs"]
mod node;

use std::rc::Rc;
use std::sync::Arc;

use holdfast_amqp::ClientSasl;
use holdfast_auth::sign;
use holdfast_consensus::sim::SimNetwork;
use holdfast_device_hub::{DeviceHub, DeviceHubConfig};
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId, Incarnation, NodeId, PartitionCount,
    PartitionId, TelemetryMessage,
};
use holdfast_net::Socket;
use holdfast_oidc::Issuer;
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, StreamId};
use holdfast_registry::Registry;
use holdfast_service_api::events::{EventsConfig, EventsEndpoint};
use holdfast_tasks::Stop;
use tokio::io::DuplexStream;

pub(crate) use client::{Client, on_a_core};
pub(crate) use node::{HOST, now};

pub(crate) struct Hub {
    pub(crate) registry: Registry,
    pub(crate) hub: Arc<DeviceHub>,
    pub(crate) endpoint: Rc<EventsEndpoint>,
    pub(crate) stop: Stop,
    batches: std::cell::RefCell<u64>,
    _node: node::Node,
}

/// The position of a node in the hub.
pub(crate) struct Site {
    pub(crate) node: NodeId,
    /// The node with the replicas of all partitions.
    pub(crate) owner: NodeId,
    pub(crate) network: SimNetwork,
}

impl Hub {
    /// The only node of a hub.
    pub(crate) async fn start(config: EventsConfig) -> Self {
        let site = Site {
            node: NodeId(7),
            owner: NodeId(7),
            network: SimNetwork::new(1),
        };
        Self::start_at(config, site).await
    }

    pub(crate) async fn start_at(config: EventsConfig, site: Site) -> Self {
        Self::start_with(config, DeviceHubConfig::default(), site).await
    }

    pub(crate) async fn start_with(config: EventsConfig, hub: DeviceHubConfig, site: Site) -> Self {
        Self::start_with_issuer(config, hub, None, site).await
    }

    pub(crate) async fn start_with_issuer(
        config: EventsConfig,
        hub: DeviceHubConfig,
        issuer: Option<Issuer>,
        site: Site,
    ) -> Self {
        let node = node::Node::start_with(site.node, &site.network, hub).await;
        for id in PartitionCount::DEFAULT.iter() {
            node.partitions.set_replicas(id, vec![site.owner]);
            if site.owner == site.node {
                node.partitions.host(node.partition(id).await);
            }
        }
        let endpoint = EventsEndpoint::new(node.hub.clone(), issuer, Vec::new(), config, node.stop.clone());
        holdfast_tasks::spawn_local("events", Box::pin(endpoint.clone().run()));
        Self {
            registry: node.registry.clone(),
            hub: node.hub.clone(),
            endpoint,
            stop: node.stop.clone(),
            batches: std::cell::RefCell::new(0),
            _node: node,
        }
    }

    /// Appends one batch of `messages` of one device to a partition.
    pub(crate) async fn append(&self, partition: u16, messages: &[TelemetryMessage<'_>]) {
        let identity = IdentityId::device(DeviceId::parse("device-1").unwrap());
        let generation = GenerationId("638400000000000001".into());
        let auth = AuthMethod {
            scope: AuthScope::Device,
            kind: AuthType::Sas,
        };
        let origin = Origin {
            identity: &identity,
            generation: &generation,
            auth,
            model_id: Some("dtmi:m;1"),
        };
        let mut writer = BatchWriter::new();
        for message in messages {
            writer.push(&origin, message, now()).unwrap();
        }
        *self.batches.borrow_mut() += 1;
        // A stream for each batch: batches of one stream must come in order within a partition only.
        let stream = StreamId {
            gateway_node: NodeId(7),
            incarnation: Incarnation(7 + *self.batches.borrow()),
            core: 0,
        };
        let entry = writer.close(BatchHeader {
            stream,
            batch_number: 1,
            enqueued: now(),
        });
        let partition = self.hub.partitions().local(PartitionId(partition)).unwrap();
        partition.append(entry).await.unwrap();
    }

    pub(crate) async fn append_texts(&self, partition: u16, texts: &[&str]) {
        let messages: Vec<_> = texts
            .iter()
            .map(|text| TelemetryMessage {
                payload: text.as_bytes(),
                ..TelemetryMessage::default()
            })
            .collect();
        self.append(partition, &messages).await;
    }

    /// A token as Event Hubs clients make it: signed with the key's text.
    pub(crate) fn token(&self, policy: &str, resource: &str, seconds: i64) -> String {
        let keys = &self.registry.policy(policy).unwrap().keys;
        let expiry = now().seconds().checked_add_signed(seconds).unwrap();
        sign(resource, keys.primary.to_base64().as_bytes(), Some(policy), expiry)
    }

    /// The client's end of a new connection.
    pub(crate) fn raw(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(256 * 1024);
        let socket = Socket::stream(Box::new(far), None);
        self.endpoint
            .handler()
            .accept(socket, "127.0.0.1:4711".parse().unwrap());
        near
    }

    pub(crate) async fn connect(&self, sasl: ClientSasl) -> Client<DuplexStream> {
        let mut client = Client::new(self.raw(), HOST, sasl);
        client.open().await;
        client
    }

    /// Connected, with a token for everything.
    pub(crate) async fn reader(&self) -> Client<DuplexStream> {
        let mut client = self.connect(ClientSasl::Anonymous).await;
        let answer = client
            .put(&self.token("service", "sb://hub1.example.com/hub1", 600))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        client
    }
}
