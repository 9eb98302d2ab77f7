//! Devices that publish over one AMQP connection, each with a window of unsettled messages.
//!
//! Messages of a device are copies of one template, patched and written together; outcomes come in ranges.

use std::ops::Range;
use std::rc::Rc;

use anyhow::{Result, bail};

use super::device::SessionCredit;
use super::frame::{Outcome, Reply, Role, Transfer, put_transfer};
use super::value::{put_binary, put_descriptor};
use super::{Connection, Devices};
use crate::batch::packet_id;
use crate::connect::ConnectAttempt;
use crate::fleet::{Counters, Publish, Worker};
use crate::ledger::Span;
use crate::marker::{FILLER, MARKER_BYTES, MessageMarker};
use crate::window::{Acknowledged, Window};

/// A message's data section.
const DATA: u8 = 0x75;
/// Bytes that are written at once; a device's turn ends with the message that reaches it.
const WRITE_BYTES: usize = 128 * 1024;

/// Runs the devices `numbers`, which share a connection.
pub(crate) async fn run(worker: Rc<Worker>, numbers: Range<u32>, publish: Publish) {
    let (first, count) = (numbers.start, numbers.end - numbers.start);
    let mut group = Group {
        template: Template::new(&publish),
        lanes: numbers
            .map(|device| Lane::new(worker.clone(), device, &publish))
            .collect(),
    };
    let open = async |attempt: ConnectAttempt| {
        let (mut connection, credentials) = worker.open_amqp(first, count, attempt).await?;
        let mut credits = Vec::with_capacity(credentials.len());
        for (index, credential) in credentials.iter().enumerate() {
            let address = format!("/devices/{}/messages/events", credential.device);
            credits.push(Devices::attach(&mut connection, index, &[(Role::Sender, &address)]).await?);
        }
        let server = connection.server();
        Ok(((connection, credits), server))
    };
    let drive = async |(mut connection, credits): (Connection, Vec<SessionCredit>)| {
        tokio::select! {
            biased;
            () = worker.running() => {}
            lost = connection.hold() => match lost? {},
        }
        for (lane, credit) in group.lanes.iter_mut().zip(credits) {
            lane.begin(&credit);
        }
        let ended = group.drive(&worker, connection).await;
        group.lanes.iter_mut().for_each(Lane::close);
        ended
    };
    worker.sustain(count, publish.survive_disconnect, open, drive).await;
}

/// The devices of a connection.
struct Group {
    template: Template,
    lanes: Vec<Lane>,
}

impl Group {
    /// Publishes until all is sent and acknowledged, or the connection is lost.
    async fn drive(&mut self, worker: &Worker, mut connection: Connection) -> Result<()> {
        // Each round begins with another device, so that none is always the last to be written.
        let mut turn = 0;
        loop {
            let now_us = worker.now_us();
            let is_sending = worker.is_sending();
            let lanes = self.lanes.len();
            for step in 0..lanes {
                let index = (turn + step) % lanes;
                self.lanes[index].fill(index, &mut self.template, &mut connection.out, now_us, is_sending)?;
                if connection.out.len() >= WRITE_BYTES {
                    connection.flush().await?;
                }
            }
            turn += 1;
            connection.flush().await?;
            if self.lanes.iter().all(|lane| lane.is_complete(is_sending)) {
                connection.close().await;
                return Ok(());
            }
            connection.read().await?;
            let now_us = worker.now_us();
            let mut acknowledged = Tally::default();
            let lanes = &mut self.lanes;
            let read = connection.frames(|channel, reply, _| {
                let lane = Devices::index(channel).and_then(|index| lanes.get_mut(index));
                match (reply, lane) {
                    (Reply::Disposition { first, last, outcome }, Some(lane)) => match outcome {
                        Outcome::Accepted => lane.accepted(*first, *last, now_us, worker, &mut acknowledged)?,
                        Outcome::Not(reason) => bail!("a message is not accepted: {reason}"),
                    },
                    (
                        Reply::Flow {
                            next_incoming,
                            incoming_window,
                            link,
                        },
                        Some(lane),
                    ) => {
                        lane.session_limit = next_incoming + incoming_window;
                        if let Some((_, delivered, credit)) = link {
                            lane.link_limit = delivered + credit;
                        }
                    }
                    (Reply::Detach { reason, .. } | Reply::End { reason } | Reply::Close { reason }, _) => {
                        bail!("the server ended it: {reason}")
                    }
                    _ => {}
                }
                Ok(true)
            });
            acknowledged.count(worker);
            read?;
        }
    }
}

/// What one read has brought.
#[derive(Default)]
struct Tally {
    acknowledged: u64,
    out_of_order: u64,
    unknown: u64,
}

impl Tally {
    fn count(&self, worker: &Worker) {
        Counters::add(&worker.counters.acknowledged, self.acknowledged);
        if self.out_of_order + self.unknown > 0 {
            Counters::add(&worker.counters.out_of_order, self.out_of_order);
            Counters::add(&worker.counters.unknown, self.unknown);
        }
    }
}

/// One device's messages over all its connections.
struct Lane {
    worker: Rc<Worker>,
    device: u32,
    epoch: u32,
    window: Window,
    refill: usize,
    /// One past the last message to be sent.
    end: u64,
    /// The first message of the present connection: delivery 0 of its session.
    first: u64,
    /// Deliveries that the link may have had since it was attached.
    link_limit: u64,
    /// The same of the session, in frames; a message is one.
    session_limit: u64,
    /// Whether the present connection still has to be recorded in the ledger.
    open: bool,
}

impl Lane {
    fn new(worker: Rc<Worker>, device: u32, publish: &Publish) -> Self {
        Self {
            worker,
            device,
            epoch: 0,
            window: Window::new(publish.window, 0),
            refill: publish.refill.clamp(1, publish.window),
            end: publish.messages.unwrap_or(u64::MAX),
            first: 0,
            link_limit: 0,
            session_limit: 0,
            open: false,
        }
    }

    fn begin(&mut self, credit: &SessionCredit) {
        self.link_limit = credit.links.first().copied().unwrap_or_default();
        self.session_limit = credit.window;
        self.first = self.window.first();
        self.open = true;
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
        self.window.rewind();
        self.epoch += 1;
    }

    fn is_complete(&self, is_sending: bool) -> bool {
        self.window.outstanding() == 0 && (!is_sending || self.window.next() >= self.end)
    }

    /// Appends as many messages as the window and the server's credit allow.
    fn fill(
        &mut self,
        index: usize,
        template: &mut Template,
        out: &mut Vec<u8>,
        now_us: u64,
        is_sending: bool,
    ) -> Result<()> {
        if !is_sending || self.window.free() < self.refill {
            return Ok(());
        }
        let next = self.window.next();
        let delivered = next - self.first;
        let credit = self.link_limit.min(self.session_limit).saturating_sub(delivered);
        let count = (self.window.free() as u64)
            .min(self.end.saturating_sub(next))
            .min(credit);
        let channel = Devices::channel(index)?;
        for number in next..next + count {
            let marker = MessageMarker {
                run: 0,
                device: self.device,
                epoch: self.epoch,
                number,
                sent_us: self.worker.unix_us(now_us),
            };
            out.extend_from_slice(template.patched(channel, (number - self.first) as u32, marker));
        }
        // The window is at most 65,535.
        self.window.sent(count as usize, now_us as u32);
        Counters::add(&self.worker.counters.sent, count);
        Ok(())
    }

    fn accepted(&mut self, first: u64, last: u64, now_us: u64, worker: &Worker, tally: &mut Tally) -> Result<()> {
        let sent = self.window.next() - self.first;
        if first > last || last >= sent {
            bail!("the server accepts {first} to {last} of {sent} messages");
        }
        let mut latency = worker.latency.borrow_mut();
        for number in self.first + first..=self.first + last {
            match self.window.acknowledge(packet_id(number)) {
                Acknowledged::InOrder { sent_us } => {
                    tally.acknowledged += 1;
                    latency.add((now_us as u32).wrapping_sub(sent_us));
                }
                Acknowledged::OutOfOrder { sent_us } => {
                    tally.acknowledged += 1;
                    tally.out_of_order += 1;
                    latency.add((now_us as u32).wrapping_sub(sent_us));
                }
                Acknowledged::Unknown => tally.unknown += 1,
            }
        }
        Ok(())
    }
}

impl Drop for Lane {
    /// Devices are dropped in the middle of their work when the fleet ends.
    fn drop(&mut self) {
        self.close();
    }
}

/// A message, to be patched.
struct Template {
    frame: Vec<u8>,
    /// Where the payload begins; `None` when it is too short for a marker.
    marker_at: Option<usize>,
}

impl Template {
    fn new(publish: &Publish) -> Self {
        let shape = &publish.shape;
        let mut payload = vec![FILLER; shape.payload_bytes];
        let is_marked = shape.payload_bytes >= MARKER_BYTES;
        if is_marked {
            MessageMarker {
                run: shape.run,
                device: 0,
                epoch: 0,
                number: 0,
                sent_us: 0,
            }
            .write(&mut payload);
        }
        let mut message = Vec::new();
        put_descriptor(&mut message, DATA);
        put_binary(&mut message, &payload);
        let mut frame = Vec::new();
        put_transfer(&mut frame, 0, 0, 0, false, &message);
        let marker_at = is_marked.then_some(frame.len() - payload.len());
        Self { frame, marker_at }
    }

    /// The frame of one message; `marker.run` is not looked at.
    fn patched(&mut self, channel: u16, delivery: u32, marker: MessageMarker) -> &[u8] {
        let frame = &mut self.frame;
        frame[Transfer::CHANNEL_AT..Transfer::CHANNEL_AT + 2].copy_from_slice(&channel.to_be_bytes());
        for at in [Transfer::DELIVERY_AT, Transfer::TAG_AT] {
            frame[at..at + 4].copy_from_slice(&delivery.to_be_bytes());
        }
        if let Some(at) = self.marker_at {
            marker.patch(&mut frame[at..]);
        }
        frame
    }
}
