//! The server with an authority and a service of this test, through memory: no registry, no device hub.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use holdfast_amqp::address::Endpoint;
use holdfast_amqp::message::{Request, ResponseView, put_token, read_request};
use holdfast_amqp::{
    Attach, AttachSpec, ClientSasl, Config, Connection, Delivery, Event, LinkId, OpenSpec, Role, SessionId,
};
use holdfast_amqp_server::{
    AmqpServer, Answered, Authority, AuthorizationChange, Carrier, Certainty, Confirmation, LinkHandler, LinkService,
    Links, Refused, RefusedPrincipal, RequestNode, ServerConfig, response,
};
use holdfast_auth::{HubNames, Key, KeyPair, Policy, Rights, sign};
use holdfast_model::UnixMillis;
use holdfast_net::Peer;
use holdfast_tasks::{Phase, Stop};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const HOST: &str = "hub.example";

fn policy() -> Policy {
    let key = |byte| Key::from_bytes(vec![byte; 32]).unwrap();
    Policy {
        name: "service".to_owned(),
        keys: KeyPair {
            primary: key(1),
            secondary: key(2),
        },
        rights: Rights::SERVICE_CONNECT,
    }
}

/// A hub with one policy, which notes refusals.
struct Hub {
    names: HubNames,
    policy: Rc<RefCell<Policy>>,
    refusals: Rc<RefCell<Vec<(String, u32)>>>,
}

impl Authority for Hub {
    fn hub_name(&self) -> String {
        "hub".to_owned()
    }

    fn host_names(&self) -> &HubNames {
        &self.names
    }

    fn now(&self) -> UnixMillis {
        NOW
    }

    fn policy(&self, name: &str) -> Option<Arc<Policy>> {
        let policy = self.policy.borrow();
        policy.name.eq_ignore_ascii_case(name).then(|| Arc::new(policy.clone()))
    }

    fn confirm(&self) -> Confirmation {
        Box::pin(async { Ok(()) })
    }

    fn refused(&self, principal: RefusedPrincipal<'_>, refused: &Refused) {
        let refusal = (principal.identity.to_owned(), refused.code.number());
        self.refusals.borrow_mut().push(refusal);
    }
}

/// Serves `$management` with an echo of the requested name.
struct Echo;

impl LinkService for Echo {
    fn connect(&self) -> Box<dyn LinkHandler> {
        Box::<EchoLinks>::default()
    }
}

#[derive(Default)]
struct EchoLinks {
    node: RequestNode,
    links: Vec<LinkId>,
}

impl LinkHandler for EchoLinks {
    fn serves(&self, endpoint: &Endpoint<'_>) -> bool {
        matches!(endpoint, Endpoint::Management(_))
    }

    fn attach(&mut self, links: &mut Links, link: LinkId, attach: &Attach<'_>, _: Endpoint<'_>) -> Result<(), Refused> {
        self.links.push(link);
        links.accept_node(&mut self.node, link, attach.role == Role::Sender);
        Ok(())
    }

    fn node_of(&self, link: LinkId) -> Option<&RequestNode> {
        self.node.takes(link).then_some(&self.node)
    }

    fn request(&mut self, _: &mut Links, _: LinkId, request: &Request<'_>, _: Certainty) -> Answered {
        let name = request.name.unwrap_or_default();
        assert_ne!(name, "panic", "as the test wants");
        Answered::Now(response(request.message_id, 200, name, None, |buf| {
            holdfast_amqp::types::put_null(buf);
        }))
    }

    fn drain(&mut self, _: LinkId, _: bool) -> bool {
        false
    }

    fn poll(&mut self, _: &mut Links, _: &mut Context<'_>) {}

    fn recheck(&mut self, links: &mut Links, change: AuthorizationChange) {
        if change == AuthorizationChange::Revoked {
            for link in &self.links {
                links.detach(*link, &Refused::busy("revoked"));
            }
        }
    }

    fn leave(&mut self, links: &mut Links) {
        for link in &self.links {
            links.send_away(*link);
        }
    }

    fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool) {
        self.node.retain(|link| !is_gone(link));
        self.links.retain(|link| !is_gone(*link));
    }
}

struct Rig {
    server: Rc<AmqpServer>,
    policy: Rc<RefCell<Policy>>,
    refusals: Rc<RefCell<Vec<(String, u32)>>>,
    stop: Stop,
}

impl Rig {
    fn new() -> Self {
        let (policy, refusals) = (Rc::new(RefCell::new(policy())), Rc::default());
        let authority = Hub {
            names: HubNames::new([HOST]),
            policy: Rc::clone(&policy),
            refusals: Rc::clone(&refusals),
        };
        let config = ServerConfig {
            output_bytes: 64 * 1024,
            max_unauthenticated: 10,
            unauthenticated_timeout: Duration::from_secs(60),
            confirm_timeout: Duration::from_secs(1),
        };
        let stop = Stop::new();
        let server = AmqpServer::new(Box::new(authority), vec![Box::new(Echo)], config, stop.clone());
        Self {
            server,
            policy,
            refusals,
            stop,
        }
    }

    async fn connect(&self) -> Client {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let peer = Peer::plain(([127, 0, 0, 1], 4711).into());
        self.server.accept(Box::new(far), peer, Carrier::Tcp);
        let open = OpenSpec {
            container_id: "test".to_owned(),
            hostname: None,
        };
        let mut client = Client {
            stream: near,
            engine: Connection::client(Config::default(), ClientSasl::Anonymous, open, Instant::now()),
            held: Vec::new(),
            session: None,
            requests: 0,
        };
        client
            .until(|_, event| matches!(event, Event::Open(_)).then_some(()))
            .await;
        client.session = client.engine.begin();
        client
            .until(|_, event| matches!(event, Event::Begun(_)).then_some(()))
            .await;
        client
    }
}

struct Client {
    stream: DuplexStream,
    engine: Connection,
    held: Vec<u8>,
    session: Option<SessionId>,
    requests: u32,
}

impl Client {
    async fn until<T>(&mut self, mut found: impl FnMut(&mut Connection, &Event<'_>) -> Option<T>) -> T {
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
            while !self.engine.output().is_empty() {
                let written = self.stream.write(self.engine.output()).await.unwrap();
                self.engine.advance_output(written, Instant::now());
            }
            if let Some(result) = result {
                return result;
            }
            let mut bytes = vec![0; 64 * 1024];
            let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read(&mut bytes)).await;
            let read = read.expect("the server was silent").unwrap();
            assert_ne!(read, 0, "the server closed the connection");
            self.held.extend_from_slice(&bytes[..read]);
        }
    }

    /// Attaches; the condition of the error when refused.
    async fn attach(&mut self, spec: &AttachSpec<'_>) -> Result<LinkId, String> {
        let link = self.engine.attach(self.session.unwrap(), spec).unwrap();
        self.until(move |_, event| match event {
            Event::Attached { link: found, attach } if *found == link => {
                (attach.source_raw.is_some() && attach.target_raw.is_some()).then_some(Ok(link))
            }
            Event::Detached { link: found, error, .. } if *found == link => {
                Some(Err(error.unwrap().condition.to_owned()))
            }
            _ => None,
        })
        .await
    }

    /// Sends a request; the links for the request and for the response.
    async fn send(&mut self, node: &str, write: impl FnOnce(&mut Vec<u8>)) -> (LinkId, LinkId) {
        self.requests += 1;
        let names = [format!("in-{}", self.requests), format!("out-{}", self.requests)];
        let receiver = self.attach(&AttachSpec::receiver(&names[0], node)).await.unwrap();
        let sender = self.attach(&AttachSpec::sender(&names[1], node)).await.unwrap();
        if self.engine.sendable(sender) == 0 {
            self.until(|engine, _| (engine.sendable(sender) > 0).then_some(()))
                .await;
        }
        let delivery = Delivery {
            tag: b"t",
            settled: true,
            message_format: 0,
        };
        self.engine.send_with(sender, &delivery, write).unwrap();
        self.engine.grant(receiver, 1);
        while !self.engine.output().is_empty() {
            let written = self.stream.write(self.engine.output()).await.unwrap();
            self.engine.advance_output(written, Instant::now());
        }
        (sender, receiver)
    }

    /// Reads to the end of the stream; how many bytes the last read gave.
    async fn read_to_end(&mut self) -> usize {
        let mut bytes = Vec::new();
        let reading = self.stream.read_to_end(&mut bytes);
        tokio::time::timeout(Duration::from_secs(20), reading)
            .await
            .unwrap()
            .unwrap();
        self.stream.read(&mut [0]).await.unwrap()
    }

    /// Status and description of the response.
    async fn request(&mut self, node: &str, write: impl FnOnce(&mut Vec<u8>)) -> (i64, String) {
        let (sender, receiver) = self.send(node, write).await;
        let answer = self
            .until(move |_, event| match event {
                Event::Transfer(incoming) if incoming.link == receiver => {
                    let view = ResponseView::parse(&incoming.payload).unwrap();
                    Some((view.status, view.description.to_owned()))
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

    async fn put(&mut self, key: &[u8]) -> i64 {
        let token = sign(HOST, key, Some("service"), NOW.seconds() + 600);
        let (status, _) = self
            .request("$cbs", |buf| put_token(buf, "id", &token, "audience"))
            .await;
        status
    }
}

fn on_a_core<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test());
}

#[test]
fn a_service_answers_on_its_addresses_and_the_server_on_all_others() {
    on_a_core(|| async {
        let rig = Rig::new();
        let mut client = rig.connect().await;
        let management = client
            .request("$management", |buf| read_request(buf, "id", "an-echo", None))
            .await;
        assert_eq!(management, (200, "an-echo".to_owned()));
        let device = AttachSpec::receiver("d", "devices/d/messages/devicebound");
        assert_eq!(client.attach(&device).await.unwrap_err(), "amqp:unauthorized-access");
        assert_eq!(client.put(&[9; 32]).await, 401);
        assert_eq!(client.put(&[1; 32]).await, 200);
        for (address, condition) in [
            ("devices/d/messages/events", "amqp:not-implemented"),
            ("hub/ConsumerGroups/$Default/Partitions/0", "amqp:not-implemented"),
            ("a/b/c/d", "amqp:not-found"),
        ] {
            let refused = client.attach(&AttachSpec::receiver(address, address)).await;
            assert_eq!(refused.unwrap_err(), condition, "{address}");
        }
        let expected = [
            ("-", 401_002),
            ("-", 401_002),
            ("service", 404_013),
            ("service", 404_013),
            ("service", 404_006),
        ];
        let expected = expected.map(|(identity, code)| (identity.to_owned(), code));
        assert_eq!(*rig.refusals.borrow(), expected);
    });
}

#[test]
fn a_revoked_key_is_told_to_the_handlers_and_a_drain_closes_the_connection() {
    on_a_core(|| async {
        let rig = Rig::new();
        let server = Rc::clone(&rig.server);
        let running = tokio::task::spawn_local(async move { server.run().await });
        let mut client = rig.connect().await;
        assert_eq!(client.put(&[1; 32]).await, 200);
        let link = client.attach(&AttachSpec::receiver("m", "$management")).await.unwrap();
        rig.policy.borrow_mut().keys.primary = Key::from_bytes(vec![7; 32]).unwrap();
        rig.server.settings_changed();
        let condition = client
            .until(|_, event| match event {
                Event::Detached { link: found, error, .. } if *found == link => {
                    Some(error.unwrap().condition.to_owned())
                }
                _ => None,
            })
            .await;
        assert_eq!(condition, "com.microsoft:server-busy");
        rig.stop.enter(Phase::Draining);
        let condition = client
            .until(|_, event| match event {
                Event::Closed(error) => Some(error.unwrap().condition.to_owned()),
                _ => None,
            })
            .await;
        assert_eq!(condition, "amqp:connection:forced");
        running.await.unwrap();
    });
}

#[test]
fn a_panic_in_a_handler_ends_its_connection_and_no_other() {
    on_a_core(|| async {
        let rig = Rig::new();
        let (mut healthy, mut broken) = (rig.connect().await, rig.connect().await);
        broken
            .send("$management", |buf| read_request(buf, "id", "panic", None))
            .await;
        assert_eq!(broken.read_to_end().await, 0);
        let answer = healthy
            .request("$management", |buf| read_request(buf, "id", "an-echo", None))
            .await;
        assert_eq!(answer.0, 200);
    });
}

#[test]
fn a_peer_that_does_not_read_is_closed_in_time_when_the_node_drains() {
    on_a_core(|| async {
        let rig = Rig::new();
        let server = Rc::clone(&rig.server);
        let running = tokio::task::spawn_local(async move { server.run().await });
        let (mut near, far) = tokio::io::duplex(16);
        let peer = Peer::plain(([127, 0, 0, 1], 4711).into());
        rig.server.accept(Box::new(far), peer, Carrier::Tcp);
        // The answer to the SASL header does not fit.
        near.write_all(b"AMQP\x03\x01\x00\x00").await.unwrap();
        tokio::task::yield_now().await;
        let from = Instant::now();
        rig.stop.enter(Phase::Draining);
        running.await.unwrap();
        assert!(from.elapsed() < Duration::from_secs(6));
    });
}
