//! The value decoder and everything that looks lazily into values: messages, requests, filters.
#![no_main]

use holdfast_amqp::message::{Message, Request, ResponseView, id_text};
use holdfast_amqp::types::{Raw, Reader, Value, validate};
use holdfast_amqp::{Outcome, selector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut reader = Reader::new(input);
    while let Ok(raw) = reader.raw() {
        assert_eq!(Raw::new(raw.bytes()), Ok(raw), "a value is exactly its bytes");
        if validate(raw).is_ok() {
            assert!(raw.value().is_ok());
        }
        let _ = id_text(raw);
        let _ = Outcome::decode(raw);
        if let Ok(Value::Map(map)) = raw.value() {
            let _ = selector::from_filters(map);
        }
    }
    if let Ok(message) = Message::scan(input) {
        let _ = message.properties();
        let total: usize = message.data().map(<[u8]>::len).sum();
        assert!(total <= input.len());
    }
    let _ = Request::parse(input);
    let _ = ResponseView::parse(input);
});
