//! A device's connection as a front end would have it.

use std::cell::RefCell;
use std::rc::Rc;

use holdfast_auth::{Key, sign_identity};
use holdfast_device_hub::{
    CloseReason, CloudMessage, ConnectAttempt, ConnectRequest, Core, Credential, DeliveryKind, DeliveryKinds,
    DeliveryTag, Outcome, Protocol, Receipt, ReceiptTarget, ReceivedDelivery, Refusal, Session, SessionTarget,
    Settlement, StoredSession,
};
use holdfast_model::TelemetryMessage;
use tokio::time::Instant;

use holdfast_testkit::eventually;

use super::{HOST, START_MS, identity};

pub async fn connect(core: Rc<Core>, device: &str, key: Key) -> Result<Client, Refusal> {
    let peer = Rc::new(Peer::default());
    let token = sign_identity(HOST, &identity(device), &key, START_MS / 1000 + 1_000_000);
    let request = ConnectRequest {
        device,
        module: None,
        host: HOST,
        credential: Credential::SasToken(&token),
        model_id: None,
        stored_session: StoredSession::Resume,
        protocol: Protocol::Mqtt,
        address: ([127, 0, 0, 1], 1).into(),
        tls: None,
        handshake: None,
        trace: None,
    };
    let target: Rc<dyn SessionTarget> = peer.clone();
    let attempt = core.connect(&request, &target);
    let session = match attempt {
        ConnectAttempt::Done(result) => result,
        ConnectAttempt::Pending(later) => later.await,
    }?;
    Ok(Client {
        core,
        session: Some(session),
        peer,
        up: Instant::now(),
    })
}

/// Numbers from here on are of messages from queues.
pub const QUEUED: u64 = 1_000_000_000;

/// A connected device.
pub struct Client {
    pub core: Rc<Core>,
    pub session: Option<Session>,
    pub peer: Rc<Peer>,
    /// When it was let in.
    pub up: Instant,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.session)
    }
}

impl Client {
    pub fn send(&self, number: u64) {
        let payload = number.to_string();
        let message = TelemetryMessage {
            payload: payload.as_bytes(),
            ..TelemetryMessage::default()
        };
        let receipt = Receipt {
            target: self.peer.clone() as Rc<dyn ReceiptTarget>,
            cookie: number,
        };
        let session = self.session.as_ref().unwrap();
        self.core
            .send(session, &message, Some(receipt), self.core.clock().now());
    }

    pub fn acked(&self) -> Vec<u64> {
        self.acked_after(0)
    }

    /// The acknowledged messages, without the first `seen`.
    pub fn acked_after(&self, seen: usize) -> Vec<u64> {
        let settled = self.peer.settled.borrow();
        let acked = settled.iter().filter(|(_, outcome)| *outcome == Outcome::Committed);
        acked.skip(seen).map(|(cookie, _)| *cookie).collect()
    }

    pub fn closed(&self) -> Option<CloseReason> {
        self.closing().map(|(reason, _)| reason)
    }

    /// Why it was closed, and when.
    pub fn closing(&self) -> Option<(CloseReason, Instant)> {
        *self.peer.closed.borrow()
    }

    /// The device takes cloud-to-device messages from its queue.
    pub fn take_messages(&self) {
        let session = self.session.as_ref().unwrap();
        let kinds = DeliveryKinds::default().with(DeliveryKind::CloudToDevice);
        self.core.take_delivery_kinds(session, kinds);
    }

    /// The device takes changes of its desired properties; their numbers are the versions.
    pub fn take_changes(&self) {
        let session = self.session.as_ref().unwrap();
        let kinds = DeliveryKinds::default().with(DeliveryKind::TwinChange);
        self.core.take_delivery_kinds(session, kinds);
    }

    /// The messages of the queue that were delivered, as number and sequence number, in order.
    pub fn received_messages(&self) -> Vec<(u64, u64)> {
        let delivered = self.peer.delivered.borrow();
        let messages = delivered.iter().filter_map(|one| Some((one.number, one.sequence?)));
        messages.collect()
    }

    /// The bytes of the first `count` deliveries.
    pub fn received_bytes(&self, count: usize) -> u64 {
        let delivered = self.peer.delivered.borrow();
        delivered.iter().take(count).map(|one| one.bytes).sum()
    }

    /// The device takes so many more deliveries and bytes.
    pub fn grant_deliveries(&self, messages: u32, bytes: u32) {
        let session = self.session.as_ref().unwrap();
        self.core.grant_deliveries(session, messages, bytes);
    }

    /// The numbers that were delivered to the open connection, in order.
    pub fn delivered(&self) -> Vec<u64> {
        self.deliveries(|delivered| !delivered.is_late)
    }

    /// The numbers that were delivered after the hub had closed the connection.
    pub fn delivered_after_close(&self) -> Vec<u64> {
        self.deliveries(|delivered| delivered.is_late)
    }

    /// The numbers that were delivered later than `at`.
    pub fn delivered_after(&self, at: Instant) -> Vec<u64> {
        self.deliveries(|delivered| delivered.at > at)
    }

    /// All deliveries with their times, in order.
    pub fn received(&self) -> Vec<(u64, Instant)> {
        let delivered = self.peer.delivered.borrow();
        delivered.iter().map(|one| (one.number, one.at)).collect()
    }

    fn deliveries(&self, which: impl Fn(&Delivered) -> bool) -> Vec<u64> {
        let delivered = self.peer.delivered.borrow();
        let delivered = delivered.iter().filter(|delivered| which(delivered));
        delivered.map(|delivered| delivered.number).collect()
    }

    /// The device settles the newest delivery of this number.
    pub fn settle_delivery(&self, number: u64, settlement: Settlement) {
        let delivered = self.peer.delivered.borrow();
        let newest = delivered.iter().rev().find(|delivered| delivered.number == number);
        let tag = newest.map(|delivered| delivered.tag);
        drop(delivered);
        let session = self.session.as_ref().unwrap();
        self.core.settle_delivery(session, tag.unwrap(), settlement);
    }

    pub async fn until_acked(&self, count: usize) {
        eventually("acknowledgements", || self.acked().len() >= count).await;
    }

    /// Waits until the hub has closed the connection, and says why.
    pub async fn until_closed(&self) -> CloseReason {
        eventually("the end", || self.closed().is_some()).await;
        self.closed().unwrap()
    }

    /// Disconnects; later acknowledgements are lost.
    pub fn disconnect(&mut self) {
        self.peer.close(CloseReason::Stopping);
        if let Some(session) = self.session.take() {
            self.core.disconnect(&session);
        }
    }
}

/// A front end that records its events, and acknowledges nothing after its end.
#[derive(Default)]
pub struct Peer {
    settled: RefCell<Vec<(u64, Outcome)>>,
    closed: RefCell<Option<(CloseReason, Instant)>>,
    delivered: RefCell<Vec<Delivered>>,
}

/// A delivery as the device got it.
struct Delivered {
    /// The number in its body.
    number: u64,
    /// Of a message: its number in the queue.
    sequence: Option<u64>,
    bytes: u64,
    tag: DeliveryTag,
    at: Instant,
    /// The hub had closed the connection before.
    is_late: bool,
}

impl ReceiptTarget for Peer {
    fn settled(&self, cookies: &[u64], outcome: Outcome) {
        if self.closed.borrow().is_some() {
            return;
        }
        let settled = cookies.iter().map(|cookie| (*cookie, outcome));
        self.settled.borrow_mut().extend(settled);
    }
}

impl SessionTarget for Peer {
    fn close(&self, reason: CloseReason) {
        self.closed.borrow_mut().get_or_insert((reason, Instant::now()));
    }

    fn deliver(&self, delivery: ReceivedDelivery) {
        let is_change = delivery.kind == DeliveryKind::TwinChange;
        let sequence = delivery.head.split('/').next().and_then(|text| text.parse().ok());
        let sequence = sequence.filter(|_| !is_change);
        let number = match sequence {
            None if is_change => delivery.head.parse(),
            None => std::str::from_utf8(&delivery.body).unwrap().parse(),
            Some(_) => CloudMessage::decode(&delivery.body)
                .unwrap()
                .message_id
                .unwrap()
                .parse(),
        };
        let number = number.unwrap();
        let is_late = self.closed.borrow().is_some();
        self.delivered.borrow_mut().push(Delivered {
            number,
            sequence,
            bytes: delivery.bytes() as u64,
            tag: delivery.tag,
            at: Instant::now(),
            is_late,
        });
    }
}
