//! A node's configuration file.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::certificates::Certificates;

/// How a node becomes a member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// A hub of one node, without the cluster's keys.
    Alone,
    /// The first node of a new cluster.
    Founder,
    /// Joins through the nodes at these addresses.
    Joins(Vec<String>),
}

/// A node's configuration.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its number, from 1.
    pub number: u32,
    /// Its name in the cluster.
    pub name: String,
    /// The hub's host name.
    pub host: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The address that its listeners bind.
    pub bind: Ipv4Addr,
    /// Added to the standard ports.
    pub port_offset: u16,
    /// How many partitions a new hub has.
    pub partitions: u32,
    /// How it becomes a member.
    pub membership: Membership,
    /// How long sessions are kept without a lease, in seconds.
    pub grace_seconds: u64,
    /// Writes are refused below this much free space.
    pub min_free_bytes: u64,
    /// Its log filter.
    pub log_level: String,
}

impl NodeConfig {
    /// A port of this node.
    #[must_use]
    pub fn port(&self, standard: u16) -> u16 {
        standard + self.port_offset
    }

    /// The address for other nodes.
    #[must_use]
    pub fn peer_address(&self) -> String {
        format!("{}:{}", self.address, self.port(9700))
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self, data: &Path, folder: &Path, certificates: &Certificates) -> String {
        let mut text = String::new();
        let bind = |standard: u16| format!("{}:{}", self.bind, self.port(standard));
        let mut line = |parts: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = text.write_fmt(parts);
            text.push('\n');
        };
        line(format_args!("[hub]\nhost = {:?}\ndata_dir = {:?}", self.host, data));
        line(format_args!("connection_file = {:?}", folder.join("connection.json")));
        line(format_args!("partitions = {}\ncores = 1", self.partitions));
        line(format_args!("[listen]\nmqtts = [{:?}]", bind(8883)));
        line(format_args!("amqps = [{:?}]\nhttps = [{:?}]", bind(5671), bind(443)));
        line(format_args!("[tls]\ncertificate_file = {:?}", certificates.server));
        line(format_args!(
            "key_file = {:?}\nca_file = {:?}",
            certificates.server_key, certificates.ca
        ));
        line(format_args!("[secrets]\nkey_file = {:?}", sealing_key(certificates)));
        line(format_args!("[log]\nlevel = {:?}", self.log_level));
        line(format_args!("[ops]\nlisten = {:?}\ndrain_timeout = \"5s\"", bind(9600)));
        line(format_args!(
            "[storage]\nmin_free = \"{}B\"\nmin_free_percent = 1",
            self.min_free_bytes
        ));
        // Small, so that faults coincide with flushes and compactions.
        line(format_args!("write_buffer = \"8MiB\"\nmax_replay = \"32MiB\""));
        if self.membership == Membership::Alone {
            return text;
        }
        line(format_args!("[registry]\nsession_grace = \"{}s\"", self.grace_seconds));
        line(format_args!(
            "[cluster]\nnode_name = {:?}\nlisten = [{:?}]",
            self.name,
            bind(9700)
        ));
        // Leaderships move back early: more transfers in the same time.
        line(format_args!("leader_return_delay = \"2s\""));
        line(format_args!("advertise = {:?}", self.peer_address()));
        // A node that lost its disk comes back under another name with its old certificate.
        line(format_args!("accept_unnamed_certificates = true"));
        line(format_args!("certificate_file = {:?}", certificates.peer(self.number)));
        line(format_args!("key_file = {:?}", certificates.peer_key(self.number)));
        line(format_args!("ca_file = {:?}", certificates.peer_ca));
        match &self.membership {
            Membership::Joins(peers) => {
                line(format_args!("join = {peers:?}"));
                line(format_args!("join_token_file = {:?}", token_file(folder)));
            }
            Membership::Founder | Membership::Alone => line(format_args!("bootstrap = true")),
        }
        text
    }
}

/// The file of a node's join token.
#[must_use]
pub fn token_file(folder: &Path) -> PathBuf {
    folder.join("join-token")
}

/// One key that seals the secrets of all nodes: a joining node must have the cluster's.
#[must_use]
pub fn sealing_key(certificates: &Certificates) -> PathBuf {
    certificates.ca.with_file_name("sealing.key")
}
