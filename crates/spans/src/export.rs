//! Sends spans to the collector: OTLP over HTTP with protobuf, one request at a time.
//!
//! Invariants: nothing waits for the collector but this task; a batch whose answer says that it may be repeated, or that has no answer, is
//! repeated with growing delays for [`MAX_AGE`], and others are not; spans that are lost are counted; the log has a line when exports begin to
//! fail and one when they work again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use holdfast_client::http::{Answer, Connection};
use holdfast_client::outbound;
use holdfast_tasks::{Phase, Stop};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use thiserror::Error;
use tokio::time::Instant;

use crate::config::TracingConfig;
use crate::tracer::{FinishedSpan, Recorded, Tracer};
use crate::{encode, metrics};

/// Spans of one request.
const MAX_BATCH: usize = 1024;

/// How long a batch is repeated.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The first delay after a failure; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// The longest delay.
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// How long the last spans of a node that stops may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Largest file of headers.
const MAX_HEADERS_BYTES: u64 = 64 * 1024;

/// Why an export failed.
#[derive(Debug, Error)]
pub enum ExportError {
    /// No answer.
    #[error("no answer from the collector: {0}")]
    NoAnswer(String),
    /// An answer after which the same may be sent again (429, 502, 503, 504).
    #[error("the collector answers {0} and wants it again")]
    Later(StatusCode, Option<Duration>),
    /// Any other answer.
    #[error("the collector answers {0}: {1}")]
    Refused(StatusCode, String),
    /// The file of headers cannot be used.
    #[error("tracing.headers_file: {0}")]
    Headers(String),
}

/// Whose spans they are: the attributes of each export.
#[derive(Debug, Clone)]
pub struct Resource {
    /// The node's name.
    pub instance: String,
    /// The node's id.
    pub node: u64,
    /// The hub's host name.
    pub hub: String,
}

/// The task that sends spans.
pub struct Exporter {
    config: TracingConfig,
    url: Uri,
    resource: Vec<(String, String)>,
    recorded: Recorded,
    connection: Option<Connection>,
    is_failing: bool,
}

impl Exporter {
    /// The tracer of a configuration and what exports its spans; `None` when there is no collector.
    #[must_use]
    pub fn new(config: &TracingConfig, resource: &Resource) -> (Tracer, Option<Self>) {
        let Some(url) = config.is_on().then(|| config.url()).flatten() else {
            return (Tracer::off(), None);
        };
        let (tracer, recorded) = Tracer::recording(config.sample_ratio, config.queue);
        let own = [
            ("service.name", config.service_name.clone()),
            ("service.instance.id", resource.instance.clone()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("holdfast.node.id", resource.node.to_string()),
            ("holdfast.hub", resource.hub.clone()),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value));
        let further = config
            .attributes()
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let exporter = Self {
            config: config.clone(),
            url,
            resource: own.into_iter().chain(further).collect(),
            recorded,
            connection: None,
            is_failing: false,
        };
        (tracer, Some(exporter))
    }

    /// Exports until the node closes, and then what has been recorded by then.
    pub async fn run(mut self, stop: Stop) {
        let mut batch = Vec::new();
        loop {
            let interval = self.config.interval.get();
            tokio::select! {
                biased;
                () = stop.reached(Phase::Closing) => break,
                () = self.recorded.filling.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
            while self.take(&mut batch) {
                let spans = std::mem::take(&mut batch);
                let count = spans.len() as u64;
                let body = self.encode(spans);
                tokio::select! {
                    biased;
                    () = stop.reached(Phase::Closing) => {
                        metrics::dropped("stopping").increment(count);
                        break;
                    }
                    () = self.deliver(&body, count) => {}
                }
            }
        }
        let last = async {
            while self.take(&mut batch) {
                let count = batch.len() as u64;
                let body = self.encode(std::mem::take(&mut batch));
                match self.post(&body).await {
                    Ok(rejected) => self.done(count, rejected),
                    Err(_) => metrics::dropped("stopping").increment(count),
                }
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, last).await.is_err() {
            tracing::warn!("the last spans were not exported: the collector did not answer in time");
        }
    }

    /// Takes what waits; `false` when there is nothing.
    fn take(&mut self, batch: &mut Vec<FinishedSpan>) -> bool {
        while batch.len() < MAX_BATCH
            && let Ok(span) = self.recorded.spans.try_recv()
        {
            batch.push(*span);
        }
        !batch.is_empty()
    }

    fn encode(&self, spans: Vec<FinishedSpan>) -> Bytes {
        encode::request(&self.resource, spans).encode_to_vec().into()
    }

    /// Sends one batch, again while that makes sense.
    async fn deliver(&mut self, body: &Bytes, count: u64) {
        let until = Instant::now() + MAX_AGE;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let error = match self.post(body).await {
                Ok(rejected) => return self.done(count, rejected),
                Err(error) => error,
            };
            metrics::exports("failed").increment(1);
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(endpoint = %self.url, %error, "spans cannot be exported; they are dropped while the queue is full");
            }
            let wait = match &error {
                ExportError::Refused(..) => {
                    metrics::dropped("refused").increment(count);
                    return;
                }
                ExportError::Later(_, Some(after)) => (*after).min(MAX_AGE),
                ExportError::Later(_, None) | ExportError::NoAnswer(_) | ExportError::Headers(_) => backoff,
            };
            let wait = wait.mul_f64(rand::random_range(0.9..1.1));
            if Instant::now() + wait >= until {
                metrics::dropped("unreachable").increment(count);
                return;
            }
            tokio::time::sleep(wait).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    fn done(&mut self, count: u64, rejected: u64) {
        metrics::exports("done").increment(1);
        metrics::exported().increment(count.saturating_sub(rejected));
        if rejected > 0 {
            metrics::dropped("refused").increment(rejected);
        }
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(endpoint = %self.url, "spans are exported again");
        }
    }

    /// One request; gives the number of spans that the collector has not taken.
    async fn post(&mut self, body: &Bytes) -> Result<u64, ExportError> {
        let headers = match &self.config.headers_file {
            Some(file) => read_headers(file.clone()).await.map_err(ExportError::Headers)?,
            None => Vec::new(),
        };
        let timeout = self.config.timeout.get();
        let answer = tokio::time::timeout(timeout, self.exchange(&headers, body)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            failed => {
                self.connection = None;
                let reason = match failed {
                    Ok(Err(error)) => format!("{error:#}"),
                    _ => format!("none within {timeout:?}"),
                };
                return Err(ExportError::NoAnswer(reason));
            }
        };
        match answer.status.as_u16() {
            200..=299 => {
                let partial = ExportTraceServiceResponse::decode(answer.body)
                    .ok()
                    .and_then(|answer| answer.partial_success);
                Ok(partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
            }
            429 | 502 | 503 | 504 => {
                let after = answer
                    .headers
                    .get(header::RETRY_AFTER)
                    .and_then(|after| after.to_str().ok()?.parse().ok());
                Err(ExportError::Later(answer.status, after.map(Duration::from_secs)))
            }
            _ => {
                let text = String::from_utf8_lossy(&answer.body);
                Err(ExportError::Refused(
                    answer.status,
                    text.chars().filter(|c| !c.is_control()).take(200).collect(),
                ))
            }
        }
    }

    /// Sends over the connection that is kept, or over a new one where the collector has closed it.
    async fn exchange(&mut self, headers: &[(HeaderName, String)], body: &Bytes) -> anyhow::Result<Answer> {
        let mut all: Vec<(HeaderName, &str)> = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str()))
            .collect();
        all.push((header::CONTENT_TYPE, "application/x-protobuf"));
        all.push((header::USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION"))));
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        if let Some(connection) = &mut self.connection
            && let Ok(answer) = connection.request(Method::POST, path, &all, body.to_vec()).await
        {
            return Ok(answer);
        }
        self.connection = None;
        let authority = self.url.authority().context("the URL has no host")?;
        let is_tls = self.url.scheme_str() == Some("https");
        let mut connection =
            outbound::connect(authority, is_tls, self.config.ca_file.clone(), MAX_ANSWER_BYTES).await?;
        let answer = connection.request(Method::POST, path, &all, body.to_vec()).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

/// The headers of the file; the text of an error has none of its content.
async fn read_headers(file: PathBuf) -> Result<Vec<(HeaderName, String)>, String> {
    holdfast_tasks::spawn_blocking(move || parse_headers(&file)).await
}

fn parse_headers(file: &Path) -> Result<Vec<(HeaderName, String)>, String> {
    let cannot_read = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    let length = std::fs::metadata(file).map_err(cannot_read)?.len();
    if length > MAX_HEADERS_BYTES {
        return Err(format!("{} is larger than {MAX_HEADERS_BYTES} bytes", file.display()));
    }
    let text = std::fs::read_to_string(file).map_err(cannot_read)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let invalid = || {
                format!(
                    "line {} of {} is no header; write Name: value",
                    index + 1,
                    file.display()
                )
            };
            let (name, value) = line.split_once(':').ok_or_else(invalid)?;
            let name: HeaderName = name.trim().parse().map_err(|_| invalid())?;
            let value = value.trim();
            HeaderValue::from_str(value).map_err(|_| invalid())?;
            Ok((name, value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests;
