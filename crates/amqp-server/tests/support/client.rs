//! A client of an AMQP server, on any stream; `service-api`'s tests use it too.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a panic is how a test fails; each test file uses its part"
)]

use std::time::{Duration, Instant};

use holdfast_amqp::message::{ResponseView, put_token, read_request};
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::Raw;
use holdfast_amqp::{
    AttachSpec, ClientSasl, Config, Connection, Delivery, Event, InfoValue, LinkId, OpenSpec, SessionId,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long a test waits before it fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

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
    host: &'static str,
    pub(crate) engine: Connection,
    pub(crate) session: Option<SessionId>,
    held: Vec<u8>,
    links: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(stream: S, host: &'static str, sasl: ClientSasl) -> Self {
        let open = OpenSpec {
            container_id: "test".to_owned(),
            hostname: Some(host.to_owned()),
        };
        let engine = Connection::client(Config::default(), sasl, open, Instant::now());
        Self {
            stream,
            host,
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

    /// Writes bytes that the engine has not made.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.flush().await;
        // A server that has closed is noticed when reading.
        let _ = self.stream.write_all(bytes).await;
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

    /// The condition and text with which the server closes the connection.
    pub(crate) async fn closed(&mut self) -> (String, String) {
        self.until(|_, event| match event {
            Event::Closed(Some(error)) => Some((
                error.condition.to_owned(),
                error.description.unwrap_or_default().to_owned(),
            )),
            _ => None,
        })
        .await
    }

    /// The condition and text of the next detach of `link`.
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

    /// Sends a request; the links of the request and of its response.
    pub(crate) async fn send(&mut self, node: &str, write: impl FnOnce(&mut Vec<u8>)) -> (LinkId, LinkId) {
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
        self.flush().await;
        (sender, receiver)
    }

    pub(crate) async fn request(&mut self, node: &str, write: impl FnOnce(&mut Vec<u8>)) -> Answer {
        let (sender, receiver) = self.send(node, write).await;
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
        let address = format!(
            "amqps://{}/hub1/ConsumerGroups/$Default/Partitions/{partition}",
            self.host
        );
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
