//! Messages, requests, selectors and addresses as clients write them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use holdfast_amqp::address::{self, DeviceChannel, Endpoint, Entity};
use holdfast_amqp::message::{self, Body, Message, Properties, Request, Response, ResponseView, id_text};
use holdfast_amqp::selector::{self, InvalidSelector, Start};
use holdfast_amqp::types::{Raw, Value, put_long, put_str, put_symbol, put_uuid};

fn sections() -> [Vec<u8>; 4] {
    let mut properties = Vec::new();
    let properties_value = Properties {
        to: Some("x"),
        content_type: Some("text/plain"),
        ..Properties::default()
    };
    message::put_properties(&mut properties, &properties_value);
    let mut application = Vec::new();
    let mut map = message::begin_application_properties(&mut application);
    put_str(map.string_key("k"), "v");
    map.finish();
    let mut annotations = Vec::new();
    let mut map = message::begin_message_annotations(&mut annotations);
    put_long(map.key("x-opt-sequence-number"), 7);
    map.finish();
    let mut data = Vec::new();
    message::put_data(&mut data, b"payload");
    [properties, application, annotations, data]
}

#[test]
fn sections_are_found_in_any_order() {
    let sections = sections();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let bytes: Vec<u8> = order.iter().flat_map(|index| sections[*index].clone()).collect();
        let message = Message::scan(&bytes).unwrap();
        assert_eq!(message.properties().unwrap().content_type, Some("text/plain"));
        assert_eq!(
            message.application_properties.get("k").unwrap().unwrap().text(),
            Some("v")
        );
        assert_eq!(
            message.message_annotations.get("x-opt-sequence-number"),
            Ok(Some(Value::Long(7)))
        );
        assert_eq!(message.body, Body::Data(b"payload", 1));
    }
}

#[test]
fn a_message_may_have_no_body_several_data_sections_symbolic_descriptors_and_unknown_sections() {
    assert_eq!(Message::scan(&[]).unwrap().body, Body::None);
    let mut bytes = Vec::new();
    message::put_data(&mut bytes, b"one");
    bytes.push(0);
    put_symbol(&mut bytes, "amqp:data:binary");
    bytes.extend_from_slice(&[0xa0, 3, b't', b'w', b'o']);
    bytes.push(0);
    put_symbol(&mut bytes, "vendor:thing");
    bytes.push(0x45);
    let message = Message::scan(&bytes).unwrap();
    assert_eq!(message.body, Body::Data(b"one", 2));
    assert_eq!(message.data().collect::<Vec<_>>(), [b"one", b"two"]);
}

#[test]
fn requests_are_read_as_python_and_node_send_them_and_answered_with_the_same_id() {
    // Python: uuid, no body, and delivery annotations last.
    let mut id = Vec::new();
    put_uuid(&mut id, &[7; 16]);
    let mut bytes = Vec::new();
    message::put_properties(
        &mut bytes,
        &Properties {
            message_id: Raw::new(&id).ok(),
            ..Properties::default()
        },
    );
    let mut map = message::begin_application_properties(&mut bytes);
    put_str(map.string_key("operation"), "READ");
    put_str(map.string_key("type"), "com.microsoft:partition");
    put_str(map.string_key("partition"), "3");
    map.finish();
    message::begin_delivery_annotations(&mut bytes).finish();
    let request = Request::parse(&bytes).unwrap();
    assert_eq!(
        (request.operation, request.kind, request.text),
        (Some("READ"), Some("com.microsoft:partition"), None)
    );
    assert_eq!(request.property("partition"), Some("3"));
    assert_eq!(
        id_text(request.message_id.unwrap()).unwrap(),
        "07070707-0707-0707-0707-070707070707"
    );

    let mut answer = Vec::new();
    let response = Response {
        correlation_id: request.message_id,
        status: 404,
        description: "not found",
        condition: Some("amqp:not-found"),
    };
    response.encode(&mut answer, |buf| put_str(buf, "body"));
    let view = ResponseView::parse(&answer).unwrap();
    assert_eq!(view.correlation_id, Raw::new(&id).ok());
    assert_eq!(
        (view.status, view.description, view.condition),
        (404, "not found", Some("amqp:not-found"))
    );
    assert_eq!(view.body, Value::String("body"));
}

#[test]
fn our_own_requests_are_what_a_server_reads() {
    let mut bytes = Vec::new();
    message::put_token(&mut bytes, "1", "SharedAccessSignature sr=x", "sb://h/e");
    let request = Request::parse(&bytes).unwrap();
    assert_eq!((request.operation, request.name), (Some("put-token"), Some("sb://h/e")));
    assert_eq!(request.text, Some("SharedAccessSignature sr=x"));
    bytes.clear();
    message::read_request(&mut bytes, "2", "hub", Some("1"));
    let request = Request::parse(&bytes).unwrap();
    assert_eq!(
        (request.operation, request.name, request.property("partition")),
        (Some("READ"), Some("hub"), Some("1"))
    );
}

#[test]
fn ids_of_every_type_become_text() {
    for (bytes, text) in [
        (vec![0x44], "0"),
        (vec![0x80, 0, 0, 0, 0, 0, 0, 1, 0], "256"),
        (vec![0xa1, 1, b'a'], "a"),
        (vec![0xa0, 2, 0xca, 0xfe], "cafe"),
    ] {
        assert_eq!(id_text(Raw::new(&bytes).unwrap()).unwrap(), text);
    }
    assert_eq!(id_text(Raw::new(&[0x41]).unwrap()), None);
}

#[test]
fn selectors_are_read_with_free_spaces_and_optional_quotes() {
    let offset = |offset, inclusive| Ok(Start::Offset { offset, inclusive });
    let time = |millis, inclusive| Ok(Start::Enqueued { millis, inclusive });
    for (text, expected) in [
        ("amqp.annotation.x-opt-offset > '-1'", Ok(Start::Oldest)),
        ("amqp.annotation.x-opt-offset >= '-1'", Ok(Start::Oldest)),
        ("amqp.annotation.x-opt-offset > '@latest'", Ok(Start::Latest)),
        ("amqp.annotation.x-opt-offset>\"12\"", offset(12, false)),
        ("  amqp.annotation.x-opt-offset  >=  12  ", offset(12, true)),
        ("amqp.annotation.x-opt-sequence-number > '-1'", Ok(Start::Oldest)),
        (
            "amqp.annotation.x-opt-sequence-number >= '5'",
            Ok(Start::Sequence {
                number: 5,
                inclusive: true,
            }),
        ),
        (
            "amqp.annotation.x-opt-enqueued-time > '1700000000000'",
            time(1_700_000_000_000, false),
        ),
        ("amqp.annotation.x-opt-enqueuedtimeutc >= 0", time(0, true)),
        ("amqp.annotation.x-opt-offset > ''", Err(InvalidSelector::Value)),
        ("amqp.annotation.x-opt-offset > '-2'", Err(InvalidSelector::Value)),
        ("amqp.annotation.x-opt-offset > '+2'", Err(InvalidSelector::Value)),
        (
            "amqp.annotation.x-opt-offset > '99999999999999999999'",
            Err(InvalidSelector::Value),
        ),
        ("amqp.annotation.x-opt-offset < '2'", Err(InvalidSelector::Form)),
        ("amqp.annotation.x-opt-offset > '2", Err(InvalidSelector::Form)),
        ("amqp.annotation.x-opt-other > '2'", Err(InvalidSelector::UnknownKey)),
        ("x-opt-offset > '2'", Err(InvalidSelector::Form)),
        ("", Err(InvalidSelector::Form)),
    ] {
        assert_eq!(selector::parse(text), expected, "{text}");
    }
}

#[test]
fn written_selectors_are_read_again() {
    for start in [
        Start::Oldest,
        Start::Latest,
        Start::Offset {
            offset: 7,
            inclusive: true,
        },
        Start::Sequence {
            number: 7,
            inclusive: false,
        },
        Start::Enqueued {
            millis: 7,
            inclusive: true,
        },
    ] {
        assert_eq!(selector::parse(&selector::expression(start)), Ok(start));
    }
}

#[test]
fn a_selector_is_found_by_its_descriptor_under_any_key_and_by_the_usual_key_under_any_descriptor() {
    let symbolic = {
        let mut bytes = vec![0];
        put_symbol(&mut bytes, selector::SELECTOR_FILTER);
        bytes
    };
    let numeric = vec![0x00, 0x80, 0, 0, 0x46, 0x8c, 0, 0, 0, 4];
    let dotnet = vec![0x00, 0x80, 0, 0, 0, 0x13, 0x70, 0, 0, 0x0a];
    let other = vec![0x00, 0x53, 0x01];
    for (key, descriptor, is_found) in [
        (selector::SELECTOR_FILTER, &vec![], true),
        (selector::SELECTOR_FILTER, &symbolic, true),
        (selector::SELECTOR_FILTER, &other, true),
        ("selector", &symbolic, true),
        ("jms-selector", &numeric, true),
        ("string", &dotnet, true),
        ("selector", &vec![], false),
        ("selector", &other, false),
    ] {
        let bytes = filters(&[(key, descriptor, "amqp.annotation.x-opt-offset > '5'")]);
        let selection = selector::from_filters(map_of(&bytes)).unwrap();
        let start = Start::Offset {
            offset: 5,
            inclusive: false,
        };
        assert_eq!(selection.start, if is_found { start } else { Start::Oldest }, "{key}");
        assert_eq!(selection.in_place, is_found.then_some(bytes), "{key}");
    }
    let none = selector::from_filters(holdfast_amqp::types::Map::EMPTY).unwrap();
    assert_eq!((none.start, none.in_place), (Start::Oldest, None));
}

#[test]
fn a_filter_that_is_not_applied_is_not_in_place_and_two_selectors_are_refused() {
    let symbolic = {
        let mut bytes = vec![0];
        put_symbol(&mut bytes, selector::SELECTOR_FILTER);
        bytes
    };
    let start = "amqp.annotation.x-opt-offset > '-1'";
    let bytes = filters(&[("no-local", &vec![], "x"), ("selector", &symbolic, start)]);
    let selection = selector::from_filters(map_of(&bytes)).unwrap();
    assert_eq!(selection.in_place, Some(filters(&[("selector", &symbolic, start)])));
    let bytes = filters(&[("a", &symbolic, start), ("b", &symbolic, start)]);
    assert_eq!(
        selector::from_filters(map_of(&bytes)),
        Err(selector::InvalidSelector::Several)
    );
}

/// A filter map: key, descriptor, text.
fn filters(entries: &[(&str, &Vec<u8>, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut map = holdfast_amqp::types::MapWriter::begin(&mut bytes);
    for (key, descriptor, text) in entries {
        let buf = map.key(key);
        buf.extend_from_slice(descriptor);
        put_str(buf, text);
    }
    map.finish();
    bytes
}

fn map_of(bytes: &[u8]) -> holdfast_amqp::types::Map<'_> {
    match Raw::new(bytes).unwrap().value().unwrap() {
        Value::Map(map) => map,
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_are_read_in_every_form_that_clients_write() {
    let partition = |entity, group: &'static str, partition: &'static str| Endpoint::Partition {
        entity,
        group: group.into(),
        partition: partition.into(),
    };
    let device = |id: &'static str, module: Option<&'static str>, channel| Endpoint::Device {
        device: id.into(),
        module: module.map(Into::into),
        channel,
    };
    let named = |name: &'static str| Entity::Named(name.into());
    for (text, expected) in [
        ("$cbs", Endpoint::Cbs),
        ("$CBS", Endpoint::Cbs),
        ("amqps://h:5671/$cbs", Endpoint::Cbs),
        ("$management", Endpoint::Management(Entity::Unnamed)),
        ("eh1/$management", Endpoint::Management(named("eh1"))),
        ("messages/events/$management", Endpoint::Management(Entity::HubPath)),
        (
            "amqps://h/eh1/ConsumerGroups/$Default/Partitions/0",
            partition(named("eh1"), "$Default", "0"),
        ),
        (
            "eh1/consumergroups/g%2F1/partitions/12/",
            partition(named("eh1"), "g/1", "12"),
        ),
        (
            "/messages/events/ConsumerGroups/g/Partitions/1",
            partition(Entity::HubPath, "g", "1"),
        ),
        (
            "eh1/Partitions/3",
            Endpoint::Events {
                entity: named("eh1"),
                partition: Some("3".into()),
            },
        ),
        (
            "sb://h/eh1",
            Endpoint::Events {
                entity: named("eh1"),
                partition: None,
            },
        ),
        (
            "/devices/d%2B1+x/messages/events",
            device("d+1+x", None, DeviceChannel::Events),
        ),
        ("devices/d/modules/m/twin", device("d", Some("m"), DeviceChannel::Twin)),
        (
            "devices/D/messages/deviceBound",
            device("D", None, DeviceChannel::Devicebound),
        ),
        (
            "devices/d/methods/devicebound",
            device("d", None, DeviceChannel::Methods),
        ),
        ("devices/50%/twin", device("50%", None, DeviceChannel::Twin)),
        ("amqps://h/messages/deviceBound", Endpoint::ServiceDevicebound),
        ("/messages/servicebound/feedback", Endpoint::ServiceFeedback),
        (
            "/messages/serviceBound/filenotifications",
            Endpoint::ServiceFileNotifications,
        ),
        (
            "amqps://h/0ne1/Registrations/Dev%3A1",
            Endpoint::Registration {
                id_scope: "0ne1".into(),
                registration_id: "Dev:1".into(),
            },
        ),
        ("devices/registrations/d", Endpoint::Unknown),
        ("", Endpoint::Unknown),
        ("amqps://h", Endpoint::Unknown),
        ("devices/d", Endpoint::Unknown),
        ("a/b/c/d/e/f/g/h/i/j", Endpoint::Unknown),
    ] {
        assert_eq!(address::parse(text), expected, "{text}");
    }
    assert_eq!(address::host("amqps://h:5671/x"), Some("h:5671"));
    assert_eq!(address::host("x/y"), None);
}
