//! The cost of the connection between two nodes: CPU of both ends together, TLS on, over loopback.
//!
//! `cargo bench -p holdfast-cluster --bench peer`. Each node has a thread and a single-threaded runtime of its own, as in
//! the hub; figures are CPU of the whole process, so they hold both ends, the kernel's share included.
#![allow(clippy::unwrap_used, reason = "a measurement, not the hub")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use holdfast_cluster::peer::{PEER_DNS_NAME, PeerIdentity, PeerTls, Peers, PeersConfig};
use holdfast_cluster::transport::{Answer, Call, Chunks, Dispatch, Handler, MAX_CHUNK_BYTES, Service, Transport};
use holdfast_model::NodeId;
use holdfast_tasks::Stop;

struct Empty;

impl Handler for Empty {
    fn call(&self, _from: NodeId, _target: u32, _body: Bytes) -> Answer {
        Box::pin(std::future::ready(Ok(Bytes::new())))
    }

    fn upload(&self, _from: NodeId, _target: u32, _body: Bytes, mut chunks: Chunks) -> Answer {
        Box::pin(async move {
            let mut bytes = 0;
            while let Some(chunk) = chunks.next().await {
                bytes += chunk?.len();
            }
            Ok(bytes.to_string().into())
        })
    }
}

fn tls() -> impl Fn() -> PeerTls {
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    move || {
        let params = rcgen::CertificateParams::new(vec![PEER_DNS_NAME.to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        PeerTls::from_pem(ca.as_bytes(), leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A node on a thread of its own, for as long as the process lives.
fn node(id: NodeId, tls: PeerTls) -> Peers {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let dispatch = Dispatch::new();
            dispatch.enter(Service::Partition, Arc::new(Empty));
            let config = PeersConfig {
                listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
                accept_unnamed_certificates: true,
                ..PeersConfig::default()
            };
            let identity = PeerIdentity {
                cluster: "bench".to_owned(),
                node: id,
                name: format!("node-{id}"),
                address: String::new(),
                version: "0".to_owned(),
            };
            let peers = Peers::start(config, identity, tls, dispatch, Stop::new())
                .await
                .unwrap();
            send.send(peers).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receive.recv().unwrap()
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Ticks of 10 ms: utime and stime.
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

const SPAN: Duration = Duration::from_secs(4);

fn call(body: Bytes) -> Call {
    Call {
        service: Service::Partition,
        target: 1,
        body: vec![body],
        timeout: Duration::from_secs(10),
    }
}

/// Rounds of `window` calls at a time.
fn calls(peers: &Peers, what: &str, size: usize, window: usize) {
    let body = Bytes::from(vec![7; size]);
    let run = |span: Duration| {
        runtime().block_on(async {
            let began = Instant::now();
            let mut count = 0_u64;
            while began.elapsed() < span {
                let round: Vec<_> = (0..window).map(|_| peers.call(NodeId(2), call(body.clone()))).collect();
                for outcome in join_all(round).await {
                    outcome.unwrap();
                }
                count += window as u64;
            }
            (count, began.elapsed())
        })
    };
    run(Duration::from_millis(500));
    let before = cpu();
    let (count, took) = run(SPAN);
    let spent = cpu() - before;
    println!(
        "{what:40} {:9.2} us CPU a call {:8.3} us per 256 B {:10.0} calls/s {:7.0} us a round",
        spent * 1e6 / count as f64,
        spent * 1e6 / (count as f64 * (size as f64 / 256.0)),
        count as f64 / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 * window as f64 / count as f64,
    );
}

fn upload(peers: &Peers) {
    const CHUNKS: usize = 2000;
    let chunk = Bytes::from(vec![7; MAX_CHUNK_BYTES]);
    let before = cpu();
    let began = Instant::now();
    runtime().block_on(async {
        let chunks = stream::repeat(chunk).take(CHUNKS).map(Ok);
        peers
            .upload(NodeId(2), call(Bytes::new()), Box::pin(chunks))
            .await
            .unwrap();
    });
    let mib = (CHUNKS * MAX_CHUNK_BYTES) as f64 / f64::from(1 << 20);
    println!(
        "{:40} {:9.0} MiB/s {:8.2} ms CPU per MiB",
        "upload in 1 MiB chunks",
        mib / began.elapsed().as_secs_f64(),
        (cpu() - before) * 1e3 / mib,
    );
}

fn main() {
    let tls = tls();
    let one = node(NodeId(1), tls());
    let two = node(NodeId(2), tls());
    one.set_address(NodeId(2), &two.local_address().unwrap().to_string());
    two.set_address(NodeId(1), &one.local_address().unwrap().to_string());
    runtime().block_on(async {
        for peers in [&one, &two] {
            let mut liveness = peers.liveness();
            liveness
                .wait_for(|all| all.iter().any(|status| status.connected))
                .await
                .unwrap();
        }
    });
    calls(&one, "256 B, one at a time", 256, 1);
    calls(&one, "256 B, 16 at a time", 256, 16);
    calls(&one, "256 B, 64 at a time", 256, 64);
    calls(&one, "256 B, 1024 at a time", 256, 1024);
    calls(&one, "4 KiB (16 messages), 16 at a time", 4096, 16);
    calls(&one, "64 KiB, 4 at a time", 64 << 10, 4);
    calls(&one, "100 KiB, 4 at a time", 100 << 10, 4);
    calls(&one, "1 MiB, 4 at a time", 1 << 20, 4);
    upload(&one);
    let before = cpu();
    std::thread::sleep(Duration::from_secs(10));
    println!(
        "{:40} {:9.3} % of a core",
        "two nodes, idle, both together",
        (cpu() - before) * 10.0
    );
}
