//! The members' addresses in the data directory: where a node connects before its registry replica is up.
//!
//! Why: after all nodes have died at once, the applied state of a registry replica may be missing until its log is
//! committed again, for which the members have to find each other first.
//! Invariant: the file is the latest address book, or a little older; it is a hint, never a membership.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_cluster::control::PeerDirectory;
use holdfast_cluster::peer::Peers;
use holdfast_model::NodeId;
use holdfast_storage::DataDir;
use holdfast_tasks::sync::Mutex;

use crate::certs::write_private;
use tokio::sync::watch;

const FILE: &str = "peers.json";

/// The address book of a node's connections, which keeps its addresses.
pub(super) struct AddressFile {
    peers: Peers,
    kept: Arc<Kept>,
}

struct Kept {
    path: PathBuf,
    addresses: Mutex<BTreeMap<NodeId, String>>,
    /// One writer at a time, each with what holds when it begins.
    writing: Mutex<()>,
}

impl AddressFile {
    pub(super) fn new(peers: Peers, data: &DataDir) -> Self {
        let kept = Kept {
            path: path(data),
            addresses: Mutex::new(read(data)),
            writing: Mutex::default(),
        };
        Self {
            peers,
            kept: Arc::new(kept),
        }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<NodeId, String>) -> bool) {
        if !change(&mut self.kept.addresses.lock()) {
            return;
        }
        let kept = Arc::clone(&self.kept);
        holdfast_tasks::spawn_critical("keep-addresses", async move {
            holdfast_tasks::spawn_blocking(move || kept.write()).await;
        });
    }
}

impl Kept {
    fn write(&self) {
        let _alone = self.writing.lock();
        let addresses = self.addresses.lock().clone();
        let written = serde_json::to_vec_pretty(&addresses)
            .map_err(anyhow::Error::from)
            .and_then(|text| write_private(&self.path, &text));
        if let Err(error) = written {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot write the members' addresses; they are written at the next change"
            );
        }
    }
}

impl PeerDirectory for AddressFile {
    fn set_member(&self, node: NodeId, name: &str, address: &str) {
        self.peers.set_name(node, name);
        self.peers.set_address(node, address);
        self.change(|kept| kept.insert(node, address.to_owned()).as_deref() != Some(address));
    }

    fn remove(&self, node: NodeId) {
        self.peers.remove(node);
        self.change(|kept| kept.remove(&node).is_some());
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.peers.is_up(node)
    }

    fn removal(&self) -> watch::Receiver<bool> {
        self.peers.removal()
    }
}

fn path(data: &DataDir) -> PathBuf {
    data.path().join(FILE)
}

/// The addresses that were kept last; empty when they cannot be read.
pub(super) fn read(data: &DataDir) -> BTreeMap<NodeId, String> {
    parse(&path(data)).unwrap_or_default()
}

fn parse(path: &Path) -> Option<BTreeMap<NodeId, String>> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
