//! How a node enters its cluster: its connections, and whether it creates the hub, joins it, or is a member already.
//!
//! Why before the disk is opened: a new node's directory, its sealed secrets and its registry replica need the answer of
//! the members. Nothing of the directory but the node's id is written before that.
//! Not here: the members' decision (`cluster::control`), the disk (`store`).

mod address_file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use holdfast_cluster::control::PeerDirectory;
use holdfast_cluster::join::{JoinAnswer, JoinError, Joiner, join};
use holdfast_cluster::peer::{PeerIdentity, PeerTls, PeerTlsFiles, Peers, PeersConfig, Standing, node_dns_name};
use holdfast_cluster::transport::{Alone, Dispatch, Transport};
use holdfast_model::NodeId;
use holdfast_registry::{NodeRole, Registry};
use holdfast_storage::DataDir;
use holdfast_tasks::Stop;

use crate::certs::write_private;
use crate::config::{ClusterConfig, Config};
use holdfast_cli::exit_code::{Failure, Outcome};
use holdfast_node::CoreHandle;

use address_file::AddressFile;

/// How long a node tries to join before it ends, to be started again by its supervisor.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a node that may create the hub probes for one that exists.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Backoff between two probes of the nodes that must have no data before the hub is created.
const PROBE_BACKOFF: Duration = Duration::from_millis(500);
/// How often the log says for which nodes it waits.
const PROBE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The connections to other nodes; a hub by itself has none.
#[derive(Clone)]
pub(crate) struct ClusterJoin {
    pub(crate) dispatch: Dispatch,
    pub(crate) peers: Option<Peers>,
}

/// The address book of a hub by itself.
struct NoPeers;

impl PeerDirectory for NoPeers {
    fn set_member(&self, _node: NodeId, _name: &str, _address: &str) {}

    fn remove(&self, _node: NodeId) {}

    fn is_up(&self, _node: NodeId) -> bool {
        false
    }
}

/// How the node comes to its data.
pub(crate) enum Entry {
    /// It creates the hub, or resumes doing so.
    Founder,
    /// It has data, and resumes.
    Member,
    /// The members have just admitted it.
    Joined(JoinAnswer),
}

impl ClusterJoin {
    /// Listens for other nodes if the configuration says so.
    ///
    /// # Errors
    /// Certificates that cannot be used, an address that cannot be bound.
    pub(crate) async fn start(
        config: &Config,
        data: &DataDir,
        core: &CoreHandle,
        stop: &Stop,
    ) -> Result<Self, Failure> {
        let dispatch = Dispatch::new();
        let cluster = &config.cluster;
        let Some(listen) = cluster.listen.first().copied() else {
            return Ok(Self { dispatch, peers: None });
        };
        let tls = PeerTls::load(files(cluster)?).map_err(|error| {
            Failure::cannot_start(format!("{:#}", anyhow::Error::from(error)))
                .advise("cluster.* must name PEM files; the certificate bears the DNS name peer.holdfast")
        })?;
        let (name, nodes) = (cluster.name(), tls.nodes());
        let is_named = nodes.iter().any(|node| node.eq_ignore_ascii_case(&name));
        let serves = is_named || nodes.is_empty() && config.peers.accept_unnamed_certificates;
        if !serves {
            // The others would say the same, one by one.
            let text = "the certificate for other nodes does not say that it is this node's";
            return Err(Failure::cannot_start(text).advise(format!(
                "issue one that bears the DNS name {} besides peer.holdfast; where no certificate of the cluster names a \
                 node, set cluster.accept_unnamed_certificates on all nodes",
                node_dns_name(&name)
            )));
        }
        let identity = PeerIdentity {
            cluster: data.identity().cluster.clone(),
            node: NodeId(data.identity().incarnation),
            name,
            address: cluster.advertised(Some(listen)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let peers = {
            let (dispatch, stop) = (dispatch.clone(), stop.clone());
            let config = PeersConfig {
                listen: Some(listen),
                ..config.peers.clone()
            };
            core.run(move || async move { Peers::start(config, identity, tls, dispatch, stop).await })
                .await
                .context("cannot listen for other nodes")?
                .context("cannot listen for other nodes")?
        };
        Ok(Self {
            dispatch,
            peers: Some(peers),
        })
    }

    /// The transport of calls to other nodes.
    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        match &self.peers {
            Some(peers) => Arc::new(peers.clone()),
            None => Arc::new(Alone),
        }
    }

    /// Addresses and liveness of other nodes; the addresses are kept in the data directory as well.
    pub(crate) fn book(&self, data: &DataDir) -> Arc<dyn PeerDirectory> {
        match &self.peers {
            Some(peers) => Arc::new(AddressFile::new(peers.clone(), data)),
            None => Arc::new(NoPeers),
        }
    }

    /// Where other nodes connect.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.peers.as_ref()?.local_address()
    }

    /// Decides how the node comes to its data, and makes its directory one of the cluster's.
    ///
    /// # Errors
    /// The members refuse it, or none answers; says what to do.
    pub(crate) async fn enter(&self, config: &Config, data: &DataDir) -> Result<(DataDir, Entry), Failure> {
        if !data.is_fresh() && founding_file(data).exists() {
            // It died while it created the hub.
            return Ok((data.clone(), Entry::Founder));
        }
        if !data.is_fresh() {
            if let Some(peers) = &self.peers {
                for (node, address) in address_file::read(data) {
                    peers.set_address(node, &address);
                }
            }
            return Ok((data.clone(), Entry::Member));
        }
        let cluster = &config.cluster;
        let Some(peers) = self.peers.as_ref().filter(|_| !cluster.join.is_empty()) else {
            return Ok((found(self, data)?, Entry::Founder));
        };
        if cluster.bootstrap_with_all && all_are_without_data(peers, &cluster.join).await? {
            tracing::info!(
                "the other nodes have no data either: this node creates the hub (cluster.bootstrap_with_all)"
            );
            return Ok((found(self, data)?, Entry::Founder));
        }
        let secret = token(cluster.join_token_file.as_deref())?;
        let joiner = Joiner {
            id: NodeId(data.identity().incarnation),
            name: cluster.name(),
            address: cluster.advertised(self.local_address()),
            zone: cluster.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let may_found = cluster.bootstrap && !cluster.bootstrap_with_all;
        let timeout = if may_found { PROBE_TIMEOUT } else { JOIN_TIMEOUT };
        tracing::info!(members = ?cluster.join, "this node has no data: asking the members to admit it");
        let call = |address: &str, call| peers.call_address(address, call);
        match join(&call, &cluster.join, &secret, &joiner, timeout).await {
            Ok(answer) => {
                peers.set_cluster(&answer.cluster);
                for member in &answer.members {
                    peers.set_name(member.id, &member.name);
                    peers.set_address(member.id, &member.address);
                }
                tracing::info!(cluster = answer.cluster, members = answer.members.len(), "admitted");
                let data = data
                    .enter_cluster(&answer.cluster)
                    .map_err(|error| super::storage_failure(&error))?;
                Ok((data, Entry::Joined(answer)))
            }
            Err(JoinError::NoAnswer { reached: false, .. }) if may_found => {
                tracing::info!("no member answers: this node creates the hub (cluster.bootstrap)");
                Ok((found(self, data)?, Entry::Founder))
            }
            Err(error @ JoinError::Denied { .. }) => Err(Failure::caused(Outcome::CannotStart, error).advise(
                "`holdfast node token` on a member prints a token for one node; put it into cluster.join_token_file",
            )),
            Err(error) => Err(Failure::caused(Outcome::Failed, error)
                .advise("are cluster.join and the certificates right, and do most of the members run?")),
        }
    }
}

/// Waits until each of the other nodes says whether it has data. Gives whether none has: then there is no hub.
///
/// # Errors
/// When one of them says nothing for [`JOIN_TIMEOUT`].
async fn all_are_without_data(peers: &Peers, addresses: &[String]) -> Result<bool, Failure> {
    let begun = Instant::now();
    let mut logged = begun;
    loop {
        let probes = addresses
            .iter()
            .map(|address| async move { (address, peers.probe(address).await) });
        let answers = futures_util::future::join_all(probes).await;
        if answers.iter().any(|(_, standing)| *standing == Standing::Member) {
            return Ok(false);
        }
        let silent = answers.iter().filter_map(|(address, standing)| match standing {
            Standing::Silent(reason) => Some(format!("{address}: {reason}")),
            Standing::WithoutCluster | Standing::Member => None,
        });
        let silent: Vec<String> = silent.collect();
        if silent.is_empty() {
            return Ok(true);
        }
        let silent = silent.join("; ");
        if begun.elapsed() >= JOIN_TIMEOUT {
            let text = format!(
                "this node may create the hub, and waits for every other one to say that it has no data either; not yet: {silent}"
            );
            return Err(Failure::new(Outcome::Failed, text).advise(
                "start the others; if a hub exists, start its members, or leave cluster.bootstrap out, and this node joins it",
            ));
        }
        if logged.elapsed() >= PROBE_LOG_INTERVAL {
            logged = Instant::now();
            tracing::info!(
                waiting_s = begun.elapsed().as_secs(),
                silent,
                "waiting for the other nodes before the hub is created"
            );
        }
        tokio::time::sleep(PROBE_BACKOFF).await;
    }
}

/// Marker file: exists while the hub is being created, so that a node that dies meanwhile resumes it.
fn founding_file(data: &DataDir) -> PathBuf {
    data.path().join("founding")
}

/// The hub has been created.
pub(crate) fn founded(data: &DataDir) {
    if let Err(error) = std::fs::remove_file(founding_file(data)) {
        tracing::debug!(%error, "no marker of a hub being created to remove");
    }
}

/// Makes the directory one of a node that creates the hub.
fn found(connections: &ClusterJoin, data: &DataDir) -> Result<DataDir, Failure> {
    write_private(&founding_file(data), b"this node creates the hub\n")?;
    if !data.identity().cluster.is_empty() {
        return Ok(data.clone());
    }
    let cluster = new_cluster();
    if let Some(peers) = &connections.peers {
        peers.set_cluster(&cluster);
    }
    data.enter_cluster(&cluster)
        .map_err(|error| super::storage_failure(&error))
}

/// Makes the directory one of a node that founds a cluster at its first start, with the data of a backup.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn restored(data: &DataDir) -> Result<(), Failure> {
    super::store::begin_counting_starts(data)?;
    write_private(&founding_file(data), b"this node creates the hub from a backup\n")?;
    Ok(())
}

/// An id for a new cluster.
pub(crate) fn new_cluster() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn files(cluster: &ClusterConfig) -> Result<PeerTlsFiles, Failure> {
    let file = |key: &str, file: &Option<std::path::PathBuf>| {
        file.clone()
            .ok_or_else(|| Failure::usage(format!("{key} is not set, and cluster.listen is")))
    };
    Ok(PeerTlsFiles {
        ca: file("cluster.ca_file", &cluster.ca_file)?,
        certificate: file("cluster.certificate_file", &cluster.certificate_file)?,
        key: file("cluster.key_file", &cluster.key_file)?,
    })
}

/// The join token; empty when there is none: a member's refusal then says what to do.
fn token(file: Option<&Path>) -> Result<String, Failure> {
    let Some(file) = file.filter(|file| file.exists()) else {
        return Ok(String::new());
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::cannot_start(format!("cannot read {}: {error}", file.display())))?;
    Ok(text.trim().to_owned())
}

/// How long tokens of `cluster.initial_tokens_file` are valid.
const INITIAL_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Registers the initial tokens of a new hub.
///
/// # Errors
/// A file that cannot be read, a line that is no token.
pub(crate) async fn enter_initial_tokens(cluster: &ClusterConfig, registry: &Registry) -> Result<(), Failure> {
    let Some(file) = &cluster.initial_tokens_file else {
        return Ok(());
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::cannot_start(format!("cannot read {}: {error}", file.display())))?;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let which = || format!("line {} of {} is no join token", number + 1, file.display());
        let (secret, role) = initial_token(line).ok_or_else(|| {
            Failure::cannot_start(which())
                .advise("a line is 64 hexadecimal digits, and then nothing, `core` or `gateway`")
        })?;
        registry
            .enter_join_token(secret, INITIAL_TOKEN_LIFETIME, role)
            .await
            .with_context(which)?;
    }
    Ok(())
}

/// The token and the role of a line `TOKEN [core|gateway]`.
fn initial_token(line: &str) -> Option<(&str, NodeRole)> {
    let mut words = line.split_whitespace();
    let secret = words.next()?;
    let role = match words.next() {
        None | Some("core") => NodeRole::Core,
        Some("gateway") => NodeRole::Gateway,
        Some(_) => return None,
    };
    words.next().is_none().then_some((secret, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_initial_tokens_names_its_role_or_is_for_a_core_node() {
        assert_eq!(initial_token("ab12"), Some(("ab12", NodeRole::Core)));
        assert_eq!(initial_token(" ab12  core "), Some(("ab12", NodeRole::Core)));
        assert_eq!(initial_token("ab12\tgateway"), Some(("ab12", NodeRole::Gateway)));
        for line in ["", "ab12 Gateway", "ab12 gateway twice"] {
            assert_eq!(initial_token(line), None, "{line:?}");
        }
    }
}
