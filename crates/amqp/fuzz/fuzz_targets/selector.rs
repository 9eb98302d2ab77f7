//! Selectors and addresses: a parsed one can be written and parsed again.
#![no_main]

use holdfast_amqp::{address, selector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(start) = selector::parse(text) {
        assert_eq!(selector::parse(&selector::expression(start)), Ok(start));
    }
    let _ = address::parse(text);
    let _ = address::host(text);
    assert!(address::percent_decode(text).len() <= text.len());
});
