//! `holdfast dev --nodes N`: a cluster on this machine, each node a process of its own on a loopback address of its own.
//!
//! This process starts the nodes, says when they are ready, and stops them. A node that ends is not restarted: the
//! command that starts it again is printed, so that failures can be tried out.
//! Node 1 keeps its data where a single node does, so that a hub of one node grows when it is started with more.

mod supervision;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use time::OffsetDateTime;

use super::{Dev, Failure, banner, certs, connection, defaults, fleet, preflight};
use crate::cli::config as config_file;
use crate::config::Config;
use holdfast_cli::exit_code::Outcome;
use holdfast_cli::{LoginArgs, cluster, node};
use supervision::Supervisor;

/// A node's own connection file.
const NODE_FILE: &str = "node.json";
/// The most nodes: a rehearsal of a large cluster on one machine.
pub(super) const MAX_NODES: u16 = 32;
/// Where nodes talk to each other, unless any free port will do.
const PEER: u16 = 9700;
/// Peer ports where any free port will do.
const PEER_CANDIDATES: std::ops::Range<u16> = 10_000..32_768;
/// Ports that are tried for one node; with all of them in use, the node names the last one.
const MAX_PORT_ATTEMPTS: usize = 100;
/// How long a node may take to be ready; a new one waits for what the others replicate to it.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(50);
/// How much longer than `ops.drain_timeout` a node may take to stop.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// One node before and while it runs.
struct NodeProcess {
    name: String,
    address: IpAddr,
    dir: PathBuf,
    config_file: PathBuf,
    connection_file: PathBuf,
    /// It has no data yet, and joins.
    joins: bool,
    child: Option<Child>,
}

/// Runs `args.nodes` nodes until it receives a stop signal.
pub(super) fn run(args: &Dev) -> Result<(), Failure> {
    let data_dir = std::path::absolute(&args.data_dir)?;
    let login = login(args, &data_dir)?;
    preflight::data_dir(&data_dir)?;
    let connection_file = data_dir.join(connection::FILE_NAME);
    let _ = std::fs::remove_file(&connection_file);
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;

    let mut notes = Vec::new();
    let mut nodes = prepare(args, &data_dir, &mut notes)?;
    let outcome = serve(args, &login, &mut nodes, &connection_file, &notes, &mut signals);
    stop(&mut nodes, args);
    outcome
}

/// How this process calls node 1, to add the others and to see that they are in place: with the owner's policy, or, when policies are
/// switched off, with the token of `--token-file`.
fn login(args: &Dev, data_dir: &Path) -> Result<LoginArgs, Failure> {
    let config: Config = config_file::read(&args.source, Config::default())?;
    let login = LoginArgs::of_file(data_dir.join(NODE_FILE));
    if config.service_auth.shared_policies {
        return Ok(login);
    }
    if args.token_file.is_none() {
        let text = "--nodes adds nodes over REST, and auth.service.shared_policies is false: no policy opens that";
        return Err(Failure::usage(text).advise(
            "give --token-file FILE: a bearer token of the hub's issuer for IoT Hub Data Contributor, read anew for each call",
        ));
    }
    Ok(login.with_token_file(args.token_file.clone()))
}

/// Writes certificates and configuration of every node.
fn prepare(args: &Dev, data_dir: &Path, notes: &mut Vec<String>) -> Result<Vec<NodeProcess>, Failure> {
    let addresses = addresses(args)?;
    let mut hosts = vec![args.host.clone()];
    hosts.extend(addresses.iter().map(ToString::to_string));
    let now = OffsetDateTime::now_utc();
    let server = certs::ensure(data_dir, &hosts, now)?;

    let mut nodes: Vec<NodeProcess> = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let name = format!("node-{}", at + 1);
        let dir = if at == 0 {
            data_dir.to_owned()
        } else {
            data_dir.join(&name)
        };
        preflight::data_dir(&dir)?;
        let node = NodeProcess {
            joins: at > 0 && !dir.join("holdfast.node").exists(),
            config_file: dir.join("holdfast.toml"),
            connection_file: dir.join(NODE_FILE),
            name,
            address: *address,
            dir,
            child: None,
        };
        let _ = std::fs::remove_file(&node.connection_file);
        nodes.push(node);
    }
    let peers = nodes
        .iter()
        .map(|node| peer_address(args, node))
        .collect::<Result<Vec<_>, _>>()?;
    for (at, node) in nodes.iter().enumerate() {
        let peer = certs::ensure_peer(data_dir, &node.dir, &node.name, now)?;
        let mut config = defaults(args, &node.dir, Some(node.address), notes)?;
        config.hub.aliases = hosts[1..].to_vec();
        config.hub.connection_file = Some(node.connection_file.clone());
        config.tls.certificate_file = Some(server.certificate_file.clone());
        config.tls.key_file = Some(server.key_file.clone());
        config.tls.rsa_certificate_file = Some(server.rsa_certificate_file.clone());
        config.tls.rsa_key_file = Some(server.rsa_key_file.clone());
        config.tls.ca_file = Some(server.ca_file.clone());
        // Blobs are on one node's disk; the others sign for it and send devices there.
        config.blob.enabled = at == 0;
        config.blob.key_file = Some(data_dir.join("blob.key"));
        config.upload.endpoint = authority(nodes[0].address, config.listen.https.first());
        config.upload.ca_file = Some(server.ca_file.clone());
        config.secrets.key_file = Some(data_dir.join("sealing.key"));
        config.cluster.node_name.clone_from(&node.name);
        config.cluster.listen = vec![peers[at]];
        config.cluster.certificate_file = Some(peer.certificate_file);
        config.cluster.key_file = Some(peer.key_file);
        config.cluster.ca_file = Some(peer.ca_file);
        config.cluster.bootstrap = at == 0;
        config.cluster.join = peers
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .map(|(_, address)| address.to_string())
            .collect();
        config.cluster.join_token_file = Some(node.dir.join("join-token"));
        let mut config: Config = config_file::read(&args.source, config)?;
        certs::write_private(
            &node.config_file,
            holdfast_config::page::effective(&mut config).as_bytes(),
        )?;
    }
    Ok(nodes)
}

/// The host of a URL of a node that listens on that port.
fn authority(address: IpAddr, listener: Option<&SocketAddr>) -> String {
    match listener.map(SocketAddr::port) {
        None | Some(443 | 0) => address.to_string(),
        Some(port) => format!("{address}:{port}"),
    }
}

/// Node i listens on the i-th address from `--bind`, else from a loopback address as `--host`, else from 127.0.0.1.
fn addresses(args: &Dev) -> Result<Vec<IpAddr>, Failure> {
    let first = match (args.own_address(), args.bind) {
        (Some(IpAddr::V4(own)), _) => own,
        (_, None) => Ipv4Addr::LOCALHOST,
        (_, Some(_)) => {
            return Err(Failure::usage(
                "with --nodes, --bind is the first of the nodes' addresses: one of 127.0.0.0/8",
            )
            .advise("for nodes on several machines see docs/runbook.md, \"A cluster\""));
        }
    };
    let [.., last] = first.octets();
    if u16::from(last) + args.nodes > 255 {
        return Err(Failure::usage(format!(
            "{} nodes from {first} on leave 127.x.y.0/24; choose a lower --bind or --host",
            args.nodes
        )));
    }
    let base = u32::from(first);
    Ok((0..u32::from(args.nodes))
        .map(|offset| IpAddr::V4(Ipv4Addr::from(base + offset)))
        .collect())
}

/// Where a node's peers reach it: the standard port, or, with any free ports, the one that it had before.
fn peer_address(args: &Dev, node: &NodeProcess) -> Result<SocketAddr, Failure> {
    if args.ports.is_none() {
        return Ok(SocketAddr::new(node.address, PEER.saturating_add(args.port_offset)));
    }
    let before = std::fs::read_to_string(&node.config_file).ok().and_then(|text| {
        let file: toml::Table = text.parse().ok()?;
        let listen = file.get("cluster")?.get("listen")?.as_array()?.first()?.as_str()?;
        listen.parse::<SocketAddr>().ok()
    });
    if let Some(before) = before.filter(|before| before.ip() == node.address)
        && preflight::port(before)? == preflight::PortState::Free
    {
        return Ok(before);
    }
    free_peer_port(node.address)
}

/// A free port that stays free until the node listens on it.
///
/// It is below the ports that systems give to connections and to listeners on port 0 (from 32768 on Linux): the nodes that are started
/// before this one already connect to it, and a connection attempt could take the port itself.
fn free_peer_port(address: IpAddr) -> Result<SocketAddr, Failure> {
    let random = || SocketAddr::new(address, rand::random_range(PEER_CANDIDATES));
    let mut candidate = random();
    for _ in 0..MAX_PORT_ATTEMPTS {
        if preflight::port(candidate)? == preflight::PortState::Free {
            break;
        }
        candidate = random();
    }
    Ok(candidate)
}

/// Starts the nodes, publishes the connection file, and supervises them until the end.
fn serve(
    args: &Dev,
    login: &LoginArgs,
    nodes: &mut [NodeProcess],
    connection_file: &Path,
    notes: &[String],
    signals: &mut signal_hook::iterator::Signals,
) -> Result<(), Failure> {
    // Nodes with data need each other; nodes without need a ready one to join.
    for node in nodes.iter_mut().filter(|node| !node.joins) {
        node.start()?;
    }
    if wait_ready(nodes, signals)? {
        return Ok(());
    }
    for at in 0..nodes.len() {
        if nodes[at].joins {
            let Some(token) = join_token(login, signals)? else {
                return Ok(());
            };
            certs::write_private(&nodes[at].dir.join("join-token"), token.as_bytes())?;
            nodes[at].start()?;
            if wait_ready(nodes, signals)? {
                return Ok(());
            }
        }
    }
    if settle(login, signals)? {
        return Ok(());
    }
    let table = table(nodes);
    let (mut supervisor, file) = Supervisor::start(nodes, connection_file)?;
    holdfast_cli::print(&banner(&file, connection_file, notes))?;
    holdfast_cli::print(&table)?;
    let mut fleet = match args.simulate {
        0 => None,
        devices => Some(fleet(connection_file, devices)?),
    };
    let ended = supervisor.run(signals);
    supervisor.end();
    if let Some(fleet) = &mut fleet {
        // It may have ended by itself.
        let _ = fleet.kill();
        let _ = fleet.wait();
    }
    ended
}

/// How long a node that dev mode starts may take to use its token.
const TOKEN_VALID: holdfast_model::HumanDuration = holdfast_model::HumanDuration::secs(300);

impl NodeProcess {
    fn start(&mut self) -> Result<(), Failure> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("node.log"))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("start")
            .arg("--config")
            .arg(&self.config_file)
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.connection_file.exists()
    }

    /// Its end, if it has ended.
    fn ended(&mut self) -> Result<Option<std::process::ExitStatus>, Failure> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("node.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n    ")
    }
}

/// Waits until all nodes that have been started are ready; `true` when a signal came instead.
fn wait_ready(nodes: &mut [NodeProcess], signals: &mut signal_hook::iterator::Signals) -> Result<bool, Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let mut ready = true;
        for node in nodes.iter_mut().filter(|node| node.child.is_some()) {
            if let Some(status) = node.ended()? {
                return Err(Failure::cannot_start(format!(
                    "{} ended with {status} while starting:\n    {}",
                    node.name,
                    node.log_tail()
                )));
            }
            ready &= node.is_ready();
        }
        if ready {
            return Ok(false);
        }
        if signals.pending().next().is_some() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            let late: Vec<&str> = nodes
                .iter()
                .filter(|node| node.child.is_some() && !node.is_ready())
                .map(|node| node.name.as_str())
                .collect();
            return Err(Failure::cannot_start(format!("{} not ready in time", late.join(", ")))
                .advise("see node.log in their directories"));
        }
        std::thread::sleep(POLL);
    }
}

/// A token for a node that joins; `None` when a signal came instead. With a bearer token it waits until node 1 has read the keys of the
/// issuer.
fn join_token(login: &LoginArgs, signals: &mut signal_hook::iterator::Signals) -> Result<Option<String>, Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        match node::token(login, TOKEN_VALID, node::Role::Core) {
            Ok(token) => return Ok(Some(token)),
            Err(failure) if failure.outcome != Outcome::Failed || Instant::now() >= deadline => return Err(failure),
            Err(_) => {}
        }
        if signals.pending().next().is_some() {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until every group has the replicas that it is to have, so that a node may be lost from then on.
fn settle(login: &LoginArgs, signals: &mut signal_hook::iterator::Signals) -> Result<bool, Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        match cluster::fetch(login) {
            Ok(status) if cluster::is_settled(&status) => return Ok(false),
            Ok(_) | Err(_) if Instant::now() < deadline => {}
            _ => {
                return Err(
                    Failure::cannot_start("the nodes run, but their replicas are not all in place")
                        .advise("`holdfast cluster status` shows what is missing; see node.log in their directories"),
                );
            }
        }
        if signals.pending().next().is_some() {
            return Ok(true);
        }
        std::thread::sleep(POLL);
    }
}

fn table(nodes: &[NodeProcess]) -> String {
    let mut text = format!("  {} nodes, one process each:\n", nodes.len());
    for node in nodes {
        let pid = node.child.as_ref().map_or(0, Child::id);
        text.push_str(&format!(
            "    {}  {}  pid {pid}  log {}\n",
            node.name,
            node.address,
            node.dir.join("node.log").display()
        ));
    }
    text.push_str("  `holdfast cluster status` shows them all; kill one and see.\n\n");
    text
}

/// Stops the nodes that this process has started; a node that takes too long is killed.
fn stop(nodes: &mut [NodeProcess], args: &Dev) {
    for node in nodes.iter_mut() {
        if let Some(child) = &mut node.child {
            // The node ends when its standard input does.
            drop(child.stdin.take());
        }
    }
    let drain =
        config_file::read(&args.source, Config::default()).map_or_else(|_| Duration::ZERO, |c| c.ops.drain_timeout);
    let deadline = Instant::now() + drain + STOP_MARGIN;
    for node in nodes.iter_mut() {
        if let Some(mut child) = node.child.take() {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            // Fails when it has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_file(&node.connection_file);
        }
    }
}
