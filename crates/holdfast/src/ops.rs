//! `/metrics`, `/livez` and `/readyz` on a listener of their own.
//!
//! Why their own: probes and scrapes must be answered when the hub refuses devices, and need no authentication on an
//! address that only operators reach.
//! Invariants: an answer never waits for anything; at most [`MAX_CONNECTIONS`] at once.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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

/// Binds the listener.
///
/// # Errors
/// Names the address.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::cannot_start(format!("cannot listen on {address} for metrics: {error}"))
            .advise("set ops.listen to a free address")
    })
}

/// Serves until dropped.
pub(crate) async fn serve(listener: TcpListener, metrics: PrometheusHandle, scrape: Scrape, readiness: Readiness) {
    let upkeep = metrics.clone();
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
        let (metrics, scrape, readiness) = (metrics.clone(), Arc::clone(&scrape), Arc::clone(&readiness));
        holdfast_tasks::spawn("ops-connection", async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(request.uri().path(), &metrics, &scrape, &readiness);
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

fn answer(path: &str, metrics: &PrometheusHandle, scrape: &Scrape, readiness: &Readiness) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/metrics" => {
            process_metrics();
            (StatusCode::OK, metrics.render() + &of_this_scrape(scrape))
        }
        "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match readiness() {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
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
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_answers_with_its_reason_and_liveness_does_not_ask() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let not_ready: Readiness = Arc::new(|| Err("the registry has no leader".to_owned()));
        let nothing: Scrape = Arc::new(|| {});
        let status =
            |path: &str, readiness: &Readiness| answer(path, &recorder.handle(), &nothing, readiness).status().as_u16();
        assert_eq!(status("/readyz", &not_ready), 503);
        assert_eq!(status("/livez", &not_ready), 200);
        assert_eq!(status("/metrics", &not_ready), 200);
        assert_eq!(status("/", &not_ready), 404);
        let ready: Readiness = Arc::new(|| Ok(()));
        assert_eq!(status("/readyz", &ready), 200);
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
