//! The cluster under test: creation, joins, status, and repair after each fault.
//!
//! Invariant: its processes are started by the thread that made it, and end with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_swarm::hub::Hub;
use http::{Method, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::history::REGISTRY;
use crate::interrupt;
use crate::load::service::Caller;
use crate::net::Network;
use crate::node::certificates::{Certificates, write_private};
use crate::node::config::{Membership, NodeConfig, sealing_key};
use crate::node::shims::Shims;
use crate::node::{Ended, Node, Plan};
use crate::recorder::Recorder;
use crate::targets::{Endpoint, Targets};

/// The hub's host name; the command line resolves it in a node's namespace as well.
const HOST: &str = "localhost";
/// The prefix of the devices' names.
const PREFIX: &str = "chaos-";
/// How long a node may take to start.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a cluster may take to place all replicas.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a node that has ended may still count as up.
const GONE_TIMEOUT: Duration = Duration::from_secs(60);
/// Poll interval while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The size of the small disk.
const SMALL_DISK: u64 = 1 << 30;
/// A node refuses writes below this much free space.
pub const MIN_FREE: u64 = 32 << 20;

/// The cluster to start.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The hub's binary.
    pub binary: PathBuf,
    /// The folder of all files.
    pub folder: PathBuf,
    /// Nodes that are members from the beginning.
    pub nodes: u32,
    /// Spare nodes, which join and leave.
    pub spares: u32,
    /// Partitions.
    pub partitions: u32,
    /// How long sessions are kept without a lease, in seconds.
    pub grace_seconds: u64,
    /// The nodes' log filter.
    pub log_level: String,
    /// The seed of all random choices.
    pub seed: u64,
}

/// The running cluster.
pub struct Cluster {
    // Nodes end before their namespaces.
    /// The members and spares, by number minus one.
    pub nodes: Vec<Node>,
    /// The network between them.
    pub network: Network,
    /// The addresses and credentials for clients.
    pub targets: Arc<Targets>,
    /// The clock and the recorded history.
    pub recorder: Arc<Recorder>,
    /// The source of all random choices.
    pub rng: StdRng,
    setup: Setup,
    runtime: Runtime,
    /// How many nodes were replaced, and came back under another name.
    replacements: u32,
    used_token: Option<String>,
}

impl Cluster {
    /// Starts the members and waits until all are ready and settled.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(setup: &Setup) -> Result<Self> {
        std::fs::create_dir_all(&setup.folder)?;
        let folder = setup.folder.canonicalize()?;
        let all = setup.nodes + setup.spares;
        let network = Network::new(all, setup.seed)?;
        let addresses: Vec<_> = (1..=all).map(|node| network.address(node)).collect();
        let certificates = Certificates::make(&folder.join("certificates"), HOST, &addresses, all)?;
        write_private(&sealing_key(&certificates), &"5a".repeat(32))?;
        let plan = Plan {
            binary: setup
                .binary
                .canonicalize()
                .with_context(|| format!("no binary {}", setup.binary.display()))?,
            shims: Shims::compile(&folder)?,
            folder,
            certificates,
        };
        let mut nodes = (1..=all)
            .map(|number| {
                let small = (number == setup.nodes).then_some(SMALL_DISK);
                Node::new(&plan, config(setup, &network, number), small)
            })
            .collect::<Result<Vec<_>>>()?;
        nodes[0].start(&network)?;
        nodes[0].wait_ready(START_TIMEOUT)?;
        let hub = Hub::load(&nodes[0].connection_file())?;
        let mut cluster = Self {
            nodes,
            network,
            targets: Arc::new(Targets::new(hub, PREFIX)?),
            recorder: Arc::default(),
            rng: StdRng::seed_from_u64(setup.seed),
            setup: setup.clone(),
            runtime: Builder::new_current_thread().enable_all().build()?,
            replacements: 0,
            used_token: None,
        };
        cluster.admit_clients(1);
        for number in 2..=setup.nodes {
            cluster.join(number)?;
        }
        cluster.wait_settled(SETTLE_TIMEOUT)?;
        Ok(cluster)
    }

    /// A node by its number.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn node(&mut self, number: u32) -> &mut Node {
        &mut self.nodes[number as usize - 1]
    }

    /// The numbers of the nodes that are members.
    #[must_use]
    pub fn members(&self) -> Vec<u32> {
        self.targets.endpoints().iter().map(|endpoint| endpoint.node).collect()
    }

    /// Whether the hub has several nodes.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.setup.nodes > 1
    }

    /// A spare node that is not a member.
    #[must_use]
    pub fn spare(&self) -> Option<u32> {
        let members = self.members();
        (1..=self.setup.nodes + self.setup.spares).find(|number| !members.contains(number))
    }

    fn admit_clients(&self, number: u32) {
        self.targets.add(Endpoint {
            node: number,
            ip: self.network.address(number).into(),
            port_offset: self.network.port_offset(),
        });
    }

    /// Starts a process of `number` without waiting for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self, number: u32) -> Result<()> {
        let network = &self.network;
        self.nodes[number as usize - 1].start(network)
    }

    /// Starts a node again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn restart(&mut self, number: u32) -> Result<()> {
        self.launch(number)?;
        self.node(number).wait_ready(START_TIMEOUT)
    }

    /// Lets a node with an empty disk join by a token, and waits until it is ready.
    ///
    /// # Errors
    /// When it is refused.
    pub fn join(&mut self, number: u32) -> Result<()> {
        self.begin_join(number)?;
        self.node(number).wait_ready(START_TIMEOUT)?;
        self.admit_clients(number);
        Ok(())
    }

    /// As [`Self::join`], without waiting.
    ///
    /// # Errors
    /// When there is no token, or it cannot be started.
    pub fn begin_join(&mut self, number: u32) -> Result<()> {
        let answer = self.admin(
            Method::POST,
            "/holdfast/v1/nodes/tokens",
            Some(&json!({"role": "core"})),
        )?;
        let token = answer
            .get("token")
            .and_then(Value::as_str)
            .context("the answer holds no token")?
            .to_owned();
        self.used_token = Some(token.clone());
        self.launch_with_token(number, &token)
    }

    /// Starts a node that joins with `token`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch_with_token(&mut self, number: u32, token: &str) -> Result<()> {
        let peers = self.members().into_iter().filter(|peer| *peer != number);
        let peers = peers
            .map(|peer| self.nodes[peer as usize - 1].config.peer_address())
            .collect();
        let node = self.node(number);
        node.config.membership = Membership::Joins(peers);
        node.give_token(token)?;
        self.launch(number)
    }

    /// A token with which a node has joined.
    #[must_use]
    pub fn used_token(&self) -> Option<&str> {
        self.used_token.as_deref()
    }

    /// A call to the operators' interface of the first node; returns the raw answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, String)> {
        let endpoint = self.targets.endpoints().first().copied().context("there is no node")?;
        let mut caller = Caller::new(&self.targets)?;
        let (status, body) = self.runtime.block_on(caller.call(endpoint, method, path, None, None))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Waits for a join that was begun, and adds the node to the clients' targets.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn finish_join(&mut self, number: u32) -> Result<()> {
        self.node(number).wait_ready(START_TIMEOUT)?;
        self.admit_clients(number);
        Ok(())
    }

    /// Replaces a node whose disk is lost or damaged by an empty one with another name.
    ///
    /// # Errors
    /// When the cluster refuses to remove or to admit it.
    pub fn replace(&mut self, number: u32) -> Result<()> {
        self.targets.remove(number);
        self.node(number).kill()?;
        let name = self.node(number).config.name.clone();
        self.forget(&name)?;
        self.rename(number);
        self.node(number).disk.wipe()?;
        self.join(number)
    }

    /// Removes a member that is down, as soon as the others have detected that.
    ///
    /// # Errors
    /// When they refuse for too long.
    pub fn forget(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + GONE_TIMEOUT;
        let path = format!("/holdfast/v1/nodes/{name}?force=true");
        loop {
            match self.admin(Method::DELETE, &path, None) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => interrupt::sleep(POLL_INTERVAL)?,
            }
        }
    }

    /// Gives a node a name that no member had before.
    pub fn rename(&mut self, number: u32) {
        self.replacements += 1;
        let name = format!("n{number}-{}", self.replacements + 1);
        self.node(number).config.name = name;
    }

    /// A call to the operators' interface of any node that answers.
    ///
    /// # Errors
    /// When none does; the last error.
    pub fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut last = anyhow::anyhow!("there is no node");
        for endpoint in self.targets.endpoints() {
            let mut caller = Caller::new(&self.targets)?;
            let call = caller.must(endpoint, method.clone(), path, body);
            let answer = self
                .runtime
                .block_on(async { tokio::time::timeout(CALL_TIMEOUT, call).await });
            match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(_) => last = anyhow::anyhow!("node {} does not answer {path}", endpoint.node),
            }
        }
        Err(last)
    }

    /// The cluster's status; `None` for a hub of one node, or when no node answers.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        if !self.is_cluster() {
            return None;
        }
        self.admin(Method::GET, "/holdfast/v1/cluster", None).ok()
    }

    /// The partitions by the node that leads them, and the registry's leader, as far as known.
    #[must_use]
    pub fn leaders(&self) -> Leaders {
        let mut leaders = Leaders::default();
        if !self.is_cluster() {
            leaders.partitions.insert(1, (0..self.setup.partitions).collect());
            leaders.registry = Some(1);
            return leaders;
        }
        let Some(status) = self.status() else { return leaders };
        let nodes = status
            .get("nodes")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let number_of = |id: &Value| {
            let name = nodes
                .iter()
                .find(|node| node.get("id") == Some(id))?
                .get("name")?
                .as_str()?;
            self.nodes
                .iter()
                .find(|node| node.config.name == name)
                .map(Node::number)
        };
        for group in status.get("groups").and_then(Value::as_array).into_iter().flatten() {
            let Some(leader) = group.get("leader").and_then(number_of) else {
                continue;
            };
            match group
                .get("partition")
                .and_then(Value::as_u64)
                .and_then(|number| u32::try_from(number).ok())
            {
                Some(partition) => leaders.partitions.entry(leader).or_default().push(partition),
                None => leaders.registry = Some(leader),
            }
        }
        leaders
    }

    /// Waits until every member is ready and, in a cluster, every group has all its replicas.
    ///
    /// # Errors
    /// When that takes longer than `timeout`; the error says what is missing.
    pub fn wait_settled(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let missing = self.missing()?;
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not settled after {} s: {missing}",
                timeout.as_secs()
            );
            interrupt::sleep(POLL_INTERVAL)?;
        }
    }

    /// The reasons why the cluster is not settled; empty = it is settled.
    fn missing(&mut self) -> Result<String> {
        for number in self.members() {
            let node = self.node(number);
            if let Some(status) = node.ended()? {
                bail!(
                    "{} ended by itself with {status}: {}",
                    node.config.name,
                    node.last_errors()
                );
            }
            if !node.is_ready() {
                return Ok(format!("{} is not ready", node.config.name));
            }
        }
        if !self.is_cluster() {
            return Ok(String::new());
        }
        let Some(status) = self.status() else {
            return Ok("no node answers".to_owned());
        };
        if status.get("healthy").and_then(Value::as_bool) == Some(true) {
            return Ok(String::new());
        }
        Ok(format!("status: {}", status.get("notes").cloned().unwrap_or_default()))
    }

    /// Members whose process has ended unexpectedly.
    ///
    /// # Errors
    /// When a process cannot be asked.
    pub fn died(&mut self) -> Result<Vec<Ended>> {
        let mut found = Vec::new();
        for number in self.members() {
            if let Some(status) = self.node(number).ended()? {
                found.push(Ended { node: number, status });
            }
        }
        Ok(found)
    }

    /// The run's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.setup.folder
    }

    /// The setup that the cluster was started with.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// A number from the range, drawn from the seed.
    pub fn draw(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.rng.random_range(range)
    }
}

/// The leaders of the partitions and of the registry.
#[derive(Debug, Default, Clone)]
pub struct Leaders {
    /// Partitions by node.
    pub partitions: BTreeMap<u32, Vec<u32>>,
    /// The registry's leader.
    pub registry: Option<u32>,
}

impl Leaders {
    /// The partitions that `nodes` lead, [`REGISTRY`] among them.
    #[must_use]
    pub fn led_by(&self, nodes: &[u32]) -> Vec<u32> {
        let led = nodes.iter().filter_map(|node| self.partitions.get(node)).flatten();
        let registry = self.registry.filter(|leader| nodes.contains(leader)).map(|_| REGISTRY);
        led.copied().chain(registry).collect()
    }

    /// The node that leads most.
    #[must_use]
    pub fn busiest(&self) -> Option<u32> {
        self.partitions
            .iter()
            .max_by_key(|(_, led)| led.len())
            .map(|(node, _)| *node)
    }
}

fn config(setup: &Setup, network: &Network, number: u32) -> NodeConfig {
    NodeConfig {
        number,
        name: format!("n{number}"),
        host: HOST.to_owned(),
        address: network.address(number),
        bind: network.bind_address(number),
        port_offset: network.port_offset(),
        partitions: setup.partitions,
        membership: if setup.nodes == 1 {
            Membership::Alone
        } else {
            Membership::Founder
        },
        grace_seconds: setup.grace_seconds,
        min_free_bytes: MIN_FREE,
        log_level: setup.log_level.clone(),
    }
}
