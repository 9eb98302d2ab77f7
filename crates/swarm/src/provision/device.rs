//! One client of the device API: registers one device after the other, over a kept connection or a new one for each.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::groups::{Registrant, TOKEN_LIFETIME};
use super::ledger::Assigned;
use super::report::Connecting;
use super::{Plan, Tally};
use crate::connect::{Door, Stream, secure};
use crate::https::{Answer, Answers};
use crate::hub::sign;

/// The newest version without a preview.
const API_VERSION: &str = "2026-11-01";
/// Before a failed registration is repeated.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long the service may take for an answer, and for a connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait between two looks at an operation.
const MAX_WAIT: Duration = Duration::from_secs(10);

struct Kept {
    stream: Stream,
    answers: Answers,
}

pub(super) struct Client<'a> {
    plan: &'a Plan,
    tally: &'a Tally,
    number: usize,
    /// The node, by index.
    node: usize,
    kept: Option<Kept>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    operation_id: String,
    status: String,
    registration_state: Option<State>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    assigned_hub: Option<String>,
    device_id: Option<String>,
    error_code: Option<u32>,
    error_message: Option<String>,
}

/// A refusal that repeating does not change.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl<'a> Client<'a> {
    pub(super) fn new(plan: &'a Plan, tally: &'a Tally, number: usize) -> Self {
        Self {
            plan,
            tally,
            number,
            node: number,
            kept: None,
        }
    }

    /// Registers a device until it is assigned.
    ///
    /// # Errors
    /// When it is refused for good.
    pub(super) async fn register(&mut self, device: &Registrant) -> Result<Assigned> {
        loop {
            match self.attempt(device).await {
                Ok(assigned) => return Ok(assigned),
                Err(error) if error.is::<Refused>() => return Err(error.context(device.name.clone())),
                Err(error) => {
                    self.tally.failures.add(&error);
                    self.kept = None;
                    self.node += 1;
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn attempt(&mut self, device: &Registrant) -> Result<Assigned> {
        let scope = &self.plan.fleet.id_scope;
        let name = &device.name;
        let resource = format!("{scope}/registrations/{name}");
        let token = sign(&resource, &device.key, Some("registration"), TOKEN_LIFETIME);
        let body = format!("{{\"registrationId\":\"{name}\"}}");
        let length = body.len();
        let head = format!(
            "PUT /{scope}/registrations/{name}/register?api-version={API_VERSION} HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
            self.host()
        );
        let mut answer = self.exchange(head.as_bytes()).await?;
        loop {
            let wait = answer.retry_after.unwrap_or(RETRY_AFTER).min(MAX_WAIT);
            if answer.status == 429 || answer.status >= 500 {
                tokio::time::sleep(wait).await;
                bail!("{}", answer.status);
            }
            if !matches!(answer.status, 200 | 202) {
                let text = String::from_utf8_lossy(&answer.body)
                    .chars()
                    .take(300)
                    .collect::<String>();
                return Err(Refused(format!("the service answers {}: {text}", answer.status)).into());
            }
            let outcome: Outcome = serde_json::from_slice(&answer.body).context("an answer that is no operation")?;
            let state = outcome.registration_state;
            match (outcome.status.as_str(), state) {
                ("assigned", Some(state)) => {
                    if self.plan.connecting == Connecting::Anew {
                        self.close().await;
                    }
                    return Ok(Assigned {
                        device: state.device_id.context("assigned without a device id")?,
                        hub: state.assigned_hub.context("assigned without a hub")?,
                    });
                }
                ("assigning", _) => {
                    self.tally.polls.fetch_add(1, Ordering::Relaxed);
                    if self.plan.connecting == Connecting::Anew {
                        self.close().await;
                    }
                    tokio::time::sleep(wait).await;
                    let id = outcome.operation_id;
                    let head = format!(
                        "GET /{scope}/registrations/{name}/operations/{id}?api-version={API_VERSION} HTTP/1.1\r\nHost: {}\r\n\
                         Authorization: {token}\r\n\r\n",
                        self.host()
                    );
                    answer = self.exchange(head.as_bytes()).await?;
                }
                (status, state) => {
                    let code = state.as_ref().and_then(|state| state.error_code);
                    let text = state.and_then(|state| state.error_message).unwrap_or_default();
                    // Failed for now: the hub that it was to be assigned to, or another one, may take it next time.
                    bail!("{status} {}: {text}", code.unwrap_or_default());
                }
            }
        }
    }

    fn host(&self) -> &str {
        match &self.plan.tls.server {
            rustls_pki_types::ServerName::DnsName(name) => name.as_ref(),
            _ => "localhost",
        }
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.exchange_without_timeout(request))
            .await
            .context("no answer in time")?
    }

    async fn exchange_without_timeout(&mut self, request: &[u8]) -> Result<Answer> {
        let mut kept = match self.kept.take() {
            Some(kept) => kept,
            None => self.open().await?,
        };
        kept.stream.write_all(request).await.context("writing")?;
        kept.stream.flush().await.context("writing")?;
        let answer = kept.answers.next(&mut kept.stream).await?;
        self.kept = Some(kept);
        Ok(answer)
    }

    async fn open(&self) -> Result<Kept> {
        let Plan { addresses, sources, .. } = self.plan;
        let door = Door {
            addresses: &[addresses[self.node % addresses.len()]],
            source: (!sources.is_empty()).then(|| sources[self.number % sources.len()]),
            names_server: false,
        };
        Ok(Kept {
            stream: secure(door, Some(&self.plan.tls)).await?,
            answers: Answers::default(),
        })
    }

    /// Ends the connection, as a device does before it connects to its hub.
    async fn close(&mut self) {
        let Some(mut kept) = self.kept.take() else { return };
        let closed = async {
            kept.stream.shutdown().await?;
            let mut rest = [0; 64];
            while kept.stream.read(&mut rest).await? > 0 {}
            std::io::Result::Ok(())
        };
        // A server that resets the connection has closed it too.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, closed).await;
    }
}
