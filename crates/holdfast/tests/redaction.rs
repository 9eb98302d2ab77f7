//! No secret leaves the hub: everything that it writes, searched for every secret that it was given.
//!
//! Why: a log line, an error text or a metric label that repeats a key gives it to all readers of logs. Operators also put
//! keys where they do not belong (a connection string as a user name), and a hub that repeats its input gives those away.
//! Invariant: the search covers the log at its finest level, the audit log, the metrics, every answer, and every file of the data
//! directory but the key files; each secret in plain, base64, hexadecimal and percent-encoded form.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::{Hub, text};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

/// A key that the test chooses, as text.
const DEVICE_KEY: &str = "ZGV2aWNlLWtleS10aGF0LW5vYm9keS1tYXktc2VlLTE=";
/// Another one.
const OTHER_KEY: &str = "b3RoZXIta2V5LXRoYXQtbm9ib2R5LW1heS1zZWUtLTI=";
const POLICY_KEY: &str = "cG9saWN5LWtleS10aGF0LW5vYm9keS1tYXktc2VlLTM=";

/// Secrets by name.
#[derive(Default)]
struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    fn add(&mut self, name: &str, secret: impl AsRef<[u8]>) {
        let secret = secret.as_ref().to_vec();
        assert!(secret.len() >= 12, "{name} is too short to be found by its bytes alone");
        self.0.insert(name.to_owned(), secret);
    }

    /// A key in base64: its text and its bytes.
    fn add_key(&mut self, name: &str, key: &str) {
        self.add(name, key);
        self.add(&format!("{name}, decoded"), STANDARD.decode(key).unwrap());
    }

    /// The signature of a token, and its bytes.
    fn add_token(&mut self, name: &str, token: &str) {
        let signature = token.split_once("sig=").unwrap().1.split('&').next().unwrap();
        self.add(name, signature);
        let plain = signature
            .replace("%2B", "+")
            .replace("%2F", "/")
            .replace("%3D", "=")
            .replace("%2b", "+")
            .replace("%2f", "/")
            .replace("%3d", "=");
        self.add_key(&format!("{name}, unescaped"), &plain);
    }

    /// Every form of every secret.
    fn forms(&self) -> Vec<(String, Vec<u8>)> {
        let mut forms = Vec::new();
        for (name, secret) in &self.0 {
            let mut add = |form: &str, bytes: Vec<u8>| forms.push((format!("{name} ({form})"), bytes));
            add("plain", secret.clone());
            let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            add("hexadecimal", hex.to_uppercase().into_bytes());
            add("hexadecimal", hex.into_bytes());
            for (form, set) in [("%XX", "0123456789ABCDEF"), ("%xx", "0123456789abcdef")] {
                let digit = |nibble: u8| char::from(set.as_bytes()[usize::from(nibble)]);
                let encoded: String = secret
                    .iter()
                    .map(|byte| match byte {
                        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => char::from(*byte).to_string(),
                        byte => format!("%{}{}", digit(byte >> 4), digit(byte & 15)),
                    })
                    .collect();
                add(form, encoded.into_bytes());
            }
            // Inside a longer text the bytes may begin at any of three places of a base64 group; the first and the last
            // characters depend on their neighbours.
            for before in 0..3 {
                let padded = [&vec![0; before][..], secret].concat();
                let encoded = STANDARD.encode(padded);
                let trimmed = encoded.trim_end_matches('=');
                let start = [0, 2, 3][before];
                let own = &trimmed[start..trimmed.len() - 1];
                add("base64", own.as_bytes().to_vec());
                add("base64url", own.replace('+', "-").replace('/', "_").into_bytes());
            }
        }
        forms
    }
}

/// The places that were searched, with the secrets that they hold.
struct Search {
    forms: Vec<(String, Vec<u8>)>,
    found: Vec<String>,
    bytes: usize,
}

impl Search {
    fn text(&mut self, place: &str, bytes: &[u8]) {
        self.bytes += bytes.len();
        for (form, needle) in &self.forms {
            if let Some(at) = find(bytes, needle) {
                let start = bytes[..at]
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |end| end + 1);
                let around = String::from_utf8_lossy(&bytes[start.max(at.saturating_sub(300))..at]).into_owned();
                self.found.push(format!("{form} is in {place}, after: {around}"));
            }
        }
    }

    /// All files below `path` but `left_out`.
    fn files(&mut self, path: &Path, left_out: &[&str]) {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                self.files(&path, left_out);
            } else if !left_out.contains(&&*name) {
                self.text(&path.display().to_string(), &std::fs::read(&path).unwrap());
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = needle[0];
    let mut at = 0;
    while let Some(next) = haystack[at..].iter().position(|byte| *byte == first) {
        at += next;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn connect(client_id: &str, user: &str, password: &[u8]) -> Vec<u8> {
    let body = [
        &b"\0\x04MQTT\x04\xc2\0\x3c"[..],
        &field(client_id.as_bytes()),
        &field(user.as_bytes()),
        &field(password),
    ]
    .concat();
    let (mut head, mut length) = (vec![0x10], body.len());
    while length >= 128 {
        head.push(u8::try_from(length % 128).unwrap() | 128);
        length /= 128;
    }
    head.push(u8::try_from(length).unwrap());
    [head, body].concat()
}

/// The ways into a hub.
struct Clients {
    mqtt: u16,
    amqp: u16,
    https: u16,
    config: Arc<ClientConfig>,
    answers: Vec<Vec<u8>>,
}

impl Clients {
    fn of(hub: &Hub) -> Self {
        let connection = hub.connection();
        let port = |name: &str| connection["ports"][name].as_u64().unwrap().try_into().unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(connection["caFile"].as_str().unwrap()).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            mqtt: port("mqttPlain"),
            amqp: port("amqpPlain"),
            https: port("https"),
            config: Arc::new(config),
            answers: Vec::new(),
        }
    }

    /// Sends bytes, half-closes, and keeps everything that comes back.
    fn raw(&mut self, port: u16, bytes: &[u8]) -> Vec<u8> {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.write_all(bytes).unwrap();
        // The hub may have closed already.
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        self.answers.push(answer.clone());
        answer
    }

    fn https(&mut self, method: &str, path: &str, authorization: Option<&str>, body: &str) -> u16 {
        let name = ServerName::try_from("localhost").unwrap();
        let socket = TcpStream::connect(("127.0.0.1", self.https)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let connection = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let authorization = authorization.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
        let separator = if path.contains('?') { "&" } else { "?" };
        let request = format!(
            "{method} {path}{separator}api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             {authorization}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A server that closes without close_notify has said everything all the same.
        let _ = stream.read_to_end(&mut answer);
        let status = text(&answer)
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        // A caller with the right gets the keys that it asks for; an error repeats nothing.
        if status >= 400 {
            self.answers.push(answer);
        }
        status
    }
}

fn key_of(string: &str) -> &str {
    string.rsplit_once("SharedAccessKey=").unwrap().1.trim()
}

/// A token with a signature of the test's own.
fn token(marker: &str, expiry: &str) -> String {
    let signature = STANDARD.encode(format!("{marker:-<32}"));
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("SharedAccessSignature sr=localhost%2Fdevices%2Fdev-1&sig={signature}&se={expiry}")
}

#[test]
fn no_secret_is_in_anything_that_the_hub_writes() {
    let mut hub = Hub::start(&["--set", "log.level=trace"]);
    let mut secrets = Secrets::default();
    let mut clients = Clients::of(&hub);
    let connection = hub.connection();
    for name in ["owner", "service", "device", "registryRead", "registryReadWrite"] {
        secrets.add_key(name, key_of(connection[name].as_str().unwrap()));
    }
    for (name, key) in [
        ("device key", DEVICE_KEY),
        ("other key", OTHER_KEY),
        ("policy key", POLICY_KEY),
    ] {
        secrets.add_key(name, key);
    }
    for file in ["ca.key", "server.key", "server-rsa.key"] {
        let pem = std::fs::read_to_string(hub.data_dir.join(file)).unwrap();
        secrets.add(file, pem.lines().nth(1).unwrap());
    }
    let sealing = std::fs::read_to_string(hub.data_dir.join("sealing.key")).unwrap();
    secrets.add("sealing key", sealing.trim());

    // Accepted: keys that are given, made and replaced; tokens of devices and policies.
    hub.ok(&[
        "device",
        "create",
        "dev-1",
        "--primary-key",
        DEVICE_KEY,
        "--secondary-key",
        OTHER_KEY,
    ]);
    hub.ok(&["device", "create", "dev-2"]);
    let made = hub.ok(&["device", "connection-string", "dev-2"]);
    secrets.add_key("made key", key_of(&made));
    hub.ok(&["device", "update", "dev-2", "--new-keys", "both"]);
    let made = hub.ok(&["device", "connection-string", "dev-2"]);
    secrets.add_key("replaced key", key_of(&made));
    let good = hub.ok(&["sas-token", "-d", "dev-1"]);
    let good = good.trim();
    secrets.add_token("device token", good);
    let owner = hub.ok(&["sas-token"]);
    let owner = owner.trim();
    secrets.add_token("owner token", owner);
    let join = hub.ok(&["node", "token"]);
    let join = join.split_whitespace().find(|word| word.len() == 64).map(str::to_owned);
    if let Some(join) = &join {
        secrets.add("join token", join);
    }
    let user = "localhost/dev-1/?api-version=2021-04-12";
    let answer = clients.raw(clients.mqtt, &connect("dev-1", user, good.as_bytes()));
    assert_eq!(answer[..4], [0x20, 2, 0, 0], "{}", hub.last_lines());
    assert_eq!(clients.https("GET", "/devices/dev-2/modules", Some(owner), ""), 200);
    assert_eq!(
        clients.https("PATCH", "/twins/dev-1", Some(owner), r#"{"tags":{"a":1}}"#),
        200
    );
    let policy = json!({"rights": "ServiceConnect", "primaryKey": POLICY_KEY, "secondaryKey": POLICY_KEY});
    let status = clients.https("PUT", "/holdfast/v1/policies/mine", Some(owner), &policy.to_string());
    assert!(status == 200 || status == 201, "{status}");

    // Refused over MQTT: wrong, expired and unreadable tokens, and secrets in the wrong place.
    let string = format!("HostName=localhost;DeviceId=dev-1;SharedAccessKey={DEVICE_KEY}");
    let tokens = [
        ("wrong signature", token("wrong-signature-of-a-token", "4000000000")),
        ("expired", token("expired-signature-of-a-token", "1000000000")),
        ("no expiry", token("signature-without-an-expiry", "soon")),
        ("cut", good[..good.len() / 2].to_owned()),
    ];
    for (name, token) in &tokens {
        if let Some((_, rest)) = token.split_once("sig=")
            && rest.contains('&')
        {
            secrets.add_token(name, token);
        }
        clients.raw(clients.mqtt, &connect("dev-1", user, token.as_bytes()));
        clients.https("POST", "/devices/dev-1/messages/events", Some(token), "x");
        clients.https("GET", "/devices/dev-1", Some(token), "");
    }
    for password in [DEVICE_KEY, &string, OTHER_KEY] {
        clients.raw(clients.mqtt, &connect("dev-1", user, password.as_bytes()));
    }
    let binary = [b"\xff\xfe", DEVICE_KEY.as_bytes()].concat();
    clients.raw(clients.mqtt, &connect("dev-1", user, &binary));
    clients.raw(clients.mqtt, &connect("dev-1", &string, b"x"));
    clients.raw(clients.mqtt, &connect(&string, user, b"x"));
    clients.raw(
        clients.mqtt,
        &connect("dev-1", &format!("localhost/dev-1/?{good}"), b"x"),
    );
    let broken = connect("dev-1", user, good.as_bytes());
    clients.raw(clients.mqtt, &broken[..broken.len() - 5]);
    clients.raw(clients.mqtt, &[&broken[..2], b"\xff\xff", &broken[4..]].concat());
    clients.raw(clients.mqtt, string.as_bytes());

    // Over HTTPS.
    for authorization in [
        format!("Bearer {OTHER_KEY}"),
        format!("Basic {}", STANDARD.encode(format!("dev-1:{DEVICE_KEY}"))),
        string.clone(),
        DEVICE_KEY.to_owned(),
    ] {
        clients.https("GET", "/devices/dev-1", Some(&authorization), "");
    }
    let pem = std::fs::read_to_string(hub.data_dir.join("ca.key")).unwrap();
    let key = |primary: &str| {
        json!({"deviceId": "dev-3", "authentication": {"type": "sas", "symmetricKey": {
            "primaryKey": primary, "secondaryKey": DEVICE_KEY}}})
    };
    let bodies: Vec<(&str, &str, String)> = vec![
        ("PUT", "/devices/dev-3", key(&format!("{OTHER_KEY}!")).to_string()),
        ("PUT", "/devices/dev-3", key(&POLICY_KEY.repeat(9)).to_string()),
        (
            "PUT",
            "/devices/dev-3",
            key(OTHER_KEY).to_string().replacen('{', "{,", 1),
        ),
        (
            "PUT",
            "/devices/dev-3",
            format!("{{\"deviceId\":\"dev-3\",\"{string}\":1}}"),
        ),
        ("PUT", "/devices/dev-3", format!("\"{string}\"")),
        (
            "POST",
            "/devices",
            json!([{"id": "dev-3", "importMode": string}]).to_string(),
        ),
        (
            "POST",
            "/devices/query",
            json!({"query": format!("SELECT '{string}")}).to_string(),
        ),
        (
            "PUT",
            "/holdfast/v1/certificates/c",
            json!({"properties": {"certificate": pem}}).to_string(),
        ),
        (
            "PUT",
            "/holdfast/v1/policies/p",
            json!({"rights": string, "primaryKey": string}).to_string(),
        ),
        ("POST", "/holdfast/v1/nodes/tokens", json!({"role": string}).to_string()),
    ];
    for (method, path, body) in &bodies {
        let status = clients.https(method, path, Some(owner), body);
        assert!((200..500).contains(&status), "{method} {path}: {status}");
    }
    for path in [
        format!("/devices/{}", string.replace('=', "%3D").replace(';', "%3B")),
        format!("/devices/dev-1?{}", good.replace(' ', "%20")),
        format!("/{string}"),
        format!(
            "/holdfast/v1/diagnose/{}",
            string.replace('=', "%3D").replace(';', "%3B")
        ),
    ] {
        clients.https("GET", &path, Some(owner), "");
    }

    // Over AMQP: a password, and a token where none can be.
    let plain = [b"\0dev-1@sas.root.localhost\0", string.as_bytes()].concat();
    let init = [
        &b"\0\x53\x41\xd0\0\0\0"[..],
        &[u8::try_from(plain.len() + 4 + 7 + 5).unwrap(), 0, 0, 0, 2],
        b"\xa3\x05PLAIN",
        &[0xa0, u8::try_from(plain.len()).unwrap()],
        &plain,
    ]
    .concat();
    let length = u32::try_from(init.len() + 8).unwrap().to_be_bytes();
    let frame = [&b"AMQP\x03\x01\0\0"[..], &length, b"\x02\x01\0\0", &init].concat();
    clients.raw(clients.amqp, &frame);
    clients.raw(clients.amqp, string.as_bytes());

    // The views of operators.
    let shown = hub.ok(&["device", "diagnose", "dev-1", "-o", "json"]);
    let diagnosis: Value = serde_json::from_str(&shown).unwrap();
    assert!(diagnosis["refusals"].as_array().unwrap().len() >= 5, "{shown}");
    let metrics = hub.ops("/metrics").1;
    let listed = hub.ok(&["device", "list", "-o", "json"]);
    hub.stop();
    let log = hub.log();
    assert!(
        log.contains("TRACE") || log.contains("DEBUG"),
        "the log is not at its finest level"
    );
    let audit = text(&std::fs::read(hub.data_dir.join("audit.jsonl")).unwrap());
    assert!(
        audit.contains("SharedAccessKey=…"),
        "the name of the secret stays: {audit}"
    );

    let mut search = Search {
        forms: secrets.forms(),
        found: Vec::new(),
        bytes: 0,
    };
    search.text("the log", log.as_bytes());
    search.text("the diagnosis", shown.as_bytes());
    search.text("the metrics", metrics.as_bytes());
    search.text("the list of devices", listed.as_bytes());
    for answer in &clients.answers {
        search.text("an answer", answer);
    }
    let left_out = [
        "ca.key",
        "server.key",
        "server-rsa.key",
        "sealing.key",
        "connection.json",
    ];
    search.files(&hub.data_dir, &left_out);
    assert!(search.bytes > 100_000, "only {} bytes were searched", search.bytes);
    assert!(
        search.found.is_empty(),
        "{} finds:\n{}",
        search.found.len(),
        search.found.join("\n")
    );
    let proof = PathBuf::from(&hub.data_dir).join("sealing.key");
    assert!(
        find(&std::fs::read(proof).unwrap(), sealing.trim().as_bytes()).is_some(),
        "the search finds what is there"
    );
}
