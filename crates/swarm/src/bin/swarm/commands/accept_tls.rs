//! `swarm accept-tls`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use holdfast_swarm::accept_tls::{ClientCertificates, Reference};
use holdfast_swarm::certificates::DeviceCa;
use holdfast_swarm::connects::DEVICES_CA;

/// A bare TLS server that accepts every CONNECT: the reference for `swarm connects`. It prints `listening ADDRESS`.
#[derive(Args)]
pub(crate) struct AcceptTls {
    /// The address; also the name in the certificate
    #[arg(long, default_value_t = IpAddr::from(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// The port; 0: a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where to write the CA of the server's certificate
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Request a certificate of clients, and check that they have its key
    #[arg(long)]
    client_certificates: bool,
    /// Also check that the CA in this folder has issued it; the CA is made if there is none
    #[arg(long, value_name = "FOLDER")]
    device_ca: Option<PathBuf>,
    /// Acceptors; one for each core by default
    #[arg(long)]
    threads: Option<usize>,
}

impl AcceptTls {
    pub(crate) fn run(self) -> Result<()> {
        let clients = match &self.device_ca {
            Some(folder) => ClientCertificates::Issuer(Box::new(DeviceCa::kept_in(folder, DEVICES_CA)?)),
            None if self.client_certificates => ClientCertificates::Possession,
            None => ClientCertificates::NotRequested,
        };
        let threads = match self.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism()?.get(),
        };
        let server = Reference::start(SocketAddr::new(self.bind, self.port), threads, &clients, &self.ca)?;
        println!("listening {}", server.address);
        server.wait()
    }
}
