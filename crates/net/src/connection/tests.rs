//! The driver with a toy protocol over in-memory streams: frames of one length byte and that many bytes, each echoed.
//!
//! A frame `b"hold"` blocks all later ones until the test resumes the connection; `b"full"` makes the protocol refuse
//! more input until the test restores its capacity; `b"panic"` panics.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use holdfast_tasks::{Phase, Stop};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::task::LocalSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{ConnectionLimits, Connections, Protocol, Received, Transport, TransportEnd};
use crate::Socket;
use crate::websocket::WebSocketBytes;

const TIMEOUT_MS: u64 = 5000;

struct Echo {
    transport: Transport<Self>,
    log: Rc<Log>,
    frames: RefCell<Vec<Vec<u8>>>,
    holding: Cell<bool>,
    is_full: Cell<bool>,
    is_draining: Cell<bool>,
    last_ms: Cell<u64>,
}

/// The events of all connections.
#[derive(Default)]
struct Log {
    last: RefCell<Option<Rc<Echo>>>,
    offered: Cell<usize>,
    ends: RefCell<Vec<(u64, TransportEnd)>>,
}

impl Protocol for Echo {
    type End = TransportEnd;

    const TASK: &'static str = "echo";

    fn transport(&self) -> &Transport<Self> {
        &self.transport
    }

    fn received(self: &Rc<Self>, input: &[u8]) -> Received {
        self.log.offered.set(self.log.offered.get() + 1);
        self.log.last.replace(Some(Rc::clone(self)));
        let mut consumed = 0;
        while let Some((length, rest)) = input[consumed..].split_first()
            && let Some(frame) = rest.get(..usize::from(*length))
        {
            if self.holding.get() {
                return Received {
                    consumed,
                    is_blocked: true,
                };
            }
            consumed += 1 + frame.len();
            self.last_ms.set(self.transport.now_ms());
            self.transport.set_authenticated();
            match frame {
                b"hold" => self.holding.set(true),
                b"full" => self.is_full.set(true),
                b"panic" => panic!("as the test wants"),
                _ => {}
            }
            self.frames.borrow_mut().push(frame.to_vec());
            self.transport.write(frame);
        }
        Received {
            consumed,
            is_blocked: false,
        }
    }

    fn poll_ready(self: &Rc<Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.is_full.get() || self.is_draining.get() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn next_deadline(&self, _: u64) -> u64 {
        self.last_ms.get() + TIMEOUT_MS
    }

    fn check_deadlines(&self, now_ms: u64) {
        if now_ms >= self.last_ms.get() + TIMEOUT_MS {
            self.transport.end(TransportEnd::Lost);
        }
    }

    fn drain(&self) {
        self.is_draining.set(true);
        if !self.holding.get() {
            self.transport.end(TransportEnd::Stopping);
        }
    }

    fn ended(&self, end: TransportEnd) {
        self.log.ends.borrow_mut().push((self.transport.number(), end));
        self.log.last.replace(None);
    }
}

struct Bench {
    table: Rc<Connections<Echo>>,
    log: Rc<Log>,
    stop: Stop,
}

impl Bench {
    fn new(max_unauthenticated: usize) -> Self {
        let stop = Stop::new();
        let limits = ConnectionLimits {
            max_unauthenticated,
            max_output_bytes: 4096,
        };
        let table = Connections::new(limits, stop.clone());
        holdfast_tasks::spawn_local("table", Box::pin(Rc::clone(&table).run()));
        Self {
            table,
            log: Rc::default(),
            stop,
        }
    }

    fn open(&self, socket: Socket) {
        let log = Rc::clone(&self.log);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        self.table.open(socket, address, |transport| {
            let now_ms = transport.now_ms();
            Echo {
                transport,
                log,
                frames: RefCell::default(),
                holding: Cell::new(false),
                is_full: Cell::new(false),
                is_draining: Cell::new(false),
                last_ms: Cell::new(now_ms),
            }
        });
    }

    /// A client whose pipe holds `capacity` bytes in each direction.
    fn connect(&self, capacity: usize) -> DuplexStream {
        let (client, server) = duplex(capacity);
        self.open(Socket::stream(Box::new(server), None));
        client
    }

    fn last(&self) -> Rc<Echo> {
        self.log.last.borrow().clone().expect("a connection")
    }

    fn ends(&self) -> Vec<TransportEnd> {
        self.log.ends.borrow().iter().map(|(_, end)| *end).collect()
    }
}

/// Runs all tasks until none is ready; on a paused clock no time passes.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn read(client: &mut DuplexStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Whether nothing has arrived.
async fn is_silent(client: &mut DuplexStream) -> bool {
    settle().await;
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    poll_fn(|cx| {
        let polled = std::pin::Pin::new(&mut *client).poll_read(cx, &mut buffer);
        Poll::Ready(polled.is_pending())
    })
    .await
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_packet_that_arrives_byte_by_byte_is_handled_once_it_is_complete() {
    run(async {
        let bench = Bench::new(10);
        let mut client = bench.connect(1024);
        for byte in b"\x05hello\x03ab" {
            client.write_all(&[*byte]).await.unwrap();
            settle().await;
        }
        assert_eq!(read(&mut client, 5).await, b"hello");
        assert!(is_silent(&mut client).await);
        client.write_all(b"c").await.unwrap();
        assert_eq!(read(&mut client, 3).await, b"abc");
        assert_eq!(*bench.last().frames.borrow(), [&b"hello"[..], b"abc"]);
    });
}

#[test]
fn blocked_packets_keep_their_order_and_are_not_offered_again_before_they_are_resumed() {
    run(async {
        let bench = Bench::new(10);
        let mut client = bench.connect(1024);
        client.write_all(b"\x04hold\x01a\x01b\x02").await.unwrap();
        assert_eq!(read(&mut client, 4).await, b"hold");
        assert!(is_silent(&mut client).await);
        assert_eq!(bench.log.offered.get(), 1, "a blocked connection does not spin");
        client.write_all(b"cd").await.unwrap();
        assert!(is_silent(&mut client).await);
        assert_eq!(bench.log.offered.get(), 1, "nothing is read behind a blocked packet");
        let connection = bench.last();
        connection.holding.set(false);
        connection.transport.resume();
        assert_eq!(read(&mut client, 4).await, b"abcd");
    });
}

#[test]
fn a_connection_without_capacity_is_not_read_until_it_is_woken() {
    run(async {
        let bench = Bench::new(10);
        let mut client = bench.connect(8);
        client.write_all(b"\x04full").await.unwrap();
        assert_eq!(read(&mut client, 4).await, b"full");
        // The pipe takes what fits; the connection reads none of it.
        client.write_all(b"\x03abc\x03xyz").await.unwrap();
        assert!(is_silent(&mut client).await);
        assert_eq!(bench.log.offered.get(), 1);
        let connection = bench.last();
        connection.is_full.set(false);
        connection.transport.wake();
        assert_eq!(read(&mut client, 6).await, b"abcxyz");
    });
}

#[test]
fn a_peer_that_does_not_read_is_not_read() {
    run(async {
        let bench = Bench::new(10);
        let mut client = bench.connect(64);
        let frame = [&[50][..], &[b'x'; 50]].concat();
        let sent = tokio::task::spawn_local(async move {
            for _ in 0..20 {
                client.write_all(&frame).await.unwrap();
            }
            client
        });
        settle().await;
        // 64 bytes wait in each direction, and one frame is being handled.
        assert!(!sent.is_finished());
        assert!(bench.last().frames.borrow().len() < 20);
        sent.abort();
    });
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    run(async {
        let bench = Bench::new(10);
        let (mut reader, mut writer) = tokio::io::split(bench.connect(16));
        let writing = tokio::task::spawn_local(async move {
            for number in 0..100u8 {
                writer.write_all(&[2, number, b'.']).await.unwrap();
            }
            writer
        });
        for number in 0..100u8 {
            let mut frame = [0; 2];
            reader.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame, [number, b'.']);
            settle().await;
        }
        writing.await.unwrap();
        assert!(bench.ends().is_empty());
    });
}

#[test]
fn a_peer_that_lets_too_much_output_pile_up_is_closed() {
    run(async {
        let bench = Bench::new(10);
        let mut client = bench.connect(16);
        client.write_all(b"\x01a").await.unwrap();
        settle().await;
        let connection = bench.last();
        connection.transport.write(&[0; 4000]);
        assert!(!connection.transport.has_ended());
        connection.transport.write(&[0; 200]);
        settle().await;
        assert_eq!(bench.ends(), [TransportEnd::OutputOverflow]);
        assert!(bench.table.is_empty());
    });
}

#[test]
fn a_deadline_is_checked_within_two_seconds_and_activity_moves_it() {
    run(async {
        let bench = Bench::new(10);
        let mut client = bench.connect(64);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            client.write_all(b"\x01a").await.unwrap();
            assert_eq!(read(&mut client, 1).await, b"a");
        }
        assert!(bench.ends().is_empty());
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(bench.ends().is_empty());
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(bench.ends(), [TransportEnd::Lost]);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the stream is closed");
    });
}

#[test]
fn the_longest_waiting_connection_without_authentication_is_evicted() {
    run(async {
        let bench = Bench::new(2);
        let mut clients: Vec<_> = (0..3).map(|_| bench.connect(64)).collect();
        settle().await;
        assert_eq!(*bench.log.ends.borrow(), [(0, TransportEnd::Evicted)]);
        // Those that have authenticated do not count.
        for client in &mut clients[1..] {
            client.write_all(b"\x01a").await.unwrap();
        }
        settle().await;
        let _more = [bench.connect(64), bench.connect(64)];
        settle().await;
        assert_eq!(bench.ends().len(), 1);
    });
}

#[test]
fn a_silent_connection_is_evicted_before_one_that_has_sent_something() {
    run(async {
        let bench = Bench::new(3);
        let mut speaking = bench.connect(64);
        // Half a packet.
        speaking.write_all(b"\x05hel").await.unwrap();
        settle().await;
        let _silent: Vec<_> = (0..4).map(|_| bench.connect(64)).collect();
        settle().await;
        let evicted =
            |numbers: &[u64]| -> Vec<_> { numbers.iter().map(|number| (*number, TransportEnd::Evicted)).collect() };
        let _more = [bench.connect(64), bench.connect(64)];
        settle().await;
        assert_eq!(*bench.log.ends.borrow(), evicted(&[1, 2, 3, 4]));
        speaking.write_all(b"lo").await.unwrap();
        assert_eq!(read(&mut speaking, 5).await, b"hello");
    });
}

#[test]
fn a_crowd_that_speaks_does_not_evict_a_newcomer_before_its_first_byte() {
    run(async {
        let bench = Bench::new(4);
        let mut crowd: Vec<_> = (0..4).map(|_| bench.connect(64)).collect();
        for client in &mut crowd {
            client.write_all(b"\x05hel").await.unwrap();
        }
        settle().await;
        let mut device = bench.connect(64);
        let mut more = bench.connect(64);
        more.write_all(b"\x05hel").await.unwrap();
        settle().await;
        let evicted = [(0, TransportEnd::Evicted), (1, TransportEnd::Evicted)];
        assert_eq!(*bench.log.ends.borrow(), evicted);
        device.write_all(b"\x01a").await.unwrap();
        assert_eq!(read(&mut device, 1).await, b"a");
    });
}

#[test]
fn among_speaking_connections_the_longest_waiting_is_evicted() {
    run(async {
        let bench = Bench::new(2);
        let mut clients = [bench.connect(64), bench.connect(64)];
        for client in &mut clients {
            client.write_all(b"\x05hel").await.unwrap();
        }
        settle().await;
        let _newer = bench.connect(64);
        settle().await;
        assert_eq!(*bench.log.ends.borrow(), [(0, TransportEnd::Evicted)]);
    });
}

#[test]
fn a_peer_that_closes_ends_its_connection_also_inside_a_packet() {
    run(async {
        let bench = Bench::new(10);
        let mut client = bench.connect(64);
        client.write_all(b"\x05hel").await.unwrap();
        drop(client);
        settle().await;
        assert_eq!(bench.ends(), [TransportEnd::Lost]);
        assert!(bench.table.is_empty());
    });
}

#[test]
fn a_panic_in_a_handler_ends_its_connection_and_no_other() {
    run(async {
        let bench = Bench::new(10);
        let mut healthy = bench.connect(64);
        healthy.write_all(b"\x01a").await.unwrap();
        let mut broken = bench.connect(64);
        broken.write_all(b"\x05panic").await.unwrap();
        assert_eq!(broken.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(*bench.log.ends.borrow(), [(1, TransportEnd::Panicked)]);
        healthy.write_all(b"\x01b").await.unwrap();
        assert_eq!(read(&mut healthy, 2).await, b"ab");
    });
}

#[test]
fn a_draining_node_waits_for_connections_with_work_until_it_closes() {
    run(async {
        let bench = Bench::new(10);
        let mut idle = bench.connect(64);
        idle.write_all(b"\x01a").await.unwrap();
        let mut busy = bench.connect(64);
        busy.write_all(b"\x04hold").await.unwrap();
        assert_eq!(read(&mut busy, 4).await, b"hold");
        bench.stop.enter(Phase::Draining);
        settle().await;
        assert_eq!(*bench.log.ends.borrow(), [(0, TransportEnd::Stopping)]);
        busy.write_all(b"\x01b").await.unwrap();
        assert!(is_silent(&mut busy).await, "a draining connection is not read");
        bench.stop.enter(Phase::Closing);
        settle().await;
        assert_eq!(bench.ends().len(), 2);
        assert!(bench.table.is_empty());
    });
}

#[test]
fn a_draining_node_takes_no_connection_and_keeps_the_deadlines_of_those_it_has() {
    run(async {
        let bench = Bench::new(10);
        let mut busy = bench.connect(64);
        busy.write_all(b"\x04hold").await.unwrap();
        assert_eq!(read(&mut busy, 4).await, b"hold");
        bench.stop.enter(Phase::Draining);
        let mut late = bench.connect(64);
        assert_eq!(late.read(&mut [0]).await.unwrap(), 0);
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(*bench.log.ends.borrow(), [(0, TransportEnd::Lost)]);
    });
}

#[test]
fn web_socket_messages_are_one_stream_whatever_their_boundaries() {
    run(async {
        let bench = Bench::new(10);
        let (client, server) = duplex(1024);
        let bytes = WebSocketBytes::server(server).await;
        bench.open(Socket::stream(Box::new(bytes), None));
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        for message in [&b"\x05he"[..], b"l", b"lo\x01a\x02"] {
            client.send(Message::binary(message.to_vec())).await.unwrap();
        }
        client.send(Message::Ping(Default::default())).await.unwrap();
        client.send(Message::binary(b"bc".to_vec())).await.unwrap();
        let mut echoed = Vec::new();
        while echoed.len() < 8 {
            match client.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => echoed.extend_from_slice(&bytes),
                Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(echoed, b"helloabc");
        client.send(Message::text("no")).await.unwrap();
        settle().await;
        assert_eq!(bench.ends().len(), 1, "a text message ends the connection");
    });
}
