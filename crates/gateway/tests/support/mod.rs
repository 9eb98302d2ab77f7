//! Devices' bytes over in-memory streams, to front ends on a simulated cluster.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod fake_hub;
pub(crate) mod https;
pub(crate) mod servers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::sign_identity;
use holdfast_device_hub::AuditRecord;
use holdfast_gateway::{MqttConfig, MqttFront};
use holdfast_model::{CertificateChain, NodeId};
use holdfast_mqtt::Limits;
use holdfast_mqtt::codec::{Connect, Packet, Publish, QoS, decode, encode, subscribe};
use holdfast_net::{Socket, StreamHandler};
use holdfast_provisioning::{Provisioning, ProvisioningConfig};
use holdfast_simulation::{Cluster, HOST, NODES, Setup, identity, primary_key};
use holdfast_tasks::Stop;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

pub(crate) mod amqp;
pub(crate) mod factory;

pub(crate) const DEVICE: &str = "dev-1";
pub(crate) const NODE: u64 = 1;

pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    config: MqttConfig,
    handlers: BTreeMap<u64, Rc<dyn StreamHandler>>,
    /// What the provisioning service calls.
    pub(crate) servers: Arc<servers::Servers>,
    provisioning: BTreeMap<u64, Arc<Provisioning>>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::start_with(MqttConfig::default()).await
    }

    pub(crate) async fn start_with(config: MqttConfig) -> Self {
        Self::on(Cluster::start(1).await, config).await
    }

    pub(crate) async fn start_as(setup: Setup) -> Self {
        Self::on(Cluster::start_as(1, setup).await, MqttConfig::default()).await
    }

    async fn on(cluster: Cluster, config: MqttConfig) -> Self {
        cluster.create(DEVICE).await;
        let mut bench = Self {
            cluster,
            config,
            handlers: BTreeMap::new(),
            servers: Arc::default(),
            provisioning: BTreeMap::new(),
        };
        NODES.into_iter().for_each(|node| bench.serve(node));
        bench
    }

    /// Starts a front end on a node that has started.
    pub(crate) fn serve(&mut self, node: NodeId) {
        let core = Rc::clone(&self.cluster.nodes[&node].cores[0]);
        let config = ProvisioningConfig {
            webhook_hosts: vec!["*".to_owned()],
            ..ProvisioningConfig::default()
        };
        let outbound = Arc::clone(&self.servers);
        let provisioning = Provisioning::new(Arc::clone(core.hub()), config, outbound);
        self.provisioning.insert(node.get(), Arc::clone(&provisioning));
        let operations = Arc::clone(&provisioning).run_operations(Stop::new());
        holdfast_tasks::spawn_local("operations", Box::pin(operations));
        let front = MqttFront::new(core, self.config.clone(), Some(provisioning), Stop::new());
        holdfast_tasks::spawn_local("mqtt", Box::pin(Rc::clone(&front).run()));
        self.handlers.insert(node.get(), front.web_socket_handler());
    }

    /// The provisioning service of a node.
    pub(crate) fn provisioning(&self, node: NodeId) -> &Arc<Provisioning> {
        &self.provisioning[&node.get()]
    }

    pub(crate) fn open(&self) -> Device {
        self.open_with(64 * 1024)
    }

    /// A connection whose pipe holds `capacity` bytes in each direction.
    pub(crate) fn open_with(&self, capacity: usize) -> Device {
        self.open_at(NodeId(NODE), capacity)
    }

    pub(crate) fn open_at(&self, node: NodeId, capacity: usize) -> Device {
        self.open_as(node, capacity, None)
    }

    /// A connection whose TLS handshake has shown `certificates`.
    pub(crate) fn open_with_certificates(&self, node: NodeId, certificates: Option<CertificateChain>) -> Device {
        self.open_as(node, 64 * 1024, certificates)
    }

    fn open_as(&self, node: NodeId, capacity: usize, certificates: Option<CertificateChain>) -> Device {
        let (client, server) = duplex(capacity);
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        self.handlers[&node.get()].accept(Socket::stream(Box::new(server), certificates), address);
        Device {
            stream: client,
            input: Vec::new(),
        }
    }

    /// A connected device.
    pub(crate) async fn connect(&self) -> Device {
        let mut device = self.open();
        device.send(&self.connect_packet(|_| {})).await;
        assert_eq!(device.receive(4).await, [0x20, 2, 0, 0]);
        device
    }

    /// A device that is connected to `node` and keeps its session; the CONNACK's session-present bit.
    pub(crate) async fn resume(&self, node: NodeId) -> (Device, bool) {
        let mut device = self.open_at(node, 64 * 1024);
        device.send(&self.connect_packet(|connect| connect.clean = false)).await;
        let connack = device.receive(4).await;
        assert_eq!((connack[0], connack[1], connack[3]), (0x20, 2, 0));
        (device, connack[2] == 1)
    }

    pub(crate) fn connect_packet(&self, change: impl FnOnce(&mut Connect<'_>)) -> Vec<u8> {
        let hub = &self.cluster.nodes.values().next().unwrap().hub;
        let registered = hub.registry().identity(&identity(DEVICE)).unwrap().unwrap();
        let key = primary_key(&registered.authentication);
        let now = hub.clock().now().0 / 1000;
        let token = sign_identity(HOST, &identity(DEVICE), &key, now + 3600);
        let username = format!("{HOST}/{DEVICE}/?api-version=2021-04-12");
        let mut connect = Connect {
            clean: true,
            keep_alive: 60,
            client_id: DEVICE,
            username: Some(&username),
            password: Some(token.as_bytes()),
            ..Connect::default()
        };
        change(&mut connect);
        encoded(&Packet::Connect(connect))
    }

    /// The records of ended connections of `identity`, as `holdfast device diagnose` shows them.
    pub(crate) async fn diagnosis(&self, device: &str) -> Vec<AuditRecord> {
        self.cluster
            .hub(NodeId(NODE))
            .diagnose(&identity(device))
            .await
            .refusals
    }
}

pub(crate) struct Device {
    pub(crate) stream: DuplexStream,
    pub(crate) input: Vec<u8>,
}

impl Device {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn receive(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() < count {
            let read = tokio::time::timeout(Duration::from_secs(30), self.stream.read_buf(&mut self.input));
            assert!(read.await.expect("an answer in time").unwrap() > 0, "closed");
        }
        self.input.drain(..count).collect()
    }

    /// The packet ids of the next PUBACKs.
    pub(crate) async fn pubacks(&mut self, count: usize) -> Vec<u16> {
        let bytes = self.receive(count * 4).await;
        let acks = bytes.chunks(4).map(|packet| {
            let (packet, _) = decode(packet, &Limits::SERVER).unwrap().unwrap();
            match packet {
                Packet::PubAck(id) => id,
                other => panic!("{other:?}"),
            }
        });
        acks.collect()
    }

    /// Everything until the hub closes the connection.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        self.stream.read_to_end(&mut self.input).await.unwrap();
        self.input
    }
}

pub(crate) fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, packet).unwrap();
    bytes
}

pub(crate) fn publish(topic: &str, qos: QoS, id: u16) -> Vec<u8> {
    encoded(&Packet::Publish(Publish {
        qos,
        topic,
        packet_id: (qos != QoS::AtMostOnce).then_some(id),
        payload: b"21.5",
        ..Publish::default()
    }))
}

pub(crate) fn telemetry(id: u16) -> Vec<u8> {
    publish("devices/dev-1/messages/events/", QoS::AtLeastOnce, id)
}

impl Device {
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let mut bytes = Vec::new();
        subscribe(&mut bytes, 7, &[(filter, qos)]).unwrap();
        self.send(&bytes).await;
        assert_eq!(self.receive(5).await, [0x90, 3, 0, 7, qos as u8]);
    }

    /// The topic, payload and packet id of the next PUBLISH.
    pub(crate) async fn published(&mut self) -> (String, Vec<u8>, Option<u16>) {
        let (topic, payload, packet_id, _) = self.published_or_repeated().await;
        (topic, payload, packet_id)
    }

    /// The same, and whether it says that the device may have it already.
    pub(crate) async fn published_or_repeated(&mut self) -> (String, Vec<u8>, Option<u16>, bool) {
        loop {
            if let Some((packet, length)) = decode(&self.input, &Limits::SERVER).unwrap() {
                let Packet::Publish(packet) = packet else {
                    panic!("{packet:?}")
                };
                let published = (
                    packet.topic.to_owned(),
                    packet.payload.to_vec(),
                    packet.packet_id,
                    packet.dup,
                );
                self.input.drain(..length);
                return published;
            }
            let read = tokio::time::timeout(Duration::from_secs(5), self.stream.read_buf(&mut self.input));
            assert!(read.await.expect("a message in time").unwrap() > 0, "closed");
        }
    }

    pub(crate) async fn gets_nothing(&mut self) {
        let read = tokio::time::timeout(Duration::from_secs(5), self.stream.read_buf(&mut self.input));
        let is_silent = read.await.is_err();
        assert!(is_silent && self.input.is_empty(), "{:?}", self.input);
    }
}
