//! The server with an authority and a service of this test, through memory: no registry, no device hub.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/client.rs"]
mod client;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use client::{Client, on_a_core};
use holdfast_amqp::address::Endpoint;
use holdfast_amqp::message::{Request, read_request};
use holdfast_amqp::{Attach, AttachSpec, ClientSasl, LinkId, Role};
use holdfast_amqp_server::{
    AmqpServer, Answered, Authority, AuthorizationChange, Carrier, Certainty, Confirmation, Leaving, LinkHandler,
    LinkService, Links, Refused, RefusedPrincipal, RequestNode, ServerConfig, response,
};
use holdfast_auth::bearer::{BearerRefusal, Principal};
use holdfast_auth::{HubNames, Key, KeyPair, Policy, Rights, sign};
use holdfast_model::UnixMillis;
use holdfast_net::Socket;
use holdfast_tasks::{Phase, Stop};
use tokio::io::{AsyncWriteExt as _, DuplexStream};

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

    fn accepts_policies(&self) -> bool {
        true
    }

    fn bearer(&self, _: &str) -> Result<Principal, BearerRefusal> {
        Err(BearerRefusal::NoIssuer)
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

    fn leave(&mut self, links: &mut Links, _: Leaving) {
        for link in &self.links {
            links.send_away(*link);
        }
    }

    fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool) {
        self.node.retain(|link| !is_gone(link));
        self.links.retain(|link| !is_gone(*link));
    }
}

/// The status of the answer to a token signed with `key`.
async fn put(client: &mut Client<DuplexStream>, key: &[u8]) -> i64 {
    let token = sign(HOST, key, Some("service"), NOW.seconds() + 600);
    client.put(&token).await.status
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

    async fn connect(&self) -> Client<DuplexStream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let address = ([127, 0, 0, 1], 4711).into();
        self.server
            .accept(Socket::stream(Box::new(far), None), address, Carrier::Tcp);
        let mut client = Client::new(near, HOST, ClientSasl::Anonymous);
        client.open().await;
        client
    }
}

#[test]
fn a_service_answers_on_its_addresses_and_the_server_on_all_others() {
    on_a_core(|| async {
        let rig = Rig::new();
        let mut client = rig.connect().await;
        let management = client.management("an-echo", None).await;
        assert_eq!((management.status, management.description.as_str()), (200, "an-echo"));
        let device = AttachSpec::receiver("d", "devices/d/messages/devicebound");
        assert_eq!(client.attach(&device).await.unwrap_err().0, "amqp:unauthorized-access");
        assert_eq!(put(&mut client, &[9; 32]).await, 401);
        assert_eq!(put(&mut client, &[1; 32]).await, 200);
        for (address, condition) in [
            ("devices/d/messages/events", "amqp:not-implemented"),
            ("hub/ConsumerGroups/$Default/Partitions/0", "amqp:not-implemented"),
            ("a/b/c/d", "amqp:not-found"),
        ] {
            let refused = client.attach(&AttachSpec::receiver(address, address)).await;
            assert_eq!(refused.unwrap_err().0, condition, "{address}");
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
fn handlers_learn_of_a_revoked_key_and_a_drain_closes_the_connection() {
    on_a_core(|| async {
        let rig = Rig::new();
        let server = Rc::clone(&rig.server);
        let running = tokio::task::spawn_local(async move { server.run().await });
        let mut client = rig.connect().await;
        assert_eq!(put(&mut client, &[1; 32]).await, 200);
        let link = client.attach(&AttachSpec::receiver("m", "$management")).await.unwrap();
        rig.policy.borrow_mut().keys.primary = Key::from_bytes(vec![7; 32]).unwrap();
        rig.server.settings_changed();
        assert_eq!(client.detached(link).await.0, "com.microsoft:server-busy");
        rig.stop.enter(Phase::Draining);
        assert_eq!(client.closed().await.0, "amqp:connection:forced");
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
        assert!(broken.maybe(|_, _| None::<()>).await.is_none(), "the stream has ended");
        assert_eq!(healthy.management("an-echo", None).await.status, 200);
    });
}

#[test]
fn a_peer_that_does_not_read_is_closed_in_time_when_the_node_drains() {
    on_a_core(|| async {
        let rig = Rig::new();
        let server = Rc::clone(&rig.server);
        let running = tokio::task::spawn_local(async move { server.run().await });
        let (mut near, far) = tokio::io::duplex(16);
        let address = ([127, 0, 0, 1], 4711).into();
        rig.server
            .accept(Socket::stream(Box::new(far), None), address, Carrier::Tcp);
        // The answer to the SASL header does not fit.
        near.write_all(b"AMQP\x03\x01\x00\x00").await.unwrap();
        tokio::task::yield_now().await;
        let from = Instant::now();
        rig.stop.enter(Phase::Draining);
        running.await.unwrap();
        assert!(from.elapsed() < Duration::from_secs(6));
    });
}
