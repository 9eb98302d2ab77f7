//! Any text as `sr` and as path (parted by `|`): no panic; a scope that covers a path covers what lies below, and a path
//! that is covered is covered under any case.
#![no_main]

use holdfast_auth::{HubNames, ResourcePath, ResourceScope};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut parts = text.split('|');
    let sr = parts.next().unwrap_or_default();
    let segments: Vec<&str> = parts.take(7).collect();
    let Ok(scope) = ResourceScope::parse(sr) else { return };
    let _ = HubNames::new(["hub1.example.com", "*.localhost", "::1"]).contains(scope.host());
    let path: ResourcePath<'_> = segments.iter().copied().collect();
    let upper: Vec<String> = segments.iter().map(|segment| segment.to_ascii_uppercase()).collect();
    let upper: ResourcePath<'_> = upper.iter().map(String::as_str).collect();
    assert_eq!(scope.covers(&path), scope.covers(&upper));
    if scope.covers(&path) {
        assert!(scope.covers(&path.then("below")));
    }
});
