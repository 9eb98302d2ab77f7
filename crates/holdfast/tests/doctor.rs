//! `holdfast doctor` against a hub, and against everything that is not quite one.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use harness::{Hub, holdfast, text};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

/// Runs `holdfast doctor … --json`; its report and its exit code.
fn doctor(args: &[&str]) -> (Value, Option<i32>, Output) {
    let mut command = holdfast();
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = command.arg("doctor").args(args).arg("--json").output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", text(&output.stderr)));
    (report, output.status.code(), output)
}

/// One step of a report.
fn step<'a>(report: &'a Value, name: &str) -> &'a Value {
    let steps = report["steps"].as_array().unwrap();
    steps
        .iter()
        .find(|step| step["step"] == name)
        .unwrap_or_else(|| panic!("{name} is not in {report:#}"))
}

/// Options for the ports of a hub.
fn port_args(hub: &Hub) -> Vec<String> {
    let connection = hub.connection();
    let mut args = Vec::new();
    for kind in ["mqtt", "https", "amqp"] {
        args.push(format!("--{kind}-port={}", connection["ports"][kind]));
    }
    args.push(format!("--ca={}", connection["caFile"].as_str().unwrap()));
    args
}

fn with_ports(hub: &Hub, args: &[&str]) -> (Value, Option<i32>, Output) {
    let ports = port_args(hub);
    let all: Vec<&str> = args.iter().copied().chain(ports.iter().map(String::as_str)).collect();
    doctor(&all)
}

#[test]
fn a_device_that_can_connect_passes_every_step() {
    let hub = Hub::start(&[]);
    hub.ok(&["device", "create", "good"]);
    let string = hub.ok(&["device", "connection-string", "good"]);
    let (report, code, output) = with_ports(&hub, &["--connection-string", string.trim()]);
    assert_eq!(code, Some(0), "{report:#}\n{}", hub.last_lines());
    assert_eq!(report["passed"], true);
    for name in [
        "name",
        "tls",
        "clock",
        "certificate",
        "mqtt",
        "mqtt-ws",
        "https",
        "amqp",
        "credential",
    ] {
        assert_eq!(step(&report, name)["verdict"], "passed", "{name}: {report:#}");
    }
    let facts = &step(&report, "certificate")["facts"][0];
    assert_eq!(facts["nameMatches"], true);
    assert!(facts["chain"][0]["daysLeft"].as_i64().unwrap() > 300, "{facts}");
    // Progress: a run that takes long does not look like one that hangs.
    assert!(
        text(&output.stderr).contains("… credential: connecting as good"),
        "{output:?}"
    );
    let diagnosis = hub.json(&["device", "diagnose", "good", "-o", "json"]);
    assert!(
        diagnosis["conclusion"].as_str().unwrap().starts_with("good is"),
        "{diagnosis:#}"
    );
    let key = string.rsplit_once("SharedAccessKey=").unwrap().1.trim();
    assert!(!text(&output.stderr).contains(key) && !text(&output.stdout).contains(key));
}

#[test]
fn a_refused_credential_is_explained_and_ends_with_5() {
    let hub = Hub::start(&[]);
    hub.ok(&["device", "create", "dev1"]);
    let wrong = "HostName=localhost;DeviceId=dev1;SharedAccessKey=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let (report, code, _) = with_ports(&hub, &["--connection-string", wrong]);
    assert_eq!(code, Some(5), "{report:#}");
    assert_eq!(report["failedSteps"], serde_json::json!(["credential"]));
    let credential = step(&report, "credential");
    assert!(
        credential["summary"].as_str().unwrap().contains("refuses dev1 with 5"),
        "{credential:#}"
    );
    assert!(
        credential["advice"]
            .as_str()
            .unwrap()
            .contains("holdfast device diagnose dev1")
    );
    let details = credential["details"].to_string();
    assert!(details.contains("the hub says: ErrorCode:"), "{details}");

    // The hub has the exact reason, and what was offered.
    let diagnosis = hub.json(&["device", "diagnose", "dev1", "-o", "json"]);
    let refusal = &diagnosis["refusals"][0];
    assert_eq!(refusal["reason"], "signature", "{diagnosis:#}");
    assert_eq!(refusal["offered"]["kind"], "sas");
    assert_eq!(refusal["offered"]["audience"], "localhost%2Fdevices%2Fdev1");
    assert_eq!(refusal["offered"]["tlsVersion"], "TLSv1_3");
    assert!(
        diagnosis["conclusion"]
            .as_str()
            .unwrap()
            .contains("signature: the key does not fit")
    );

    // A token that has ended is shown as such, by the server's clock.
    let token = "SharedAccessSignature sr=localhost%2Fdevices%2Fdev1&sig=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3D&se=1700000000";
    let string = format!("HostName=localhost;DeviceId=dev1;SharedAccessSignature={token}");
    let (report, code, _) = with_ports(&hub, &["--connection-string", &string]);
    assert_eq!(code, Some(5));
    let details = step(&report, "credential")["details"].to_string();
    assert!(
        details.contains("the token ended") && details.contains("the token expired at"),
        "{details}"
    );
}

#[test]
fn a_device_with_a_certificate_is_checked_with_it() {
    let hub = Hub::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| -> (String, String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let (file, key_file) = (
            dir.path().join(format!("{name}.pem")),
            dir.path().join(format!("{name}.key")),
        );
        std::fs::write(&file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let digest = holdfast_auth::x509::CertificateFingerprints::of(certificate.der()).sha256_hex();
        (file.display().to_string(), key_file.display().to_string(), digest)
    };
    let (file, key, digest) = write("right");
    hub.ok(&[
        "device",
        "create",
        "cert1",
        "--auth-method",
        "self-signed",
        "--primary-thumbprint",
        &digest,
    ]);
    let (report, code, _) = with_ports(
        &hub,
        &["localhost", "--cert", &file, "--key", &key, "--device-id", "cert1"],
    );
    assert_eq!(code, Some(0), "{report:#}\n{}", hub.last_lines());

    let (file, key, digest) = write("wrong");
    let (report, code, _) = with_ports(
        &hub,
        &["localhost", "--cert", &file, "--key", &key, "--device-id", "cert1"],
    );
    assert_eq!(code, Some(5));
    let credential = step(&report, "credential");
    assert!(credential["details"].to_string().contains(&digest), "{credential:#}");
    assert!(
        credential["advice"]
            .as_str()
            .unwrap()
            .contains("compare the thumbprint")
    );
}

#[test]
fn closed_ports_are_named_and_what_depends_on_them_is_skipped() {
    let (report, code, _) = doctor(&["127.0.0.1", "--mqtt-port=1", "--https-port=1", "--amqp-port=1"]);
    assert_eq!(code, Some(4));
    assert_eq!(report["failedSteps"], serde_json::json!(["ports"]));
    let ports = step(&report, "ports");
    assert!(
        ports["facts"]
            .as_array()
            .unwrap()
            .iter()
            .all(|fact| fact["result"] == "refused"),
        "{ports:#}"
    );
    assert!(ports["advice"].as_str().unwrap().contains("is the hub running"));
    for name in [
        "tls",
        "clock",
        "certificate",
        "mqtt",
        "mqtt-ws",
        "https",
        "amqp",
        "credential",
    ] {
        assert_eq!(step(&report, name)["verdict"], "skipped", "{name}");
    }
}

#[test]
fn a_name_that_does_not_exist_is_the_failed_step() {
    let (report, code, _) = doctor(&["no-such-hub.invalid"]);
    assert_eq!(code, Some(4));
    assert_eq!(report["failedSteps"], serde_json::json!(["name"]));
    assert_eq!(step(&report, "ports")["verdict"], "skipped");
}

#[test]
fn a_port_whose_packets_are_dropped_is_blocked() {
    // A listener whose queue is full answers no further SYN, as a firewall does that drops it.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _queued: Vec<TcpStream> =
        std::iter::from_fn(|| TcpStream::connect_timeout(&address, std::time::Duration::from_millis(500)).ok())
            .collect();
    let port = format!("--mqtt-port={}", address.port());
    let (report, code, _) = doctor(&["127.0.0.1", &port, "--protocol", "mqtt", "--timeout", "1"]);
    assert_eq!(code, Some(4));
    let ports = step(&report, "ports");
    assert_eq!(ports["facts"][0]["result"], "blocked", "{ports:#}");
    assert!(ports["advice"].as_str().unwrap().contains("firewall"));
}

#[test]
fn a_server_that_never_speaks_is_distinguished_from_a_closed_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("--mqtt-port={}", listener.local_addr().unwrap().port());
    let (report, code, _) = doctor(&["127.0.0.1", &port, "--protocol", "mqtt", "--timeout", "1"]);
    assert_eq!(code, Some(4));
    assert_eq!(report["failedSteps"], serde_json::json!(["tls"]));
    let tls = step(&report, "tls");
    assert!(tls["details"].to_string().contains("nothing answers TLS"), "{tls:#}");
    assert_eq!(step(&report, "mqtt")["verdict"], "skipped");
}

/// A TLS server that answers every protocol as a hub does, with a certificate and a date of the test's choice.
struct Fake {
    port: u16,
    ca_file: PathBuf,
    _dir: tempfile::TempDir,
}

struct FakeSpec {
    names: Vec<String>,
    ends_in: Duration,
    versions: Vec<&'static SupportedProtocolVersion>,
    date: Option<OffsetDateTime>,
    ca: &'static str,
}

impl Default for FakeSpec {
    fn default() -> Self {
        Self {
            names: vec!["127.0.0.1".to_owned()],
            ends_in: Duration::days(100),
            versions: rustls::DEFAULT_VERSIONS.to_vec(),
            date: None,
            ca: "CA of the test",
        }
    }
}

impl Fake {
    fn start(spec: FakeSpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, spec.ca);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, ca.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(spec.names).unwrap();
        params.not_before = OffsetDateTime::now_utc() - Duration::days(200);
        params.not_after = OffsetDateTime::now_utc() + spec.ends_in;
        let leaf = params.signed_by(&key, &ca).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&spec.versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let date = spec.date.unwrap_or_else(OffsetDateTime::now_utc);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let config = Arc::clone(&config);
                std::thread::spawn(move || answer(&config, socket.unwrap(), date));
            }
        });
        Self {
            port,
            ca_file,
            _dir: dir,
        }
    }

    fn doctor(&self, args: &[&str]) -> (Value, Option<i32>) {
        let ports: Vec<String> = ["mqtt", "https", "amqp"]
            .iter()
            .map(|kind| format!("--{kind}-port={}", self.port))
            .collect();
        let all: Vec<&str> = ["127.0.0.1"]
            .into_iter()
            .chain(args.iter().copied())
            .chain(ports.iter().map(String::as_str))
            .collect();
        let (report, code, _) = doctor(&all);
        (report, code)
    }

    fn ca(&self) -> &str {
        self.ca_file.to_str().unwrap()
    }
}

/// Answers the first bytes of a connection; a client that only shakes hands gets nothing.
fn answer(config: &Arc<ServerConfig>, socket: TcpStream, date: OffsetDateTime) {
    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    let mut input = [0; 4096];
    let Ok(read) = stream.read(&mut input) else { return };
    let date = date.format(&time::format_description::well_known::Rfc2822).unwrap();
    let input = &input[..read];
    let output = if input.starts_with(b"GET") && text(input).contains("Upgrade: websocket") {
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_vec()
    } else if input.starts_with(b"GET") {
        let body = r#"{"Message":"ErrorCode:IotHubUnauthorizedAccess;no token"}"#;
        let date = date.replace("+0000", "GMT");
        format!(
            "HTTP/1.1 401 Unauthorized\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    } else if input.starts_with(b"AMQP") {
        input.to_vec()
    } else {
        b"\x20\x02\x00\x05".to_vec()
    };
    // The client may have what it needs.
    let _ = stream.write_all(&output);
    let _ = stream.flush();
}

/// A device's string for the fake server: what would be sent to it.
const STRING: &str = "HostName=127.0.0.1;DeviceId=d;SharedAccessKey=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The summary of the certificate step, which must have failed, with the credential unsent.
fn certificate_fault(fake: &Fake, ca: Option<&str>) -> (String, String) {
    let mut args = vec!["--connection-string", STRING];
    args.extend(ca.into_iter().flat_map(|ca| ["--ca", ca]));
    let (report, code) = fake.doctor(&args);
    assert_eq!(code, Some(4), "{report:#}");
    let certificate = step(&report, "certificate");
    assert_eq!(certificate["verdict"], "failed", "{report:#}");
    let credential = step(&report, "credential");
    assert_eq!(credential["verdict"], "skipped", "{credential:#}");
    assert!(credential["summary"].as_str().unwrap().contains("not sent"));
    (
        certificate["summary"].as_str().unwrap().to_owned(),
        certificate["advice"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn each_fault_of_a_servers_certificate_has_its_own_words() {
    let good = Fake::start(FakeSpec::default());
    let (report, code) = good.doctor(&[
        "--ca",
        good.ca(),
        "--protocol",
        "mqtt",
        "--protocol",
        "https",
        "--protocol",
        "amqp",
    ]);
    assert_eq!(code, Some(0), "{report:#}");

    let expired = Fake::start(FakeSpec {
        ends_in: Duration::days(-10),
        ca: "another CA",
        ..FakeSpec::default()
    });
    let (summary, advice) = certificate_fault(&expired, Some(expired.ca()));
    assert!(summary.ends_with("it, or its issuer, has ended"), "{summary}");
    assert!(advice.contains("renews"), "{advice}");

    let named = Fake::start(FakeSpec {
        names: vec!["hub.example".to_owned()],
        ..FakeSpec::default()
    });
    let (summary, _) = certificate_fault(&named, Some(named.ca()));
    assert!(
        summary.ends_with("it does not name this host; its names: hub.example"),
        "{summary}"
    );

    let (summary, advice) = certificate_fault(&good, Some(expired.ca()));
    assert!(
        summary.contains("the issuer \"CN=CA of the test\" is not among the CAs of"),
        "{summary}"
    );
    assert!(advice.contains("proxy or firewall that opens TLS"), "{advice}");

    let namesake = Fake::start(FakeSpec::default());
    let (summary, _) = certificate_fault(&good, Some(namesake.ca()));
    assert!(summary.contains("but another key has signed it"), "{summary}");

    // Two faults at once are both named.
    let (summary, _) = certificate_fault(&expired, Some(good.ca()));
    assert!(
        summary.contains("has ended") && summary.contains("is not among"),
        "{summary}"
    );
}

#[test]
fn a_server_with_one_version_of_tls_is_a_warning() {
    let fake = Fake::start(FakeSpec {
        versions: vec![&rustls::version::TLS12],
        ..FakeSpec::default()
    });
    let (report, code) = fake.doctor(&["--ca", fake.ca(), "--protocol", "mqtt"]);
    assert_eq!(code, Some(0), "{report:#}");
    let tls = step(&report, "tls");
    assert_eq!(tls["verdict"], "warning");
    assert_eq!(tls["facts"][0]["tls12"]["taken"], true);
    assert_eq!(tls["facts"][0]["tls13"]["taken"], false, "{tls:#}");
}

#[test]
fn a_wrong_clock_is_measured() {
    let fake = Fake::start(FakeSpec {
        date: Some(OffsetDateTime::now_utc() - Duration::hours(2)),
        ..FakeSpec::default()
    });
    let (report, code) = fake.doctor(&["--ca", fake.ca(), "--protocol", "https"]);
    assert_eq!(code, Some(1), "{report:#}");
    let clock = step(&report, "clock");
    assert_eq!(clock["verdict"], "failed");
    let difference = clock["facts"]["differenceSeconds"].as_i64().unwrap();
    assert!((-7300..=-7190).contains(&difference), "{clock:#}");
    assert!(clock["summary"].as_str().unwrap().contains("ahead of the server's"));
}

#[test]
fn a_proxy_that_knows_no_websockets_is_the_failed_step() {
    let fake = Fake::start(FakeSpec::default());
    let (report, code) = fake.doctor(&["--ca", fake.ca(), "--protocol", "mqtt-ws"]);
    assert_eq!(code, Some(4));
    let step = step(&report, "mqtt-ws");
    assert!(step["summary"].as_str().unwrap().contains("403 Forbidden"), "{step:#}");
}

#[test]
fn proxy_variables_are_noticed_without_their_passwords() {
    let output = holdfast()
        .args(["doctor", "127.0.0.1", "--protocol", "mqtt", "--mqtt-port=1"])
        .env("HTTPS_PROXY", "http://user:hunter2@proxy:3128")
        .output()
        .unwrap();
    let shown = text(&output.stdout);
    assert!(shown.contains("HTTPS_PROXY=http://…@proxy:3128"), "{shown}");
    assert!(!shown.contains("hunter2") && !text(&output.stderr).contains("hunter2"));
    assert!(shown.contains("FAILED   ports"), "{shown}");
}

#[test]
fn options_that_do_not_fit_end_with_2() {
    let policy = "HostName=127.0.0.1;SharedAccessKeyName=iothubowner;SharedAccessKey=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for (args, expected) in [
        (&["doctor"][..], "HOST"),
        (&["doctor", "--connection-string", policy], "is a policy's"),
        (
            &["doctor", "127.0.0.1", "--ca", "/nowhere.pem"],
            "cannot read the CA file",
        ),
    ] {
        let output = holdfast().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains(expected),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
}
