//! Golden bytes of everything that we put on the wire, and of what clients put there (Spec amqp §2).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use holdfast_amqp::performative::{Begin, Disposition, Flow, Performative, Transfer, encode_close, encode_end};
use holdfast_amqp::performative::{SaslFrame, decode, encode_mechanisms, encode_outcome};
use holdfast_amqp::types::{Raw, Reader, Value};
use holdfast_amqp::{
    Attach, DecodeError, Fault, InfoValue, Open, Outcome, ReceiverSettleMode, Role, SaslInit, SenderSettleMode, Source,
    Target,
};

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut buf = Vec::new();
    write(&mut buf);
    buf
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Encodes to exactly these bytes, which decode to the same performative; none of their prefixes decodes.
fn check(bytes: &str, performative: &Performative<'_>, write: impl FnOnce(&mut Vec<u8>)) {
    let expected = hex(bytes);
    assert_eq!(encoded(write), expected, "{performative:?}");
    let (decoded, rest) = decode(&expected).unwrap();
    assert_eq!(&decoded, performative);
    assert!(rest.is_empty());
    for end in 0..expected.len() {
        assert!(decode(&expected[..end]).is_err(), "{end}");
    }
}

#[test]
fn open_has_10_fields() {
    let open = Open {
        container_id: "node-1",
        hostname: None,
        max_frame_size: Some(65_536),
        channel_max: Some(8191),
        idle_time_out: Some(120_000),
        desired_capabilities: None,
        properties: None,
    };
    let bytes = "005310 c01c0a a1066e6f64652d31 40 7000010000 601fff 700001d4c0 40 40 40 40 40";
    check(bytes, &Performative::Open(open.clone()), |buf| open.encode(buf));
}

#[test]
fn begin_has_8_fields() {
    let begin = Begin {
        remote_channel: Some(1),
        next_outgoing_id: 1,
        incoming_window: 5000,
        outgoing_window: 5000,
        handle_max: Some(65_535),
    };
    let bytes = "005311 c01808 600001 5201 7000001388 7000001388 700000ffff 40 40 40";
    check(bytes, &Performative::Begin(begin), |buf| begin.encode(buf));
}

#[test]
fn attach_has_14_fields_source_11_target_7() {
    let source = encoded(|buf| {
        Source {
            address: Some("a"),
            filter: None,
        }
        .encode(buf)
    });
    let target = encoded(|buf| Target { address: None }.encode(buf));
    let attach = Attach {
        name: "l",
        handle: 0,
        role: Role::Sender,
        snd_settle_mode: SenderSettleMode::MIXED,
        rcv_settle_mode: ReceiverSettleMode::SECOND,
        source_raw: Some(Raw::new(&source).unwrap()),
        target_raw: Some(Raw::new(&target).unwrap()),
        initial_delivery_count: Some(0),
        max_message_size: Some(1_048_576),
        desired_capabilities: None,
        properties: None,
    };
    let bytes = "005312 c0390e a1016c 43 42 5002 5001 005328c00e0b a10161 43 40 43 42 40 40 40 40 40 40 005329c00807 40 43 40 43 42 40 40 40 40 43 800000000000100000 40 40 40";
    check(bytes, &Performative::Attach(attach.clone()), |buf| attach.encode(buf));
    assert_eq!(attach.source().unwrap().unwrap().address, Some("a"));
    assert_eq!(attach.target().unwrap().unwrap().address, None);
}

#[test]
fn flow_has_11_fields() {
    let flow = Flow {
        next_incoming_id: Some(0),
        incoming_window: 5000,
        next_outgoing_id: 1,
        outgoing_window: 5000,
        handle: Some(0),
        delivery_count: Some(0),
        link_credit: Some(100),
        available: Some(0),
        drain: false,
        echo: false,
    };
    let bytes = "005313 c0160b 43 7000001388 5201 7000001388 43 43 5264 43 42 42 40";
    check(bytes, &Performative::Flow(flow), |buf| flow.encode(buf));
}

#[test]
fn transfer_has_11_fields() {
    let transfer = Transfer {
        handle: 1,
        delivery_id: Some(2),
        delivery_tag: Some(&[0xde, 0xad]),
        message_format: Some(0),
        settled: Some(true),
        more: false,
        rcv_settle_mode: None,
        state: None,
        aborted: false,
    };
    let bytes = "005314 c0110b 5201 5202 a002dead 43 41 42 40 40 42 42 42";
    check(bytes, &Performative::Transfer(transfer.clone()), |buf| {
        transfer.encode(buf)
    });
}

#[test]
fn disposition_has_6_fields_and_accepted_none() {
    let disposition = Disposition {
        role: Role::Receiver,
        first: 3,
        last: 9,
        settled: true,
        outcome: Some(Outcome::Accepted),
    };
    let bytes = "005315 c00c06 41 5203 5209 41 00532445 42";
    check(bytes, &Performative::Disposition(disposition.clone()), |buf| {
        disposition.encode(buf)
    });
}

#[test]
fn every_outcome_survives() {
    let fault = Fault::new("amqp:not-found", "gone");
    for outcome in [
        Outcome::Accepted,
        Outcome::Released,
        Outcome::Rejected(Some(fault)),
        Outcome::Rejected(None),
        Outcome::Modified {
            delivery_failed: true,
            undeliverable_here: false,
        },
    ] {
        let bytes = encoded(|buf| outcome.encode(buf));
        assert_eq!(Outcome::decode(Raw::new(&bytes).unwrap()).unwrap(), Some(outcome));
    }
    let received = hex("005323 c00302 43 43");
    assert_eq!(Outcome::decode(Raw::new(&received).unwrap()), Ok(None));
}

#[test]
fn detach_end_and_close_carry_errors_of_3_fields() {
    let info = [("p", InfoValue::Int(5671))];
    let fault = Fault::new("amqp:x", "d").with_info(&info);
    let error = "00531d c01d03 a306616d71703a78 a10164 d100000008 00000002 a30170 71 00001627";
    let error = &error.replace("d100000008", "d10000000c");
    let bytes = encoded(|buf| fault.encode(buf));
    let body = hex(error);
    assert_eq!(bytes[3], 0xc0);
    assert_eq!(bytes[5..], body[5..]);
    let detach = encoded(|buf| {
        holdfast_amqp::performative::Detach {
            handle: 1,
            closed: true,
            error: Some(fault),
        }
        .encode(buf)
    });
    let (Performative::Detach(decoded), _) = decode(&detach).unwrap() else {
        panic!()
    };
    let error = decoded.error.unwrap();
    assert_eq!((error.condition, error.description), ("amqp:x", Some("d")));
    let Value::Map(map) = error.received_info.unwrap().value().unwrap() else {
        panic!()
    };
    assert_eq!(map.get("p"), Ok(Some(Value::Int(5671))));

    assert_eq!(encoded(|buf| encode_end(buf, None)), hex("005317 c00201 40"));
    assert_eq!(encoded(|buf| encode_close(buf, None)), hex("005318 c00201 40"));
    let close = encoded(|buf| encode_close(buf, Some(&fault)));
    assert!(matches!(decode(&close), Ok((Performative::Close(Some(_)), _))));
}

#[test]
fn long_lists_become_list32_with_every_field() {
    let text = "x".repeat(300);
    let bytes = encoded(|buf| encode_close(buf, Some(&Fault::new("amqp:x", &text))));
    assert_eq!(bytes[..4], hex("005318d0"));
    assert_eq!(
        u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize,
        bytes.len() - 8
    );
    assert_eq!(u32::from_be_bytes(bytes[8..12].try_into().unwrap()), 1);
    let (Performative::Close(Some(fault)), _) = decode(&bytes).unwrap() else {
        panic!()
    };
    assert_eq!(fault.description, Some(text.as_str()));
}

#[test]
fn mechanisms_are_an_array_of_symbols_in_one_frame() {
    let bytes = encoded(|buf| encode_mechanisms(buf, ["MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"]));
    let expected = "005340 c02601 e02304 a3 074d535342434253 09414e4f4e594d4f5553 05504c41494e 0845585445524e414c";
    assert_eq!(bytes, hex(expected));
    assert_eq!(encoded(|buf| encode_outcome(buf, 1)), hex("005344 c00402 5001 40"));
    let init = SaslInit {
        mechanism: "PLAIN",
        initial_response: Some(b"\0u\0p:\0q"),
        hostname: None,
    };
    let bytes = encoded(|buf| init.encode(buf));
    assert_eq!(SaslFrame::decode(&bytes), Ok(SaslFrame::Init(init)));
    assert_eq!(init.plain(), Some(("u", "p:\0q")));
}

#[test]
fn shortened_empty_wide_and_symbolic_lists_are_understood() {
    // list0, as some clients close.
    assert!(matches!(decode(&hex("00531845")), Ok((Performative::Close(None), _))));
    // A shortened open of two fields.
    let short = hex("005310 c00a02 a10163 a10468 6f7374");
    let (Performative::Open(open), _) = decode(&short).unwrap() else {
        panic!()
    };
    assert_eq!(
        (open.container_id, open.hostname, open.max_frame_size),
        ("c", Some("host"), None)
    );
    // A begin with a ulong descriptor of 8 bytes and list32.
    let begin = "00800000000000000011 d00000001100000004 40 5201 7000000800 7000000800";
    assert!(matches!(
        decode(&hex(begin)),
        Ok((
            Performative::Begin(Begin {
                incoming_window: 2048,
                ..
            }),
            _
        ))
    ));
    // The symbol in place of the number.
    let mut symbolic = vec![0x00, 0xa3, 14];
    symbolic.extend_from_slice(b"amqp:open:list");
    symbolic.extend_from_slice(&hex("c00401 a10163"));
    assert!(matches!(decode(&symbolic), Ok((Performative::Open(_), _))));
    // A disposition whose last and state are absent.
    let short = hex("005315 c00402 41 5205");
    let (Performative::Disposition(disposition), _) = decode(&short).unwrap() else {
        panic!()
    };
    assert_eq!(
        (disposition.first, disposition.last, disposition.settled),
        (5, 5, false)
    );
}

#[test]
fn missing_mandatory_fields_and_wrong_types_are_named() {
    assert_eq!(decode(&hex("00531045")), Err(DecodeError::Missing("container-id")));
    assert_eq!(
        decode(&hex("005312 c00401 a1016c")),
        Err(DecodeError::Missing("handle"))
    );
    assert_eq!(
        decode(&hex("005316 c00401 a1016c")),
        Err(DecodeError::WrongType("handle"))
    );
    assert_eq!(decode(&hex("005399 45")), Err(DecodeError::WrongType("performative")));
}

#[test]
fn terminus_of_the_peer_is_read_with_filter_and_coordinator_is_seen() {
    let filter = holdfast_amqp::selector::filter_map("amqp.annotation.x-opt-offset > '-1'");
    let bytes = encoded(|buf| {
        Source {
            address: Some("x"),
            filter: Raw::new(&filter).ok(),
        }
        .encode(buf)
    });
    let mut reader = Reader::new(&bytes);
    let raw = reader.raw().unwrap();
    let attach = Attach {
        name: "n",
        handle: 0,
        role: Role::Receiver,
        snd_settle_mode: SenderSettleMode::MIXED,
        rcv_settle_mode: ReceiverSettleMode::FIRST,
        source_raw: Some(raw),
        target_raw: Some(Raw::new(&[0x00, 0x53, 0x30, 0x45]).unwrap()),
        initial_delivery_count: None,
        max_message_size: None,
        desired_capabilities: None,
        properties: None,
    };
    let source = attach.source().unwrap().unwrap();
    assert_eq!(
        holdfast_amqp::selector::from_filters(source.filter).unwrap().start,
        holdfast_amqp::selector::Start::Oldest
    );
    assert!(attach.target().unwrap().unwrap().coordinator);
}
