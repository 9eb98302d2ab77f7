//! Any text as a connection string: no panic, and what parses prints to a text that parses to the same.
#![no_main]

use holdfast_auth::ConnectionString;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(parsed) = ConnectionString::parse(text) {
        assert_eq!(ConnectionString::parse(&parsed.reveal()).as_ref(), Ok(&parsed));
    }
});
