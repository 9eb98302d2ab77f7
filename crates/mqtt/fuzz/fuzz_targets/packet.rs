//! Any bytes as packets of either side: no panic, and what decodes encodes to something that decodes equal.
//!
//! The first byte chooses the sender, the rest is the input of the decoder.
#![no_main]

use holdfast_mqtt::codec::{Limits, Packet, Sender, decode, encode, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, input)) = data.split_first() else { return };
    let sender = match choice & 3 {
        0 => Sender::NewClient,
        1 => Sender::Server,
        _ => Sender::Client,
    };
    let limits = Limits { sender, max_remaining_length: 1 << 16 };
    let mut rest = input;
    loop {
        match decode(rest, &limits) {
            Ok(Some((packet, used))) => {
                assert!(used <= rest.len() && used >= 2);
                round_trip(&packet, &limits);
                // One byte less is not a packet, and not an error either.
                assert_eq!(decode(&rest[..used - 1], &limits), Ok(None));
                rest = &rest[used..];
            }
            Ok(None) => {
                if let Ok(Some(header)) = header(rest, &limits) {
                    assert!(header.packet_len() > rest.len());
                }
                return;
            }
            Err(violation) => {
                assert!(!violation.to_string().is_empty() && !violation.label().is_empty());
                return;
            }
        }
    }
});

fn round_trip(packet: &Packet<'_>, limits: &Limits) {
    let mut bytes = Vec::new();
    encode(&mut bytes, packet).expect("what was decoded can be encoded");
    let again = decode(&bytes, limits).expect("valid").expect("complete");
    assert_eq!(again, (*packet, bytes.len()));
    match packet {
        Packet::Subscribe(packet) => assert!(packet.filters.iter().count() > 0),
        Packet::Unsubscribe(packet) => assert!(packet.filters.iter().count() > 0),
        _ => {}
    }
}
