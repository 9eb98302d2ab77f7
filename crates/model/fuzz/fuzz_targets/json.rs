//! Any text as the JSON of a twin or of a method: no panic; what is read and written is read the same again.
#![no_main]

use holdfast_model::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    assert!(json::quoted(text).len() <= 64 * 10 + 2, "an error text is short");
    match json::parse(text) {
        Ok(value) => {
            let written = value.to_string();
            let again = json::parse(&written).expect("what was written can be read");
            assert_eq!(again, value);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
