//! Supervision of the nodes of `holdfast dev --nodes N`, from their readiness to the end.
//!
//! Why: a node that has ended may be started again in another terminal, with the command that is printed here. A node
//! therefore counts as serving when it answers, not when it is a child of this process.
//! Invariant: `connection.json` exists while any node serves, and holds the ports that the nodes have now.
//! Not here: how nodes are configured and started for the first time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{NodeProcess, POLL};
use crate::cli::dev::program;
use crate::connection::{self, ConnectionFile, NodeFacts};
use holdfast_cli::exit_code::{Failure, Outcome};

/// How often nodes are probed that are no children of this process.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long no node may serve before dev mode ends: time to start one again.
const NO_NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// The nodes and the file that tells clients about them.
pub(super) struct Supervisor<'a> {
    nodes: &'a mut [NodeProcess],
    path: &'a Path,
    published: Option<ConnectionFile>,
    serving: Vec<bool>,
}

impl<'a> Supervisor<'a> {
    /// Publishes the connection file of nodes that are all ready.
    ///
    /// # Errors
    /// When a node's own file cannot be read, or the hub's cannot be written.
    pub(super) fn start(nodes: &'a mut [NodeProcess], path: &'a Path) -> Result<(Self, ConnectionFile), Failure> {
        let mut supervisor = Self {
            serving: vec![true; nodes.len()],
            published: None,
            nodes,
            path,
        };
        let file = supervisor.merged(None)?;
        supervisor.publish(&file)?;
        Ok((supervisor, file))
    }

    /// Returns at a signal; fails when no node has served for [`NO_NODE_TIMEOUT`].
    ///
    /// # Errors
    /// As said.
    pub(super) fn run(&mut self, signals: &mut signal_hook::iterator::Signals) -> Result<(), Failure> {
        let mut probed = Instant::now();
        let mut last_served = probed;
        while signals.pending().next().is_none() {
            let has_ended = self.reap()?;
            if has_ended || probed.elapsed() >= PROBE_INTERVAL {
                probed = Instant::now();
                self.probe()?;
            }
            if self.serving.contains(&true) {
                last_served = Instant::now();
            } else if last_served.elapsed() >= NO_NODE_TIMEOUT {
                return Err(Failure::new(Outcome::Failed, "no node is left"));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Removes the connection file unless nodes serve that this process cannot stop.
    pub(super) fn end(self) {
        let others: Vec<&str> = (self.nodes.iter())
            .filter(|node| node.child.is_none() && answers(node))
            .map(|node| node.name.as_str())
            .collect();
        if others.is_empty() {
            // Gone already when no node serves.
            let _ = std::fs::remove_file(self.path);
        } else {
            eprintln!(
                "{} started in another terminal and still running; {} stays for them",
                others.join(", "),
                self.path.display()
            );
        }
    }

    /// Notes children that have ended; whether there are any.
    fn reap(&mut self) -> Result<bool, Failure> {
        let mut has_ended = false;
        for node in self.nodes.iter_mut() {
            if let Some(status) = node.ended()? {
                node.child = None;
                has_ended = true;
                holdfast_cli::print(&format!(
                    "  {} ended with {status}. To start it again:\n    {} start --config {}\n",
                    node.name,
                    program(),
                    quoted(&node.config_file)
                ))?;
            }
        }
        Ok(has_ended)
    }

    fn probe(&mut self) -> Result<(), Failure> {
        for (node, serving) in self.nodes.iter().zip(&mut self.serving) {
            let before = std::mem::replace(serving, node.child.is_some() || answers(node));
            if *serving && !before {
                holdfast_cli::print(&format!("  {} serves again.\n", node.name))?;
            }
        }
        if self.serving.contains(&true) {
            let file = self.merged(self.published.as_ref())?;
            if self.published.as_ref() != Some(&file) {
                self.publish(&file)?;
            }
        } else if self.published.take().is_some() {
            let _ = std::fs::remove_file(self.path);
        }
        Ok(())
    }

    fn publish(&mut self, file: &ConnectionFile) -> Result<(), Failure> {
        connection::write(file, self.path)?;
        self.published = Some(file.clone());
        Ok(())
    }

    /// The nodes' own files in one. A node without a file keeps the entry that it had in `before`.
    fn merged(&self, before: Option<&ConnectionFile>) -> Result<ConnectionFile, Failure> {
        let own: Vec<_> = (self.nodes.iter())
            .map(|node| ConnectionFile::read(&node.connection_file))
            .collect();
        let mut file = match (own.iter().flatten().next(), before) {
            (Some(first), _) => first.clone(),
            (None, Some(before)) => before.clone(),
            (None, None) => return Err(Failure::new(Outcome::Failed, "no node has a connection file")),
        };
        file.pids.clear();
        file.nodes.clear();
        for (at, (node, own)) in self.nodes.iter().zip(own).enumerate() {
            match (own, before) {
                (Ok(own), _) => {
                    file.pids.extend(&own.pids);
                    file.nodes.push(NodeFacts {
                        name: node.name.clone(),
                        address: node.address.to_string(),
                        ports: own.ports,
                        metrics: own.metrics,
                        config_file: Some(node.config_file.clone()),
                        data_dir: node.dir.clone(),
                    });
                }
                (Err(_), Some(before)) => {
                    file.pids.extend(before.pids.get(at));
                    file.nodes.extend(before.nodes.get(at).cloned());
                }
                (Err(error), None) => return Err(error.into()),
            }
        }
        Ok(file)
    }
}

/// Whether the node that its connection file describes is alive: `/livez` on its operators' port says 200.
fn answers(node: &NodeProcess) -> bool {
    let Ok(file) = ConnectionFile::read(&node.connection_file) else {
        return false;
    };
    let host = file.metrics.trim_start_matches("http://").split('/').next();
    let Some(address) = host.and_then(|host| host.parse::<SocketAddr>().ok()) else {
        return false;
    };
    let ask = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
        socket.set_read_timeout(Some(PROBE_TIMEOUT))?;
        write!(
            socket,
            "GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut head = [0; 12];
        socket.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
