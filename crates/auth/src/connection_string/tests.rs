use proptest::prelude::*;

use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn check(text: &str) -> ConnectionString {
    let parsed = ConnectionString::parse(text).unwrap();
    assert_eq!(*parsed.reveal(), text, "printing gives the text back");
    assert!(!format!("{parsed:?}").contains(&KEY[..12]), "Debug shows a key");
    parsed
}

#[test]
fn every_form_survives_parsing_and_printing() {
    check(&format!(
        "HostName=hub1.example.com;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"
    ));
    check(&format!(
        "HostName=hub1.example.com;DeviceId=dev-1;SharedAccessKey={KEY}"
    ));
    check(&format!(
        "HostName=hub1;DeviceId=dev-1;ModuleId=m;SharedAccessKey={KEY};GatewayHostName=edge"
    ));
    check("HostName=hub1;DeviceId=dev-1;SharedAccessSignature=SharedAccessSignature sr=a&sig=b%3D&se=1");
    check("HostName=hub1;DeviceId=dev-1;x509=true");
    let name = "SharedAccessKeyName=service";
    check(&format!(
        "Endpoint=sb://hub1.example.com/;{name};SharedAccessKey={KEY};EntityPath=hub1"
    ));
    check(&format!(
        "Endpoint=sb://localhost:5673/;{name};SharedAccessKey={KEY};UseDevelopmentEmulator=true"
    ));
}

#[test]
fn order_case_spaces_and_unknown_names_do_not_matter() {
    let text = format!(" sharedaccesskey={KEY}; deviceid=dev-1;Shiny=yes;HOSTNAME=hub1;");
    let ConnectionString::Iot(iot) = ConnectionString::parse(&text).unwrap() else {
        panic!("not of the IoT family")
    };
    assert_eq!(
        (iot.host_name.as_str(), iot.device.as_ref().unwrap().as_str()),
        ("hub1", "dev-1")
    );
    assert_eq!(*iot.key.unwrap().to_base64(), KEY, "padding = belongs to the value");
}

#[test]
fn an_error_names_the_missing_or_excluding_part() {
    use ConnectionStringError::{Conflict, Duplicate, Endpoint, Id, Key, Missing, Part, TooLong};
    let cases = [
        ("", Missing("HostName")),
        ("HostName=", Missing("HostName")),
        (
            "HostName=h;SharedAccessKey=AAECAwQFBgcICQoLDA0ODw==",
            Missing("DeviceId or SharedAccessKeyName"),
        ),
        ("HostName=h;ModuleId=m;x509=true", Missing("DeviceId")),
        ("HostName=h;DeviceId=d", Missing("SharedAccessKey")),
        ("HostName=h;DeviceId=d;x509=false", Missing("SharedAccessKey")),
        (
            "HostName=h;DeviceId=d;SharedAccessKeyName=p;SharedAccessKey=AAECAwQFBgcICQoLDA0ODw==",
            Conflict("DeviceId", "SharedAccessKeyName"),
        ),
        (
            "HostName=h;DeviceId=d;SharedAccessKey=AAECAwQFBgcICQoLDA0ODw==;SharedAccessSignature=x",
            Conflict("SharedAccessKey", "SharedAccessSignature"),
        ),
        ("HostName=h;DeviceId=d;SharedAccessKey=abc", Key(KeyError::Base64)),
        (
            "HostName=h;DeviceId=d/e;x509=true",
            Id("DeviceId", InvalidId::Character('/')),
        ),
        ("HostName=h;hostname=i", Duplicate("HostName")),
        ("HostName=h;DeviceId", Part(2)),
        ("HostName=h;Endpoint=sb://h/", Conflict("HostName", "Endpoint")),
        ("Endpoint=hub1;SharedAccessKeyName=p;SharedAccessKey=k", Endpoint),
        ("Endpoint=ftp://hub1/;SharedAccessKeyName=p;SharedAccessKey=k", Endpoint),
        (
            "Endpoint=sb://hub1:many/;SharedAccessKeyName=p;SharedAccessKey=k",
            Endpoint,
        ),
        ("Endpoint=sb://hub1/;SharedAccessKey=k", Missing("SharedAccessKeyName")),
        ("Endpoint=sb://hub1/;SharedAccessKeyName=p", Missing("SharedAccessKey")),
    ];
    for (text, error) in cases {
        assert_eq!(ConnectionString::parse(text), Err(error), "{text}");
    }
    assert_eq!(ConnectionString::parse(&"a=b;".repeat(2000)), Err(TooLong));
}

#[test]
fn errors_repeat_no_secret() {
    let error = ConnectionString::parse("HostName=h;DeviceId=d;SharedAccessKey=geheim!").unwrap_err();
    assert!(!error.to_string().contains("geheim") && !format!("{error:?}").contains("geheim"));
}

proptest! {
    #[test]
    fn no_text_panics_and_what_parses_prints_and_parses_to_the_same(text in any::<String>()) {
        if let Ok(parsed) = ConnectionString::parse(&text) {
            prop_assert_eq!(ConnectionString::parse(&parsed.reveal()).unwrap(), parsed);
        }
    }

    #[test]
    fn no_shuffle_of_known_parts_panics(parts in prop::collection::vec("(HostName|DeviceId|ModuleId|SharedAccessKeyName|SharedAccessKey|x509|Endpoint|EntityPath)=(h|true|sb://h/|sb://h:1/|AAECAwQFBgcICQoLDA0ODw==)?", 0..8)) {
        if let Ok(parsed) = ConnectionString::parse(&parts.join(";")) {
            prop_assert_eq!(ConnectionString::parse(&parsed.reveal()).unwrap(), parsed);
        }
    }
}
