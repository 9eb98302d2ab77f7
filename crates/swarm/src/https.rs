//! Devices over HTTPS: one kept connection each, one message at a time (Spec rest §5).
//!
//! Requests are copies of one template and answers are parsed here, so that the generator costs little beside the server.
//! Not here: batches, and messages to the device.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::connect::{self, ConnectAttempt, Stream};
use crate::fleet::{Counters, Publish, Worker};
use crate::ledger::Span;
use crate::marker::{FILLER, MARKER_BYTES, MessageMarker};
use crate::target::{Credentials, Target};

/// The largest answer that a device takes.
const MAX_ANSWER: usize = 16 * 1024;
/// How long a hub may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest wait after a refusal for now.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What opens a device.
struct Login {
    host: String,
    device: String,
    token: String,
}

/// A device with a kept connection.
pub struct HttpsDevice {
    stream: Stream,
    login: Login,
    answers: Answers,
}

impl HttpsDevice {
    /// Connects device `number`; its token is shown with each message.
    ///
    /// # Errors
    /// When the hub cannot be reached.
    pub async fn open(target: &Target, number: u32, attempt: ConnectAttempt) -> Result<Self> {
        let Credentials::Hub(hub) = &target.credentials else {
            bail!("devices over HTTPS need a hub");
        };
        let stream = connect::open_stream(target, number, attempt).await?;
        let credential = hub.credential(target.names.name(number));
        Ok(Self {
            stream,
            login: Login {
                host: hub.host().to_owned(),
                device: credential.device,
                token: credential.token,
            },
            answers: Answers::default(),
        })
    }

    /// Sends a message and waits for the answer; its status.
    ///
    /// # Errors
    /// When the connection is lost, or there is no answer in time: the message is stored or not.
    pub async fn send(&mut self, payload: &[u8]) -> Result<u16> {
        let mut request = request_head(&self.login, payload.len());
        request.extend_from_slice(payload);
        Ok(self.exchange(&request).await?.status)
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        let exchanged = async {
            self.stream.write_all(request).await.context("writing")?;
            self.stream.flush().await.context("writing")?;
            self.answers.next(&mut self.stream).await
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchanged)
            .await
            .context("no answer in time")?
    }
}

/// Runs one device.
pub(crate) async fn publish(worker: Rc<Worker>, device: u32, publish: Publish) {
    let mut sender = Sender {
        worker: worker.clone(),
        device,
        epoch: 0,
        first: 0,
        next: 0,
        is_sent: false,
        end: publish.messages.unwrap_or(u64::MAX),
        open: false,
    };
    let open = async |attempt: ConnectAttempt| {
        let opened = worker.open_https(device, attempt).await?;
        let server = opened.stream.server();
        Ok((opened, server))
    };
    let drive = async |opened: HttpsDevice| {
        worker.running().await;
        let ended = sender.drive(opened, &publish).await;
        sender.close();
        ended
    };
    worker.sustain(1, publish.survive_disconnect, open, drive).await;
}

/// One device's messages over all its connections.
struct Sender {
    worker: Rc<Worker>,
    device: u32,
    epoch: u32,
    /// The first message of the present connection.
    first: u64,
    /// The message to be sent next, or in flight.
    next: u64,
    /// Whether [`Self::next`] is in flight on the present connection.
    is_sent: bool,
    /// One past the last message to be sent.
    end: u64,
    /// Whether the present connection still has to be recorded in the ledger.
    open: bool,
}

impl Sender {
    async fn drive(&mut self, mut device: HttpsDevice, publish: &Publish) -> Result<()> {
        let worker = self.worker.clone();
        self.first = self.next;
        self.is_sent = false;
        self.open = true;
        let mut request = Request::new(&device.login, publish);
        while self.next < self.end && worker.is_sending() {
            let sent_us = worker.now_us();
            let marker = MessageMarker {
                run: 0,
                device: self.device,
                epoch: self.epoch,
                number: self.next,
                sent_us: worker.unix_us(sent_us),
            };
            self.is_sent = true;
            Counters::add(&worker.counters.sent, 1);
            let answer = device.exchange(request.patched(marker)).await?;
            match answer.status {
                204 => {
                    let took_us = worker.now_us() - sent_us;
                    worker
                        .latency
                        .borrow_mut()
                        .add(u32::try_from(took_us).unwrap_or(u32::MAX));
                    Counters::add(&worker.counters.acknowledged, 1);
                    self.next += 1;
                    self.is_sent = false;
                }
                // Not stored: it is sent again on this connection.
                429 => {
                    worker.counters.note(&anyhow::anyhow!("429"));
                    tokio::time::sleep(answer.retry_after.unwrap_or(MAX_WAIT).min(MAX_WAIT)).await;
                }
                // Stored or not: it is sent again on another connection.
                status => bail!("the hub answers {status}"),
            }
        }
        Ok(())
    }

    /// Records the present connection in the ledger and prepares the next one.
    fn close(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let span = Span {
            epoch: self.epoch,
            first: self.first,
            sent_below: self.next + u64::from(self.is_sent),
            acknowledged_below: self.next,
            acknowledged_early: Vec::new(),
            is_sessionless: true,
        };
        self.worker.record(self.device, span);
        self.epoch += 1;
    }
}

impl Drop for Sender {
    /// Devices are dropped in the middle of their work when the fleet ends.
    fn drop(&mut self) {
        self.close();
    }
}

/// A request, to be patched.
struct Request {
    bytes: Vec<u8>,
    marker_at: Option<usize>,
}

impl Request {
    fn new(login: &Login, publish: &Publish) -> Self {
        let shape = &publish.shape;
        let length = shape.payload_bytes;
        let mut bytes = request_head(login, length);
        let at = bytes.len();
        bytes.resize(at + length, FILLER);
        let is_marked = length >= MARKER_BYTES;
        if is_marked {
            MessageMarker {
                run: shape.run,
                device: 0,
                epoch: 0,
                number: 0,
                sent_us: 0,
            }
            .write(&mut bytes[at..]);
        }
        Self {
            bytes,
            marker_at: is_marked.then_some(at),
        }
    }

    /// The request of one message; `marker.run` is not looked at.
    fn patched(&mut self, marker: MessageMarker) -> &[u8] {
        if let Some(at) = self.marker_at {
            marker.patch(&mut self.bytes[at..]);
        }
        &self.bytes
    }
}

fn request_head(login: &Login, length: usize) -> Vec<u8> {
    let Login { host, device, token } = login;
    let head = format!(
        "POST /devices/{device}/messages/events?api-version=2021-04-12 HTTP/1.1\r\nHost: {host}\r\n\
         Authorization: {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    head.into_bytes()
}

/// The hub's answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

/// Bytes of answers that are not parsed yet.
#[derive(Default)]
pub(crate) struct Answers(Vec<u8>);

impl Answers {
    pub(crate) async fn next(&mut self, stream: &mut Stream) -> Result<Answer> {
        loop {
            if let Some((answer, used)) = parse(&self.0)? {
                self.0.drain(..used);
                return Ok(answer);
            }
            ensure!(self.0.len() < MAX_ANSWER, "an answer of more than {MAX_ANSWER} bytes");
            let count = stream.read_buf(&mut self.0).await.context("reading")?;
            ensure!(count > 0, "the server closed the connection");
        }
    }
}

/// The first answer of `input`, and its bytes; `None` when more has to be read.
fn parse(input: &[u8]) -> Result<Option<(Answer, usize)>> {
    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&input[..end]).context("an answer that is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status
        .and_then(|line| line.get(..3)?.parse().ok())
        .context("an answer without a status")?;
    let (mut length, mut retry_after) = (0usize, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().context("a length that is no number")?;
        } else if name.eq_ignore_ascii_case("retry-after") {
            retry_after = value.parse().ok().map(Duration::from_secs);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("an answer without a length");
        }
    }
    let used = (end + 4usize).saturating_add(length);
    let answer = |body: &[u8]| Answer {
        status,
        retry_after,
        body: body.to_vec(),
    };
    Ok(input.get(end + 4..used).map(|body| (answer(body), used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_however_the_stream_is_cut() {
        let first = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\nContent-Length: 4\r\n\r\nbody";
        let input = [first.as_slice(), b"HTTP/1.1 204 No Content\r\n\r\n"].concat();
        let refused = Answer {
            status: 429,
            retry_after: Some(Duration::from_secs(7)),
            body: b"body".to_vec(),
        };
        assert_eq!(parse(&input).unwrap(), Some((refused, first.len())));
        let (stored, used) = parse(&input[first.len()..]).unwrap().unwrap();
        assert_eq!((stored.status, used), (204, 27));
        for length in 0..first.len() {
            assert_eq!(parse(&first[..length]).unwrap(), None, "cut at {length}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(parse(b"nothing\r\n\r\n").is_err());
    }
}
