//! Bytes from nowhere: nothing panics, nothing grows beyond its bound, and what is encoded is decoded again.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use holdfast_amqp::types::{
    MapWriter, Raw, Value, array_of_strings, array_of_symbols, put_binary, put_bool, put_described_list, put_int,
    put_long, put_str, put_symbol, put_timestamp, put_ubyte, put_uint, put_ulong, put_ushort, put_uuid, validate,
};
use holdfast_amqp::{Accept, AttachSpec, ClientSasl, Config, Connection, Event, OpenSpec, SaslCode, Violation, frame};
use proptest::prelude::*;
use support::{Pair, Seen, start};

/// A server that says yes to everything, fed with `bytes` in pieces.
fn feed(bytes: &[u8], piece: usize) -> Connection {
    let now = start();
    let mut server = Connection::server(Config::default(), now);
    let mut buffer = Vec::new();
    for part in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        let mut input = buffer.as_slice();
        loop {
            match server.receive(&mut input, now) {
                Ok(Some(Event::SaslInit(_))) => server.sasl_outcome(SaslCode::Ok),
                Ok(Some(Event::Open(_))) => server.open(&OpenSpec {
                    container_id: "s".to_owned(),
                    hostname: None,
                }),
                Ok(Some(Event::AttachRequested { link, .. })) => {
                    server.accept(
                        link,
                        &Accept {
                            credit: 3,
                            ..Accept::default()
                        },
                    );
                }
                Ok(Some(Event::Transfer(incoming))) => {
                    let id = incoming.delivery_id;
                    server.settle(incoming.link, id, id, &holdfast_amqp::Outcome::Accepted);
                }
                Ok(Some(Event::Disposition {
                    session, first, last, ..
                })) => {
                    server.take_outgoing(session, first, last);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let rest = input.len();
        buffer.drain(..buffer.len() - rest);
    }
    server
}

/// The output of an honest client: header, open, begin, two links, deliveries in one and in many frames, the end.
fn conversation() -> Vec<u8> {
    let mut pair = Pair::new(Config::default(), ClientSasl::Anonymous);
    let mut all = Vec::new();
    let mut keep = |pair: &mut Pair| {
        all.extend_from_slice(pair.client.output());
        pair.pump();
    };
    for _ in 0..4 {
        keep(&mut pair);
    }
    let session = pair.client.begin().unwrap();
    keep(&mut pair);
    let sender = pair.client.attach(session, &AttachSpec::sender("s", "hub")).unwrap();
    pair.client
        .attach(
            session,
            &AttachSpec::receiver("r", "hub/ConsumerGroups/$Default/Partitions/0"),
        )
        .unwrap();
    keep(&mut pair);
    for size in [0, 10, 100_000] {
        let delivery = holdfast_amqp::Delivery {
            tag: b"t",
            settled: false,
            message_format: 0,
        };
        pair.client
            .send_with(sender, &delivery, |buf| buf.resize(buf.len() + size, 1))
            .unwrap();
        keep(&mut pair);
    }
    pair.client.end(session, None);
    keep(&mut pair);
    let now = pair.now;
    pair.client.close(None, now);
    keep(&mut pair);
    all
}

/// Rewrites the honest inputs from which fuzzing starts: `cargo test -p holdfast-amqp --test hostile -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn seeds_of_the_fuzz_targets_are_written() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    let bytes = conversation();
    // A server reads the conversation in the largest pieces, in small ones; a client reads it as nonsense.
    for (name, first) in [("sent-large", 0xfe_u8), ("sent-small", 0x06), ("sent-to-client", 0xfd)] {
        write("connection", name, &[&[first][..], &bytes[..4096]].concat());
    }
    // Two headers, then frames.
    let frames = &bytes[bytes.windows(4).rposition(|window| window == b"AMQP").unwrap() + 8..];
    write("frame", "sent", &frames[..2048]);
    let mut message = Vec::new();
    holdfast_amqp::message::put_token(&mut message, "id", "SharedAccessSignature sr=a&sig=b&se=1", "sb://h/e");
    write("value", "put-token", &message);
    message.clear();
    holdfast_amqp::message::read_request(&mut message, "id", "hub", Some("0"));
    write("value", "read", &message);
    write(
        "value",
        "filter",
        &holdfast_amqp::selector::filter_map("amqp.annotation.x-opt-offset > '-1'"),
    );
    for (index, text) in [
        "amqp.annotation.x-opt-offset > '-1'",
        "amqp.annotation.x-opt-sequence-number >= '12'",
        "amqp.annotation.x-opt-enqueued-time > '1700000000000'",
        "amqps://h:5671/eh1/ConsumerGroups/$Default/Partitions/0",
        "/devices/d%2B1/modules/m/messages/events",
    ]
    .into_iter()
    .enumerate()
    {
        write("selector", &format!("text-{index}"), text.as_bytes());
    }
}

#[test]
fn every_strict_prefix_of_a_frame_needs_more() {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, frame::TYPE_AMQP, 7, |buf| {
        buf.extend_from_slice(b"some body")
    });
    for end in 0..bytes.len() {
        assert_eq!(frame::decode(&bytes[..end], 65_536), Ok(None), "{end}");
    }
    let (frame, size) = frame::decode(&bytes, 65_536).unwrap().unwrap();
    assert_eq!(
        (frame.channel, frame.body, size),
        (7, b"some body".as_slice(), bytes.len())
    );
}

#[test]
fn impossible_frames_are_refused_before_their_bytes_come() {
    assert_eq!(
        frame::decode(&[0xff, 0xff, 0xff, 0xff], 65_536),
        Err(Violation::FrameTooLarge(u32::MAX))
    );
    assert_eq!(frame::decode(&[0, 0, 0, 7], 65_536), Err(Violation::FrameHeader));
    assert_eq!(
        frame::decode(&[0, 0, 0, 8, 1, 0, 0, 0], 65_536),
        Err(Violation::FrameHeader)
    );
    assert_eq!(
        frame::decode(&[0, 0, 0, 8, 3, 0, 0, 0], 65_536),
        Err(Violation::FrameHeader)
    );
    assert_eq!(
        frame::decode(&[0, 0, 0, 8, 2, 9, 0, 0], 65_536),
        Err(Violation::FrameHeader)
    );
}

#[test]
fn a_conversation_is_understood_in_pieces_of_any_size() {
    let bytes = conversation();
    for piece in [1, 2, 3, 5, 8, 100, 1000, bytes.len()] {
        assert!(feed(&bytes, piece).is_closed(), "{piece}");
    }
}

#[test]
fn a_frame_on_a_channel_never_begun_closes_and_on_a_handle_never_attached_ends() {
    use holdfast_amqp::performative::Detach;
    let mut pair = Pair::opened();
    let now = pair.now;
    let mut bytes = Vec::new();
    let detach = Detach {
        handle: 5,
        closed: true,
        error: None,
    };
    frame::encode(&mut bytes, frame::TYPE_AMQP, 3, |buf| detach.encode(buf));
    assert_eq!(
        pair.server.receive(&mut bytes.as_slice(), now),
        Err(Violation::UnknownChannel(3))
    );

    let mut pair = Pair::opened();
    pair.client.begin().unwrap();
    pair.pump();
    bytes.clear();
    frame::encode(&mut bytes, frame::TYPE_AMQP, 0, |buf| detach.encode(buf));
    let event = pair.server.receive(&mut bytes.as_slice(), now).unwrap().unwrap();
    assert_eq!(
        support::seen(&event),
        Seen::Ended(Some("amqp:session:unattached-handle".to_owned()))
    );
    // Python's client detaches twice more after an end.
    assert_eq!(pair.server.receive(&mut bytes.as_slice(), now), Ok(None));
}

#[test]
fn an_endless_delivery_is_cut_off_by_a_detach() {
    use holdfast_amqp::performative::Transfer;
    let mut pair = Pair::opened();
    let (_, _, at_server) = pair.link(&AttachSpec::sender("s", "x"));
    let now = pair.now;
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, frame::TYPE_AMQP, 0, |buf| {
        let transfer = Transfer {
            handle: 0,
            delivery_id: Some(0),
            delivery_tag: Some(b"t"),
            message_format: None,
            settled: None,
            more: true,
            rcv_settle_mode: None,
            state: None,
            aborted: false,
        };
        transfer.encode(buf);
        buf.resize(60_000, 0);
    });
    for _ in 0..100 {
        assert_eq!(pair.server.receive(&mut bytes.as_slice(), now), Ok(None));
    }
    assert!(pair.server.credit(at_server).is_some());
    let written = pair.server.output();
    assert!(
        written
            .windows(31)
            .any(|window| window == b"amqp:link:message-size-exceeded")
    );
}

#[test]
fn values_nested_too_deep_are_refused() {
    let nested = |depth: usize| {
        let mut bytes = vec![0x45];
        for _ in 0..depth {
            let mut outer = vec![0xd0];
            outer.extend_from_slice(&(bytes.len() as u32 + 4).to_be_bytes());
            outer.extend_from_slice(&1u32.to_be_bytes());
            outer.extend_from_slice(&bytes);
            bytes = outer;
        }
        bytes
    };
    assert!(validate(Raw::new(&nested(16)).unwrap()).is_ok());
    assert!(validate(Raw::new(&nested(17)).unwrap()).is_err());
    // Descriptors within descriptors recurse even when a value is only skipped.
    assert!(Raw::new(&[0u8; 10_000]).is_err());
}

#[test]
fn an_array_of_a_billion_nothings_is_refused() {
    let bytes = [0xf0, 0, 0, 0, 5, 0x40, 0, 0, 0, 0x45];
    assert!(Raw::new(&bytes).unwrap().value().is_err());
}

/// A value to encode, as a test makes it up.
#[derive(Debug, Clone)]
enum Made {
    Bool(bool),
    Ubyte(u8),
    Ushort(u16),
    Uint(u32),
    Ulong(u64),
    Int(i32),
    Long(i64),
    Timestamp(i64),
    Uuid([u8; 16]),
    Binary(Vec<u8>),
    Text(String),
    Symbol(String),
    Symbols(Vec<String>),
    Strings(Vec<String>),
    List(Vec<Made>),
    Map(Vec<(String, Made)>),
}

fn put(buf: &mut Vec<u8>, made: &Made) {
    match made {
        Made::Bool(value) => put_bool(buf, *value),
        Made::Ubyte(value) => put_ubyte(buf, *value),
        Made::Ushort(value) => put_ushort(buf, *value),
        Made::Uint(value) => put_uint(buf, *value),
        Made::Ulong(value) => put_ulong(buf, *value),
        Made::Int(value) => put_int(buf, *value),
        Made::Long(value) => put_long(buf, *value),
        Made::Timestamp(value) => put_timestamp(buf, *value),
        Made::Uuid(value) => put_uuid(buf, value),
        Made::Binary(value) => put_binary(buf, value),
        Made::Text(value) => put_str(buf, value),
        Made::Symbol(value) => put_symbol(buf, value),
        Made::Symbols(items) => array_of_symbols(buf, items.iter().map(String::as_str)),
        Made::Strings(items) => array_of_strings(buf, items.iter().map(String::as_str)),
        Made::List(items) => put_described_list(buf, 0x77, items.len() as u8, |buf| {
            items.iter().for_each(|item| put(buf, item));
        }),
        Made::Map(items) => {
            let mut map = MapWriter::begin(buf);
            for (key, value) in items {
                put(map.key(key), value);
            }
            map.finish();
        }
    }
}

fn same(made: &Made, value: Value<'_>) -> bool {
    let texts = |items: &[String], value: Value<'_>, symbols: bool| match value {
        Value::Null => items.is_empty(),
        Value::Array(array) => array.iter().map(Result::unwrap).eq(items.iter().map(|item| {
            if symbols {
                Value::Symbol(item.as_str())
            } else {
                Value::String(item.as_str())
            }
        })),
        _ => false,
    };
    match (made, value) {
        (Made::Bool(a), Value::Bool(b)) => *a == b,
        (Made::Ubyte(a), Value::Ubyte(b)) => *a == b,
        (Made::Ushort(a), Value::Ushort(b)) => *a == b,
        (Made::Uint(a), Value::Uint(b)) => *a == b,
        (Made::Ulong(a), Value::Ulong(b)) => *a == b,
        (Made::Int(a), Value::Int(b)) => *a == b,
        (Made::Long(a), Value::Long(b)) => *a == b,
        (Made::Timestamp(a), Value::Timestamp(b)) => *a == b,
        (Made::Uuid(a), Value::Uuid(b)) => *a == b,
        (Made::Binary(a), Value::Binary(b)) => a == b,
        (Made::Text(a), Value::String(b)) => a == b,
        (Made::Symbol(a), Value::Symbol(b)) => a == b,
        (Made::Symbols(items), value) => texts(items, value, true),
        (Made::Strings(items), value) => texts(items, value, false),
        (Made::List(items), Value::Described(descriptor, list)) => {
            let Value::List(list) = list.value().unwrap() else {
                return false;
            };
            descriptor.value() == Ok(Value::Ulong(0x77))
                && list.len() as usize == items.len()
                && items
                    .iter()
                    .zip(list.iter())
                    .all(|(item, raw)| same(item, raw.unwrap().value().unwrap()))
        }
        (Made::Map(items), Value::Map(map)) => {
            map.len() as usize == items.len()
                && items.iter().zip(map.iter()).all(|((key, item), pair)| {
                    let (name, value) = pair.unwrap();
                    name.value() == Ok(Value::Symbol(key)) && same(item, value.value().unwrap())
                })
        }
        _ => false,
    }
}

fn made() -> impl Strategy<Value = Made> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Made::Bool),
        any::<u8>().prop_map(Made::Ubyte),
        any::<u16>().prop_map(Made::Ushort),
        prop_oneof![Just(0), 0..300u32, any::<u32>()].prop_map(Made::Uint),
        prop_oneof![Just(0), 0..300u64, any::<u64>()].prop_map(Made::Ulong),
        prop_oneof![-200..200i32, any::<i32>()].prop_map(Made::Int),
        prop_oneof![-200..200i64, any::<i64>()].prop_map(Made::Long),
        any::<i64>().prop_map(Made::Timestamp),
        any::<[u8; 16]>().prop_map(Made::Uuid),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Made::Binary),
        ".{0,100}".prop_map(Made::Text),
        "[ -~]{0,300}".prop_map(Made::Symbol),
        proptest::collection::vec("[a-z]{0,300}", 0..4).prop_map(Made::Symbols),
        proptest::collection::vec(".{0,20}", 0..20).prop_map(Made::Strings),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Made::List),
            proptest::collection::vec(("[a-z]{0,9}", inner), 0..6).prop_map(Made::Map),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_encoded_value_is_decoded_to_itself_and_no_prefix_of_it_is_a_value(made in made()) {
        let mut bytes = Vec::new();
        put(&mut bytes, &made);
        let raw = Raw::new(&bytes).unwrap();
        prop_assert_eq!(validate(raw), Ok(()));
        prop_assert!(same(&made, raw.value().unwrap()), "{:?}", made);
        for end in 0..bytes.len() {
            prop_assert!(Raw::new(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn no_bytes_make_the_value_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(raw) = Raw::new(&bytes) {
            let _ = validate(raw);
        }
        let _ = holdfast_amqp::performative::decode(&bytes);
        let _ = holdfast_amqp::message::Message::scan(&bytes).map(|message| message.data().count());
    }

    #[test]
    fn a_conversation_with_flipped_bytes_never_panics(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        piece in 1..5000usize,
    ) {
        let mut bytes = conversation();
        for (index, value) in flips {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        feed(&bytes, piece);
    }

    #[test]
    fn no_address_or_selector_panics(text in "\\PC{0,60}") {
        let _ = holdfast_amqp::address::parse(&text);
        let _ = holdfast_amqp::selector::parse(&text);
    }
}
