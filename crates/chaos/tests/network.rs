//! The switch: packets pass, are dropped in one direction, and are delayed. Needs the right to create network
//! namespaces; without it the test prints that and passes.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use holdfast_chaos::net::{HOST, Link, Network};

/// Connects from a node's namespace to this process; whether that worked within a second.
fn connects(network: &Network, node: u32, port: u16) -> Result<bool> {
    let script = format!("exec 3<>/dev/tcp/{}/{port}", network.address(HOST));
    let mut command: Command = network.command(node);
    command.args(["timeout", "1", "bash", "-c", &script]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.context("cannot run a command in a namespace")?.success())
}

#[test]
fn links_pass_are_cut_in_one_direction_and_delay() -> Result<()> {
    let network = Network::new(2, 1)?;
    let Some(links) = network.links() else {
        eprintln!("skipped: {}", network.without().unwrap_or_default());
        return Ok(());
    };
    let listener = TcpListener::bind((network.address(HOST), 0))?;
    let port = listener.local_addr()?.port();
    ensure!(
        connects(&network, 1, port)? && connects(&network, 2, port)?,
        "packets do not pass"
    );

    let cut = Link {
        cut: true,
        ..Link::default()
    };
    for (from, to) in [(HOST, 1), (1, HOST)] {
        links.set(from, to, cut.clone());
        ensure!(
            !connects(&network, 1, port)?,
            "the cut from {from} to {to} lets packets through"
        );
        ensure!(connects(&network, 2, port)?, "the cut hits another link");
        links.heal();
    }
    ensure!(connects(&network, 1, port)?, "healing has no effect");

    links.set(
        1,
        HOST,
        Link {
            delay_us: 200_000..200_001,
            ..Link::default()
        },
    );
    let started = Instant::now();
    ensure!(connects(&network, 1, port)?, "a slow link loses packets");
    ensure!(
        started.elapsed() >= Duration::from_millis(200),
        "a slow link is not slow"
    );

    links.set(
        1,
        HOST,
        Link {
            loss: 1.0,
            ..Link::default()
        },
    );
    ensure!(!connects(&network, 1, port)?, "a link that loses everything does not");
    Ok(())
}
