//! Delivers notifications about uploaded files to the webhook of the configuration.
//!
//! Every node runs it, and each notification goes to one of them at a time (`device-hub`'s outbox).
//! Invariants: a notification is done with when the webhook has answered 2xx, or its time is over; one request at a time per node,
//! bounded in time and in bytes of the answer; after a failure the next attempt waits, longer each time, and the notification
//! may come from another node meanwhile, so that a receiver must expect it twice.
//! Not here: what a notification is (`device-hub`), its body (`service-api`).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use holdfast_device_hub::{DeviceHub, FeedbackVerdict, UploadConfig, UploadNotification, UploadReader, UploadSource};
use holdfast_service_api::notification_body;
use holdfast_tasks::{Phase, Stop};
use http::{HeaderName, Method, Uri, header};

use super::outbound::connect;
use crate::metrics_catalogue::webhook_deliveries;

/// Attempts before a notification goes back to its owner, and maybe to another node.
const ATTEMPTS: u32 = 4;

/// The first delay after a failure; it doubles.
const BACKOFF: Duration = Duration::from_secs(1);

/// How long nothing is taken after a notification went back.
const PAUSE: Duration = Duration::from_secs(15);

/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Delivers until the node closes; returns at once without a webhook.
pub(crate) async fn run(config: UploadConfig, ca_file: Option<PathBuf>, hub: Arc<DeviceHub>, stop: Stop) {
    let Ok(url) = config.webhook.parse::<Uri>() else {
        return;
    };
    if config.webhook.is_empty() {
        return;
    }
    let mut source = UploadSource::new(Arc::clone(&hub), UploadReader::Webhook);
    loop {
        let taken = tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            taken = std::future::poll_fn(|cx| source.poll_next(cx)) => taken,
        };
        let mut waiting = VecDeque::from(taken);
        while let Some(notification) = waiting.pop_front() {
            let delivered = tokio::select! {
                biased;
                () = stop.reached(Phase::Closing) => false,
                delivered = deliver(&url, &config, ca_file.clone(), &notification) => delivered,
            };
            let verdict = match delivered {
                true => FeedbackVerdict::Done,
                false => FeedbackVerdict::Released,
            };
            let mut settled = vec![notification];
            if !delivered {
                // What the webhook does not take now would only wait here for its lock.
                settled.extend(waiting.drain(..));
            }
            hub.settle_uploads(UploadReader::Webhook, settled, verdict).await;
            if !delivered {
                tokio::select! {
                    biased;
                    () = stop.reached(Phase::Closing) => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

/// All attempts of one notification.
async fn deliver(
    url: &Uri,
    config: &UploadConfig,
    ca_file: Option<PathBuf>,
    notification: &UploadNotification,
) -> bool {
    let body = notification_body(notification).to_string();
    let mut wait = BACKOFF;
    for attempt in 1..=ATTEMPTS {
        let posted = post(url, ca_file.clone(), &body, &notification.correlation_id);
        let posted = tokio::time::timeout(config.webhook_timeout.get(), posted).await;
        match posted.unwrap_or_else(|_| Err(anyhow!("no answer in time"))) {
            Ok(()) => {
                webhook_deliveries("delivered").increment(1);
                return true;
            }
            Err(error) => {
                webhook_deliveries("failed").increment(1);
                tracing::warn!(
                    correlation_id = notification.correlation_id,
                    attempt,
                    error = format!("{error:#}"),
                    "the webhook did not take a notification about an uploaded file"
                );
            }
        }
        if attempt < ATTEMPTS {
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.9..1.1))).await;
            wait *= 2;
        }
    }
    false
}

async fn post(url: &Uri, ca_file: Option<PathBuf>, body: &str, correlation_id: &str) -> Result<()> {
    let authority = url.authority().context("the URL has no host")?;
    let is_tls = url.scheme_str() == Some("https");
    let mut connection = connect(authority, is_tls, ca_file, MAX_ANSWER_BYTES).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let headers: [(HeaderName, &str); 2] = [
        (header::USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION"))),
        (HeaderName::from_static("x-ms-client-request-id"), correlation_id),
    ];
    let answer = connection
        .request(Method::POST, path, &headers, body.as_bytes().to_vec())
        .await?;
    ensure!(answer.status.is_success(), "the answer is {}", answer.status);
    Ok(())
}
