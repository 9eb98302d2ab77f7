//! How a hub of several nodes comes into being from files alone, as a chart gives them: no node is asked anything by hand.
//!
//! The first node waits for the others before it creates the hub; tokens admit core nodes and gateways; back ends have keys that were
//! chosen before; a gateway that stops for good is forgotten.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use harness::{at, holdfast, status_of, text};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
const OWNER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const READER_KEY: &str = "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Of the nodes 2, 3 and 4, of which the last is a gateway.
const TOKENS: [&str; 3] = [
    "1111111111111111111111111111111111111111111111111111111111111111",
    "2222222222222222222222222222222222222222222222222222222222222222",
    "3333333333333333333333333333333333333333333333333333333333333333",
];

fn wait<T>(what: &str, nodes: &[&Node], mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        let logs = || {
            nodes
                .iter()
                .map(|node| node.last_lines())
                .collect::<Vec<_>>()
                .join("\n---\n")
        };
        assert!(Instant::now() < deadline, "{what}: not in time\n{}", logs());
        std::thread::sleep(POLL);
    }
}

/// What all nodes share: an address of the loopback network, certificates, keys.
struct Site {
    dir: tempfile::TempDir,
    address: String,
    peer_ca: rcgen::Issuer<'static, rcgen::KeyPair>,
}

fn authority(name: &str, file: &Path) -> rcgen::Issuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(file, certificate.pem()).unwrap();
    rcgen::Issuer::new(params, key)
}

fn issue(issuer: &rcgen::Issuer<'static, rcgen::KeyPair>, names: &[&str], stem: &Path) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(stem.with_extension("pem"), certificate.pem()).unwrap();
    std::fs::write(stem.with_extension("key"), key.serialize_pem()).unwrap();
}

impl Site {
    fn new() -> Self {
        Self::new_at(0)
    }

    /// Each test of this process has addresses of its own.
    fn new_at(test: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = format!("127.{}.{high}.{}", 66 + test, low.max(1));
        let at = |name: &str| dir.path().join(name);
        let peer_ca = authority("test nodes", &at("peer-ca.pem"));
        issue(&authority("test", &at("ca.pem")), &[&address], &at("server"));
        let write = |name: &str, mode: u32, content: &str| {
            std::fs::write(at(name), content).unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        // As Kubernetes mounts a Secret.
        write("sealing.key", 0o440, &"0f".repeat(32));
        write(
            "tokens",
            0o440,
            &format!("{}\n{} core\n{} gateway\n", TOKENS[0], TOKENS[1], TOKENS[2]),
        );
        let line = |name: &str, key: &str| format!("HostName=hub.svc;SharedAccessKeyName={name};SharedAccessKey={key}");
        let policies = format!(
            "{}\n{};Rights=RegistryRead\n",
            line("iothubowner", OWNER_KEY),
            line("reports", READER_KEY)
        );
        write("policies", 0o440, &policies);
        Self { dir, address, peer_ca }
    }

    /// The configuration of node `number`; 1 may create the hub.
    fn configure(&self, number: u16, more: &str) -> Node {
        let dir = self.dir.path().join(format!("node-{number}"));
        std::fs::create_dir_all(&dir).unwrap();
        let (name, peer) = (format!("node-{number}"), format!("node-{number}.peer.holdfast"));
        issue(&self.peer_ca, &["peer.holdfast", &peer], &dir.join("peer"));
        let others = (1..=3).filter(|other| *other != number);
        let join: Vec<String> = others.map(|other| format!("\"{}:970{other}\"", self.address)).collect();
        let (site, at, address) = (self.dir.path().display(), dir.display(), &self.address);
        let text = format!(
            r#"
[hub]
host = "{address}"
data_dir = "{at}/data"
connection_file = "{at}/node.json"
initial_policies_file = "{site}/policies"
cores = 1
[listen]
mqtts = ["{address}:0"]
amqps = []
https = ["{address}:0"]
[tls]
certificate_file = "{site}/server.pem"
key_file = "{site}/server.key"
ca_file = "{site}/ca.pem"
[secrets]
key_file = "{site}/sealing.key"
[storage]
min_free = "64MiB"
min_free_percent = 1
[ops]
listen = "{address}:960{number}"
[cluster]
node_name = "{name}"
listen = ["{address}:970{number}"]
certificate_file = "{at}/peer.pem"
key_file = "{at}/peer.key"
ca_file = "{site}/peer-ca.pem"
join = [{}]
join_token_file = "{at}/token"
{more}
"#,
            join.join(", ")
        );
        std::fs::write(dir.join("holdfast.toml"), text).unwrap();
        Node {
            ops: format!("{address}:960{number}"),
            dir,
            child: None,
        }
    }
}

/// A node's process and files; killed when dropped.
struct Node {
    dir: PathBuf,
    ops: String,
    child: Option<Child>,
}

impl Node {
    fn start(&mut self) {
        let file = std::fs::File::options();
        let log = file
            .clone()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let child = holdfast()
            .arg("start")
            .arg("--config")
            .arg(self.dir.join("holdfast.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn with_token(self, token: &str) -> Self {
        std::fs::write(self.dir.join("token"), token).unwrap();
        self
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn end(&mut self, signal: rustix::process::Signal) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let status = child.wait().unwrap();
        self.child = None;
        status
    }

    /// The status and the text of a path of the listener for operators; `None` while there is none.
    fn probe(&self, path: &str) -> Option<(u16, String)> {
        let mut socket = std::net::TcpStream::connect(&self.ops).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(socket, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.trim().to_owned()))
    }

    fn is_ready(&self) -> Option<()> {
        self.probe("/readyz").filter(|(status, _)| *status == 200).map(drop)
    }

    /// A command at this node, which logs in with its connection file.
    fn run(&self, args: &[&str]) -> Result<String, String> {
        at(&self.dir.join("node.json"), args)
    }

    fn status(&self) -> Option<Value> {
        status_of(&self.dir.join("node.json"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn members(status: &Value) -> Vec<(String, String)> {
    let nodes = status["nodes"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    nodes
        .iter()
        .map(|node| (text(&node["name"]), text(&node["role"])))
        .collect()
}

fn healthy(node: &Node) -> Option<Value> {
    node.status().filter(|status| status["healthy"] == true)
}

#[test]
fn a_hub_is_created_from_files_once_all_are_there_and_forgets_gateways_that_leave() {
    let site = Site::new();
    let founder = format!(
        "bootstrap = true\nbootstrap_with_all = true\ninitial_tokens_file = \"{}/tokens\"\nmax_lag = 1",
        site.dir.path().display()
    );
    let mut first = site.configure(1, &founder);
    let mut second = site.configure(2, "").with_token(TOKENS[0]);
    let mut third = site.configure(3, "max_lag = 1").with_token(TOKENS[1]);
    let mut gateway = site
        .configure(4, "role = \"gateway\"\nleave_on_stop = true")
        .with_token(TOKENS[2]);

    // One of the others is missing: silence is no reason to create a hub. The node is alive meanwhile, and says for what it waits.
    first.start();
    second.start();
    wait("a probe of a node that waits", &[&first], || {
        first.probe("/livez").filter(|(status, _)| *status == 200)
    });
    assert_eq!(first.probe("/readyz").unwrap().0, 503);
    wait("it says for whom it waits", &[&first], || {
        let log = first.log();
        (log.contains("waiting for the other nodes") && log.contains(":9703")).then_some(())
    });
    assert!(!first.dir.join("data/founding").exists(), "no hub is created");
    assert_eq!(first.probe("/livez").unwrap().0, 200);

    third.start();
    gateway.start();
    let all = [&first, &second, &third, &gateway];
    for node in all {
        wait("readiness", &all, || node.is_ready());
    }
    let status = wait("a healthy hub", &all, || healthy(&second));
    let expected = [
        ("node-1", "core"),
        ("node-2", "core"),
        ("node-3", "core"),
        ("node-4", "gateway"),
    ];
    let expected = expected.map(|(name, role)| (name.to_owned(), role.to_owned()));
    assert_eq!(members(&status), expected);

    // Keys that were chosen before the hub existed.
    let connection: Value =
        serde_json::from_str(&std::fs::read_to_string(third.dir.join("node.json")).unwrap()).unwrap();
    assert!(
        connection["owner"].as_str().unwrap().ends_with(OWNER_KEY),
        "the owner's key"
    );
    let login = format!(
        "HostName={};SharedAccessKeyName=reports;SharedAccessKey={READER_KEY}",
        site.address
    );
    let as_reader = |args: &[&str]| {
        let port = connection["ports"]["https"].to_string();
        let file = site.dir.path().join("reader.json");
        let mut reader = connection.clone();
        reader["owner"] = Value::String(login.clone());
        std::fs::write(&file, reader.to_string()).unwrap();
        let output = holdfast()
            .args(args)
            .arg("--connection-file")
            .arg(&file)
            .output()
            .unwrap();
        (output.status.success(), text(&output.stderr) + &port)
    };
    let (reads, why) = as_reader(&["device", "list"]);
    assert!(reads, "{why}");
    let (writes, why) = as_reader(&["device", "create", "no-right"]);
    assert!(!writes, "{why}");

    // A core node that comes back is ready only when it has what was written meanwhile.
    third.end(rustix::process::Signal::KILL);
    for number in 0..20 {
        first
            .run(&["device", "create", &format!("meanwhile-{number}")])
            .unwrap();
    }
    third.start();
    wait("readiness after a restart", &[&third, &first], || third.is_ready());
    let status = first.status().unwrap();
    for group in status["groups"].as_array().unwrap() {
        let replicas = group["replicas"].as_array().unwrap();
        let own = replicas.iter().find(|replica| replica["name"] == "node-3").unwrap();
        // A replica that is being added holds up nothing.
        let has_caught_up = own["voter"] == false || own["lag"].as_u64().unwrap() <= 1;
        assert!(has_caught_up, "ready, and behind: {group}");
    }
    let names = [
        "holdfast_control_members_down{role=\"core\"} 0",
        "holdfast_process_max_open_files ",
        "holdfast_control_clock_offset_seconds",
    ];
    wait("the metrics of a whole cluster", &[&first], || {
        let (_, metrics) = first.probe("/metrics")?;
        names.iter().all(|name| metrics.contains(name)).then_some(())
    });

    // A gateway that stops is no member that is down, and is a new one when it comes back, with a new token.
    assert!(
        gateway.end(rustix::process::Signal::TERM).success(),
        "{}",
        gateway.last_lines()
    );
    let left = wait("the gateway is forgotten", &[&first, &gateway], || healthy(&first));
    assert_eq!(members(&left).len(), 3, "{left}");
    let is_empty = !gateway.dir.join("data/db").exists() && !gateway.dir.join("data/holdfast.node").exists();
    assert!(is_empty, "{}", gateway.last_lines());
    let token = first.run(&["node", "token", "--role", "gateway"]).unwrap();
    std::fs::write(gateway.dir.join("token"), token).unwrap();
    gateway.start();
    wait("the gateway again", &[&gateway], || gateway.is_ready());
    wait("four members", &[&first, &gateway], || {
        healthy(&first).filter(|status| members(status).len() == 4)
    });

    // The first node loses its disk while the others do not run: it waits, and creates no second hub.
    for node in [&mut second, &mut third, &mut first] {
        node.end(rustix::process::Signal::KILL);
    }
    gateway.end(rustix::process::Signal::KILL);
    std::fs::remove_dir_all(first.dir.join("data")).unwrap();
    std::fs::remove_file(first.dir.join("log")).unwrap();
    first.start();
    wait("it waits for the others", &[&first], || {
        first.log().contains("waiting for the other nodes").then_some(())
    });
    second.start();
    third.start();
    // Members answer: it is no hub to be created, and without a token no member to be admitted.
    let child = first.child.as_mut().unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "{}", first.last_lines());
        std::thread::sleep(POLL);
    };
    first.child = None;
    assert!(!ended.success());
    assert!(!first.log().contains("creates the hub ("), "{}", first.last_lines());
}

#[test]
fn a_debug_bundle_has_all_nodes_names_those_that_are_silent_and_holds_no_secret() {
    let site = Site::new_at(1);
    let founder = format!(
        "bootstrap = true\nbootstrap_with_all = true\ninitial_tokens_file = \"{}/tokens\"",
        site.dir.path().display()
    );
    let mut first = site.configure(1, &founder);
    let mut second = site.configure(2, "").with_token(TOKENS[0]);
    let mut third = site.configure(3, "").with_token(TOKENS[1]);
    // A key where none belongs.
    let config = first.dir.join("holdfast.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let misplaced = "[upload]\nwebhook = \"https://127.0.0.1:9/x?code=c0dec0dec0de\"\n";
    std::fs::write(&config, format!("{text}\n{misplaced}")).unwrap();
    for node in [&mut first, &mut second, &mut third] {
        node.start();
    }
    let all = [&first, &second, &third];
    for node in all {
        wait("readiness", &all, || node.is_ready());
    }
    wait("a healthy hub", &all, || healthy(&second));
    first.run(&["device", "create", "dev-1"]).unwrap();
    let device: Value = serde_json::from_str(&first.run(&["device", "show", "dev-1"]).unwrap()).unwrap();
    let device_key = device["authentication"]["symmetricKey"]["primaryKey"]
        .as_str()
        .unwrap()
        .to_owned();
    third.end(rustix::process::Signal::KILL);

    let file = site.dir.path().join("bundle.tar.gz");
    let begun = Instant::now();
    second
        .run(&["debug", "bundle", "--output", file.to_str().unwrap()])
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let unpacked = site.dir.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let status = std::process::Command::new("tar")
        .arg("-xzf")
        .arg(&file)
        .arg("-C")
        .arg(&unpacked)
        .status();
    assert!(status.unwrap().success());
    let root = std::fs::read_dir(&unpacked).unwrap().next().unwrap().unwrap().path();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let readme = read("README.txt");
    assert!(readme.contains("node-3 is not in it"), "{readme}");
    assert!(!read("nodes/node-3/no-answer.txt").is_empty());
    for node in ["node-1", "node-2"] {
        assert!(read(&format!("nodes/{node}/metrics.txt")).contains("holdfast_build_info"));
        assert!(read(&format!("nodes/{node}/log.txt")).contains("ready"), "{node}");
        assert!(read(&format!("nodes/{node}/threads.txt")).contains(" ops "), "{node}");
        let versions: Value = serde_json::from_str(&read(&format!("nodes/{node}/versions.json"))).unwrap();
        assert_eq!(versions["holdfast"], env!("CARGO_PKG_VERSION"));
        assert!(read(&format!("nodes/{node}/config.toml")).contains(&format!("node_name = \"{node}\"")));
    }
    assert!(read("nodes/node-1/config.toml").contains("127.0.0.1:9/x?(hidden)"));
    let status: Value = serde_json::from_str(&read("status.json")).unwrap();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);

    let connection: Value =
        serde_json::from_str(&std::fs::read_to_string(first.dir.join("node.json")).unwrap()).unwrap();
    let key_of = |name: &str| {
        connection[name]
            .as_str()
            .unwrap()
            .rsplit_once("SharedAccessKey=")
            .unwrap()
            .1
            .to_owned()
    };
    let mut secrets = vec![device_key, OWNER_KEY.to_owned(), READER_KEY.to_owned(), "0f".repeat(32)];
    secrets.extend(TOKENS.map(str::to_owned));
    secrets.extend(["c0dec0dec0de", "PRIVATE KEY"].map(str::to_owned));
    secrets.extend(["service", "device", "registryRead"].map(key_of));
    let mut files = vec![root.clone()];
    let mut searched = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        searched += text.len();
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} is in {}", path.display());
        }
    }
    assert!(searched > 50_000, "{searched} bytes were searched");
    // A second bundle does not replace the first.
    assert!(
        second
            .run(&["debug", "bundle", "--output", file.to_str().unwrap()])
            .is_err()
    );
}
