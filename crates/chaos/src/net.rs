//! The network between the nodes: a namespace for each, and a switch of our own in the middle.
//!
//! Why not bridges, nft and netem: not every kernel has them, and the load on the network is low (a hundred packets per
//! second and node). With the switch in this process ([`switch`]) every fault of links (cut, cut one way, lossy, slow)
//! works wherever there are TUN devices, is drawn from the seed, and ends with the process.
//! Without the right to make namespaces the nodes run on loopback addresses; faults of links are then skipped.
//! Invariant: namespaces are named after this process; those of ended processes are removed at the next start.

mod switch;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

pub use switch::{Link, Links};

/// The prefix of the namespaces' names.
const PREFIX: &str = "hfchaos-";
/// The switch's place for this process, among the nodes' numbers.
pub const HOST: u32 = 0;

/// The namespaces and addresses of the nodes. Dropping it removes them.
#[derive(Debug)]
pub struct Network {
    /// First three bytes of every address.
    subnet: [u8; 3],
    nodes: u32,
    switch: Option<switch::Switch>,
    /// Why there are no namespaces.
    without: Option<String>,
}

impl Network {
    /// Makes a network for nodes 1 to `nodes`.
    ///
    /// # Errors
    /// When the machine has no free addresses. Not being allowed to make namespaces is no error.
    pub fn new(nodes: u32, seed: u64) -> Result<Self> {
        remove_stale();
        match Self::with_namespaces(nodes, seed) {
            Ok(network) => Ok(network),
            Err(error) => {
                remove_own();
                Ok(Self {
                    subnet: [127, rand::random_range(16..250), rand::random()],
                    nodes,
                    switch: None,
                    without: Some(format!("{error:#}")),
                })
            }
        }
    }

    fn with_namespaces(nodes: u32, seed: u64) -> Result<Self> {
        let subnet = [10, 213, (std::process::id() % 250) as u8];
        let mut switch = switch::Switch::start(nodes, seed)?;
        let address = |node: u32| format!("{}/24", address_of(subnet, node));
        for (port, device) in switch.devices().iter().enumerate() {
            let node = u32::try_from(port)?;
            if node == HOST {
                ip(&["addr", "add", &address(node), "dev", device])?;
                ip(&["link", "set", device, "up"])?;
                continue;
            }
            let space = namespace(node);
            ip(&["netns", "add", &space])?;
            ip(&["link", "set", device, "netns", &space])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            ip(&["-n", &space, "addr", "add", &address(node), "dev", device])?;
            ip(&["-n", &space, "link", "set", device, "up"])?;
        }
        switch.begin()?;
        Ok(Self {
            subnet,
            nodes,
            switch: Some(switch),
            without: None,
        })
    }

    /// The address of a node.
    #[must_use]
    pub fn address(&self, node: u32) -> Ipv4Addr {
        address_of(self.subnet, node)
    }

    /// The address that a node's listeners bind.
    #[must_use]
    pub fn bind_address(&self, node: u32) -> Ipv4Addr {
        match self.switch {
            Some(_) => Ipv4Addr::UNSPECIFIED,
            None => self.address(node),
        }
    }

    /// Added to the standard ports: in a namespace they are free, on loopback they may be taken or forbidden.
    #[must_use]
    pub fn port_offset(&self) -> u16 {
        if self.switch.is_some() { 0 } else { 20_000 }
    }

    /// The links, to break and heal; `None` without namespaces.
    #[must_use]
    pub fn links(&self) -> Option<&Links> {
        self.switch.as_ref().map(switch::Switch::links)
    }

    /// Why there are no namespaces.
    #[must_use]
    pub fn without(&self) -> Option<&str> {
        self.without.as_deref()
    }

    /// A command that runs in the namespace of `node`, and that ends with this process. Its arguments are the program.
    /// Must be started by a thread that lives as long as the program is to.
    #[must_use]
    pub fn command(&self, node: u32) -> Command {
        let mut command = match self.switch {
            Some(_) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net=/run/netns/{}", namespace(node)))
                    .arg("setpriv");
                command
            }
            None => Command::new("setpriv"),
        };
        command.args(["--pdeathsig", "KILL", "--"]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 1..=self.nodes {
            let _ = ip(&["netns", "del", &namespace(node)]);
        }
    }
}

fn address_of(subnet: [u8; 3], node: u32) -> Ipv4Addr {
    let [a, b, c] = subnet;
    // A handful of nodes; this process is number 0.
    let last = if node == HOST { 100 } else { (node % 100) as u8 };
    Ipv4Addr::new(a, b, c, last)
}

fn namespace(node: u32) -> String {
    format!("{PREFIX}{}-{node}", std::process::id())
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("cannot run ip")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Removes the namespaces that killed runs left behind.
fn remove_stale() {
    for_each_namespace(|process| !Path::new(&format!("/proc/{process}")).exists());
}

fn remove_own() {
    let own = std::process::id().to_string();
    for_each_namespace(|process| process == own);
}

fn for_each_namespace(remove: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .map(|(process, _)| process);
        if process.is_some_and(&remove) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}
