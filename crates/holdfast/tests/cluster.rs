//! Three real processes: they find together, lose one, take it back, take new ones and let old ones go.
#![allow(clippy::unwrap_used, reason = "test code")]

mod harness;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use harness::{Hub, at, holdfast, status_of, text};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Waits until `condition` gives something.
fn wait<T>(what: &str, hub: &Hub, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not in time\n{}", hub.last_lines());
        std::thread::sleep(POLL);
    }
}

/// The connection file of the hub's node `number`, from 1.
fn node_file(hub: &Hub, number: usize) -> PathBuf {
    let nodes = hub.connection()["nodes"].clone();
    Path::new(nodes[number - 1]["dataDir"].as_str().unwrap()).join("node.json")
}

fn is_healthy(status: &Value) -> bool {
    status["healthy"].as_bool() == Some(true)
}

fn wait_healthy(hub: &Hub, file: &Path) -> Value {
    wait("a healthy cluster", hub, || status_of(file).filter(is_healthy))
}

fn names(status: &Value) -> Vec<String> {
    let nodes = status["nodes"].as_array().unwrap();
    nodes
        .iter()
        .map(|node| node["name"].as_str().unwrap().to_owned())
        .collect()
}

fn state_of(status: &Value, name: &str) -> String {
    let nodes = status["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| node["name"] == name);
    node.map_or_else(|| "none".to_owned(), |node| node["state"].as_str().unwrap().to_owned())
}

/// Starts a node by its configuration file, as an operator would; it is killed when dropped.
struct Node(Child);

impl Node {
    fn start(config: &Path) -> Self {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(config.with_extension("log"))
            .unwrap();
        let child = holdfast()
            .arg("start")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kill(pid: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// A certificate for the node `name` by dev mode's CA of nodes, and its key.
fn issue(ca: &Path, name: &str) -> (String, String) {
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    let key = rcgen::KeyPair::from_pem(&text(&ca.with_extension("key"))).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(text(ca).as_bytes()).unwrap();
    let authority = pem.parse_x509().unwrap();
    let called = authority.subject().iter_common_name().next().unwrap().as_str().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, called);
    let issuer = rcgen::Issuer::new(params, key);
    let names = vec!["peer.holdfast".to_owned(), format!("{name}.peer.holdfast")];
    let own = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(names).unwrap();
    (params.signed_by(&own, &issuer).unwrap().pem(), own.serialize_pem())
}

/// A configuration like that of `from`, for a node `name` in `dir` on free ports of `address`.
fn config_like(from: &Path, dir: &Path, name: &str, address: &str, token: &str) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let mut file: toml::Table = std::fs::read_to_string(from).unwrap().parse().unwrap();
    // Below the ports of outgoing connections: the members connect to the address before the node listens on it.
    let mut candidates = (10_000..32_768u16).filter(|port| std::net::TcpListener::bind((address, *port)).is_ok());
    let peer = format!("{address}:{}", candidates.next().unwrap());
    let token_file = dir.join("join-token");
    std::fs::write(&token_file, token).unwrap();
    let text = |path: &Path| toml::Value::String(path.display().to_string());
    let addresses = |port: u16| toml::Value::Array(vec![toml::Value::String(format!("{address}:{port}"))]);
    let member = file["cluster"]["listen"].clone();
    let set = |file: &mut toml::Table, section: &str, key: &str, value: toml::Value| {
        file.get_mut(section)
            .unwrap()
            .as_table_mut()
            .unwrap()
            .insert(key.to_owned(), value);
    };
    set(&mut file, "hub", "data_dir", text(&dir.join("data")));
    set(&mut file, "hub", "connection_file", text(&dir.join("node.json")));
    for listener in ["mqtts", "amqps", "https", "mqtt", "amqp"] {
        set(&mut file, "listen", listener, addresses(0));
    }
    set(&mut file, "ops", "listen", toml::Value::String(format!("{address}:0")));
    set(&mut file, "cluster", "node_name", toml::Value::String(name.to_owned()));
    set(
        &mut file,
        "cluster",
        "listen",
        toml::Value::Array(vec![toml::Value::String(peer)]),
    );
    set(&mut file, "cluster", "bootstrap", toml::Value::Boolean(false));
    set(&mut file, "cluster", "join", member);
    set(&mut file, "cluster", "join_token_file", text(&token_file));
    let ca = PathBuf::from(file["cluster"]["ca_file"].as_str().unwrap());
    let (certificate, key) = issue(&ca, name);
    std::fs::write(dir.join("peer.pem"), certificate).unwrap();
    std::fs::write(dir.join("peer.key"), key).unwrap();
    set(&mut file, "cluster", "certificate_file", text(&dir.join("peer.pem")));
    set(&mut file, "cluster", "key_file", text(&dir.join("peer.key")));
    let path = dir.join("holdfast.toml");
    std::fs::write(&path, file.to_string()).unwrap();
    path
}

#[test]
fn a_killed_node_is_not_missed_and_comes_back_with_its_data() {
    let hub = Hub::start(&["--nodes", "3"]);
    let connection = hub.connection();
    assert_eq!(connection["nodes"].as_array().unwrap().len(), 3);
    let (first, second, third) = (node_file(&hub, 1), node_file(&hub, 2), node_file(&hub, 3));
    let status = wait_healthy(&hub, &first);
    assert_eq!(names(&status), ["node-1", "node-2", "node-3"]);
    for group in status["groups"].as_array().unwrap() {
        let voters = group["replicas"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|r| r["voter"] == true);
        assert_eq!(voters.count(), 3, "{group}");
    }

    // Written at one node, read at the others at once.
    at(&second, &["device", "create", "dev-1"]).unwrap();
    assert!(at(&third, &["device", "show", "dev-1"]).unwrap().contains("dev-1"));

    // Node 1 bootstrapped the hub and leads the most: the worst one to lose.
    kill(connection["pids"][0].as_u64().unwrap());
    wait("a write without node 1", &hub, || {
        at(&second, &["device", "create", "dev-2"]).ok()
    });
    let shown = wait("the others notice", &hub, || {
        let status = status_of(&third)?;
        let up = |name: &str| status["nodes"].as_array()?.iter().find(|n| n["name"] == name)?["up"].as_bool();
        (up("node-1") == Some(false) && up("node-2") == Some(true)).then_some(status)
    });
    assert!(!is_healthy(&shown));

    let _again = Node::start(Path::new(connection["nodes"][0]["configFile"].as_str().unwrap()));
    wait_healthy(&hub, &second);
    let found = wait("node 1 answers", &hub, || at(&first, &["device", "show", "dev-2"]).ok());
    assert!(found.contains("dev-2"));
}

#[test]
fn an_attempt_that_one_node_refused_is_diagnosed_at_another_and_a_dead_node_is_named() {
    let hub = Hub::start(&["--nodes", "3"]);
    let second = node_file(&hub, 2);
    let status = wait_healthy(&hub, &second);
    let connection = hub.connection();
    let first = &connection["nodes"][0];
    // Its attempt without a credential names a device that does not exist.
    let port = format!("--mqtt-port={}", first["ports"]["mqtt"]);
    let attempt = holdfast()
        .args([
            "doctor",
            first["address"].as_str().unwrap(),
            &port,
            "--protocol",
            "mqtt",
            "--ca",
        ])
        .arg(connection["caFile"].as_str().unwrap())
        .output()
        .unwrap();
    let diagnose = || -> Value {
        let text = at(&second, &["device", "diagnose", "holdfast-doctor", "-o", "json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let diagnosis = diagnose();
    let refusal = &diagnosis["refusals"][0];
    assert_eq!(
        refusal["node"],
        first["name"],
        "{diagnosis:#}\n{}",
        text(&attempt.stdout)
    );
    assert_eq!(refusal["offered"]["kind"], "none");
    assert_eq!(refusal["offered"]["tlsVersion"], "TLSv1_3");
    assert_eq!(diagnosis["registered"], false);
    assert_eq!(diagnosis["notAsked"], serde_json::json!([]));
    let conclusion = diagnosis["conclusion"].as_str().unwrap();
    assert!(
        conclusion.starts_with("holdfast-doctor is not registered. The last refused"),
        "{conclusion}"
    );

    let last = &names(&status)[2];
    let nodes = connection["nodes"].as_array().unwrap();
    let number = nodes.iter().position(|node| node["name"] == **last).unwrap();
    kill(connection["pids"][number].as_u64().unwrap());
    let diagnosis = wait("the dead node is named", &hub, || {
        let diagnosis = diagnose();
        (diagnosis["notAsked"][0]["node"] == **last).then_some(diagnosis)
    });
    assert_eq!(diagnosis["refusals"][0]["node"], first["name"]);
    assert!(
        diagnosis["conclusion"]
            .as_str()
            .unwrap()
            .ends_with("1 of 3 nodes did not answer (notAsked).")
    );
}

/// A command that runs until it is killed, with its output in files.
struct Running {
    child: Child,
    dir: tempfile::TempDir,
}

impl Running {
    fn start(file: &Path, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let output = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
        let child = holdfast()
            .args(args)
            .arg("--connection-file")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(output("out"))
            .stderr(output("err"))
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_trace_at_one_node_shows_the_packets_and_decisions_of_a_device_at_another() {
    let hub = Hub::start(&["--nodes", "3"]);
    let (first, second) = (node_file(&hub, 1), node_file(&hub, 2));
    wait_healthy(&hub, &second);
    let trace = |args: &[&str]| Running::start(&second, &[&["trace", "sim-0000", "--for"], args].concat());
    let (plain, with_payloads) = (trace(&["30m"]), trace(&["30m", "--payload"]));
    for running in [&plain, &with_payloads] {
        wait("the trace begins", &hub, || {
            running.written("err").contains("tracing for").then_some(())
        });
    }
    at(
        &first,
        &["simulate", "--devices", "1", "--messages", "2", "--interval", "0.01"],
    )
    .unwrap();
    for running in [&plain, &with_payloads] {
        let shown = wait("the end of the connection", &hub, || {
            let shown = running.written("out");
            shown.contains("connection ended").then_some(shown)
        });
        for part in [
            "  node-1  decided   connect accepted; credential sas, mqtt from 127.",
            "  node-1  received  SUBSCRIBE to \"devices/sim-0000/messages/devicebound/#\"",
            "  node-1  received  PUBLISH to \"devices/sim-0000/messages/events/",
            "  node-1  sent      PUBACK of ",
        ] {
            assert!(shown.contains(part), "{part} is not in\n{shown}");
        }
        let shows_payloads = std::ptr::eq(running, &with_payloads);
        assert_eq!(shown.contains("temperature"), shows_payloads, "{shown}");
    }
    // A trace ends by itself.
    let mut short = trace(&["1s"]);
    let ended = wait("the end of a short trace", &hub, || short.child.try_wait().unwrap());
    assert!(ended.success(), "{}", short.written("err"));
}

/// The command line that dev mode has printed for a node that has ended.
fn restart_command(hub: &Hub, name: &str) -> Option<Vec<String>> {
    let text = hub.log();
    let (_, rest) = text.rsplit_once(&format!("  {name} ended with "))?;
    let command = rest.lines().nth(1)?.trim();
    Some(command.split(' ').map(str::to_owned).collect())
}

#[test]
fn dev_mode_continues_while_nodes_are_killed_in_turn_and_restarted_as_it_says() {
    let hub = Hub::start(&["--nodes", "3", "--host", "hub.test", "--bind", "127.79.0.1"]);
    let file = hub.connection_file();
    let mut restarted = Vec::new();
    for at in 0..3 {
        let before = hub.connection();
        let name = before["nodes"][at]["name"].as_str().unwrap().to_owned();
        assert_eq!(before["nodes"][at]["address"], format!("127.79.0.{}", at + 1));
        kill(before["pids"][at].as_u64().unwrap());
        let command = wait("the command to restart it", &hub, || restart_command(&hub, &name));
        assert_eq!(command[1], "start");
        restarted.push(Node::start(Path::new(&command[3])));
        let is_new = |connection: &Value| connection["pids"][at] == restarted[at].0.id();
        wait("the file names its new process", &hub, || {
            file.exists().then(|| hub.connection()).filter(is_new)
        });
        wait_healthy(&hub, &file);
    }
    // No node is a child of dev mode any more; the hub is there all the same.
    hub.ok(&["device", "create", "dev-1"]);
    for (at, node) in restarted.iter().enumerate() {
        assert_eq!(hub.connection()["pids"][at], node.0.id());
    }
    drop(restarted);
    wait("the file goes when no node serves", &hub, || {
        (!file.exists()).then_some(())
    });
}

#[test]
fn nodes_join_with_a_token_once_and_leave_when_they_are_drained() {
    let hub = Hub::start(&["--nodes", "3", "--host", "127.77.0.1"]);
    let first = node_file(&hub, 1);
    let config = PathBuf::from(hub.connection()["nodes"][0]["configFile"].as_str().unwrap());
    wait_healthy(&hub, &first);

    // Three nodes for three replicas: none can be spared.
    let refused = at(&first, &["node", "drain", "node-3"]).unwrap_err();
    assert!(refused.contains("join"), "says what to do instead: {refused}");
    let refused = at(&first, &["node", "remove", "node-3"]).unwrap_err();
    assert!(refused.contains("drain"), "{refused}");

    let dir = tempfile::tempdir().unwrap();
    let token = at(&first, &["node", "token"]).unwrap();
    let fourth = config_like(&config, &dir.path().join("4"), "node-4", "127.77.0.4", &token);
    let _fourth = Node::start(&fourth);
    wait("node 4 joins", &hub, || {
        let status = status_of(&first)?;
        (state_of(&status, "node-4") == "active" && is_healthy(&status)).then_some(())
    });

    let tokens = at(&first, &["node", "token", "list"]).unwrap();
    assert!(tokens.contains("used") && tokens.contains("node-4"), "{tokens}");
    assert!(!tokens.contains(token.trim()), "no token is shown again: {tokens}");

    let fifth = config_like(&config, &dir.path().join("5"), "node-5", "127.77.0.5", &token);
    let mut late = Node::start(&fifth);
    let ended = wait("a used token is refused", &hub, || late.0.try_wait().unwrap());
    let said = std::fs::read_to_string(fifth.with_extension("log")).unwrap();
    assert_eq!(ended.code(), Some(6), "{said}");
    assert!(said.contains("token"), "{said}");

    // One that is revoked is good for nothing.
    let revoked = at(&first, &["node", "token", "--valid", "5m"]).unwrap();
    let listed = at(&first, &["node", "token", "list", "-o", "json"]).unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let waiting = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["state"] == "waiting")
        .unwrap();
    assert!(waiting["expires"].as_str().unwrap() > waiting["created"].as_str().unwrap());
    let id = waiting["id"].as_str().unwrap();
    at(&node_file(&hub, 3), &["node", "token", "revoke", id]).unwrap();
    let sixth = config_like(&config, &dir.path().join("6"), "node-6", "127.77.0.6", &revoked);
    let mut late = Node::start(&sixth);
    let ended = wait("a revoked token is refused", &hub, || late.0.try_wait().unwrap());
    let said = std::fs::read_to_string(sixth.with_extension("log")).unwrap();
    assert!(ended.code() == Some(6) && said.contains("revoked"), "{said}");
    let unknown = at(&first, &["node", "token", "revoke", "01234567"]).unwrap_err();
    assert!(unknown.contains("holdfast node token list"), "{unknown}");

    at(&first, &["node", "drain", "node-2"]).unwrap();
    wait("node 2 is drained", &hub, || {
        (state_of(&status_of(&first)?, "node-2") == "drained").then_some(())
    });
    at(&first, &["node", "remove", "node-2"]).unwrap();
    let left = wait("three are left", &hub, || {
        status_of(&first).filter(|status| names(status) == ["node-1", "node-3", "node-4"])
    });
    assert!(
        left["groups"].as_array().unwrap().iter().all(|group| group["replicas"]
            .as_array()
            .unwrap()
            .iter()
            .all(|replica| replica["name"] != "node-2")),
        "{left}"
    );
}

/// How many replicas every partition has that vote, if all have the same.
fn replicas_of(status: &Value) -> Option<usize> {
    let groups = status["groups"]
        .as_array()?
        .iter()
        .filter(|group| group["name"] != "registry");
    let mut counts: Vec<usize> = groups
        .map(|group| group["replicas"].as_array().map_or(0, Vec::len))
        .collect();
    counts.dedup();
    (counts.len() == 1).then(|| counts[0])
}

#[test]
fn fewer_replicas_let_a_node_go_and_more_come_back() {
    let hub = Hub::start(&["--nodes", "3"]);
    let first = node_file(&hub, 1);
    wait_healthy(&hub, &first);
    let refused = at(&first, &["cluster", "set-replication", "5"]).unwrap_err();
    assert!(refused.contains("holdfast node join"), "{refused}");
    let refused = at(&first, &["cluster", "set-replication", "0"]).unwrap_err();
    assert!(refused.contains("1 to 5"), "{refused}");
    let refused = at(&first, &["node", "drain", "node-3"]).unwrap_err();
    // Two nodes would remain.
    assert!(refused.contains("holdfast cluster set-replication 2"), "{refused}");

    at(&first, &["cluster", "set-replication", "2"]).unwrap();
    wait("two replicas of each", &hub, || {
        let status = status_of(&first).filter(is_healthy)?;
        (replicas_of(&status) == Some(2)).then_some(())
    });
    at(&first, &["node", "drain", "node-3"]).unwrap();
    wait("node 3 is drained", &hub, || {
        (state_of(&status_of(&first)?, "node-3") == "drained").then_some(())
    });
    at(&first, &["node", "drain", "node-3", "--undo"]).unwrap();
    at(&first, &["cluster", "set-replication", "3"]).unwrap();
    wait("three replicas of each", &hub, || {
        let status = status_of(&first).filter(is_healthy)?;
        (replicas_of(&status) == Some(3)).then_some(())
    });
}

#[test]
fn devices_of_a_node_whose_disk_is_full_continue_to_send() {
    let hub = Hub::start(&["--nodes", "3", "--host", "127.78.0.1"]);
    let first = node_file(&hub, 1);
    let config = PathBuf::from(hub.connection()["nodes"][0]["configFile"].as_str().unwrap());
    wait_healthy(&hub, &first);
    let dir = tempfile::tempdir().unwrap();
    let token = at(&first, &["node", "token", "--role", "gateway"]).unwrap();
    let fourth = config_like(&config, &dir.path().join("4"), "node-4", "127.78.0.4", &token);
    // No disk has so much room: the guard is closed from the start.
    let mut file: toml::Table = std::fs::read_to_string(&fourth).unwrap().parse().unwrap();
    let storage = file.entry("storage").or_insert_with(|| toml::Table::new().into());
    let storage = storage.as_table_mut().unwrap();
    storage.insert("min_free".to_owned(), "1048576GiB".into());
    std::fs::write(&fourth, file.to_string()).unwrap();
    let _fourth = Node::start(&fourth);
    wait("node 4 joins and refuses writes", &hub, || {
        let status = status_of(&first)?;
        let full = |node: &Value| node["name"] == "node-4" && node["readOnly"] == true;
        let seen = status["nodes"].as_array()?.iter().any(full);
        (seen && state_of(&status, "node-4") == "active").then_some(())
    });
    let through = dir.path().join("4/node.json");
    // It ends when its last message is acknowledged.
    let fleet = holdfast()
        .args([
            "simulate",
            "-n",
            "4",
            "--interval",
            "0.01",
            "--messages",
            "5",
            "--connection-file",
        ])
        .arg(&through)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut fleet = Node(fleet);
    let ended = wait("20 messages through node 4", &hub, || fleet.0.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_hub_of_one_node_grows_to_three_and_keeps_what_it_has() {
    let mut hub = Hub::start(&[]);
    hub.ok(&["device", "create", "old-1"]);
    assert!(hub.stop().success());
    hub.launch(&["--nodes", "3"]);
    let third = node_file(&hub, 3);
    wait_healthy(&hub, &third);
    assert!(at(&third, &["device", "show", "old-1"]).unwrap().contains("old-1"));
}
