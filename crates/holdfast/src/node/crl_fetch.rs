//! Fetches the CRLs of CAs from where the configuration says, on a schedule.
//!
//! Why: a CA makes a new list every day or week, and a hub that waits for an operator to upload it knows of revocations late.
//! Invariants: only the leader of the registry's group fetches, one list at a time, each bounded in bytes and time; a list gets
//! into the registry by the same checks as an uploaded one, so that what answers at the URL can withhold a newer list, and
//! nothing else.
//! Not here: the form of a list (`auth::x509`), where its URL is declared (`config::sections`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use holdfast_auth::x509::read_crl;
use holdfast_device_hub::DeviceHub;
use holdfast_model::limits::MAX_CRL_BYTES;
use holdfast_registry::{Changes, RegistryEvent};
use holdfast_tasks::{Phase, Stop};
use http::uri::Scheme;
use http::{HeaderName, Method, StatusCode, Uri, header};
use tokio::time::Instant;

use super::outbound::connect;
use crate::config::CrlConfig;
use crate::metrics_catalogue::crl_fetches;

/// How long one fetch may take: name, connection, TLS, answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The first delay after a failure; it doubles up to `crl.fetch_interval`.
const BACKOFF: Duration = Duration::from_secs(60);

/// How often a node that does not lead sees whether it does.
const LEADER_INTERVAL: Duration = Duration::from_secs(5);

/// The list of one CA.
struct Source {
    ca: String,
    url: Uri,
    due: Instant,
    failures: u32,
    /// The hub did not have the CA at the last attempt.
    is_missing: bool,
}

/// Where a list is, from `NAME=URL`.
///
/// # Errors
/// A sentence about the fault.
pub(crate) fn parse_source(text: &str) -> Result<(String, Uri), String> {
    let wanted = || {
        format!("must be NAME=URL with http or https, such as fleet=http://pki.example.com/fleet.crl, found {text:?}")
    };
    let (ca, url) = text.split_once('=').ok_or_else(wanted)?;
    let url: Uri = url.trim().parse().map_err(|_| wanted())?;
    let is_web = url.scheme() == Some(&Scheme::HTTP) || url.scheme() == Some(&Scheme::HTTPS);
    let authority = url.authority().ok_or_else(wanted)?;
    // A password would be in the configuration, the log and the registry.
    if ca.trim().is_empty() || !is_web || authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(wanted());
    }
    Ok((ca.trim().to_owned(), url))
}

/// Fetches until the node closes; returns at once when nothing is configured.
pub(crate) async fn run(config: CrlConfig, hub: Arc<DeviceHub>, stop: Stop) {
    let mut changes = hub.registry().changes();
    let interval = config.fetch_interval.get();
    let sources = config.sources.iter().filter_map(|text| parse_source(text).ok());
    let mut sources: Vec<Source> = sources
        .map(|(ca, url)| Source {
            ca,
            url,
            due: Instant::now(),
            failures: 0,
            is_missing: false,
        })
        .collect();
    while let Some(next) = sources.iter().map(|source| source.due).min() {
        tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            () = cas_changed(&mut changes) => {
                // A CA that was missing may be there now.
                for source in sources.iter_mut().filter(|source| source.is_missing) {
                    source.due = Instant::now();
                }
                continue;
            }
            () = tokio::time::sleep_until(next) => {}
        }
        for source in sources.iter_mut().filter(|source| source.due <= Instant::now()) {
            tokio::select! {
                biased;
                () = stop.reached(Phase::Closing) => return,
                wait = step(source, &config, &hub) => source.due = Instant::now() + jittered(wait.min(interval)),
            }
        }
    }
}

async fn cas_changed(changes: &mut Changes) {
    loop {
        match changes.next().await {
            Some(RegistryEvent::Authorities | RegistryEvent::Resync) => return,
            Some(_) => {}
            // The registry has ended, and the node with it.
            None => std::future::pending().await,
        }
    }
}

/// Spreads the fetches of many hubs: 90 to 110 percent.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.9..1.1))
}

/// One attempt, if this node is the one to make it; returns how long the next one waits.
async fn step(source: &mut Source, config: &CrlConfig, hub: &DeviceHub) -> Duration {
    let registry = hub.registry();
    if !registry.is_leader() {
        return LEADER_INTERVAL;
    }
    source.is_missing = registry.authorities().get(&source.ca).is_none();
    if source.is_missing {
        tracing::warn!(
            ca = source.ca,
            "crl.sources names a CA that the hub does not have; its CRL is fetched once it is added"
        );
        return config.fetch_interval.get();
    }
    let before = registry.authorities().crl(&source.ca).map(|crl| crl.sha256.clone());
    let url = source.url.to_string();
    let fetched = async {
        let body = tokio::time::timeout(TIMEOUT, fetch(&source.url, config))
            .await
            .map_err(|_| anyhow!("no answer within {} s", TIMEOUT.as_secs()))??;
        let der = read_crl(&body)?;
        let (_, crl) = registry.put_crl(&source.ca, Bytes::from(der), Some(&url)).await?;
        anyhow::Ok(crl)
    };
    match fetched.await {
        Ok(crl) => {
            source.failures = 0;
            let is_new = before.as_ref() != Some(&crl.sha256);
            crl_fetches(if is_new { "new" } else { "unchanged" }).increment(1);
            if is_new {
                let (number, entries) = (crl.list.number.to_string(), crl.list.entries());
                tracing::info!(ca = source.ca, url, number, entries, "a new CRL has been fetched");
            }
            config.fetch_interval.get()
        }
        Err(error) => {
            crl_fetches("failed").increment(1);
            source.failures = source.failures.saturating_add(1);
            let wait = BACKOFF.saturating_mul(1 << source.failures.saturating_sub(1).min(16));
            tracing::warn!(
                ca = source.ca,
                url,
                error = format!("{error:#}"),
                retry_s = wait.min(config.fetch_interval.get()).as_secs(),
                "the CRL of a CA could not be fetched; the one that the hub has stays in use"
            );
            wait
        }
    }
}

/// The body at `url`. A redirection is an error: only the configured host is called.
async fn fetch(url: &Uri, config: &CrlConfig) -> Result<Bytes> {
    let authority = url.authority().context("the URL has no host")?;
    let is_tls = url.scheme() == Some(&Scheme::HTTPS);
    let mut connection = connect(authority, is_tls, config.ca_file.clone(), MAX_CRL_BYTES).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let headers: [(HeaderName, &str); 2] = [
        (header::USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION"))),
        (header::ACCEPT, "application/pkix-crl, */*"),
    ];
    let answer = connection.request(Method::GET, path, &headers, Vec::new()).await?;
    ensure!(answer.status == StatusCode::OK, "the answer is {}", answer.status);
    Ok(answer.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_names_a_ca_and_a_web_address() {
        let (ca, url) = parse_source("fleet=http://pki.example.com:8080/a/fleet.crl?x=y").unwrap();
        assert_eq!((ca.as_str(), url.path()), ("fleet", "/a/fleet.crl"));
        assert!(parse_source("fleet = https://[::1]/x").is_ok());
        for text in [
            "",
            "fleet",
            "=http://x/y",
            "fleet=",
            "fleet=/a",
            "fleet=ftp://x/y",
            "fleet=file:///etc/passwd",
            "fleet=http://",
            "fleet=http://user:secret@x/y",
            "fleet=http://x y/",
        ] {
            assert!(parse_source(text).is_err(), "{text}");
        }
    }

    #[test]
    fn waits_are_spread_by_a_tenth() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(100));
            assert!((90..=110).contains(&wait.as_secs()), "{wait:?}");
        }
    }
}
