//! One connection and its devices, each with telemetry, messages, methods, and its twin.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::Pace;
use super::traffic::Traffic;
use crate::amqp::{
    Connection, Devices, Outcome, Reply, Role, SessionCredit, Value, data, properties_field, property, put_accepted,
    put_binary, put_credit, put_descriptor, put_int, put_list, put_map, put_null, put_string, put_symbol, put_transfer,
};
use crate::connect::{self, ConnectAttempt};
use crate::target::{Credentials, Target};

/// How often a gateway looks at what is due.
const TICK: Duration = Duration::from_millis(5);
/// Deliveries that each receiving link may have in flight.
const CREDIT: u32 = 100;

// The links of a device, by handle.
const EVENTS: u32 = 0;
const MESSAGES: u32 = 1;
const ANSWERS: u32 = 2;
const CALLS: u32 = 3;
const TWIN_REQUESTS: u32 = 4;
const TWIN_ANSWERS: u32 = 5;

// Sections of messages.
const ANNOTATIONS: u64 = 0x72;
const PROPERTIES: u8 = 0x73;
const APPLICATION_PROPERTIES: u8 = 0x74;
const DATA: u8 = 0x75;
/// Where the correlation id is among the properties.
const CORRELATION_ID: u32 = 5;

/// A connection with its devices.
pub(super) struct Gateway {
    connection: Connection,
    lanes: Vec<Lane>,
    pace: Pace,
    traffic: Rc<Traffic>,
    payload: Vec<u8>,
}

/// One device.
struct Lane {
    /// Its place among the devices of the run.
    place: usize,
    channel: u16,
    /// The number of the session's next delivery.
    next_delivery: u32,
    session_limit: u64,
    /// Deliveries so far, and those that the hub takes, of the links that send.
    links: [Link; 6],
    /// Unsettled messages: their numbers, and when they were sent.
    unsettled: VecDeque<(u32, u64)>,
    /// When the report in flight was sent; 0: none is.
    reported_us: u64,
    telemetry_due_us: u64,
    report_due_us: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    /// Deliveries so far.
    count: u64,
    /// Deliveries that the hub takes, of a link that sends; of one that receives, those that the device takes.
    limit: u64,
}

impl Gateway {
    /// Connects, puts the tokens, and attaches the links of all devices. `place` is that of the first one.
    pub(super) async fn open(
        target: &Arc<Target>,
        numbers: Range<u32>,
        place: usize,
        pace: Pace,
        traffic: Rc<Traffic>,
    ) -> Result<Self> {
        let Credentials::Hub(hub) = &target.credentials else {
            bail!("a gateway needs a hub");
        };
        let stream = connect::open_stream(target, numbers.start, ConnectAttempt::Initial).await?;
        let mut connection = Connection::open(stream, &target.names.name(numbers.start), hub.host()).await?;
        let credentials: Vec<_> = numbers
            .map(|number| hub.credential(target.names.name(number)))
            .collect();
        Devices::authenticate(&mut connection, &credentials).await?;
        let mut lanes = Vec::new();
        let count = credentials.len();
        for (index, credential) in credentials.iter().enumerate() {
            let path = format!("/devices/{}", credential.device);
            let at = |tail: &str| format!("{path}/{tail}");
            let (events, messages) = (at("messages/events"), at("messages/devicebound"));
            let (methods, twin) = (at("methods/devicebound"), at("twin"));
            let links: [(Role, &str); 6] = [
                (Role::Sender, &events),
                (Role::Receiver, &messages),
                (Role::Sender, &methods),
                (Role::Receiver, &methods),
                (Role::Sender, &twin),
                (Role::Receiver, &twin),
            ];
            let credit = Devices::attach(&mut connection, index, &links).await?;
            let share = index as f64 / count as f64;
            let mut lane = Lane::new(place + index, Devices::channel(index)?, &credit, pace, share);
            for handle in [MESSAGES, CALLS, TWIN_ANSWERS] {
                lane.grant(&mut connection.out, handle);
            }
            lane.put(
                &mut connection.out,
                TWIN_REQUESTS,
                true,
                &twin_request("PUT", DESIRED, "subscribe", b""),
            );
            lanes.push(lane);
        }
        connection.flush().await?;
        Ok(Self {
            connection,
            lanes,
            pace,
            traffic,
            payload: vec![crate::marker::FILLER; pace.payload_bytes],
        })
    }

    /// Works until the run is over and everything is settled and delivered, or the connection is lost.
    pub(super) async fn run(mut self, over: Rc<Cell<bool>>) {
        let traffic = self.traffic.clone();
        if let Err(error) = self.drive(&over).await {
            traffic.error(format!("a gateway: {error:#}"));
        }
    }

    async fn drive(&mut self, over: &Cell<bool>) -> Result<()> {
        let mut turn = 0;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now_us = self.traffic.now_us();
            if !over.get() {
                let count = self.lanes.len();
                // Each round begins with another device, so that none is always the last to be written.
                for step in 0..count {
                    let lane = &mut self.lanes[(turn + step) % count];
                    lane.work(&mut self.connection.out, self.pace, &self.payload, now_us);
                }
                turn += 1;
            } else if self.traffic.is_delivered() && self.lanes.iter().all(Lane::is_settled) {
                self.connection.close().await;
                return Ok(());
            }
            self.connection.flush().await?;
            tokio::select! {
                biased;
                read = self.connection.read() => read?,
                _ = tick.tick() => {}
            }
            let now_us = self.traffic.now_us();
            let (lanes, traffic) = (&mut self.lanes, &self.traffic);
            self.connection.frames(|channel, reply, out| {
                let lane = Devices::index(channel).and_then(|index| lanes.get_mut(index));
                match (reply, lane) {
                    (Reply::Detach { reason, .. } | Reply::End { reason } | Reply::Close { reason }, _) => {
                        bail!("the hub ended it: {reason}")
                    }
                    (reply, Some(lane)) => lane.reply(reply, out, traffic, now_us)?,
                    _ => {}
                }
                Ok(true)
            })?;
        }
    }
}

/// The resource of desired properties.
const DESIRED: Option<&str> = Some("/notifications/twin/properties/desired");
/// The resource of reported properties.
const REPORTED: Option<&str> = Some("/properties/reported");

impl Lane {
    fn new(place: usize, channel: u16, credit: &SessionCredit, pace: Pace, share: f64) -> Self {
        let mut links = [Link::default(); 6];
        for (link, limit) in links.iter_mut().zip(&credit.links) {
            link.limit = *limit;
        }
        let spread = |every: Duration| every.mul_f64(share).as_micros() as u64 + 1;
        Self {
            place,
            channel,
            next_delivery: 0,
            session_limit: credit.window,
            links,
            unsettled: VecDeque::new(),
            reported_us: 0,
            telemetry_due_us: pace.telemetry.map_or(0, spread),
            report_due_us: spread(pace.reports),
        }
    }

    fn link(&mut self, handle: u32) -> &mut Link {
        // Handles are those of the constants above.
        &mut self.links[handle as usize % 6]
    }

    fn may_send(&mut self, handle: u32) -> bool {
        let session = u64::from(self.next_delivery) < self.session_limit;
        let link = self.link(handle);
        session && link.count < link.limit
    }

    fn put(&mut self, out: &mut Vec<u8>, handle: u32, is_settled: bool, message: &[u8]) -> u32 {
        let delivery = self.next_delivery;
        put_transfer(out, self.channel, handle, delivery, is_settled, message);
        self.next_delivery += 1;
        self.link(handle).count += 1;
        delivery
    }

    /// Lets the hub send as many as at the beginning, when half of them have come.
    fn grant(&mut self, out: &mut Vec<u8>, handle: u32) {
        let channel = self.channel;
        let link = self.link(handle);
        if link.limit - link.count <= u64::from(CREDIT / 2) {
            link.limit = link.count + u64::from(CREDIT);
            put_credit(out, channel, handle, link.count as u32, CREDIT);
        }
    }

    fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.reported_us == 0
    }

    /// Sends what is due.
    fn work(&mut self, out: &mut Vec<u8>, pace: Pace, payload: &[u8], now_us: u64) {
        while now_us >= self.telemetry_due_us && self.unsettled.len() < pace.window && self.may_send(EVENTS) {
            let mut message = Vec::with_capacity(payload.len() + 8);
            put_descriptor(&mut message, DATA);
            put_binary(&mut message, payload);
            let delivery = self.put(out, EVENTS, false, &message);
            self.unsettled.push_back((delivery, now_us));
            if let Some(every) = pace.telemetry {
                // A late message is not made up for.
                self.telemetry_due_us = (self.telemetry_due_us + every.as_micros() as u64).max(now_us);
            }
        }
        if now_us >= self.report_due_us && self.reported_us == 0 && self.may_send(TWIN_REQUESTS) {
            let body = format!(r#"{{"n":{now_us}}}"#);
            let request = twin_request("PATCH", REPORTED, "report", body.as_bytes());
            self.put(out, TWIN_REQUESTS, true, &request);
            self.reported_us = now_us;
            self.report_due_us = (self.report_due_us + pace.reports.as_micros() as u64).max(now_us);
        }
    }

    fn reply(&mut self, reply: &Reply<'_>, out: &mut Vec<u8>, traffic: &Traffic, now_us: u64) -> Result<()> {
        match reply {
            Reply::Disposition { first, last, outcome } => match outcome {
                Outcome::Accepted => {
                    while let Some((delivery, sent_us)) = self.unsettled.front().copied()
                        && (*first..=*last).contains(&u64::from(delivery))
                    {
                        self.unsettled.pop_front();
                        traffic.telemetry.add(now_us - sent_us);
                        traffic.acknowledged(self.place, now_us);
                    }
                }
                Outcome::Not(reason) => bail!("a message is not accepted: {reason}"),
            },
            Reply::Flow {
                next_incoming,
                incoming_window,
                link,
            } => {
                self.session_limit = next_incoming + incoming_window;
                if let Some((handle, delivered, credit)) = link
                    && matches!(u32::try_from(*handle)?, EVENTS | ANSWERS | TWIN_REQUESTS)
                {
                    self.link(u32::try_from(*handle)?).limit = delivered + credit;
                }
            }
            Reply::Transfer {
                handle,
                delivery,
                is_settled,
                message,
            } => {
                let handle = u32::try_from(*handle)?;
                self.link(handle).count += 1;
                match handle {
                    MESSAGES => {
                        traffic.messages.add(now_us.saturating_sub(number(data(message)?)?));
                        if !is_settled {
                            put_accepted(out, self.channel, u32::try_from(*delivery)?);
                        }
                    }
                    CALLS => self.answer(out, message)?,
                    TWIN_ANSWERS => self.twin_answer(message, traffic, now_us)?,
                    other => bail!("a message on the link {other}, which sends"),
                }
                self.grant(out, handle);
            }
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, out: &mut Vec<u8>, call: &[u8]) -> Result<()> {
        let correlation = properties_field(call, CORRELATION_ID)?.context("a call without a correlation id")?;
        let mut answer = Vec::new();
        put_properties(&mut answer, |out| out.extend_from_slice(correlation));
        put_descriptor(&mut answer, APPLICATION_PROPERTIES);
        put_map(&mut answer, 2, |out| {
            put_string(out, "IoThub-status");
            put_int(out, 200);
        });
        put_descriptor(&mut answer, DATA);
        put_binary(&mut answer, b"{}");
        ensure!(self.may_send(ANSWERS), "no credit for answers");
        self.put(out, ANSWERS, true, &answer);
        Ok(())
    }

    fn twin_answer(&mut self, message: &[u8], traffic: &Traffic, now_us: u64) -> Result<()> {
        match property(message, ANNOTATIONS, "status")? {
            Some(Value::Signed(200 | 204)) => {
                // With the answer to the subscription none is in flight.
                let sent_us = std::mem::take(&mut self.reported_us);
                if sent_us > 0 {
                    traffic.reported.add(now_us - sent_us);
                }
            }
            Some(status) => traffic.error(format!("a request about the twin is answered with {status:?}")),
            None => traffic.desired.add(now_us.saturating_sub(number(data(message)?)?)),
        }
        Ok(())
    }
}

/// Properties with a correlation id alone.
fn put_properties(out: &mut Vec<u8>, correlation_id: impl FnOnce(&mut Vec<u8>)) {
    put_descriptor(out, PROPERTIES);
    put_list(out, CORRELATION_ID + 1, |out| {
        (0..CORRELATION_ID).for_each(|_| put_null(out));
        correlation_id(out);
    });
}

fn twin_request(operation: &str, resource: Option<&str>, id: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_descriptor(&mut out, 0x72);
    put_map(&mut out, 4, |out| {
        put_symbol(out, "operation");
        put_string(out, operation);
        put_symbol(out, "resource");
        match resource {
            Some(resource) => put_string(out, resource),
            None => put_null(out),
        }
    });
    put_properties(&mut out, |out| put_string(out, id));
    put_descriptor(&mut out, DATA);
    put_binary(&mut out, body);
    out
}

/// The number `n` of a JSON body: when its sender sent it.
fn number(body: &[u8]) -> Result<u64> {
    let document: serde_json::Value = serde_json::from_slice(body).context("a body that is no JSON")?;
    document
        .get("n")
        .and_then(serde_json::Value::as_u64)
        .context("a body without its number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_request_reads_back_as_written() {
        let request = twin_request("PATCH", REPORTED, "x", br#"{"n":5}"#);
        let operation = property(&request, ANNOTATIONS, "operation").unwrap();
        assert_eq!(operation, Some(Value::Text(b"PATCH")));
        assert_eq!(number(data(&request).unwrap()).unwrap(), 5);
        let mut id = Vec::new();
        put_string(&mut id, "x");
        assert_eq!(properties_field(&request, CORRELATION_ID).unwrap(), Some(&id[..]));
    }
}
