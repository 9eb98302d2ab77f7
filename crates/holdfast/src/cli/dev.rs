//! `holdfast dev`: a hub for this machine, with nothing to set up first.
//!
//! It makes its own CA and certificates, listens on the standard ports of loopback, and writes `connection.json`.
//! When `--bind`, or the host itself, is a loopback address, everything listens there alone, so that many hubs run side by
//! side.

mod nodes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::Args;
use time::OffsetDateTime;

use super::ConfigSource;
use crate::certs;
use crate::config::{Config, ListenConfig};
use crate::connection::{self, ConnectionFile};
use crate::preflight::{self, PortState};
use crate::run;
use holdfast_cli::exit_code::Failure;
use holdfast_device_hub::UploadStorageKind;

const MQTTS: u16 = 8883;
const AMQPS: u16 = 5671;
const HTTPS: u16 = 443;
const MQTT: u16 = 1883;
const AMQP: u16 = 5672;
const OPS: u16 = 9600;
/// HTTPS ports to try when 443 cannot be bound: the first free one is taken.
const HTTPS_FALLBACK: std::ops::Range<u16> = 8443..8453;
/// Where metrics go when their port is taken.
const OPS_FALLBACK: std::ops::Range<u16> = 9601..9650;

/// Run a development hub on this machine
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where the hub keeps its data, CA and connection.json
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    /// The name or loopback address that clients use; 127.x.y.z makes all listeners bind to that address alone
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    host: String,
    /// The address that the hub listens on: a loopback address (the first of --nodes consecutive ones) for everything, any
    /// other for the TLS listeners alone [default: --host if it is a loopback address, else loopback]
    #[arg(long, value_name = "IP", alias = "nodes-from")]
    bind: Option<IpAddr>,
    /// 0: any free ports instead of the standard ones; connection.json tells which
    #[arg(long, value_name = "0", value_parser = clap::value_parser!(u16).range(0..=0), conflicts_with = "port_offset")]
    ports: Option<u16>,
    /// Add this to every standard port
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=50_000))]
    port_offset: u16,
    /// How many nodes: each a process of its own, node i on the i-th loopback address from --bind
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(nodes::MAX_NODES)))]
    nodes: u16,
    /// Let this many simulated devices send through the hub
    #[arg(long, value_name = "DEVICES", default_value_t = 0)]
    simulate: u32,
    /// Let devices ask for faults of their connections, as the SDKs' end-to-end suites do (docs/spec/fault-injection.md)
    #[arg(long)]
    fault_injection: bool,
    /// With --nodes: a file with a bearer token of the hub's issuer, to add nodes with when shared access policies are switched
    /// off
    #[arg(long, value_name = "FILE", env = "HOLDFAST_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    source: ConfigSource,
}

pub(super) fn run(args: Dev) -> Result<(), Failure> {
    if args.nodes > 1 {
        return nodes::run(&args);
    }
    let data_dir = std::path::absolute(&args.data_dir)?;
    let data = run::take_data_dir(&data_dir, false)?;
    // A hub that was killed leaves its file; clients must not take it for this hub's.
    let connection_file = data_dir.join(connection::FILE_NAME);
    let _ = std::fs::remove_file(&connection_file);

    let mut notes = Vec::new();
    let mut defaults = defaults(&args, &data_dir, None, &mut notes)?;
    defaults.hub.connection_file = Some(connection_file.clone());
    let certificates = certs::ensure(&data_dir, std::slice::from_ref(&args.host), OffsetDateTime::now_utc())?;
    defaults.tls.certificate_file = Some(certificates.certificate_file);
    defaults.tls.key_file = Some(certificates.key_file);
    defaults.tls.rsa_certificate_file = Some(certificates.rsa_certificate_file);
    defaults.tls.rsa_key_file = Some(certificates.rsa_key_file);
    defaults.tls.ca_file = Some(certificates.ca_file);
    let config = super::config::read(&args.source, defaults)?;

    let simulate = args.simulate;
    run::run(
        &config,
        data,
        Box::new(move |file| {
            super::print(&banner(file, &connection_file, &notes))?;
            if simulate == 0 {
                Ok(None)
            } else {
                fleet(&connection_file, simulate).map(Some)
            }
        }),
    )
}

/// The defaults of a node's configuration; `address`: where it listens, when it is one of several.
fn defaults(args: &Dev, data_dir: &Path, address: Option<IpAddr>, notes: &mut Vec<String>) -> Result<Config, Failure> {
    let mut config = Config::default();
    config.hub.host.clone_from(&args.host);
    config.hub.data_dir = data_dir.to_owned();
    config.log.level = "info".to_owned();
    config.mqtt.fault_injection = args.fault_injection;
    config.amqp.fault_injection = args.fault_injection;
    config.provisioning.enabled = true;
    config.blob.enabled = true;
    config.upload.storage = UploadStorageKind::Embedded;
    // The disk is the developer's, not the hub's: a share of it may be more than its owner ever leaves free.
    config.storage.min_free_percent = 0;
    let own = address.or_else(|| args.own_address());
    // Keys cross plain connections in clear: they never leave the machine, whatever --bind says.
    let plain = own.map_or_else(|| loopbacks(args), |own| vec![own]);
    let secured = match args.bind {
        Some(bind) if own.is_none() => vec![bind],
        _ => plain.clone(),
    };
    let port = |standard: u16| match args.ports {
        Some(_) => 0,
        None => standard.saturating_add(args.port_offset),
    };
    let https = match args.ports {
        Some(_) => 0,
        None => https_port(&secured, port(HTTPS), notes)?,
    };
    let at = |ips: &[IpAddr], port: u16| ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect::<Vec<_>>();
    config.listen = ListenConfig {
        mqtts: at(&secured, port(MQTTS)),
        amqps: at(&secured, port(AMQPS)),
        https: at(&secured, https),
        mqtt: at(&plain, port(MQTT)),
        amqp: at(&plain, port(AMQP)),
    };
    let ops = plain.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    config.ops.listen = SocketAddr::new(ops, port(OPS));
    if args.ports.is_none() && preflight::port(config.ops.listen)? == PortState::InUse {
        let free = first_free(&[ops], OPS_FALLBACK)?;
        if let Some(free) = free {
            config.ops.listen.set_port(free);
        }
    }
    Ok(config)
}

impl Dev {
    /// The one loopback address that everything listens on: `--bind`, or, without it, `--host`.
    fn own_address(&self) -> Option<IpAddr> {
        let named = self.bind.or_else(|| self.host.parse().ok());
        named.filter(IpAddr::is_loopback)
    }
}

/// 127.0.0.1, and ::1 where the machine has it: `localhost` resolves to either. With any free port only the first, since
/// the two would not get the same.
fn loopbacks(args: &Dev) -> Vec<IpAddr> {
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let has_v6 = args.ports.is_none() && matches!(preflight::port(SocketAddr::new(v6, 0)), Ok(PortState::Free));
    [Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), has_v6.then_some(v6)]
        .into_iter()
        .flatten()
        .collect()
}

fn https_port(ips: &[IpAddr], wanted: u16, notes: &mut Vec<String>) -> Result<u16, Failure> {
    let state = |port: u16| -> Result<PortState, Failure> {
        for ip in ips {
            match preflight::port(SocketAddr::new(*ip, port))? {
                PortState::Free => {}
                other => return Ok(other),
            }
        }
        Ok(PortState::Free)
    };
    let reason = match state(wanted)? {
        PortState::Free | PortState::NoAddress => return Ok(wanted),
        PortState::InUse => "is taken by another program".to_owned(),
        PortState::Denied => format!(
            "may not be bound by this user; to grant it:\n    {}",
            preflight::grant_advice()
        ),
    };
    let free = first_free(ips, HTTPS_FALLBACK)?.ok_or_else(|| {
        Failure::cannot_start(format!(
            "port {wanted} {reason}, and {}–{} are taken",
            HTTPS_FALLBACK.start,
            HTTPS_FALLBACK.end - 1
        ))
    })?;
    notes.push(format!(
        "HTTPS and WebSockets are on {free}, because port {wanted} {reason}"
    ));
    Ok(free)
}

fn first_free(ips: &[IpAddr], range: std::ops::Range<u16>) -> Result<Option<u16>, Failure> {
    for port in range {
        let mut free = true;
        for ip in ips {
            free &= preflight::port(SocketAddr::new(*ip, port))? == PortState::Free;
        }
        if free {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

/// A child that sends as a fleet, and ends when this process does: its standard input closes with us.
fn fleet(connection_file: &Path, devices: u32) -> Result<Child, Failure> {
    let program = std::env::current_exe()?;
    let child = Command::new(program)
        .arg("simulate")
        .arg("--connection-file")
        .arg(connection_file)
        .args(["--devices", &devices.to_string(), "--until-stdin-closes"])
        .stdin(Stdio::piped())
        .spawn()?;
    Ok(child)
}

/// This program as it was called: in a clone it is not on the search path.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "holdfast".to_owned())
}

fn banner(file: &ConnectionFile, path: &Path, notes: &[String]) -> String {
    let port = |port: Option<u16>| port.map_or_else(|| "–".to_owned(), |port| port.to_string());
    let ports = &file.ports;
    let host = &file.host_name;
    let ca = file
        .ca_file
        .as_deref()
        .map_or_else(String::new, |path| path.display().to_string());
    let mut text = format!(
        "\n  Holdfast is ready.\n\n\
         \x20 host                {host}\n\
         \x20 ports               MQTT {}, AMQP {}, HTTPS and WebSockets {}; plain on loopback: MQTT {}, AMQP {}\n\
         \x20 CA to trust         {ca}\n\
         \x20 connection strings  {}\n\
         \x20 metrics             {}\n\
         \x20 provisioning        id scope {}\n",
        port(ports.mqtt),
        port(ports.amqp),
        port(ports.https),
        port(ports.mqtt_plain),
        port(ports.amqp_plain),
        path.display(),
        file.metrics,
        file.provisioning.id_scope.as_deref().unwrap_or("–"),
    );
    for note in notes {
        text.push_str(&format!("\n  Note: {note}\n"));
    }
    let flag =
        if path.ends_with("data/connection.json") && std::env::current_dir().is_ok_and(|dir| path.starts_with(dir)) {
            String::new()
        } else {
            format!(" --connection-file {}", path.display())
        };
    let program = program();
    text.push_str(&format!(
        "\n  Try it, in another terminal:\n\
         \x20   {program} device create dev-1{flag}\n\
         \x20   {program} device connection-string dev-1{flag}     # goes into the device\n\
         \x20   {program} monitor-events{flag}                     # what devices send, live\n\
         \x20   {program} device diagnose dev-1{flag}              # why can't it connect?\n\n\
         \x20 docs/compatibility.md says how to make each SDK trust the CA. Ctrl-C stops the hub.\n\n",
    ));
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        dev: Dev,
    }

    fn listen(args: &[&str]) -> Config {
        let line = Line::try_parse_from([&["dev"], args].concat()).unwrap();
        defaults(&line.dev, Path::new("/tmp/x"), None, &mut Vec::new()).unwrap()
    }

    #[test]
    fn a_loopback_address_as_host_keeps_every_listener_on_it() {
        let config = listen(&["--host", "127.9.8.7", "--port-offset", "20000"]);
        let all: Vec<SocketAddr> = crate::node::addresses(&config).chain([config.ops.listen]).collect();
        assert_eq!(all.len(), 6);
        assert!(
            all.iter().all(|address| address.ip() == IpAddr::from([127, 9, 8, 7])),
            "{all:?}"
        );
        assert_eq!(config.listen.mqtts[0].port(), 28_883);
    }

    #[test]
    fn a_disk_that_is_nearly_full_by_share_alone_takes_writes() {
        let storage = listen(&[]).storage;
        assert_eq!(
            (storage.min_free, storage.min_free_percent),
            (holdfast_model::ByteSize::gib(1), 0)
        );
    }

    #[test]
    fn binding_to_a_loopback_address_moves_every_listener_there_under_any_name() {
        let config = listen(&["--host", "hub.test", "--bind", "127.0.0.9", "--ports", "0"]);
        assert_eq!(config.hub.host, "hub.test");
        let all: Vec<SocketAddr> = crate::node::addresses(&config).chain([config.ops.listen]).collect();
        assert_eq!(all.len(), 6);
        assert!(
            all.iter().all(|address| address.ip() == IpAddr::from([127, 0, 0, 9])),
            "{all:?}"
        );
    }

    #[test]
    fn binding_to_the_world_leaves_plain_ports_on_loopback() {
        let config = listen(&["--bind", "0.0.0.0", "--ports", "0"]);
        assert!(config.listen.mqtts.iter().all(|address| address.ip().is_unspecified()));
        assert!(
            config
                .listen
                .mqtt
                .iter()
                .chain(&config.listen.amqp)
                .all(|address| address.ip().is_loopback())
        );
        assert!(config.ops.listen.ip().is_loopback());
    }
}
