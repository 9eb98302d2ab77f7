//! A hub with four partitions whose events endpoint is reached through memory, and a client for it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a panic is how a test fails; each test file uses its part"
)]

#[path = "node.rs"]
mod node;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_amqp::message::{ResponseView, put_token, read_request};
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::Raw;
use holdfast_amqp::{
    AttachSpec, ClientSasl, Config, Connection, Delivery, Event, InfoValue, LinkId, OpenSpec, SessionId,
};
use holdfast_auth::sign;
use holdfast_consensus::sim::SimNetwork;
use holdfast_device_hub::{DeviceHub, DeviceHubConfig};
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId, PartitionCount, PartitionId, TelemetryMessage,
};
use holdfast_net::Peer;
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, StreamId};
use holdfast_registry::Registry;
use holdfast_service_api::events::{EventsConfig, EventsEndpoint};
use holdfast_tasks::Stop;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

pub(crate) use node::{HOST, now};

/// How long a test waits before it fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

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
    pub(crate) node: u64,
    /// The node with the replicas of all partitions.
    pub(crate) owner: u64,
    pub(crate) network: SimNetwork,
}

impl Hub {
    /// The only node of a hub.
    pub(crate) async fn start(config: EventsConfig) -> Self {
        let site = Site {
            node: 7,
            owner: 7,
            network: SimNetwork::new(1),
        };
        Self::start_at(config, site).await
    }

    pub(crate) async fn start_at(config: EventsConfig, site: Site) -> Self {
        Self::start_with(config, DeviceHubConfig::default(), site).await
    }

    pub(crate) async fn start_with(config: EventsConfig, hub: DeviceHubConfig, site: Site) -> Self {
        let node = node::Node::start_with(site.node, &site.network, hub).await;
        for id in PartitionCount::DEFAULT.iter() {
            node.partitions.set_replicas(id, vec![site.owner]);
            if site.owner == site.node {
                node.partitions.host(node.partition(id).await);
            }
        }
        let endpoint = EventsEndpoint::new(node.hub.clone(), config, node.stop.clone());
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
            gateway_node: 7,
            incarnation: 7 + *self.batches.borrow(),
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
        let peer = Peer::plain("127.0.0.1:4711".parse().unwrap());
        self.endpoint.handler().accept(Box::new(far), peer);
        near
    }

    pub(crate) async fn connect(&self, sasl: ClientSasl) -> Client<DuplexStream> {
        let mut client = Client::new(self.raw(), sasl);
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

/// A response, owned.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: i64,
    pub(crate) description: String,
    pub(crate) condition: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// A client on any stream.
pub(crate) struct Client<S> {
    stream: S,
    pub(crate) engine: Connection,
    pub(crate) session: Option<SessionId>,
    held: Vec<u8>,
    links: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(stream: S, sasl: ClientSasl) -> Self {
        let open = OpenSpec {
            container_id: "test".to_owned(),
            hostname: Some(HOST.to_owned()),
        };
        let engine = Connection::client(Config::default(), sasl, open, Instant::now());
        Self {
            stream,
            engine,
            session: None,
            held: Vec::new(),
            links: 0,
        }
    }

    pub(crate) async fn open(&mut self) {
        self.until(|_, event| matches!(event, Event::Open(_)).then_some(()))
            .await;
        self.session = self.engine.begin();
        self.until(|_, event| matches!(event, Event::Begun(_)).then_some(()))
            .await;
    }

    /// Runs until `found` returns a value. `None`: the server has closed the stream.
    pub(crate) async fn maybe<T>(
        &mut self,
        mut found: impl FnMut(&mut Connection, &Event<'_>) -> Option<T>,
    ) -> Option<T> {
        let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
        loop {
            let held = std::mem::take(&mut self.held);
            let mut input = held.as_slice();
            let mut result = None;
            while result.is_none()
                && let Some(event) = self.engine.receive(&mut input, Instant::now()).unwrap()
            {
                result = found(&mut self.engine, &event);
            }
            self.held = input.to_vec();
            self.flush().await;
            if result.is_some() {
                return result;
            }
            let mut bytes = vec![0; 64 * 1024];
            let read = tokio::time::timeout_at(deadline, self.stream.read(&mut bytes)).await;
            let read = read.expect("the server was silent").unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.held.extend_from_slice(&bytes[..read]);
        }
    }

    pub(crate) async fn until<T>(&mut self, found: impl FnMut(&mut Connection, &Event<'_>) -> Option<T>) -> T {
        self.maybe(found).await.expect("the server closed the connection")
    }

    pub(crate) async fn flush(&mut self) {
        while !self.engine.output().is_empty() {
            // A server that has closed is noticed when reading.
            let Ok(written) = self.stream.write(self.engine.output()).await else {
                return;
            };
            self.engine.advance_output(written, Instant::now());
        }
        let _ = self.stream.flush().await;
    }

    /// Attaches; the condition and text of the error when refused.
    pub(crate) async fn attach(&mut self, spec: &AttachSpec<'_>) -> Result<LinkId, (String, String)> {
        let link = self.engine.attach(self.session.unwrap(), spec).unwrap();
        self.until(move |_, event| match event {
            Event::Attached { link: found, attach } if *found == link => {
                (attach.source_raw.is_some() && attach.target_raw.is_some()).then_some(Ok(link))
            }
            Event::Detached { link: found, error, .. } if *found == link => {
                let error = error.unwrap();
                Some(Err((
                    error.condition.to_owned(),
                    error.description.unwrap_or_default().to_owned(),
                )))
            }
            _ => None,
        })
        .await
    }

    /// The condition, text and info of the next detach of `link`.
    pub(crate) async fn detached(&mut self, link: LinkId) -> (String, String) {
        self.until(|_, event| match event {
            Event::Detached { link: found, error, .. } if *found == link => {
                let error = error.unwrap();
                Some((
                    error.condition.to_owned(),
                    error.description.unwrap_or_default().to_owned(),
                ))
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn request(&mut self, node: &str, write: impl FnOnce(&mut Vec<u8>)) -> Answer {
        self.links += 1;
        let names = [format!("in-{}", self.links), format!("out-{}", self.links)];
        let receiver = self.attach(&AttachSpec::receiver(&names[0], node)).await.unwrap();
        let sender = self.attach(&AttachSpec::sender(&names[1], node)).await.unwrap();
        if self.engine.sendable(sender) == 0 {
            self.until(|engine, _| (engine.sendable(sender) > 0).then_some(()))
                .await;
        }
        let delivery = Delivery {
            tag: b"request",
            settled: false,
            message_format: 0,
        };
        self.engine.send_with(sender, &delivery, write).unwrap();
        // Credit after the request, as slow clients have it: the response waits for it.
        self.engine.grant(receiver, 1);
        let mut is_settled = false;
        let answer = self
            .until(move |engine, event| match event {
                Event::Disposition {
                    session, first, last, ..
                } => {
                    engine.take_outgoing(*session, *first, *last);
                    is_settled = true;
                    None
                }
                Event::Transfer(incoming) if incoming.link == receiver => {
                    assert!(is_settled, "the disposition comes before the response");
                    let view = ResponseView::parse(&incoming.payload).unwrap();
                    Some(Answer {
                        status: view.status,
                        description: view.description.to_owned(),
                        condition: view.condition.map(str::to_owned),
                        body: incoming.payload.to_vec(),
                    })
                }
                _ => None,
            })
            .await;
        for link in [receiver, sender] {
            self.engine
                .detach(link, holdfast_amqp::Detached::Closed, None, Instant::now());
        }
        answer
    }

    pub(crate) async fn put(&mut self, token: &str) -> Answer {
        self.request("$cbs", |buf| put_token(buf, "id", token, "sb://audience"))
            .await
    }

    pub(crate) async fn management(&mut self, name: &str, partition: Option<&str>) -> Answer {
        self.request("$management", |buf| read_request(buf, "id", name, partition))
            .await
    }

    /// Attaches a receiver of a partition.
    pub(crate) async fn receive(
        &mut self,
        partition: u16,
        start: Start,
        properties: &[(&str, InfoValue<'_>)],
    ) -> Result<LinkId, (String, String)> {
        self.links += 1;
        let name = format!("receiver-{}", self.links);
        let address = format!("amqps://{HOST}/hub1/ConsumerGroups/$Default/Partitions/{partition}");
        let filter = selector::filter_map(&selector::expression(start));
        let mut spec = AttachSpec::receiver(&name, &address);
        spec.source.filter = Raw::new(&filter).ok();
        spec.properties = properties;
        self.attach(&spec).await
    }

    /// Grants as much credit as is missing and gives the payloads of the next `count` events.
    pub(crate) async fn take(&mut self, link: LinkId, count: u32) -> Vec<Vec<u8>> {
        self.engine.grant(link, count);
        let mut payloads = Vec::new();
        self.until(|_, event| {
            if let Event::Transfer(incoming) = event
                && incoming.link == link
            {
                assert!(incoming.settled);
                payloads.push(incoming.payload.to_vec());
            }
            (payloads.len() == count as usize).then_some(())
        })
        .await;
        payloads
    }

    /// The bodies of the next `count` events.
    pub(crate) async fn bodies(&mut self, link: LinkId, count: u32) -> Vec<String> {
        let payloads = self.take(link, count).await;
        payloads
            .iter()
            .map(|payload| {
                let message = holdfast_amqp::message::Message::scan(payload).unwrap();
                String::from_utf8(message.data().next().unwrap().to_vec()).unwrap()
            })
            .collect()
    }
}

/// Runs `test` where tasks of one core may live.
pub(crate) fn on_a_core<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test());
}
