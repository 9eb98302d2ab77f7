use holdfast_model::{DeviceId, ModuleId};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;

fn covers(sr: &str, path: &[&str]) -> bool {
    ResourceScope::parse(sr).is_ok_and(|scope| scope.covers(&path.iter().copied().collect()))
}

#[test]
fn a_scope_covers_itself_and_what_lies_below_by_segment() {
    assert!(covers("h", &[]) && covers("h", &["devices", "a"]));
    assert!(covers("h/devices", &["devices", "a"]) && !covers("h/devices", &[]));
    assert!(covers("h/devices/a", &["devices", "a"]));
    assert!(covers("h/devices/a", &["devices", "a", "modules", "m"]));
    assert!(!covers("h/devices/a", &["devices", "ab"]));
    assert!(!covers("h/devices/ab", &["devices", "a"]));
    assert!(
        !covers("h/devices/a/modules/m", &["devices", "a"]),
        "a module's token is not its device's"
    );
    assert!(
        !covers("h/devices/a/messages/events", &["devices", "a"]),
        "a deeper token covers only that endpoint"
    );
    assert!(covers(
        "h/devices/a/messages/events",
        &["devices", "a", "messages", "events"]
    ));
}

#[test]
fn ids_count_raw_escaped_once_and_escaped_twice() {
    let id = "a%41b+c:d";
    for sr in [
        "h/devices/a%41b+c:d",                 // C: raw
        "h/devices/a%2541b%2Bc%3Ad",           // Java: raw slashes, id escaped
        "h%2Fdevices%2Fa%2541b%2Bc%3Ad",       // Python, Node, C#: the whole escaped
        "h%2fdevices%2fa%2541b%2bc%3ad",       // the same in lower case
        "h%2Fdevices%2Fa%252541b%252Bc%253Ad", // id escaped, then the whole
    ] {
        assert!(covers(sr, &["devices", id]), "{sr}");
        assert!(covers(sr, &["DEVICES", &id.to_uppercase()]), "{sr} in upper case");
        assert!(!covers(sr, &["devices", "b"]), "{sr}");
    }
}

#[test]
fn an_escaped_slash_inside_an_id_opens_no_other_path() {
    assert!(!covers("h/devices/a%2Fmodules%2Fm", &["devices", "a", "modules", "m"]));
    assert!(!covers("h/devices%2Fa", &["devices", "a"]));
    assert!(!covers("h//devices/a", &["devices", "a"]));
    assert!(!covers("h/devices/../devices/a", &["devices", "a"]));
}

#[test]
fn schemes_trailing_slashes_and_api_versions_do_not_count() {
    assert!(covers("sb://h/hub1", &["hub1", "$management"]));
    assert!(covers(
        "sb%3A%2F%2Fh%2Fhub1%2FConsumerGroups%2F%24Default",
        &["HUB1", "consumergroups", "$default", "Partitions", "0"]
    ));
    assert!(!covers(
        "sb%3A%2F%2Fh%2Fhub1%2FConsumerGroups%2Fg",
        &["hub1", "ConsumerGroups", "$Default", "Partitions", "0"]
    ));
    assert!(covers("amqps://h:5671/", &["devices", "a"]));
    assert!(covers("h/devices/a/", &["devices", "a"]));
    assert!(covers("h/devices/a/api-version=2016-11-14", &["devices", "a"]));
    assert!(covers("h/api-version=2016-11-14", &[]));
}

#[test]
fn a_scope_without_host_is_malformed() {
    for sr in ["/devices/a", "sb://", "sb:///x", "%ff"] {
        assert_eq!(
            ResourceScope::parse(sr),
            Err(SasRefusal::Malformed(Defect::Resource)),
            "{sr}"
        );
    }
}

#[test]
fn host_names_match_in_any_case_with_or_without_port() {
    let names = HubNames::new(["Hub1.Example.com", "*.localhost", "127.0.0.7", "::1"]);
    for host in [
        "hub1.example.com",
        "HUB1.EXAMPLE.COM:8883",
        "hub.localhost",
        "127.0.0.7:5671",
        "::1",
        "[::1]",
        "[::1]:443",
    ] {
        assert!(names.contains(host), "{host}");
    }
    for host in [
        "",
        "hub1",
        "hub1.example.com.",
        "hub1.example.com:",
        "hub1.example.com:x",
        ".localhost",
        "localhost",
        "a.b.localhost",
        "evilhub1.example.com",
    ] {
        assert!(!names.contains(host), "{host}");
    }
    assert_eq!(names.primary(), Some("hub1.example.com"));
}

#[test]
fn a_path_of_an_identity_names_device_and_module() {
    let device = DeviceId::parse("d").unwrap();
    let module = IdentityId::module(device.clone(), ModuleId::parse("m").unwrap());
    assert_eq!(
        ResourcePath::identity(&IdentityId::device(device)).segments(),
        ["devices", "d"]
    );
    assert_eq!(
        ResourcePath::identity(&module).segments(),
        ["devices", "d", "modules", "m"]
    );
    let deep: ResourcePath<'_> = ["a"; 12].into_iter().collect();
    assert_eq!(deep.segments().len(), 8);
}

proptest! {
    #[test]
    fn no_text_panics(sr in any::<String>(), path in prop::collection::vec(any::<String>(), 0..10)) {
        let path: ResourcePath<'_> = path.iter().map(String::as_str).collect();
        if let Ok(scope) = ResourceScope::parse(&sr) {
            let _ = (scope.covers(&path), HubNames::new(["h", "*.h"]).contains(scope.host()));
        }
    }

    #[test]
    fn every_escaping_of_every_legal_id_is_covered_and_no_longer_id_is(id in "[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,40}") {
        prop_assume!(!id.starts_with("api-version="));
        let once = utf8_percent_encode(&id, NON_ALPHANUMERIC).to_string();
        let whole = utf8_percent_encode(&format!("h/devices/{id}"), NON_ALPHANUMERIC).to_string();
        let twice = utf8_percent_encode(&format!("h/devices/{once}"), NON_ALPHANUMERIC).to_string();
        for sr in [format!("h/devices/{id}"), format!("h/devices/{once}"), whole.clone(), whole.to_lowercase(), twice] {
            prop_assert!(covers(&sr, &["devices", &id]), "{}", sr);
            let longer = format!("{id}x");
            prop_assert!(!covers(&sr, &["devices", &longer]), "{}", sr);
        }
    }
}

#[test]
fn a_hub_has_a_name_for_devices_and_one_for_back_ends() {
    let split = |host: &str| split_names(host);
    let names = |device: &str, service: &str| Some([device.to_owned(), service.to_owned()]);
    assert_eq!(
        split("Hub1.example.com"),
        names("hub1.device.example.com", "hub1.service.example.com")
    );
    assert_eq!(split("hub1.test"), names("hub1.device.test", "hub1.service.test"));
    assert_eq!(
        split("localhost"),
        names("localhost.device.localhost", "localhost.service.localhost")
    );
    for host in ["127.0.0.1", "::1", "[::1]", "hub1", ".example.com", "hub1.", ""] {
        assert_eq!(split(host), None, "{host}");
    }
    let names = HubNames::of_hub("hub1.example.com", ["other.example.com"]);
    for host in [
        "hub1.example.com",
        "HUB1.device.example.com:8883",
        "hub1.service.example.com",
        "other.example.com",
    ] {
        assert!(names.contains(host), "{host}");
    }
    for host in [
        "hub2.device.example.com",
        "device.example.com",
        "hub1.other.example.com",
        "hub1.device.hub1.example.com",
    ] {
        assert!(!names.contains(host), "{host}");
    }
    assert_eq!(names.primary(), Some("hub1.example.com"));
}
