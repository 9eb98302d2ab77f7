//! The cluster under test: founded, joined, watched, and put right again after each fault.
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
use crate::reach::{Endpoint, Reach};
use crate::recorder::Recorder;

/// What clients call the hub: the command line, run in a node's namespace, finds it there too.
const HOST: &str = "localhost";
/// What devices' names begin with.
const PREFIX: &str = "chaos-";
/// How long a node may take to start.
pub const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a cluster may take to have all replicas where they are wanted.
pub const SETTLE_PATIENCE: Duration = Duration::from_secs(90);
/// For one call.
const CALL_PATIENCE: Duration = Duration::from_secs(4);
/// How long a node that is gone may still count as up.
const GONE_PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(250);
/// The size of the small disk.
const SMALL_DISK: u64 = 1 << 30;
/// Below so much free space a node refuses writes.
pub const MIN_FREE: u64 = 32 << 20;

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The hub's binary.
    pub binary: PathBuf,
    /// Where everything is kept.
    pub folder: PathBuf,
    /// Nodes that are members from the beginning.
    pub nodes: u32,
    /// Nodes that come and go.
    pub spares: u32,
    /// Partitions.
    pub partitions: u32,
    /// How long sessions are kept without a lease, in seconds.
    pub grace_seconds: u64,
    /// What nodes log.
    pub log_level: String,
    /// What chance is drawn from.
    pub seed: u64,
}

/// The running cluster.
pub struct Cluster {
    // Nodes end before their namespaces.
    /// The members and spares, by number minus one.
    pub nodes: Vec<Node>,
    /// The network between them.
    pub network: Network,
    /// How clients reach it.
    pub reach: Arc<Reach>,
    /// The clock and the notebook.
    pub recorder: Arc<Recorder>,
    /// What chance is drawn from.
    pub rng: StdRng,
    setup: Setup,
    runtime: Runtime,
    /// How often a node has come back under another name.
    lives: u32,
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
        nodes[0].wait_ready(START_PATIENCE)?;
        let hub = Hub::load(&nodes[0].connection_file())?;
        let mut cluster = Self {
            nodes,
            network,
            reach: Arc::new(Reach::new(hub, PREFIX)?),
            recorder: Arc::default(),
            rng: StdRng::seed_from_u64(setup.seed),
            setup: setup.clone(),
            runtime: Builder::new_current_thread().enable_all().build()?,
            lives: 0,
            used_token: None,
        };
        cluster.admit_clients(1);
        for number in 2..=setup.nodes {
            cluster.join(number)?;
        }
        cluster.wait_settled(SETTLE_PATIENCE)?;
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
        self.reach.endpoints().iter().map(|endpoint| endpoint.node).collect()
    }

    /// Whether it is a hub of several nodes.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.setup.nodes > 1
    }

    /// A spare that is no member.
    #[must_use]
    pub fn spare(&self) -> Option<u32> {
        let members = self.members();
        (1..=self.setup.nodes + self.setup.spares).find(|number| !members.contains(number))
    }

    fn admit_clients(&self, number: u32) {
        self.reach.add(Endpoint {
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
        self.node(number).wait_ready(START_PATIENCE)
    }

    /// Lets a node with an empty disk join by a token, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not let in.
    pub fn join(&mut self, number: u32) -> Result<()> {
        self.begin_join(number)?;
        self.node(number).wait_ready(START_PATIENCE)?;
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

    /// A call to the operators' interface by the first node; the answer as it is.
    ///
    /// # Errors
    /// When there is none.
    pub fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, String)> {
        let endpoint = self.reach.endpoints().first().copied().context("there is no node")?;
        let mut caller = Caller::new(&self.reach)?;
        let (status, body) = self.runtime.block_on(caller.call(endpoint, method, path, None, None))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Waits for a join that was begun, and lets clients use the node.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn finish_join(&mut self, number: u32) -> Result<()> {
        self.node(number).wait_ready(START_PATIENCE)?;
        self.admit_clients(number);
        Ok(())
    }

    /// Gives up a node whose disk is gone or damaged, and brings it back empty, under another name.
    ///
    /// # Errors
    /// When the cluster does not let it go or come.
    pub fn replace(&mut self, number: u32) -> Result<()> {
        self.reach.remove(number);
        self.node(number).kill()?;
        let name = self.node(number).config.name.clone();
        self.forget(&name)?;
        self.rename(number);
        self.node(number).disk.wipe()?;
        self.join(number)
    }

    /// Removes a member that is down, as soon as the others have seen that it is.
    ///
    /// # Errors
    /// When they refuse for too long.
    pub fn forget(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + GONE_PATIENCE;
        let path = format!("/holdfast/v1/nodes/{name}?force=true");
        loop {
            match self.admin(Method::DELETE, &path, None) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => interrupt::pause(POLL)?,
            }
        }
    }

    /// Gives a node a name that no member had before.
    pub fn rename(&mut self, number: u32) {
        self.lives += 1;
        let name = format!("n{number}-{}", self.lives + 1);
        self.node(number).config.name = name;
    }

    /// A call to the operators' interface by any node that answers.
    ///
    /// # Errors
    /// When none does; the last error.
    pub fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut last = anyhow::anyhow!("there is no node");
        for endpoint in self.reach.endpoints() {
            let mut caller = Caller::new(&self.reach)?;
            let call = caller.must(endpoint, method.clone(), path, body);
            let answer = self
                .runtime
                .block_on(async { tokio::time::timeout(CALL_PATIENCE, call).await });
            match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(_) => last = anyhow::anyhow!("node {} does not answer {path}", endpoint.node),
            }
        }
        Err(last)
    }

    /// The cluster's status; `None` for a hub of one node, or when nobody answers.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        if !self.is_cluster() {
            return None;
        }
        self.admin(Method::GET, "/holdfast/v1/cluster", None).ok()
    }

    /// The partitions by the node that leads them, and who leads the registry, as far as is known.
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

    /// Waits until every member is ready and, in a cluster, every group is as it is wanted.
    ///
    /// # Errors
    /// When that takes longer than `patience`; what is missing.
    pub fn wait_settled(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let missing = self.missing()?;
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not settled after {} s: {missing}",
                patience.as_secs()
            );
            interrupt::pause(POLL)?;
        }
    }

    /// What keeps the cluster from being settled; empty = nothing.
    fn missing(&mut self) -> Result<String> {
        for number in self.members() {
            let node = self.node(number);
            if let Some(status) = node.ended()? {
                bail!(
                    "{} ended by itself with {status}: {}",
                    node.config.name,
                    node.last_words()
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
            return Ok("nobody answers".to_owned());
        };
        if status.get("healthy").and_then(Value::as_bool) == Some(true) {
            return Ok(String::new());
        }
        Ok(format!("status: {}", status.get("notes").cloned().unwrap_or_default()))
    }

    /// Members whose process has ended although nobody told it to.
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

    /// What was asked for.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// A number from the range, drawn from the seed.
    pub fn draw(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.rng.random_range(range)
    }
}

/// Who leads what.
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
