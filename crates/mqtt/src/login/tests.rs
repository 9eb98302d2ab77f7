use holdfast_model::ApiVersion;
use proptest::prelude::*;

use super::*;

fn login(username: &str) -> Login<'_> {
    Login::parse(username).expect("valid")
}

fn version(year: u16, month: u8, day: u8) -> Option<ApiVersion> {
    Some(ApiVersion {
        year,
        month,
        day,
        preview: false,
    })
}

/// The user name of each SDK (Spec §2.3), and its parts.
#[test]
fn user_names_of_all_sdks() {
    let python = "hub1.contoso.test/dev-1/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py\
                  %2F2.14.0%283.11.7%3BLinux%20%231%20SMP%20PREEMPT%3Bx86_64%29";
    let python_module = "hub1.contoso.test/dev-1/mod1/?api-version=2019-10-01&DeviceClientType=\
                         azure-iot-device-iothub-py%2F2.14.0%283.11.7%29My%20Prod%2F1";
    let python_model = "hub1.contoso.test/dev-x/?api-version=2020-09-30&DeviceClientType=azure-iot-device-iothub-py\
                        %2F2.14.0%283.11.7%29&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1";
    let node = "hub1.contoso.test/dev-1/?api-version=2021-04-12&model-id=dtmi:com:example:Thermostat;1\
                &DeviceClientType=azure-iot-device%2F1.18.4%20(node%20v20.20.2%3B%20Debian%2012%3B%20x64)prod%2F1";
    let c = "hub1.contoso.test/dev-1/mod1/?api-version=2020-09-30\
             &DeviceClientType=iothubclient%2f1.15.0%20(native%3b%20Linux%3b%20x86_64)&model-id=dtmi:com:x;1";
    let java = "hub1.contoso.test/dev-1/?api-version=2020-09-30&model-id=dtmi:com:x;1\
                &DeviceClientType=com.microsoft.azure.sdk.iot.iot-device-client%2F2.5.0%20(11.0.2%3B%20Linux)";
    let csharp = "hub1.contoso.test/dev-1/?api-version=2020-09-30&DeviceClientType=.NET%2F1.42.3%20(.NET%208.0.1%3B)\
                  &auth-chain=leaf1%3BedgeL2%3BedgeL1&model-id=dtmi%3Acom%3Ax%3B1";
    let embedded = "hub1.contoso.test/dev-1/?api-version=2020-09-30&DeviceClientType=azsdk-c%2F1.3.0";
    let thermostat = Some("dtmi:com:example:Thermostat;1");
    let short = Some("dtmi:com:x;1");
    let rows = [
        (
            python,
            None,
            version(2019, 10, 1),
            "azure-iot-device-iothub-py/2.14.0(3.11.7;Linux #1 SMP PREEMPT;x86_64)",
            None,
        ),
        (
            python_module,
            Some("mod1"),
            version(2019, 10, 1),
            "azure-iot-device-iothub-py/2.14.0(3.11.7)My Prod/1",
            None,
        ),
        (
            python_model,
            None,
            version(2020, 9, 30),
            "azure-iot-device-iothub-py/2.14.0(3.11.7)",
            thermostat,
        ),
        (
            node,
            None,
            version(2021, 4, 12),
            "azure-iot-device/1.18.4 (node v20.20.2; Debian 12; x64)prod/1",
            thermostat,
        ),
        (
            c,
            Some("mod1"),
            version(2020, 9, 30),
            "iothubclient/1.15.0 (native; Linux; x86_64)",
            short,
        ),
        (
            java,
            None,
            version(2020, 9, 30),
            "com.microsoft.azure.sdk.iot.iot-device-client/2.5.0 (11.0.2; Linux)",
            short,
        ),
        (csharp, None, version(2020, 9, 30), ".NET/1.42.3 (.NET 8.0.1;)", short),
        (embedded, None, version(2020, 9, 30), "azsdk-c/1.3.0", None),
    ];
    for (username, module, version, client_type, model_id) in rows {
        let login = login(username);
        assert_eq!(login.host, "hub1.contoso.test", "{username}");
        assert_eq!(
            login.device,
            if username == python_model { "dev-x" } else { "dev-1" },
            "{username}"
        );
        assert_eq!(login.module, module, "{username}");
        assert_eq!(login.api_version, version, "{username}");
        assert_eq!(login.client_type.as_deref(), Some(client_type), "{username}");
        assert_eq!(login.model_id.as_deref(), model_id, "{username}");
    }
    assert_eq!(login(csharp).auth_chain.as_deref(), Some("leaf1;edgeL2;edgeL1"));
}

#[test]
fn old_and_raw_forms_are_accepted() {
    let rows = [
        ("hub/d", "d", None, None),
        ("hub/d/", "d", None, None),
        ("hub/d/?", "d", None, None),
        ("hub/d/m", "d", Some("m"), None),
        ("hub/d/m/", "d", Some("m"), None),
        ("hub/d/api-version=2016-11-14", "d", None, version(2016, 11, 14)),
        ("hub/d/m/api-version=2018-06-30", "d", Some("m"), version(2018, 6, 30)),
        (
            "hub/d/DeviceClientType=x&api-version=2018-06-30",
            "d",
            None,
            version(2018, 6, 30),
        ),
        (
            "hub/d/?api-version=2018-06-30&api-version=x",
            "d",
            None,
            version(2018, 6, 30),
        ),
        ("hub/d/?unknown=1&=&x&&API-VERSION=9", "d", None, None),
        // Ids with the characters of the grammar.
        ("hub/?d/?api-version=2018-06-30", "?d", None, version(2018, 6, 30)),
        (
            "hub/d/?m/?api-version=2018-06-30",
            "d",
            Some("?m"),
            version(2018, 6, 30),
        ),
        (
            "hub/a=b&c%24#+/?api-version=2018-06-30",
            "a=b&c%24#+",
            None,
            version(2018, 6, 30),
        ),
        // Azure ML.
        (
            "hub/d/api-version=2017-06-30/DeviceClientType=py%2F1.5.1-preview-003",
            "d",
            None,
            version(2017, 6, 30),
        ),
    ];
    for (username, device, module, version) in rows {
        let login = login(username);
        assert_eq!(
            (login.device, login.module, login.api_version),
            (device, module, version),
            "{username}"
        );
    }
    let azure_ml = "hub/d/api-version=2017-06-30/DeviceClientType=py%2F1.5.1-preview-003";
    assert_eq!(login(azure_ml).client_type.as_deref(), Some("py/1.5.1-preview-003"));
    assert_eq!(
        login("hub/d/?DeviceClientType=a/?b=c").client_type.as_deref(),
        Some("a/?b=c")
    );
}

#[test]
fn a_user_name_without_a_device_is_refused() {
    for username in [
        "hub",
        "/d",
        "hub/",
        "hub//",
        "/",
        "hub//m",
        "hub/d/m/x",
        "hub/d/m/x/?api-version=2018-06-30",
    ] {
        assert_eq!(Login::parse(username), Err(LoginError::UsernameShape), "{username}");
    }
    assert_eq!(Login::parse("hub/d/?model-id=%ff"), Err(LoginError::ParameterUtf8));
}

#[test]
fn every_version_from_2016_02_03_on_is_accepted() {
    for text in ["2016-02-03", "2016-11-14-preview", "2021-04-12", "2025-08-01-preview"] {
        let username = format!("hub/d/?api-version={text}");
        assert_eq!(login(&username).api_version, ApiVersion::parse(text).ok(), "{text}");
    }
    for text in ["", "x", "2016-02-02", "2021-4-12", "2021-04-12-%20"] {
        let username = format!("hub/d/?api-version={text}");
        assert_eq!(Login::parse(&username), Err(LoginError::ApiVersion), "{text}");
    }
    assert_eq!(LoginError::ApiVersion.code().number(), 400_001);
}

#[test]
fn a_port_is_stripped_from_the_host() {
    for (username, name) in [
        ("Hub1.Contoso.test:8883/d", "Hub1.Contoso.test"),
        ("hub/d", "hub"),
        ("hub:/d", "hub:"),
        ("hub:x/d", "hub:x"),
    ] {
        assert_eq!(login(username).host_name(), name);
    }
}

#[test]
fn a_client_type_is_cut_to_1_kib_at_a_character() {
    let username = format!("hub/d/?DeviceClientType=x{}", "é".repeat(1000));
    assert_eq!(login(&username).client_type.map(|text| text.len()), Some(1023));
    let username = format!("hub/d/?DeviceClientType=%20{}", "é".repeat(1000));
    assert_eq!(login(&username).client_type.map(|text| text.len()), Some(1023));
}

#[test]
fn a_device_may_be_called_registrations() {
    assert_eq!(
        login("hub/registrations/m/?api-version=2019-10-01").device,
        "registrations"
    );
}

fn connect<'a>(client_id: &'a str, username: Option<&'a str>, password: Option<&'a [u8]>) -> Connect<'a> {
    Connect {
        client_id,
        username,
        password,
        ..Connect::default()
    }
}

#[test]
fn client_id_and_user_name_must_agree_byte_for_byte() {
    let claim = |client_id, username| Claim::of(&connect(client_id, Some(username), None)).map(|claim| claim.identity);
    assert_eq!(claim("d", "hub/d").expect("agrees").to_string(), "d");
    assert_eq!(claim("d/m", "hub/d/m").expect("agrees").to_string(), "d/m");
    for (client_id, username) in [
        ("D", "hub/d"),
        ("d ", "hub/d"),
        ("d/m", "hub/d"),
        ("d", "hub/d/m"),
        ("dm", "hub/d/m"),
        ("d/", "hub/d"),
        ("d/m/", "hub/d/m"),
        ("x", "hub/d"),
    ] {
        assert_eq!(
            claim(client_id, username),
            Err(LoginError::ClientIdMismatch),
            "{client_id} {username}"
        );
    }
    assert_eq!(claim("", "hub/d"), Err(LoginError::ClientIdEmpty));
    assert_eq!(claim("dé", "hub/dé"), Err(LoginError::DeviceId));
    assert_eq!(claim("d/m m", "hub/d/m m"), Err(LoginError::ModuleId));
    let long = "d".repeat(129);
    assert_eq!(claim(&long, &format!("hub/{long}")), Err(LoginError::DeviceId));
}

#[test]
fn a_claim_needs_a_user_name_but_no_password() {
    for username in [None, Some("")] {
        assert_eq!(
            Claim::of(&connect("d", username, None)),
            Err(LoginError::UsernameMissing)
        );
    }
    let password = |bytes| Claim::of(&connect("d", Some("hub/d"), bytes)).expect("agrees").password;
    assert_eq!(password(None), None);
    assert_eq!(
        password(Some(&[])),
        None,
        "an empty password is none: a certificate is to speak"
    );
    assert_eq!(password(Some(b"sas")), Some(&b"sas"[..]));
}

proptest! {
    #[test]
    fn any_ids_come_back_as_written(
        device in "[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,20}",
        module in proptest::option::of("[A-Za-z0-9:.+%_#*!(),=@;$'-]{1,20}"),
    ) {
        let path = module.as_ref().map_or(device.clone(), |module| format!("{device}/{module}"));
        let username = format!("hub.test/{path}/?api-version=2021-04-12&DeviceClientType=x");
        let login = Login::parse(&username).expect("valid");
        prop_assert_eq!((login.device, login.module), (device.as_str(), module.as_deref()));
        prop_assert!(login.matches_client_id(&path));
        prop_assert!(login.api_version.is_some());
    }

    #[test]
    fn noise_does_not_panic(text in "\\PC{0,60}", shaped in "[a-z]{0,4}/[a-z?=/&%-]{0,60}") {
        for text in [text, shaped] {
            if let Ok(login) = Login::parse(&text) {
                let _ = (login.identity(), login.host_name());
            }
        }
    }
}
