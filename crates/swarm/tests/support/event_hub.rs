//! An Event-Hubs-compatible endpoint for tests: two partitions of given events, one client at a time.

use std::net::SocketAddr;
use std::time::Instant;

use holdfast_amqp::message::{Request, Response, begin_message_annotations, put_data};
use holdfast_amqp::selector::{Start, from_filters};
use holdfast_amqp::types::{MapWriter, array_of_strings, put_bool, put_long, put_str};
use holdfast_amqp::{
    Accept, Config, Connection, Delivery, Event, Fault, LinkId, OpenSpec, Outcome, Role, SaslCode, SenderSettleMode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An event: device and body. Its place in the list is its sequence number.
pub(crate) type Stored = (String, Vec<u8>);

/// The events of the endpoint, and the token that it requires.
#[derive(Clone)]
pub(crate) struct EventServer {
    pub(crate) partitions: Vec<Vec<Stored>>,
    pub(crate) token_prefix: String,
}

/// The purpose of a link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Cbs,
    Management,
    Partition(usize, usize),
}

struct Link {
    id: LinkId,
    node: Node,
}

impl EventServer {
    pub(crate) async fn start(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        holdfast_tasks::spawn("test-event-hub", async move {
            while let Ok((stream, _)) = listener.accept().await {
                self.serve(stream).await;
            }
        });
        address
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut engine = Connection::server(Config::default(), Instant::now());
        let mut links: Vec<Link> = Vec::new();
        let mut kept = Vec::new();
        loop {
            let mut input = [0; 4096];
            match stream.read(&mut input).await.ok()? {
                0 => return None,
                count => kept.extend_from_slice(&input[..count]),
            }
            let mut rest = &kept[..];
            while let Some(event) = engine.receive(&mut rest, Instant::now()).ok()? {
                self.answer(&mut engine, &mut links, event);
            }
            let used = kept.len() - rest.len();
            kept.drain(..used);
            for link in &mut links {
                self.send_events(&mut engine, link);
            }
            while !engine.output().is_empty() {
                let written = stream.write(engine.output()).await.ok()?;
                engine.advance_output(written, Instant::now());
            }
        }
    }

    fn answer(&self, engine: &mut Connection, links: &mut Vec<Link>, event: Event<'_>) {
        match event {
            Event::SaslInit(_) => engine.sasl_outcome(SaslCode::Ok),
            Event::Open(_) => engine.open(&OpenSpec {
                container_id: "test".into(),
                hostname: None,
            }),
            Event::AttachRequested { link, attach } => {
                let start = attach
                    .source()
                    .unwrap()
                    .map(|source| from_filters(source.filter).unwrap().start);
                let address = attach.address().unwrap().unwrap_or_default();
                let node = match address {
                    "$cbs" => Node::Cbs,
                    "$management" => Node::Management,
                    partition => match partition.rsplit('/').next().and_then(|id| id.parse().ok()) {
                        Some(id) if id < self.partitions.len() => Node::Partition(id, first(start)),
                        _ => {
                            let fault = Fault::new("com.microsoft:argument-out-of-range", "no such partition");
                            return engine.refuse(link, &fault, Instant::now());
                        }
                    },
                };
                let credit = if attach.role == Role::Sender { 10 } else { 0 };
                engine.accept(
                    link,
                    &Accept {
                        credit,
                        ..Accept::default()
                    },
                );
                if attach.role == Role::Receiver {
                    links.push(Link { id: link, node });
                }
                assert_eq!(attach.snd_settle_mode, SenderSettleMode::MIXED);
            }
            Event::Transfer(delivery) => {
                engine.settle(
                    delivery.link,
                    delivery.delivery_id,
                    delivery.delivery_id,
                    &Outcome::Accepted,
                );
                let request = Request::parse(&delivery.payload).unwrap();
                let wanted = if request.operation == Some("put-token") {
                    Node::Cbs
                } else {
                    Node::Management
                };
                let reply = links.iter().rfind(|link| link.node == wanted).unwrap().id;
                let mut response = Response {
                    correlation_id: request.message_id,
                    status: 200,
                    description: "OK",
                    condition: None,
                };
                let delivery = Delivery {
                    tag: b"r",
                    settled: true,
                    message_format: 0,
                };
                if wanted == Node::Cbs {
                    if !request.text.unwrap().starts_with(&self.token_prefix) {
                        (response.status, response.description) = (401, "not that token");
                    }
                    engine
                        .send_with(reply, &delivery, |buf| response.encode_empty(buf))
                        .unwrap();
                    return;
                }
                let partition = request.property("partition").map(|id| id.parse::<usize>().unwrap());
                engine
                    .send_with(reply, &delivery, |buf| {
                        response.encode(buf, |buf| self.properties(buf, partition))
                    })
                    .unwrap();
            }
            _ => {}
        }
    }

    fn properties(&self, buf: &mut Vec<u8>, partition: Option<usize>) {
        let mut map = MapWriter::begin(buf);
        match partition {
            None => {
                let ids: Vec<String> = (0..self.partitions.len()).map(|id| id.to_string()).collect();
                array_of_strings(map.string_key("partition_ids"), ids.iter().map(String::as_str));
            }
            Some(id) => {
                let count = self.partitions[id].len();
                put_long(map.string_key("begin_sequence_number"), 0);
                put_long(map.string_key("last_enqueued_sequence_number"), count as i64 - 1);
                put_bool(map.string_key("is_partition_empty"), count == 0);
            }
        }
        map.finish();
    }

    fn send_events(&self, engine: &mut Connection, link: &mut Link) {
        let Node::Partition(partition, next) = &mut link.node else {
            return;
        };
        let events = &self.partitions[*partition];
        while *next < events.len() && engine.sendable(link.id) > 0 {
            let (device, body) = &events[*next];
            let delivery = Delivery {
                tag: b"e",
                settled: true,
                message_format: 0,
            };
            let sequence = *next as i64;
            let sent = engine.send_with(link.id, &delivery, |buf| {
                let mut map = begin_message_annotations(buf);
                put_long(map.key("x-opt-sequence-number"), sequence);
                put_str(map.key("iothub-connection-device-id"), device);
                map.finish();
                put_data(buf, body);
            });
            sent.unwrap();
            *next += 1;
        }
    }
}

fn first(start: Option<Start>) -> usize {
    match start {
        Some(Start::Sequence { number, inclusive }) => number as usize + usize::from(!inclusive),
        _ => 0,
    }
}
