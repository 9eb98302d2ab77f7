//! Messages on their way into queues: in order per device, in parallel for several.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_amqp::{Incoming, LinkId, Outcome};
use holdfast_amqp_server::{Links, Refused};
use holdfast_device_hub::{CloudMessage, CloudQueueError, DeviceHub, Protocol, ThrottleClass};
use holdfast_model::{ErrorCode, IdentityId};

/// Messages of one connection that may wait: some clients ignore credit (Spec amqp §4.3).
const MAX_WAITING: usize = 1000;

/// Bytes of them.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// A message that came in.
struct Job {
    link: LinkId,
    delivery_id: u32,
    is_settled: bool,
    message: CloudMessage,
}

/// A message that is queued, or refused.
struct Sent {
    device: IdentityId,
    link: LinkId,
    delivery_id: u32,
    is_settled: bool,
    bytes: usize,
    result: Result<(), Refused>,
}

/// See the module.
pub(super) struct Sending {
    hub: Arc<DeviceHub>,
    /// Devices with a message in flight, and those that wait behind it.
    devices: HashMap<IdentityId, VecDeque<Job>>,
    in_flight: FuturesUnordered<Pin<Box<dyn Future<Output = Sent> + Send>>>,
    count: usize,
    bytes: usize,
}

impl Sending {
    pub(super) fn new(hub: Arc<DeviceHub>) -> Self {
        Self {
            hub,
            devices: HashMap::new(),
            in_flight: FuturesUnordered::new(),
            count: 0,
            bytes: 0,
        }
    }

    /// Takes a message; its outcome follows with [`Self::poll`].
    pub(super) fn push(
        &mut self,
        incoming: &Incoming<'_>,
        device: IdentityId,
        message: CloudMessage,
    ) -> Result<(), Refused> {
        if self.count >= MAX_WAITING || self.bytes >= MAX_WAITING_BYTES {
            let text = "Too many messages of this connection wait; send them again later.";
            return Err(
                Refused::new(ErrorCode::ServerBusy, text).with_condition("com.microsoft:device-container-throttled")
            );
        }
        self.count += 1;
        self.bytes += message.size();
        let job = Job {
            link: incoming.link,
            delivery_id: incoming.delivery_id,
            is_settled: incoming.settled,
            message,
        };
        match self.devices.get_mut(&device) {
            Some(waiting) => waiting.push_back(job),
            None => {
                self.devices.insert(device.clone(), VecDeque::new());
                self.start(device, job);
            }
        }
        Ok(())
    }

    fn start(&self, device: IdentityId, job: Job) {
        let hub = Arc::clone(&self.hub);
        self.in_flight.push(Box::pin(async move {
            let result = send(&hub, &device, &job.message).await;
            Sent {
                device,
                link: job.link,
                delivery_id: job.delivery_id,
                is_settled: job.is_settled,
                bytes: job.message.size(),
                result,
            }
        }));
    }

    /// Settles the messages that have been decided.
    pub(super) fn poll(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(sent)) = self.in_flight.poll_next_unpin(cx) {
            self.count -= 1;
            self.bytes -= sent.bytes;
            match self.devices.get_mut(&sent.device).and_then(VecDeque::pop_front) {
                Some(next) => self.start(sent.device, next),
                None => {
                    self.devices.remove(&sent.device);
                }
            }
            match sent.result {
                Err(refused) if sent.is_settled => links.audit_message(&refused),
                Err(refused) => links.reject(sent.link, sent.delivery_id, &refused),
                Ok(()) if sent.is_settled => {}
                Ok(()) => {
                    let id = sent.delivery_id;
                    links.engine().settle(sent.link, id, id, &Outcome::Accepted);
                }
            }
        }
    }
}

async fn send(hub: &Arc<DeviceHub>, device: &IdentityId, message: &CloudMessage) -> Result<(), Refused> {
    match hub.admit(ThrottleClass::CloudSends, 1, Protocol::Amqp) {
        Ok(None) => {}
        Ok(Some(reservation)) => reservation.come().await,
        Err(throttled) => {
            let refused = Refused::new(throttled.code, format!("{throttled}."));
            // Other than a device's (Spec auth-and-limits §8.3).
            return Err(match throttled.is_quota() {
                true => refused.with_condition("com.microsoft:quota-exceeded"),
                false => refused,
            });
        }
    }
    let unavailable = |_| Refused::busy("The registry is not available; send the message again.");
    let registry = hub.registry();
    let mut known = registry.identity(device).map_err(unavailable)?;
    if known.is_none() {
        // The replica may be behind.
        known = registry.get(device).await.map_err(unavailable)?;
    }
    let not_found = || {
        let (code, what) = match device.module {
            None => (ErrorCode::DeviceNotFound, "device"),
            Some(_) => (ErrorCode::ModuleNotFound, "module"),
        };
        Refused::new(code, format!("The {what} '{device}' is not registered."))
    };
    let identity = known.ok_or_else(not_found)?;
    if !identity.is_enabled() {
        let text = format!("The device '{device}' is disabled.");
        return Err(Refused::new(ErrorCode::DeviceDisabled, text));
    }
    let queued = hub.send_cloud_message(device, &identity.generation, message).await;
    queued.map(|_| ()).map_err(|error| match error {
        CloudQueueError::Gone => not_found(),
        error => Refused::new(error_code(&error), format!("Device '{device}': {error}.")),
    })
}

/// The number for an error of a queue.
pub(crate) fn error_code(error: &CloudQueueError) -> ErrorCode {
    match error {
        CloudQueueError::Full { .. } => ErrorCode::DeviceMaximumQueueDepthExceeded,
        CloudQueueError::Gone => ErrorCode::DeviceNotFound,
        CloudQueueError::NoOwner => ErrorCode::PartitionNotFound,
        CloudQueueError::Busy => ErrorCode::ServerBusy,
        CloudQueueError::DiskFull => ErrorCode::ServiceUnavailable,
        CloudQueueError::LockLost => ErrorCode::DeviceMessageLockLost,
        CloudQueueError::Unreadable => ErrorCode::ServerError,
        CloudQueueError::Unknown => ErrorCode::GatewayTimeout,
    }
}
