//! `connection.json` is a public contract: keys are added, never renamed or dropped.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use harness::Hub;

#[test]
fn the_connection_file_has_every_promised_key_with_its_form() {
    let hub = Hub::start(&[]);
    let file = hub.connection();
    let text = |key: &str| {
        file[key]
            .as_str()
            .unwrap_or_else(|| panic!("{key} is {}", file[key]))
            .to_owned()
    };

    assert_eq!(text("hostName"), "localhost");
    assert_eq!(text("deviceHostName"), "localhost.device.localhost");
    assert_eq!(text("serviceHostName"), "localhost.service.localhost");
    assert!(std::path::Path::new(&text("caFile")).is_absolute() && std::path::Path::new(&text("caFile")).exists());
    for (key, policy) in [
        ("owner", "iothubowner"),
        ("service", "service"),
        ("device", "device"),
        ("registryRead", "registryRead"),
        ("registryReadWrite", "registryReadWrite"),
    ] {
        let begin = format!("HostName=localhost;SharedAccessKeyName={policy};SharedAccessKey=");
        assert!(text(key).starts_with(&begin), "{key}: {}", text(key));
    }
    let event_hub = text("eventHub");
    assert!(event_hub.starts_with("Endpoint=sb://localhost/;SharedAccessKeyName=service;SharedAccessKey="));
    assert!(event_hub.ends_with(";EntityPath=localhost"));
    for key in ["endpoint", "idScope", "service"] {
        assert!(
            file["provisioning"].as_object().unwrap().contains_key(key),
            "provisioning.{key}"
        );
    }
    assert!(text("metrics").starts_with("http://127.0.0.1:") && text("metrics").ends_with("/metrics"));
    assert_eq!(file["pids"], serde_json::json!([hub.pid()]));
    for key in ["mqtt", "mqttPlain", "amqp", "amqpPlain", "https", "ops"] {
        assert!(
            file["ports"][key].as_u64().is_some_and(|port| port > 0),
            "ports.{key}: {}",
            file["ports"][key]
        );
    }
}
