//! A device that publishes at QoS 1 with a window: the generator's hot path.
//!
//! One poll of a device is one read, one write, no allocation: acknowledgements are parsed from the thread's input
//! buffer, and as many messages as fit the window are patched into the thread's packet templates and written at once.
//! A connection owns bytes (`unsent`) only when its socket accepts less than that.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::acknowledgements::Acknowledgements;
use crate::batch::Messages;
use crate::connect::Stream;
use crate::fleet::{Counters, Publish, Worker};
use crate::ledger::Span;
use crate::window::{Acknowledged, Window};
use crate::wire::{DISCONNECT, PINGREQ, Reply, Scanner};

/// Timer period of a connection without keep-alive.
const LONGEST_PERIOD: Duration = Duration::from_secs(3600);

pub(crate) async fn run(worker: Rc<Worker>, device: u32, publish: Publish) {
    let mut sender = Sender::new(worker.clone(), device, &publish);
    let open = async |attempt| {
        let stream = worker.open_mqtt(device, attempt).await?;
        let server = stream.server();
        Ok((stream, server))
    };
    let drive = async |stream| {
        worker.running().await;
        sender.drive(stream).await
    };
    worker.sustain(1, publish.survive_disconnect, open, drive).await;
}

/// One device's messages over all its connections.
struct Sender {
    worker: Rc<Worker>,
    device: u32,
    epoch: u32,
    window: Window,
    /// New messages are sent when at least so many fit the window.
    refill: usize,
    /// One past the last message to be sent.
    end: u64,
    /// The first message of the present connection.
    first: u64,
    /// Below this number a message may have been sent by an earlier connection.
    sent_before: u64,
    /// Whether the present connection still has to be recorded in the ledger.
    open: bool,
    pace_us: u64,
    /// No new message is sent before.
    paced_until_us: u64,
    acknowledgements: Option<Arc<Acknowledgements>>,
}

impl Sender {
    fn new(worker: Rc<Worker>, device: u32, publish: &Publish) -> Self {
        let end = publish.messages.unwrap_or(u64::MAX);
        let refill = publish.refill.clamp(1, publish.window);
        let window = Window::new(publish.window, 0);
        Self {
            worker,
            device,
            epoch: 0,
            window,
            refill,
            end,
            first: 0,
            sent_before: 0,
            open: false,
            pace_us: publish.pace.as_micros() as u64,
            paced_until_us: 0,
            acknowledgements: publish.acknowledgements.clone(),
        }
    }

    /// Publishes over `stream` until all is sent and acknowledged, or the connection is lost.
    async fn drive(&mut self, stream: Stream) -> Result<()> {
        self.first = self.window.first();
        self.open = true;
        let result = {
            let mut connection = Connection::new(self, stream);
            poll_fn(|cx| connection.poll(cx)).await
        };
        self.close();
        result
    }

    /// Records the present connection in the ledger and prepares the next one.
    fn close(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let span = Span {
            epoch: self.epoch,
            first: self.first,
            sent_below: self.window.next(),
            acknowledged_below: self.window.first(),
            acknowledged_early: self.window.acknowledged_early(),
            is_sessionless: false,
        };
        self.worker.record(self.device, span);
        self.sent_before = self.sent_before.max(self.window.next());
        self.window.rewind();
        self.epoch += 1;
    }
}

impl Drop for Sender {
    /// Devices are dropped in the middle of their work when the fleet ends.
    fn drop(&mut self) {
        self.close();
    }
}

struct Connection<'a> {
    sender: &'a mut Sender,
    stream: Stream,
    scanner: Scanner,
    /// Bytes that the socket has not accepted yet.
    unsent: Vec<u8>,
    flushed: bool,
    period: Duration,
    last_write_us: u64,
    ping_due_us: u64,
    timer: Pin<Box<Sleep>>,
    pace_armed_us: u64,
    pace_timer: Pin<Box<Sleep>>,
}

impl<'a> Connection<'a> {
    fn new(sender: &'a mut Sender, stream: Stream) -> Self {
        let period = match sender.worker.connection_options().keep_alive {
            0 => LONGEST_PERIOD,
            seconds => Duration::from_secs(u64::from(seconds)) * 4 / 5,
        };
        Self {
            last_write_us: sender.worker.now_us(),
            sender,
            stream,
            scanner: Scanner::default(),
            unsent: Vec::new(),
            flushed: true,
            period,
            ping_due_us: 0,
            timer: Box::pin(tokio::time::sleep(period)),
            pace_armed_us: 0,
            pace_timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.advance(cx) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Reads and sends; true when everything is sent and acknowledged.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let now_us = self.sender.worker.now_us();
        self.read(cx, now_us)?;
        if !self.write_rest(cx)? {
            return Ok(false);
        }
        loop {
            let messages = self.next_messages(now_us);
            if messages.count == 0 {
                break;
            }
            if !self.send(cx, messages, now_us)? {
                return Ok(false);
            }
        }
        if self.sender.window.outstanding() == 0 && self.is_complete() {
            // Best effort: the connection ends either way.
            let _ = Pin::new(&mut self.stream).poll_write(cx, &DISCONNECT);
            let _ = Pin::new(&mut self.stream).poll_flush(cx);
            return Ok(true);
        }
        self.wake_when_paced(cx, now_us);
        self.ping_when_due(cx, now_us)?;
        Ok(false)
    }

    /// Arms the timer for the next message that the pace allows.
    fn wake_when_paced(&mut self, cx: &mut Context<'_>, now_us: u64) {
        let until_us = self.sender.paced_until_us;
        if until_us > now_us && (self.pace_armed_us != until_us || self.pace_timer.is_elapsed()) {
            self.pace_armed_us = until_us;
            self.pace_timer
                .as_mut()
                .reset(Instant::now() + Duration::from_micros(until_us - now_us));
            let _ = self.pace_timer.as_mut().poll(cx);
        }
    }

    fn is_complete(&self) -> bool {
        self.sender.window.next() >= self.sender.end || !self.sender.worker.is_sending()
    }

    fn read(&mut self, cx: &mut Context<'_>, now_us: u64) -> Result<()> {
        let Sender {
            worker,
            window,
            device,
            acknowledgements,
            ..
        } = &mut *self.sender;
        let mut input = worker.input.borrow_mut();
        let mut latency = worker.latency.borrow_mut();
        let (mut acknowledged, mut out_of_order, mut unknown) = (0, 0, 0);
        let result = loop {
            let mut buffer = ReadBuf::new(&mut input);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break Ok(()),
                Poll::Ready(Err(error)) => break Err(Error::from(error).context("reading")),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    break Err(anyhow!("the server closed the connection"));
                }
                Poll::Ready(Ok(())) => {}
            }
            let scanned = self.scanner.scan(buffer.filled(), |reply| {
                match reply {
                    Reply::PubAck(id) => match window.acknowledge(id) {
                        Acknowledged::InOrder { sent_us } => {
                            acknowledged += 1;
                            latency.add((now_us as u32).wrapping_sub(sent_us));
                        }
                        Acknowledged::OutOfOrder { sent_us } => {
                            acknowledged += 1;
                            out_of_order += 1;
                            latency.add((now_us as u32).wrapping_sub(sent_us));
                        }
                        Acknowledged::Unknown => unknown += 1,
                    },
                    Reply::PingResp => {}
                    other => bail!("the server sent {other:?} to a publishing device"),
                }
                Ok(())
            });
            if let Err(error) = scanned {
                break Err(error);
            }
        };
        Counters::add(&worker.counters.acknowledged, acknowledged);
        if let Some(times) = acknowledgements {
            (0..acknowledged).for_each(|_| times.add(*device, worker.unix_us(now_us)));
        }
        if out_of_order + unknown > 0 {
            Counters::add(&worker.counters.out_of_order, out_of_order);
            Counters::add(&worker.counters.unknown, unknown);
        }
        result
    }

    /// The next messages to send: as much of the window as one write can hold; resends and new messages are not mixed.
    fn next_messages(&self, now_us: u64) -> Messages {
        let Sender {
            worker,
            device,
            epoch,
            window,
            end,
            sent_before,
            refill,
            paced_until_us,
            ..
        } = &*self.sender;
        let first = window.next();
        let is_resend = first < *sent_before;
        let limit = if is_resend {
            *sent_before
        } else if worker.is_sending() && now_us >= *paced_until_us {
            *end
        } else {
            first
        };
        let free = if window.free() >= *refill || is_resend {
            window.free()
        } else {
            0
        };
        let count = free.min(usize::try_from(limit.saturating_sub(first)).unwrap_or(usize::MAX));
        Messages {
            device: *device,
            epoch: *epoch,
            first,
            count,
            is_resend,
            now_us: worker.unix_us(now_us),
        }
    }

    /// Hands messages to the socket; false when it accepts no more.
    fn send(&mut self, cx: &mut Context<'_>, mut messages: Messages, now_us: u64) -> Result<bool> {
        let worker = self.sender.worker.clone();
        let mut batch = worker.batch.borrow_mut();
        let Some(batch) = batch.as_mut() else { return Ok(true) };
        messages.count = messages.count.min(batch.rows());
        let bytes = batch.fill(messages);
        // The window counts a message as sent from here on: even one byte of it may reach the server.
        self.sender.window.sent(messages.count, now_us as u32);
        if self.sender.pace_us > 0 {
            let pace_us = self.sender.pace_us;
            self.sender.paced_until_us = now_us + rand::random_range(pace_us * 3 / 4..=pace_us * 5 / 4);
        }
        self.last_write_us = now_us;
        Counters::add(&worker.counters.sent, messages.count as u64);
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(0)) => bail!("the socket accepts no bytes"),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => return Err(Error::from(error).context("writing")),
                Poll::Pending => {
                    self.unsent.extend_from_slice(&bytes[written..]);
                    return Ok(false);
                }
            }
        }
        self.flushed = false;
        self.flush(cx)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        if !self.flushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => result.map_err(|error| Error::from(error).context("writing"))?,
            }
            self.flushed = true;
        }
        Ok(true)
    }

    /// Writes what an earlier poll could not; false when some is left.
    fn write_rest(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.unsent) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0)) => bail!("the socket accepts no bytes"),
                Poll::Ready(Ok(count)) => {
                    self.unsent.drain(..count);
                    self.flushed = false;
                }
                Poll::Ready(Err(error)) => return Err(Error::from(error).context("writing")),
            }
        }
        self.flush(cx)
    }

    /// Pings when nothing was written for the period, and keeps the timer armed. Called only when a ping can be due.
    fn ping_when_due(&mut self, cx: &mut Context<'_>, now_us: u64) -> Result<()> {
        if now_us < self.ping_due_us {
            return Ok(());
        }
        let period_us = self.period.as_micros() as u64;
        if now_us >= self.last_write_us + period_us {
            self.unsent.extend_from_slice(&PINGREQ);
            self.last_write_us = now_us;
            self.write_rest(cx)?;
        }
        self.ping_due_us = self.last_write_us + period_us;
        self.timer
            .as_mut()
            .reset(Instant::now() + Duration::from_micros(self.ping_due_us - now_us));
        // Polling arms the timer; it wakes this device at the deadline.
        let _ = self.timer.as_mut().poll(cx);
        Ok(())
    }
}
