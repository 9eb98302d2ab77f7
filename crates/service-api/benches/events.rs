//! The hub's cost of reading a partition: server CPU per event of 256 bytes, and events per second, over loopback.
//!
//! The server runs on a thread of its own, whose CPU time the kernel tells (`schedstat`); reads from disk happen on the
//! blocking pool and are counted apart. Not criterion: one number over many events is wanted, not a distribution.
//! Run: `cargo bench -p holdfast-service-api --bench events [-- events]`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench ends where it fails, and prints what it found"
)]

#[path = "../tests/support/events_hub.rs"]
mod events_hub;

use std::time::{Duration, Instant};

use events_hub::{Client, HOST, Hub, on_a_core};
use holdfast_amqp::selector::Start;
use holdfast_amqp::{ClientSasl, Event};
use holdfast_model::{Property, PropertyValue, SystemProperties, TelemetryMessage};
use holdfast_net::Socket;
use holdfast_service_api::events::EventsConfig;

const BATCH: usize = 500;
const CREDIT: u32 = 4096;
/// Until the client may start, and until the server may stop.
type Signals = (
    std::sync::mpsc::SyncSender<(std::net::SocketAddr, String)>,
    tokio::sync::oneshot::Receiver<()>,
);

fn main() {
    let events: usize = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(400_000);
    let (started, is_started) = std::sync::mpsc::sync_channel(1);
    let (stop, is_stopped) = tokio::sync::oneshot::channel();
    let server = std::thread::Builder::new()
        .name("server".to_owned())
        .spawn(move || serve(events, (started, is_stopped)))
        .unwrap();
    let (address, token) = is_started.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (name, start) in [
        ("from the start", Start::Oldest),
        ("again, from the start", Start::Oldest),
        (
            "the newest tenth",
            Start::Sequence {
                number: (events - events / 10) as u64,
                inclusive: true,
            },
        ),
    ] {
        let (before, process) = (cpu_of("server"), cpu_of_process());
        let from = Instant::now();
        let count = runtime.block_on(read(address, &token, start, events as i64 - 1));
        let (took, used) = (from.elapsed(), cpu_of("server") - before);
        let all = cpu_of_process() - process;
        println!(
            "{name}: {count} events, {:.0} a second, {:.3} µs server CPU an event ({:.3} µs of the process, client included)",
            count as f64 / took.as_secs_f64(),
            used.as_secs_f64() * 1e6 / count as f64,
            all.as_secs_f64() * 1e6 / count as f64,
        );
    }
    drop(stop);
    server.join().unwrap();
}

fn serve(events: usize, (started, is_stopped): Signals) {
    on_a_core(|| async move {
        let hub = Hub::start(EventsConfig::default()).await;
        let body = [7u8; 256];
        let message = TelemetryMessage {
            payload: &body,
            system: SystemProperties {
                content_type: Some("application/json".into()),
                ..SystemProperties::default()
            },
            properties: [Property {
                name: "level".into(),
                value: PropertyValue::Text("normal".into()),
            }]
            .into_iter()
            .collect(),
        };
        let batch = vec![message; BATCH];
        for _ in 0..events / BATCH {
            hub.append(0, &batch).await;
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let token = hub.token("service", "sb://hub1.example.com/hub1", 600);
        started.send((listener.local_addr().unwrap(), token)).unwrap();
        let accepting = async {
            loop {
                let (socket, address) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                hub.endpoint.handler().accept(Socket::Plain(socket), address);
            }
        };
        tokio::select! {
            () = accepting => {}
            _ = is_stopped => {}
        }
    });
}

async fn read(address: std::net::SocketAddr, token: &str, start: Start, last: i64) -> u64 {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut client = Client::new(socket, HOST, ClientSasl::Anonymous);
    client.open().await;
    assert_eq!(client.put(token).await.status, 200);
    let link = client.receive(0, start, &[]).await.unwrap();
    client.engine.grant(link, CREDIT);
    let first = match start {
        Start::Sequence { number, .. } => number,
        _ => 0,
    };
    let (mut count, wanted) = (0, last.cast_unsigned() + 1 - first);
    client
        .until(|engine, event| {
            if let Event::Transfer(incoming) = event {
                count += 1;
                engine.top_up(incoming.link, CREDIT);
            }
            (count == wanted).then_some(())
        })
        .await;
    count
}

/// CPU time of the thread with this name.
fn cpu_of(name: &str) -> Duration {
    let task = std::fs::read_dir("/proc/self/task").unwrap().find_map(|entry| {
        let path = entry.ok()?.path();
        (std::fs::read_to_string(path.join("comm")).ok()?.trim() == name).then_some(path)
    });
    on_cpu(&task.unwrap().join("schedstat"))
}

fn cpu_of_process() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|entry| Some(on_cpu(&entry.ok()?.path().join("schedstat"))))
        .sum()
}

fn on_cpu(schedstat: &std::path::Path) -> Duration {
    let text = std::fs::read_to_string(schedstat).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}
