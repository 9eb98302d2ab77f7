//! Three hubs as processes of their own: one has the provisioning service, the others are linked to it.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::Hub;
use holdfast_auth::{Key, sign};
use holdfast_client::http::Connection;
use http::{HeaderName, Method, header};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const TOKEN_END: u64 = 4_000_000_000;
const DEADLINE: Duration = Duration::from_secs(90);

/// A hub's name, and where its REST API is.
struct Site {
    hub: Hub,
    name: &'static str,
}

impl Site {
    fn start(name: &'static str, variables: &'static [(&'static str, &'static str)]) -> Self {
        Self {
            hub: Hub::start_with(&["--host", name], variables),
            name,
        }
    }

    fn https(&self) -> u64 {
        self.hub.connection()["ports"]["https"].as_u64().unwrap()
    }

    fn text(&self, key: &str) -> String {
        self.hub.connection()[key].as_str().unwrap().to_owned()
    }

    /// One request to the REST API or the provisioning service; `token`: of the `Authorization` header.
    fn call(&self, method: Method, path: &str, token: &str, body: Option<&Value>) -> (u16, Value) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ca = PathBuf::from(self.text("caFile"));
        runtime.block_on(async {
            let tls = holdfast_client::tls::config(Some(&ca), rustls::DEFAULT_VERSIONS).unwrap();
            let port = u16::try_from(self.https()).unwrap();
            let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let name = ServerName::try_from(self.name).unwrap();
            let stream = TlsConnector::from(Arc::new(tls)).connect(name, socket).await.unwrap();
            let mut connection = Connection::open(stream, self.name).await.unwrap();
            let headers: [(HeaderName, &str); 1] = [(header::AUTHORIZATION, token)];
            let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
            let answer = connection.request(method, path, &headers, body).await.unwrap();
            let read = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
            (answer.status.as_u16(), read)
        })
    }

    /// A call of the hub's REST API by its owner.
    fn rest(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let owner = self.text("owner");
        let key = owner.split_once("SharedAccessKey=").unwrap().1;
        let key = Key::from_base64(key).unwrap();
        let token = sign(self.name, key.as_bytes(), Some("iothubowner"), TOKEN_END);
        self.call(method, &format!("{path}?api-version=2021-04-12"), &token, body)
    }

    fn device(&self, id: &str) -> Option<Value> {
        let (status, device) = self.rest(Method::GET, &format!("/devices/{id}"), None);
        (status == 200).then_some(device)
    }

    fn twin(&self, id: &str) -> Value {
        self.rest(Method::GET, &format!("/twins/{id}"), None).1
    }
}

/// The hub with the service, and its linked ones.
struct Service {
    sites: Vec<Site>,
    group_key: Key,
}

impl Service {
    fn start(names: &[&'static str], variables: &'static [(&'static str, &'static str)]) -> Self {
        let sites: Vec<Site> = names
            .iter()
            .enumerate()
            .map(|(at, name)| Site::start(name, if at == 0 { variables } else { &[] }))
            .collect();
        let service = Self {
            sites,
            group_key: Key::from_bytes(vec![7; 64]).unwrap(),
        };
        for site in &service.sites[1..] {
            service.front().ok(&[
                "provisioning",
                "hub",
                "add",
                site.name,
                "--connection-string",
                &site.text("owner"),
                "--endpoint",
                &format!("127.0.0.1:{}", site.https()),
                "--ca",
                &site.text("caFile"),
            ]);
        }
        let key = service.group_key.to_base64();
        service
            .front()
            .ok(&["provisioning", "group", "create", "fleet", "--primary-key", &key]);
        service
    }

    fn front(&self) -> &Hub {
        &self.sites[0].hub
    }

    fn site(&self, name: &str) -> &Site {
        self.sites.iter().find(|site| site.name == name).unwrap()
    }

    fn scope(&self) -> String {
        self.front().connection()["provisioning"]["idScope"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn device_call(&self, method: Method, id: &str, rest: &str, body: Option<&Value>) -> (u16, Value) {
        let scope = self.scope();
        let key = self.group_key.derive(id);
        let token = sign(
            &format!("{scope}/registrations/{id}"),
            key.as_bytes(),
            Some("registration"),
            TOKEN_END,
        );
        let path = format!("/{scope}/registrations/{id}/{rest}?api-version=2019-03-31");
        let began = Instant::now();
        loop {
            // A device may ask five times in ten seconds; a client asks again later.
            match self.sites[0].call(method.clone(), &path, &token, body) {
                (429, answer) => assert!(began.elapsed() < DEADLINE, "{answer}"),
                answered => return answered,
            }
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    /// Registers and polls until the state is final.
    fn register(&self, id: &str) -> Value {
        let began = Instant::now();
        let (status, mut answer) =
            self.device_call(Method::PUT, id, "register", Some(&json!({"payload": {"model": 7}})));
        assert_eq!(status, 202, "{answer}");
        let operation = answer["operationId"].as_str().unwrap().to_owned();
        while answer["status"] == "assigning" {
            assert!(
                began.elapsed() < DEADLINE,
                "{id}: {answer}\n{}",
                self.front().last_lines()
            );
            std::thread::sleep(Duration::from_millis(50));
            let status;
            (status, answer) = self.device_call(Method::GET, id, &format!("operations/{operation}"), None);
            assert!(matches!(status, 200 | 202), "{answer}");
        }
        assert_eq!(answer["operationId"], operation);
        answer["registrationState"].clone()
    }

    /// The hubs that have the device.
    fn holders(&self, id: &str) -> Vec<&'static str> {
        let with = |site: &&Site| site.device(id).is_some();
        self.sites.iter().filter(with).map(|site| site.name).collect()
    }

    /// Waits until exactly that hub has the device.
    fn only_at(&self, id: &str, name: &str) {
        let began = Instant::now();
        while self.holders(id) != [name] {
            assert!(
                began.elapsed() < DEADLINE,
                "{id} is at {:?}, not at {name} alone",
                self.holders(id)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn group(&self, options: &[&str]) {
        self.front()
            .ok(&[&["provisioning", "group", "update", "fleet"], options].concat());
    }
}

#[test]
fn devices_are_spread_over_linked_hubs_and_one_that_is_down_is_skipped() {
    let mut service = Service::start(&["front.test", "east.test", "west.test"], &[]);
    let mut homes = std::collections::BTreeMap::new();
    for number in 0..24 {
        let id = format!("SN-{number}");
        let state = service.register(&id);
        assert_eq!(state["status"], "assigned", "{state}");
        let hub = state["assignedHub"].as_str().unwrap().to_owned();
        assert_eq!(service.holders(&id), [hub.as_str()]);
        let keys = &service.site(&hub).device(&id).unwrap()["authentication"]["symmetricKey"];
        assert_eq!(keys["primaryKey"], *service.group_key.derive(&id).to_base64());
        *homes.entry(hub).or_insert(0) += 1;
    }
    assert_eq!(homes.len(), 3, "{homes:?}");
    // Again: nothing moves.
    let again = service.register("SN-0");
    assert_eq!(again["substatus"], "initialAssignment");

    service.sites[2].hub.kill();
    for number in 0..8 {
        let id = format!("LATE-{number}");
        let state = service.register(&id);
        assert_eq!(state["status"], "assigned", "{state}");
        assert_ne!(state["assignedHub"], "west.test");
    }
}

#[test]
fn a_device_moves_with_its_twin_or_without_and_is_never_at_two_hubs() {
    let service = Service::start(&["front.test", "east.test", "west.test"], &[]);
    let east = service.site("east.test");
    let made = json!([{
        "id": "M-1",
        "importMode": "create",
        "tags": {"site": "hall 4"},
        "properties": {"desired": {"speed": 3}, "reported": {"firmware": "1.2"}},
    }]);
    assert_eq!(east.rest(Method::POST, "/devices", Some(&made)).0, 200);
    service.group(&["--allocation-policy", "static", "--iot-hubs", "east.test"]);
    let state = service.register("M-1");
    assert_eq!(
        (&state["assignedHub"], &state["substatus"]),
        (&json!("east.test"), &json!("initialAssignment"))
    );
    assert_eq!(east.twin("M-1")["tags"]["site"], "hall 4", "its twin is kept");

    for target in ["west.test", "front.test", "east.test"] {
        service.group(&["--iot-hubs", target]);
        let state = service.register("M-1");
        assert_eq!(state["assignedHub"], target, "{state}");
        assert_eq!(state["substatus"], "deviceDataMigrated");
        let twin = service.site(target).twin("M-1");
        assert_eq!(twin["tags"], json!({"site": "hall 4"}), "{target}");
        assert_eq!(twin["properties"]["desired"]["speed"], 3);
        assert_eq!(twin["properties"]["reported"]["firmware"], "1.2");
        service.only_at("M-1", target);
    }

    // What an operator has switched off stays off.
    let mut device = east.device("M-1").unwrap();
    device["status"] = json!("disabled");
    let etag = json!(device["etag"]);
    assert!(etag.is_string());
    assert_eq!(
        east.rest(
            Method::POST,
            "/devices",
            Some(&json!([{
                "id": "M-1", "importMode": "update", "status": "disabled",
            }]))
        )
        .0,
        200
    );
    service.group(&[
        "--iot-hubs",
        "west.test",
        "--reprovision-policy",
        "reprovisionandresetdata",
        "--initial-twin-tags",
        r#"{"site":"new"}"#,
    ]);
    let state = service.register("M-1");
    assert_eq!(
        (&state["assignedHub"], &state["substatus"]),
        (&json!("west.test"), &json!("deviceDataReset"))
    );
    let twin = service.site("west.test").twin("M-1");
    assert_eq!(twin["tags"], json!({"site": "new"}));
    assert!(twin["properties"]["reported"].get("firmware").is_none());
    assert_eq!(service.site("west.test").device("M-1").unwrap()["status"], "disabled");
    service.only_at("M-1", "west.test");

    // It stays where it is.
    service.group(&["--iot-hubs", "east.test", "--reprovision-policy", "never"]);
    assert_eq!(service.register("M-1")["assignedHub"], "west.test");
    service.only_at("M-1", "west.test");
}

#[test]
fn a_link_whose_credentials_are_refused_fails_the_registration() {
    let service = Service::start(&["front.test", "east.test"], &[]);
    let front = service.front();
    let wrong = format!(
        "HostName=east.test;SharedAccessKeyName=iothubowner;SharedAccessKey={}",
        *service.group_key.to_base64()
    );
    front.ok(&[
        "provisioning",
        "hub",
        "update",
        "east.test",
        "--connection-string",
        &wrong,
    ]);
    service.group(&["--allocation-policy", "static", "--iot-hubs", "east.test"]);
    let state = service.register("C-1");
    assert_eq!(
        (&state["status"], &state["errorCode"]),
        (&json!("failed"), &json!(400_209)),
        "{state}"
    );
    // No answer shows the key.
    let shown = front.ok(&["provisioning", "hub", "list", "-o", "json"]);
    assert!(
        shown.contains("SharedAccessKey=****") && !shown.contains(&*service.group_key.to_base64()),
        "{shown}"
    );
    // Fields that are not named stay, the key among them.
    let owner = service.site("east.test").text("owner");
    front.ok(&[
        "provisioning",
        "hub",
        "update",
        "east.test",
        "--connection-string",
        &owner,
    ]);
    front.ok(&["provisioning", "hub", "update", "east.test", "--allocation-weight", "5"]);
    assert_eq!(service.register("C-1")["status"], "assigned");
    service.only_at("C-1", "east.test");
}

#[test]
fn a_webhook_over_http_chooses_the_hub() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        let mut bodies = Vec::new();
        for answer in [
            ("404 Not Found", "no such function"),
            (
                "200 OK",
                r#"{"iotHubHostName":"front.test","payload":{"colour":"red"}}"#,
            ),
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.ends_with('}') {
                let read = stream.read(&mut buffer).unwrap();
                text.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            let (status, body) = answer;
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            bodies.push(text);
        }
        bodies
    });
    let allowed: &'static str = Box::leak(format!("http://{address}").into_boxed_str());
    let variables: &'static [_] = Box::leak(Box::new([("HOLDFAST_PROVISIONING_WEBHOOK_HOSTS", allowed)]));
    let service = Service::start(&["front.test"], variables);
    let refused = service.front().command(&[
        "provisioning",
        "group",
        "update",
        "fleet",
        "--allocation-policy",
        "custom",
        "--webhook-url",
        "https://elsewhere.example/x",
    ]);
    assert!(!refused.status.success());
    assert!(
        harness::text(&refused.stderr).contains("webhook_hosts"),
        "{}",
        harness::text(&refused.stderr)
    );
    let url = format!("http://{address}/api?code=secret");
    service.group(&["--allocation-policy", "custom", "--webhook-url", &url]);
    let shown = service.front().ok(&["provisioning", "group", "show", "fleet"]);
    assert!(shown.contains("?****") && !shown.contains("secret"), "{shown}");
    // A document may be sent back as it was read: the query stays.
    service.group(&["--edge-enabled", "false"]);
    let state = service.register("W-1");
    assert_eq!(state["errorCode"], 400_207, "{state}");
    let shown = service.front().json(&["diagnose", "registration", "W-1"]);
    assert_eq!(shown["registration"]["webhook"]["status"], 404);
    assert_eq!(shown["registration"]["webhook"]["text"], "no such function");
    assert!(shown["conclusion"].as_str().unwrap().contains("400207"), "{shown}");
    let state = service.register("W-1");
    assert_eq!(
        (&state["assignedHub"], &state["payload"]),
        (&json!("front.test"), &json!({"colour": "red"}))
    );
    let shown = service.front().json(&["diagnose", "registration", "w-1"]);
    assert_eq!(shown["registration"]["history"][1]["errorCode"], 400_207, "{shown}");
    assert_eq!(shown["enrollment"]["attestation"], "symmetricKey");
    let shown = service.front().json(&["diagnose", "registration", "never-seen"]);
    assert!(
        shown["conclusion"]
            .as_str()
            .unwrap()
            .contains("neither an individual enrollment nor"),
        "{shown}"
    );
    let bodies = answers.join().unwrap();
    assert!(
        bodies
            .iter()
            .all(|body| body.starts_with("POST /api?code=secret HTTP/1.1")),
        "{bodies:?}"
    );
    assert!(
        bodies.iter().all(|body| body.contains(r#""payload":{"model":7}"#)),
        "{bodies:?}"
    );
}
