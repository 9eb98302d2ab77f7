//! The frame decoder: parts add up, a frame encoded again is the same, performatives never panic.
#![no_main]

use holdfast_amqp::{frame, performative};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Ok(Some((found, size))) = frame::decode(rest, 65_536) {
        assert!(size >= frame::HEADER_LEN && size <= rest.len());
        assert!(found.body.len() <= size - frame::HEADER_LEN);
        for end in [0, 3, 7, size - 1] {
            assert!(matches!(frame::decode(&rest[..end.min(size - 1)], 65_536), Ok(None)));
        }
        let mut again = Vec::new();
        frame::encode(&mut again, found.kind, found.channel, |buf| buf.extend_from_slice(found.body));
        let (same, _) = frame::decode(&again, 65_536).expect("encoded here").expect("whole");
        assert_eq!(same, found);
        if let Ok((_, payload)) = performative::decode(found.body) {
            assert!(payload.len() < found.body.len());
        }
        let _ = performative::SaslFrame::decode(found.body);
        rest = &rest[size..];
    }
});
