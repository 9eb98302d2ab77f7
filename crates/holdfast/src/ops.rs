//! `/metrics`, `/livez` and `/readyz` on a listener of their own.
//!
//! Why their own: probes and scrapes must be answered when the hub refuses devices, and need no authentication on an
//! address that only operators reach. They have a thread of their own as well: a node that replays its log or waits to be
//! admitted is alive, and says so.
//! Invariants: an answer never waits for anything; at most [`MAX_CONNECTIONS`] at once. `/livez` fails only when the thread that
//! steers a running node has not run for [`MAX_STANDSTILL`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::metrics_catalogue;
use holdfast_cli::exit_code::Failure;

/// Probes and scrapers that are served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often histograms are tidied; otherwise their memory grows between scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How often the steering thread of a running node shows that it runs.
const STEERING_INTERVAL: Duration = Duration::from_secs(1);
/// How long that thread may not run: far longer than any write of a healthy disk.
const MAX_STANDSTILL: Duration = Duration::from_secs(60);
/// Upper bounds of every histogram of seconds: from an in-memory commit to a stalled disk.
const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
/// Upper bounds of every histogram of bytes.
const BYTES: [f64; 8] = [
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
];

/// Upper bounds of every histogram of numbers of things.
const COUNTS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0];

/// Sets the gauges of one scrape, which end with what they measure.
pub(crate) type Scrape = Arc<dyn Fn() + Send + Sync>;

/// Whether the hub takes work; `Err` says why not.
pub(crate) type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Installs the process's metrics recorder. Call it before any metric is made.
///
/// # Errors
/// When there is one already.
pub(crate) fn install_metrics() -> Result<PrometheusHandle, Failure> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_completions".to_owned()), &COUNTS))
        .map_err(anyhow::Error::from)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| Failure::cannot_start(error.to_string()))?;
    metrics_catalogue::describe();
    metrics_catalogue::build_info(env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// What the listener answers from. Clones share it.
#[derive(Clone)]
pub(crate) struct Ops(Arc<Shared>);

struct Shared {
    metrics: PrometheusHandle,
    /// Of the node, once it has started.
    node: OnceLock<(Scrape, Readiness)>,
    began: Instant,
    /// When the steering thread last ran, in milliseconds since `began`; 0: it is not watched.
    steered_ms: AtomicU64,
}

impl Ops {
    fn new(metrics: PrometheusHandle) -> Self {
        Self(Arc::new(Shared {
            metrics,
            node: OnceLock::new(),
            began: Instant::now(),
            steered_ms: AtomicU64::new(0),
        }))
    }

    /// Binds `address` and serves on a thread of its own until the process ends. Gives the bound address as well.
    ///
    /// # Errors
    /// Names the address.
    pub(crate) fn start(address: SocketAddr, metrics: PrometheusHandle) -> Result<(Self, SocketAddr), Failure> {
        let cannot = |error: std::io::Error| {
            Failure::cannot_start(format!("cannot listen on {address} for metrics: {error}"))
                .advise("set ops.listen to a free address")
        };
        let listener = std::net::TcpListener::bind(address).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let bound = listener.local_addr().map_err(cannot)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ops = Self::new(metrics);
        let served = ops.clone();
        std::thread::Builder::new().name("ops".to_owned()).spawn(move || {
            runtime.block_on(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, served).await,
                    Err(error) => tracing::error!(%error, "metrics and probes are not served"),
                }
            });
        })?;
        Ok((ops, bound))
    }

    /// The node has started: its gauges and its readiness count from now on, and the calling runtime is watched.
    pub(crate) fn node_started(&self, scrape: Scrape, readiness: Readiness) {
        // There is one node in a process.
        let _ = self.0.node.set((scrape, readiness));
        self.steered();
        let ops = self.clone();
        drop(holdfast_tasks::spawn_critical("steering", async move {
            let mut tick = tokio::time::interval(STEERING_INTERVAL);
            while ops.0.steered_ms.load(Ordering::Relaxed) > 0 {
                ops.steered();
                tick.tick().await;
            }
        }));
    }

    /// The node stops, which may keep its steering thread busy.
    pub(crate) fn node_stops(&self) {
        self.0.steered_ms.store(0, Ordering::Relaxed);
    }

    /// All metrics, as `/metrics` has them.
    pub(crate) fn render(&self) -> String {
        process_metrics();
        let of_node = self.0.node.get().map(|(scrape, _)| of_this_scrape(scrape));
        self.0.metrics.render() + of_node.as_deref().unwrap_or_default()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn steered(&self) {
        self.0.steered_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// How long the steering thread has not run.
    fn standstill(&self) -> Duration {
        match self.0.steered_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => Duration::from_millis(self.now_ms().saturating_sub(at)),
        }
    }
}

async fn serve(listener: TcpListener, ops: Ops) {
    let upkeep = ops.0.metrics.clone();
    let upkeep = holdfast_tasks::spawn_critical("metrics-upkeep", async move {
        let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tick.tick().await;
            upkeep.run_upkeep();
        }
    });
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            break;
        };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an operator's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let ops = ops.clone();
        holdfast_tasks::spawn("ops-connection", async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(request.uri().path(), &ops);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(socket), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an operator's connection ended with an error");
            }
            drop(permit);
        });
    }
    upkeep.abort();
}

fn answer(path: &str, ops: &Ops) -> Response<Full<Bytes>> {
    let probe = |outcome: Result<(), String>| match outcome {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    let node = ops.0.node.get();
    let (status, body) = match path {
        "/metrics" => (StatusCode::OK, ops.render()),
        "/livez" => probe(match ops.standstill() {
            standstill if standstill >= MAX_STANDSTILL => Err(format!(
                "the thread that steers the node has not run for {} s",
                standstill.as_secs()
            )),
            _ => Ok(()),
        }),
        "/readyz" => probe(match node {
            Some((_, readiness)) => readiness(),
            None => {
                Err("the node is starting: it waits to be admitted, or opens its data; its log says which".to_owned())
            }
        }),
        _ => (
            StatusCode::NOT_FOUND,
            "there are /metrics, /livez and /readyz\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}

/// The text of gauges that `scrape` sets now: the process's recorder keeps a gauge until it ends.
fn of_this_scrape(scrape: &Scrape) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        metrics_catalogue::describe();
        scrape();
    });
    recorder.handle().render()
}

/// Resources of the process, read at each scrape.
fn process_metrics() {
    metrics_catalogue::panics().set(count(holdfast_tasks::panics()));
    if let Ok(statm) = std::fs::read_to_string("/proc/self/statm")
        && let Some(pages) = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok())
    {
        metrics_catalogue::resident_bytes().set(count(pages * rustix::param::page_size() as u64));
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some((_, fields)) = stat.rsplit_once(") ")
    {
        let field = |at: usize| {
            fields
                .split(' ')
                .nth(at)
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        metrics_catalogue::cpu_seconds().set(count(field(11) + field(12)) / count(ticks));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metrics_catalogue::open_files().set(count(files.count() as u64));
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        metrics_catalogue::max_open_files().set(count(limit));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(path: &str, ops: &Ops) -> u16 {
        answer(path, ops).status().as_u16()
    }

    fn ops() -> Ops {
        Ops::new(PrometheusBuilder::new().build_recorder().handle())
    }

    #[test]
    fn readiness_answers_with_its_reason_and_liveness_does_not_ask() {
        let of_node = |readiness: Readiness| {
            let ops = ops();
            assert!(ops.0.node.set((Arc::new(|| {}), readiness)).is_ok());
            ops
        };
        let not_ready = of_node(Arc::new(|| Err("the registry has no leader".to_owned())));
        assert_eq!(status("/readyz", &not_ready), 503);
        assert_eq!(status("/livez", &not_ready), 200);
        assert_eq!(status("/metrics", &not_ready), 200);
        assert_eq!(status("/", &not_ready), 404);
        assert_eq!(status("/readyz", &of_node(Arc::new(|| Ok(())))), 200);
    }

    #[test]
    fn a_node_that_starts_is_alive_and_not_ready() {
        let starting = ops();
        assert_eq!(status("/livez", &starting), 200);
        assert_eq!(status("/readyz", &starting), 503);
        assert_eq!(status("/metrics", &starting), 200);
    }

    #[test]
    fn a_node_whose_steering_thread_hangs_is_not_alive_unless_it_stops() {
        let mut shared = Shared {
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            node: OnceLock::new(),
            began: Instant::now(),
            steered_ms: AtomicU64::new(1),
        };
        shared.began = shared.began.checked_sub(2 * MAX_STANDSTILL).unwrap();
        let ops = Ops(Arc::new(shared));
        assert_eq!(status("/livez", &ops), 503);
        ops.steered();
        assert_eq!(status("/livez", &ops), 200);
        ops.0.steered_ms.store(1, Ordering::Relaxed);
        ops.node_stops();
        assert_eq!(status("/livez", &ops), 200);
    }

    #[test]
    fn a_gauge_of_one_scrape_is_not_in_the_next() {
        let name = |name: &'static str| -> Scrape {
            Arc::new(move || metrics::gauge!("holdfast_saved_query_matches", "query" => name).set(3.0))
        };
        let first = of_this_scrape(&name("first"));
        assert!(first.contains("# HELP holdfast_saved_query_matches Devices"), "{first}");
        assert!(
            first.contains("holdfast_saved_query_matches{query=\"first\"} 3"),
            "{first}"
        );
        let second = of_this_scrape(&name("second"));
        assert!(
            second.contains("query=\"second\"") && !second.contains("query=\"first\""),
            "{second}"
        );
        assert_eq!(of_this_scrape(&(Arc::new(|| {}) as Scrape)), "");
    }
}
