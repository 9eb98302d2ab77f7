//! Devices over AMQP on a simulated cluster: the endpoint that back ends share, reached through memory.
#![allow(dead_code, reason = "each test binary uses a part of it")]

#[path = "../../../amqp-server/tests/support/client.rs"]
mod client;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_amqp::message::put_data;
use holdfast_amqp::{AttachSpec, ClientSasl, Delivery, Event, LinkId, Outcome};
use holdfast_amqp_server::LinkService;
use holdfast_auth::sign_identity;
use holdfast_gateway::{AmqpConfig, AmqpDevices, AmqpRegistration};
use holdfast_model::{CertificateChain, IdentityId, NodeId};
use holdfast_net::Socket;
use holdfast_provisioning::{Provisioning, ProvisioningConfig};
use holdfast_service_api::events::{EventsConfig, EventsEndpoint};
use holdfast_simulation::{HOST, identity, primary_key};
use holdfast_tasks::Stop;
use tokio::io::{DuplexStream, duplex};

use super::{Bench, DEVICE, NODE};

pub(crate) use client::Client;

pub(crate) type Device = Client<DuplexStream>;

/// The AMQP endpoint of one node.
pub(crate) struct Amqp {
    pub(crate) endpoint: Rc<EventsEndpoint>,
    pub(crate) stop: Stop,
}

impl Amqp {
    pub(crate) fn serve(bench: &Bench) -> Self {
        Self::serve_with(bench, AmqpConfig::default(), EventsConfig::default())
    }

    pub(crate) fn serve_with(bench: &Bench, config: AmqpConfig, events: EventsConfig) -> Self {
        let node = &bench.cluster.nodes[&NodeId(NODE)];
        let devices = AmqpDevices::new(Rc::clone(&node.cores[0]), config);
        let stop = Stop::new();
        let servers = Arc::clone(&bench.servers);
        let provisioning = Provisioning::new(node.hub.clone(), ProvisioningConfig::default(), servers);
        let services: Vec<Box<dyn LinkService>> =
            vec![Box::new(devices), Box::new(AmqpRegistration::new(provisioning))];
        let endpoint = EventsEndpoint::new(node.hub.clone(), None, services, events, stop.clone());
        holdfast_tasks::spawn_local("amqp", Box::pin(Rc::clone(&endpoint).run()));
        Self { endpoint, stop }
    }

    pub(crate) async fn open(&self) -> Device {
        self.open_as(ClientSasl::None, None).await
    }

    pub(crate) async fn open_as(&self, sasl: ClientSasl, certificates: Option<CertificateChain>) -> Device {
        let mut device = self.unopened(sasl, certificates);
        device.open().await;
        device
    }

    /// A connection that has not opened yet.
    pub(crate) fn unopened(&self, sasl: ClientSasl, certificates: Option<CertificateChain>) -> Device {
        Client::new(self.stream(certificates), HOST, sasl)
    }

    /// A connection for bytes of a test's own.
    pub(crate) fn stream(&self, certificates: Option<CertificateChain>) -> DuplexStream {
        let (client, server) = duplex(256 * 1024);
        let socket = Socket::stream(Box::new(server), certificates);
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        self.endpoint.handler().accept(socket, address);
        client
    }

    /// A connection with a token of `device`.
    pub(crate) async fn connect(&self, bench: &Bench, device: &str) -> Device {
        let mut client = self.open().await;
        let answer = client.put(&bench.device_token(device, 3600)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        client
    }
}

impl Bench {
    /// A token of a device's own key.
    pub(crate) fn device_token(&self, device: &str, seconds: u64) -> String {
        self.identity_token(&identity(device), seconds)
    }

    pub(crate) fn identity_token(&self, id: &IdentityId, seconds: u64) -> String {
        let hub = &self.cluster.nodes.values().next().unwrap().hub;
        let registered = hub.registry().identity(id).unwrap().unwrap();
        let key = primary_key(&registered.authentication);
        sign_identity(HOST, id, &key, hub.clock().now().0 / 1000 + seconds)
    }
}

pub(crate) fn address(path: &str) -> String {
    format!("amqps://{HOST}/devices/{DEVICE}/{path}")
}

/// What became of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Rejected(String),
}

impl Client<DuplexStream> {
    /// A link on which messages are sent.
    pub(crate) async fn sender(&mut self, name: &str, address: &str) -> LinkId {
        let link = self.attach(&AttachSpec::sender(name, address)).await.unwrap();
        self.credit(link).await;
        link
    }

    pub(crate) async fn receiver(&mut self, name: &str, address: &str, credit: u32) -> LinkId {
        let link = self.attach(&AttachSpec::receiver(name, address)).await.unwrap();
        self.engine.grant(link, credit);
        self.flush().await;
        link
    }

    pub(crate) async fn credit(&mut self, link: LinkId) {
        if self.engine.sendable(link) == 0 {
            self.until(|engine, _| (engine.sendable(link) > 0).then_some(())).await;
        }
    }

    /// Sends one delivery, unsettled; its number.
    pub(crate) fn transfer(&mut self, link: LinkId, format: u32, payload: &[u8]) -> u32 {
        let delivery = Delivery {
            tag: b"tag",
            settled: false,
            message_format: format,
        };
        self.engine
            .send_with(link, &delivery, |buf| buf.extend_from_slice(payload))
            .unwrap()
    }

    /// Sends a message of `body`; its number.
    pub(crate) fn telemetry(&mut self, link: LinkId, body: &[u8]) -> u32 {
        let mut payload = Vec::new();
        put_data(&mut payload, body);
        self.transfer(link, 0, &payload)
    }

    /// The outcomes of deliveries, as ranges, until `last` has one.
    pub(crate) async fn outcomes(&mut self, last: u32) -> Vec<(u32, u32, Verdict)> {
        self.flush().await;
        let mut ranges = Vec::new();
        self.until(|engine, event| {
            if let Event::Disposition {
                session,
                first,
                last: end,
                settled,
                outcome,
            } = event
            {
                assert!(settled);
                engine.take_outgoing(*session, *first, *end);
                let verdict = match outcome.as_ref().unwrap() {
                    Outcome::Accepted => Verdict::Accepted,
                    Outcome::Rejected(fault) => Verdict::Rejected(fault.unwrap().condition.to_owned()),
                    other => panic!("{other:?}"),
                };
                ranges.push((*first, *end, verdict));
            }
            ranges.last().filter(|(_, end, _)| *end >= last).map(|_| ())
        })
        .await;
        ranges
    }

    /// Sends a message and waits for its outcome.
    pub(crate) async fn sent(&mut self, link: LinkId, body: &[u8]) -> Verdict {
        let id = self.telemetry(link, body);
        self.outcomes(id).await.pop().unwrap().2
    }
}
