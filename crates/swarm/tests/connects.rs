//! Connects in a closed loop and in a storm, against the reference server.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_swarm::accept_tls::{ClientCertificates, Reference};
use holdfast_swarm::certificates::DeviceCa;
use holdfast_swarm::connect::ConnectionOptions;
use holdfast_swarm::connects::{self, Credential, DEVICES_CA, Plan, Registration};
use holdfast_swarm::target::{DeviceNames, Transport, tls};

/// A plan for `devices` devices against a server that requests `clients`; the second folder is the devices' CA, if they have one.
fn plan(
    clients: &ClientCertificates,
    device_ca: Option<&std::path::Path>,
    credential: Credential,
    transport: Transport,
    devices: u32,
) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let server = Reference::start(SocketAddr::from(([127, 0, 0, 1], 0)), 2, clients, &ca).unwrap();
    let names = DeviceNames::new("c-").unwrap();
    let registration = Registration {
        hub: None,
        tls: Some(tls(transport, &ca, "127.0.0.1").unwrap()),
        names: &names,
        count: devices,
        authorities: 1,
        device_ca: device_ca.map(Into::into),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    Plan {
        description: "reference".to_owned(),
        credential,
        transport: format!("{transport:?}"),
        authorities: 1,
        address: server.address,
        sources: Vec::new(),
        devices: runtime.block_on(registration.prepare(credential)).unwrap(),
        concurrency: 4,
        threads: 1,
        options: ConnectionOptions {
            keep_alive: 60,
            clean_session: true,
        },
        warmup: Duration::ZERO,
        duration: Duration::from_millis(300),
        pids: vec![std::process::id()],
    }
}

#[test]
fn connects_are_counted_and_measured_with_each_bare_credential() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = || ClientCertificates::Issuer(Box::new(DeviceCa::kept_in(folder.path(), DEVICES_CA).unwrap()));
    for (clients, device_ca, credential) in [
        (ClientCertificates::NotRequested, None, Credential::BareTls),
        (ClientCertificates::Possession, None, Credential::BareMtls),
        (issuer(), Some(folder.path()), Credential::BareMtls),
    ] {
        let plan = plan(&clients, device_ca, credential, Transport::Tls13, 8);
        let report = connects::run(plan).unwrap();
        assert!(report.refused.is_empty(), "{report}");
        assert!(report.connects > 0 && report.latency_us.p50 > 0, "{report}");
        assert!(report.server.unwrap().cpu_us_per_connect > 0.0);
    }
}

#[test]
fn refusals_are_counted_by_reason() {
    let clients = ClientCertificates::Issuer(Box::new(DeviceCa::new(DEVICES_CA).unwrap()));
    let report = connects::run(plan(&clients, None, Credential::BareMtls, Transport::Tls13, 4)).unwrap();
    assert_eq!(report.connects, 0);
    assert!(!report.refused.is_empty(), "{report}");
}

#[test]
fn a_storm_has_all_handshakes_in_flight_and_all_are_accepted() {
    for transport in [Transport::Tls13, Transport::Tls12] {
        let plan = plan(
            &ClientCertificates::Possession,
            None,
            Credential::BareMtls,
            transport,
            50,
        );
        let report = connects::storm(&plan).unwrap();
        assert_eq!((report.in_flight, report.accepted), (50, 50), "{report}");
        assert!(report.peak_bytes_per_client.is_some());
    }
}
