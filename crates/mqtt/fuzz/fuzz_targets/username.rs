//! Any text as client id and user name: no panic, and a claim that passes names exactly one identity.
//!
//! The input is `client id \n user name`.
#![no_main]

use holdfast_mqtt::Login;
use holdfast_mqtt::codec::Connect;
use holdfast_mqtt::login::Claim;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (client_id, username) = text.split_once('\n').unwrap_or(("", text));
    if let Ok(login) = Login::parse(username) {
        assert!(username.starts_with(login.host) && !login.device.is_empty() && !login.device.contains('/'));
        assert!(login.host.starts_with(login.host_name()));
        assert!(login.client_type.as_ref().is_none_or(|text| text.len() <= 1024));
        let _ = login.identity();
    }
    let connect = Connect { client_id, username: Some(username), ..Connect::default() };
    if let Ok(claim) = Claim::of(&connect) {
        assert_eq!(claim.identity.to_string(), client_id);
    }
});
