//! Violations of the protocol by a peer with a valid certificate: each is refused, and no other connection is affected.

use super::*;
use crate::peer::error_text;
use crate::peer::outbound::dial::dial;
use crate::peer::peer_table::PeerTable;
use crate::peer::protocol::frame::{Batch, CallHead, Part};
use crate::peer::transport::codec::Frames;
use crate::peer::transport::grpc::{self, exchange_frames};
use crate::peer::transport::http2::{self, ConnectionKind};
use holdfast_proto::cluster::v1::Purpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;

/// A relay that can be cut without closing either socket.
pub(super) struct Cable {
    pub(super) address: String,
    cut: tokio::sync::watch::Sender<bool>,
}

impl Cable {
    pub(super) async fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let (cut, _) = tokio::sync::watch::channel(false);
        let (address, ends) = (address.to_owned(), cut.clone());
        drop(holdfast_tasks::spawn("cable", async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&address).await else {
                    continue;
                };
                let ends = ends.subscribe();
                drop(holdfast_tasks::spawn("cable end", async move {
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    tokio::join!(relay(near_in, far_out, ends.clone()), relay(far_in, near_out, ends));
                }));
            }
        }));
        Self { address: own, cut }
    }

    /// Stops forwarding; the sockets stay open.
    pub(super) fn cut(&self) {
        self.cut.send_replace(true);
    }
}

async fn is_cut(cut: &mut tokio::sync::watch::Receiver<bool>) {
    drop(cut.wait_for(|cut| *cut).await);
}

async fn relay(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut cut: tokio::sync::watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        tokio::select! {
            biased;
            () = is_cut(&mut cut) => std::future::pending().await,
            read = from.read(&mut buffer) => match read {
                Ok(len) if len > 0 => if to.write_all(&buffer[..len]).await.is_err() { return },
                _ => return,
            }
        }
    }
}

/// A peer with a valid certificate and hello that then sends `batches`.
async fn session_of(authority: &Authority, victim: &Node, batches: Vec<Batch>) -> Status {
    let (anonymous_calls, _keep) = tokio::sync::mpsc::channel(1);
    let table = PeerTable::new(
        quick(),
        identity(NodeId(66)),
        authority.node(),
        Dispatch::new(),
        Stop::new(),
        anonymous_calls,
    );
    let dialed = dial(&table, &victim.address(), Purpose::Calls, victim.id)
        .await
        .unwrap();
    let out = stream::iter(batches).chain(stream::pending());
    // Without the limits of a correct node.
    let mut grpc = tonic::client::Grpc::with_origin(
        dialed.connection.sender.clone(),
        http::Uri::from_static("https://peer.holdfast"),
    );
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(grpc::FRAMES);
    let answers = grpc.streaming(tonic::Request::new(out), path, Frames).await.unwrap();
    let mut answers = answers.into_inner();
    loop {
        match tokio::time::timeout(Duration::from_secs(10), answers.next()).await {
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(status))) => return status,
            Ok(None) => panic!("ended without a status"),
            Err(_) => panic!("the victim did not close the connection"),
        }
    }
}

fn raw(bytes: &[u8]) -> Batch {
    vec![Part::raw(Bytes::copy_from_slice(bytes))]
}

fn head(total: u32) -> CallHead {
    CallHead {
        id: 1,
        service: 1,
        target: 0,
        timeout_ms: 1000,
        total,
    }
}

#[tokio::test]
async fn broken_frames_end_the_connection_with_the_rule() {
    let (authority, one, two) = pair().await;
    let cases: Vec<(&str, Vec<Batch>)> = vec![
        ("kind 99", vec![raw(&[99])]),
        ("cut short", vec![raw(&[1, 2, 3])]),
        ("cut short", vec![raw(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255])]),
        ("longer than the", vec![vec![Part::call(head(u32::MAX), vec![])]]),
        (
            "longer than the rest",
            vec![vec![Part::call(head(2), vec![Bytes::from_static(b"abc")])]],
        ),
        (
            "longer than the rest",
            vec![
                vec![Part::call(head(3), vec![Bytes::from_static(b"a")])],
                vec![Part::more(1, vec![Bytes::from_static(b"bcd")])],
            ],
        ),
        ("belongs to no call", vec![vec![Part::more(5, vec![])]]),
        (
            "used twice",
            vec![vec![Part::call(head(3), vec![]), Part::call(head(3), vec![])]],
        ),
        (
            "open at once",
            vec![
                (0..9)
                    .map(|id| Part::call(CallHead { id, ..head(3) }, vec![]))
                    .collect(),
            ],
        ),
        ("wrong direction", vec![vec![Part::pong(1)]]),
        ("wrong direction", vec![vec![Part::end()]]),
        ("too large", vec![raw(&vec![4; (1 << 20) + 5000])]),
    ];
    for (rule, batches) in cases {
        let status = session_of(&authority, &two, batches).await;
        assert!(error_text::of_status(&status).contains(rule), "{rule}: {status:?}");
        assert_eq!(
            one.ask(NodeId(2), b"hello").await.unwrap(),
            "hello",
            "{rule} affects another connection"
        );
    }
}

#[tokio::test]
async fn nothing_is_served_before_a_hello() {
    let (authority, _one, two) = pair().await;
    let opened = http2::connect(&two.address(), &authority.node(), ConnectionKind::Calls, 1)
        .await
        .unwrap();
    let out = stream::iter([vec![Part::call(head(0), vec![])]]).chain(stream::pending());
    let refused = exchange_frames(&opened.sender, grpc::FRAMES, out).await.unwrap_err();
    assert!(refused.message().contains("hello comes first"), "{refused:?}");
    let before = two.echo.begun.load(Ordering::SeqCst);
    assert_eq!(before, 0);
}

#[tokio::test]
async fn silent_connections_and_garbage_are_disconnected() {
    let authority = Authority::new();
    let config = PeersConfig {
        connect_timeout: Duration::from_millis(300),
        handshakes: 1,
        ..quick()
    };
    let one = Node::start_with(config, identity(NodeId(1)), authority.node()).await;
    // No TLS at all.
    let mut garbage = TcpStream::connect(one.address()).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(
        tokio::time::timeout(Duration::from_secs(5), garbage.read_to_end(&mut answer))
            .await
            .unwrap(),
    );
    // Silence before TLS: it takes the only handshake permit, and further connections are closed.
    let mut silent = TcpStream::connect(one.address()).await.unwrap();
    let mut crowd = TcpStream::connect(one.address()).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), crowd.read(&mut [0; 1]))
        .await
        .unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    let read = tokio::time::timeout(Duration::from_secs(5), silent.read(&mut [0; 1]))
        .await
        .unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    // Silence after TLS.
    let opened = http2::connect(&one.address(), &authority.node(), ConnectionKind::Calls, 1)
        .await
        .unwrap();
    while !opened.sender.is_closed() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_speak_http2_is_disconnected() {
    let (authority, one, two) = pair().await;
    let socket = TcpStream::connect(two.address()).await.unwrap();
    let client = Arc::clone(&authority.node().current().client);
    let mut stream = tokio_rustls::TlsConnector::from(client)
        .connect(crate::peer::transport::tls::peer_name(), socket)
        .await
        .unwrap();
    stream.write_all(&[0xff; 4096]).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer));
    // The connection ends, gracefully or not.
    drop(read.await.unwrap());
    assert_eq!(one.ask(NodeId(2), b"hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn unrequested_pieces_are_violations() {
    use crate::peer::protocol::frame::Violation;
    use crate::peer::protocol::reassembly::Reassembler;
    let mut bodies: Reassembler<()> = Reassembler::default();
    assert_eq!(bodies.append(3, b"x"), Err(Violation::NoSuchBody));
    bodies.begin(3, None, 10, b"abc").unwrap();
    assert_eq!(bodies.append(3, b"defghij"), Ok(None), "rejected: discarded");
    bodies.begin(3, Some(()), 4, b"ab").unwrap();
    assert_eq!(bodies.append(3, b"cd"), Ok(Some(((), Bytes::from_static(b"abcd")))));
}

mod bytes_in {
    //! The decoder never panics, and decodes what was encoded.

    use super::*;
    use crate::peer::protocol::frame::{AnswerHead, Item, Items, Outcome};
    use proptest::prelude::*;

    fn item() -> impl Strategy<Value = Item> {
        let body = proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
        prop_oneof![
            (
                any::<u64>(),
                any::<u8>(),
                any::<u32>(),
                any::<u32>(),
                0_u32..100,
                body.clone()
            )
                .prop_map(|(id, service, target, timeout_ms, more, body)| {
                    let total = body.len() as u32 + more;
                    Item::Call(
                        CallHead {
                            id,
                            service,
                            target,
                            timeout_ms,
                            total,
                        },
                        body,
                    )
                }),
            (any::<u64>(), body.clone()).prop_map(|(id, body)| Item::More(id, body)),
            (any::<u64>(), 0_u32..100, body).prop_map(|(id, more, body)| {
                let total = body.len() as u32 + more;
                Item::Answer(
                    AnswerHead {
                        id,
                        outcome: Outcome::Refused,
                        total,
                    },
                    body,
                )
            }),
            any::<u64>().prop_map(Item::Ping),
            any::<u64>().prop_map(Item::Pong),
            any::<u64>().prop_map(Item::Drop),
            Just(Item::End),
        ]
    }

    fn part(item: &Item) -> Part {
        match item.clone() {
            Item::Call(head, body) => Part::call(head, vec![body]),
            Item::More(id, body) => Part::more(id, vec![body]),
            Item::Answer(head, body) => Part::answer(head, vec![body]),
            Item::Ping(nonce) => Part::ping(nonce),
            Item::Pong(nonce) => Part::pong(nonce),
            Item::Drop(id) => Part::dropped(id),
            Item::End => Part::end(),
        }
    }

    fn bytes(items: &[Item]) -> Vec<u8> {
        let mut frame = Vec::new();
        for item in items {
            let part = part(item);
            frame.extend_from_slice(part.head.as_slice());
            frame.extend(part.piece.concat());
            assert!(part.head.as_slice().len() <= crate::peer::protocol::frame::MAX_HEAD);
        }
        frame
    }

    proptest! {
        #[test]
        fn encoded_items_are_decoded(items in proptest::collection::vec(item(), 0..20)) {
            let read: Result<Vec<_>, _> = Items::new(bytes(&items).into()).collect();
            prop_assert_eq!(read, Ok(items));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Items::new(frame.into()).count();
        }

        #[test]
        fn damaged_frames_do_not_panic(
            items in proptest::collection::vec(item(), 1..5),
            at in any::<proptest::sample::Index>(),
            to in any::<u8>(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut frame = bytes(&items);
            let len = frame.len();
            frame[at.index(len)] = to;
            frame.truncate(cut.index(len) + 1);
            let _ = Items::new(frame.into()).count();
        }
    }
}
