//! The rules about values alone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use holdfast_device_hub::Profile;

use super::{Config, Severity, Weakness};

/// A shorter retention loses events of a reader that is away over night.
const MIN_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Revocations that take longer surprise their authors.
const MAX_STALENESS: Duration = Duration::from_secs(5);
/// A certificate that has ended should not work much longer.
const MAX_CERTIFICATE_GRACE: Duration = Duration::from_secs(3600);
/// Fewer bytes of audit log are gone after one noisy night.
const MIN_AUDIT_BYTES: u64 = 128 << 20;

pub(super) fn weaknesses(config: &Config) -> Vec<Weakness> {
    let mut found = Vec::new();
    listeners(config, &mut found);
    secrets(config, &mut found);
    cluster(config, &mut found);
    limits(config, &mut found);
    found
}

fn listeners(config: &Config, found: &mut Vec<Weakness>) {
    if config.mqtt.fault_injection {
        found.push(Weakness::new(
            Severity::High,
            "mqtt.fault_injection",
            "a message of any device can break its connections and refuse its connects",
            "false; it is for the SDKs' end-to-end tests",
        ));
    }
    if config.amqp.fault_injection {
        found.push(Weakness::new(
            Severity::High,
            "amqp.fault_injection",
            "a message of any device can break its connection, with all devices on it, and refuse its connects",
            "false; it is for the SDKs' end-to-end tests",
        ));
    }
    let plain = [
        ("listen.mqtt", &config.listen.mqtt),
        ("listen.amqp", &config.listen.amqp),
    ];
    for (setting, addresses) in plain {
        if let Some(open) = addresses.iter().find(|address| !address.ip().is_loopback()) {
            found.push(Weakness::new(
                Severity::High,
                setting,
                format!("{open} takes keys and messages without TLS"),
                "[], or a loopback address behind a program that ends TLS",
            ));
        }
    }
    operators_listener(config.ops.listen, found);
    let has_tls = [&config.listen.mqtts, &config.listen.amqps, &config.listen.https]
        .into_iter()
        .any(|addresses| !addresses.is_empty());
    if has_tls && config.tls.certificate_file.is_none() {
        found.push(Weakness::new(
            Severity::High,
            "tls.certificate_file",
            "the TLS listeners have no certificate, and the hub does not start",
            "the server's certificate, and its key in tls.key_file",
        ));
    }
    if has_tls && config.tls.rsa_certificate_file.is_none() {
        found.push(Weakness::new(
            Severity::Low,
            "tls.rsa_certificate_file",
            "old clients that cannot verify ECDSA do not connect",
            "an RSA certificate, if there are such devices",
        ));
    }
    if ["localhost", "127.0.0.1", "::1"].contains(&&*config.hub.host) {
        found.push(Weakness::new(
            Severity::High,
            "hub.host",
            "no other machine reaches this name, and it is in every connection string",
            "the DNS name by which devices reach the hub",
        ));
    }
}

fn operators_listener(listen: SocketAddr, found: &mut Vec<Weakness>) {
    let severity = match listen.ip() {
        ip if ip.is_loopback() => return,
        ip if is_private(ip) => Severity::Low,
        _ => Severity::High,
    };
    found.push(Weakness::new(
        severity,
        "ops.listen",
        format!("{listen} serves metrics and health without authentication"),
        "a loopback address, or one that only operators reach",
    ));
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

fn secrets(config: &Config, found: &mut Vec<Weakness>) {
    match &config.secrets.key_file {
        None if config.has_sealing_key_file() => found.push(Weakness::new(
            Severity::High,
            "secrets.key_file",
            "the key that seals all keys is in the data directory: a stolen disk or backup opens them",
            "a file on another disk, with a backup of its own; or key_variable or key_command",
        )),
        Some(file) if file.starts_with(&config.hub.data_dir) => found.push(Weakness::new(
            Severity::High,
            "secrets.key_file",
            "the key that seals all keys is inside hub.data_dir: a stolen disk or backup opens them",
            "a file on another disk, with a backup of its own",
        )),
        None | Some(_) => {}
    }
    if config.hub.connection_file.is_some() {
        found.push(Weakness::new(
            Severity::High,
            "hub.connection_file",
            "the file holds the keys of all policies in clear",
            "leave it out, and give each back end the string of its own policy",
        ));
    }
    if config.s3.endpoint.starts_with("http://") {
        found.push(Weakness::new(
            Severity::Medium,
            "s3.endpoint",
            "files of devices go to the bucket unencrypted",
            "a URL with https, and the CA of its certificate in s3.ca_file",
        ));
    }
    let level = config.log.level.to_ascii_lowercase();
    if level.contains("debug") || level.contains("trace") {
        found.push(Weakness::new(
            Severity::Medium,
            "log.level",
            "debug logs name every connection and grow with the traffic",
            "\"info\"",
        ));
    }
}

fn cluster(config: &Config, found: &mut Vec<Weakness>) {
    let cluster = &config.cluster;
    if !cluster.is_on() {
        found.push(Weakness::new(
            Severity::Medium,
            "cluster.listen",
            "one node: its disk is the only copy, and each restart is an outage",
            "three nodes (docs/runbook.md, \"A cluster on three hosts\")",
        ));
        return;
    }
    if cluster.replication_factor == 1 {
        found.push(Weakness::new(
            Severity::High,
            "cluster.replication_factor",
            "a quorum of one: acknowledged messages are lost with a node's disk",
            "3",
        ));
    }
    if config.peers.accept_unnamed_certificates {
        found.push(Weakness::new(
            Severity::High,
            "cluster.accept_unnamed_certificates",
            "the holder of any certificate of the nodes' CA may claim to be any node",
            "false, with a certificate for each node that names it",
        ));
    }
    let members = cluster.join.len();
    if members > 0 && members.is_multiple_of(2) {
        found.push(Weakness::new(
            Severity::Medium,
            "cluster.join",
            format!("{members} nodes survive no more failures than {}", members - 1),
            "an odd number of nodes, three or five",
        ));
    }
    if cluster.bootstrap && cluster.join.is_empty() {
        found.push(Weakness::new(
            Severity::Medium,
            "cluster.bootstrap",
            "a node that has lost its disk creates a second, empty hub",
            "the addresses of the other nodes in cluster.join",
        ));
    }
    if cluster.bootstrap && !cluster.join.is_empty() && !cluster.bootstrap_with_all {
        found.push(Weakness::new(
            Severity::Medium,
            "cluster.bootstrap_with_all",
            "a node that has lost its disk creates a second, empty hub if the others do not answer for 3 s",
            "true; or leave cluster.bootstrap out once the hub exists",
        ));
    }
    if cluster.initial_tokens_file.is_some() {
        found.push(Weakness::new(
            Severity::Medium,
            "cluster.initial_tokens_file",
            "the holder of one of its tokens joins the cluster, for a week",
            "leave it out once all nodes have joined, and delete the file",
        ));
    }
    if cluster.zone.is_empty() {
        found.push(Weakness::new(
            Severity::Low,
            "cluster.zone",
            "the replicas of a partition may share a rack or an availability zone",
            "the failure zone of each node",
        ));
    }
}

fn limits(config: &Config, found: &mut Vec<Weakness>) {
    if config.throttles.profile == Profile::Unlimited {
        found.push(Weakness::new(
            Severity::Medium,
            "throttles.profile",
            "one back end or device that runs wild takes the hub from all others",
            "a tier, such as \"S2\", or rates of your own",
        ));
    }
    if config.partition.retention.get() < MIN_RETENTION {
        found.push(Weakness::new(
            Severity::Medium,
            "partition.retention",
            "a reader that is away for longer loses events",
            "\"1d\" or more",
        ));
    }
    if config.registry.max_staleness.get() > MAX_STALENESS {
        found.push(Weakness::new(
            Severity::Medium,
            "registry.max_staleness",
            "a device that was disabled may connect for that long",
            "\"1s\"",
        ));
    }
    if config.device_hub.certificate_grace.get() > MAX_CERTIFICATE_GRACE {
        found.push(Weakness::new(
            Severity::Medium,
            "device_hub.certificate_grace",
            "a session stays for that long after its certificate has ended",
            "\"5m\"",
        ));
    }
    if config
        .audit
        .max_file_size
        .0
        .saturating_mul(u64::from(config.audit.max_files))
        < MIN_AUDIT_BYTES
    {
        found.push(Weakness::new(
            Severity::Low,
            "audit.max_files",
            "the audit log reaches back less than a day when many are refused",
            "4 files of 64MiB or more, or a collector that reads the file",
        ));
    }
}
