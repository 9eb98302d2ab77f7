//! A back end's caller: one kept connection to the REST endpoint, one request at a time.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::broadcast::Stopwatch;
use super::device::Notice;
use super::tally::{Pace, Tally};
use crate::http::Client;
use crate::target::Tls;

/// How long a writer waits for the notification of its patch.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Before a caller connects again.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// Attempts to connect after which a caller of a broadcast gives up.
const MAX_ATTEMPTS: u32 = 300;
/// Notifications that wait for their writer; it has one patch in flight.
pub(super) const NOTICES: usize = 64;

/// How callers reach the hub.
pub(super) struct Service {
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) host: String,
    pub(super) tls: Option<Tls>,
    pub(super) token: String,
}

/// A device whose twin is written, or whose method is invoked.
pub(super) struct Addressee {
    pub(super) name: String,
    /// Where its notifications come, when the writer waits for them.
    pub(super) notices: Option<mpsc::Receiver<Notice>>,
}

/// The requests of a caller.
#[derive(Debug, Clone)]
pub(super) enum Request {
    /// Patches desired properties.
    Patch,
    /// Invokes a method.
    Invoke,
    /// Patches desired properties of each device so many times, with the microsecond of the request as number.
    Broadcast {
        stopwatch: Arc<Stopwatch>,
        rounds: u32,
        padding: String,
    },
}

/// A caller with its own addressees.
pub(super) struct Caller {
    pub(super) service: Rc<Service>,
    pub(super) tally: Rc<Tally>,
    pub(super) request: Request,
    /// How long a device takes to answer.
    pub(super) answer_after: Duration,
    /// Its number; the node that it connects to follows from it.
    pub(super) index: usize,
    pub(super) addressees: Vec<Addressee>,
    pub(super) pace: Pace,
}

/// How the hub answered.
enum Answered {
    Done,
    Refused(String),
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "Message")]
    message: String,
}

#[derive(Deserialize)]
struct MethodAnswer {
    status: i64,
}

impl Caller {
    /// Connects. Apart from [`Self::run`], so that the connections are there before the requests begin.
    ///
    /// # Errors
    /// When the hub cannot be reached.
    pub(super) async fn connect(&self) -> Result<Client> {
        let service = &self.service;
        let node = service.nodes[self.index % service.nodes.len()];
        Client::connect(node, &service.host, service.tls.as_ref()).await
    }

    /// Makes requests until the time is over.
    pub(super) async fn run(mut self, mut client: Client) {
        // Other numbers than those of an earlier run: each patch changes something.
        let mut number = u64::from(rand::random::<u32>()) << 16;
        let mut rounds = match &self.request {
            Request::Broadcast { rounds, .. } => Some(*rounds),
            Request::Patch | Request::Invoke => None,
        };
        while !self.tally.is_over() && rounds != Some(0) {
            rounds = rounds.map(|rounds| rounds - 1);
            for index in 0..self.addressees.len() {
                self.pace.wait().await;
                if self.tally.is_over() {
                    return;
                }
                number = match &self.request {
                    Request::Broadcast { stopwatch, .. } => stopwatch.number(),
                    Request::Patch | Request::Invoke => number + 1,
                };
                if let Err(error) = self.call(&mut client, index, number).await {
                    self.tally.refused(format!("{error:#}"));
                    match self.reconnect().await {
                        Some(opened) => client = opened,
                        None => return,
                    }
                }
            }
        }
    }

    async fn reconnect(&self) -> Option<Client> {
        let mut attempts = 0;
        while !self.tally.is_over() {
            // A broadcast has no end of its own.
            if matches!(self.request, Request::Broadcast { .. }) && attempts >= MAX_ATTEMPTS {
                return None;
            }
            attempts += 1;
            tokio::time::sleep(RECONNECT_INTERVAL).await;
            match self.connect().await {
                Ok(client) => return Some(client),
                Err(error) => self.tally.refused(format!("{error:#}")),
            }
        }
        None
    }

    async fn call(&mut self, client: &mut Client, index: usize, number: u64) -> Result<()> {
        let requested = Instant::now();
        let outcome = self.send(client, &self.addressees[index].name, number).await?;
        let answered = Instant::now();
        match outcome {
            Answered::Refused(reason) => {
                self.tally.refused(reason);
                return Ok(());
            }
            Answered::Done => self
                .tally
                .answered((answered - requested).saturating_sub(self.answer_after)),
        }
        let Some(notices) = &mut self.addressees[index].notices else {
            return Ok(());
        };
        let wanted = async {
            loop {
                match notices.recv().await {
                    Some(notice) if notice.number == number => return Some(notice.at),
                    Some(_) => {}
                    None => return None,
                }
            }
        };
        match tokio::time::timeout(NOTIFICATION_TIMEOUT, wanted).await {
            Ok(Some(at)) => self.tally.notified(requested, answered, at),
            Ok(None) => self.tally.refused("the device is gone".to_owned()),
            Err(_) => self.tally.refused("a patch without its notification".to_owned()),
        }
        Ok(())
    }

    async fn send(&self, client: &mut Client, device: &str, number: u64) -> Result<Answered> {
        let (method, path, body) = match &self.request {
            Request::Patch => (
                Method::PATCH,
                format!("/twins/{device}?api-version=2021-04-12"),
                format!(r#"{{"properties":{{"desired":{{"n":{number}}}}}}}"#),
            ),
            Request::Broadcast { padding, .. } => (
                Method::PATCH,
                format!("/twins/{device}?api-version=2021-04-12"),
                format!(r#"{{"properties":{{"desired":{{"n":{number},"text":"{padding}"}}}}}}"#),
            ),
            Request::Invoke => (
                Method::POST,
                format!("/twins/{device}/methods?api-version=2021-04-12"),
                format!(r#"{{"methodName":"measure","payload":{{"n":{number}}},"responseTimeoutInSeconds":30}}"#),
            ),
        };
        let token = Some(self.service.token.as_str());
        let (status, answer) = client.request(method, &path, token, body.into_bytes()).await?;
        if status != StatusCode::OK {
            let refusal = serde_json::from_slice(&answer).map(|refusal: Refusal| refusal.message);
            // The part before the first `;` is the code; what follows may name the device.
            let code = refusal
                .unwrap_or_default()
                .split(';')
                .next()
                .unwrap_or_default()
                .to_owned();
            return Ok(Answered::Refused(format!("{status} {code}")));
        }
        if matches!(self.request, Request::Invoke) {
            let answer: MethodAnswer = serde_json::from_slice(&answer)?;
            if answer.status != 200 {
                return Ok(Answered::Refused(format!("the device answers {}", answer.status)));
            }
        }
        Ok(Answered::Done)
    }
}
