//! Carries out the calls of authenticated devices.

use std::rc::Rc;

use holdfast_device_hub::{Outcome, Protocol, Requester, Reservation, ThrottleClass};
use holdfast_model::limits::{MAX_HTTP_BODY_BYTES, MAX_TELEMETRY_BYTES};
use holdfast_model::{ErrorCode, TelemetryMessage};
use holdfast_net::Body;
use holdfast_net::http_api::{Reply, RequestBody};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::answer::HttpsError;
use super::route::Call;
use super::{HttpsFront, batch, files, message, receive};

/// The content type of a batch (Spec rest §5).
const BATCH_TYPE: &str = "application/vnd.microsoft.iothub.json";

/// One request of an authenticated device.
pub(super) struct Request<'a> {
    pub(super) front: &'a Rc<HttpsFront>,
    pub(super) requester: Requester,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Body,
    /// Held while the node works on the request.
    pub(super) permit: Option<SemaphorePermit<'a>>,
}

pub(super) async fn run(call: Call, request: Request<'_>) -> Result<Reply, HttpsError> {
    match call {
        Call::Send => send(request).await,
        Call::Receive => receive::receive(request).await,
        Call::Settle(token, settlement) => receive::settle(request, &token, settlement).await,
        Call::BeginUpload => files::begin(request).await,
        Call::EndUpload(correlation_id) => files::end(request, correlation_id).await,
    }
}

impl Request<'_> {
    /// Waits for the turn of `count` messages, by the hub's rate and by that of the device.
    async fn turn_of_messages(&mut self, count: u32) -> Result<(), HttpsError> {
        let hub = self.front.core.hub();
        let reservation = hub.admit(ThrottleClass::TelemetrySends, count, Protocol::Https)?;
        let own = hub.admit_request(self.requester.identity(), count, Protocol::Https)?;
        self.turn(reservation, own).await
    }

    /// Waits for the turn of one operation, by the hub's rate.
    pub(super) async fn turn_of(&mut self, class: ThrottleClass) -> Result<(), HttpsError> {
        let reservation = self.front.core.hub().admit(class, 1, Protocol::Https)?;
        self.turn(reservation, None).await
    }

    async fn turn(&mut self, reservation: Option<Reservation>, own: Option<Instant>) -> Result<(), HttpsError> {
        if reservation.is_none() && own.is_none() {
            return Ok(());
        }
        // A request that waits does not count among those that the node works on.
        self.permit = None;
        if let Some(own) = own {
            tokio::time::sleep_until(own).await;
        }
        if let Some(reservation) = reservation {
            reservation.come().await;
        }
        match self.front.requests.try_acquire() {
            Ok(permit) => self.permit = Some(permit),
            Err(_) => {
                let text = "too many requests of devices are in progress; retry after a second";
                return Err(HttpsError::new(ErrorCode::ServerBusy, text));
            }
        }
        Ok(())
    }
}

/// Stores one message or a batch; 204 once all of it is committed and synced. A batch counts as its messages, so that its turn comes
/// after its body.
async fn send(mut request: Request<'_>) -> Result<Reply, HttpsError> {
    let is_batch = is_batch(request.headers);
    if !is_batch {
        request.turn_of_messages(1).await?;
    }
    let front = request.front;
    let deadline = front.config.body_timeout.get();
    let body = std::mem::replace(&mut request.body, holdfast_net::empty_body());
    let mut body = RequestBody::new(request.headers, body, front.bodies.clone(), deadline);
    if is_batch {
        let (bytes, _held) = body.read(MAX_HTTP_BODY_BYTES).await?;
        let batch = batch::Batch::parse(&bytes)?;
        let messages = batch.messages()?;
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        request.turn_of_messages(count).await?;
        return store(front, &request.requester, &messages).await;
    }
    let (payload, _held) = body.read(MAX_TELEMETRY_BYTES).await?;
    let texts = message::Texts::of(request.headers)?;
    let message = message::of(&payload, texts.iter())?;
    store(front, &request.requester, std::slice::from_ref(&message)).await
}

fn is_batch(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(BATCH_TYPE))
}

async fn store(
    front: &Rc<HttpsFront>,
    requester: &Requester,
    messages: &[TelemetryMessage<'_>],
) -> Result<Reply, HttpsError> {
    let timeout = front.config.commit_timeout.get();
    match front.core.send_request(requester, messages, timeout).await {
        Outcome::Committed => {
            front.metrics.messages.increment(messages.len() as u64);
            Ok(Reply::no_content())
        }
        Outcome::Failed => {
            let text = "the hub could not store the message in time, or does not know whether it has; send it again";
            Err(HttpsError::new(ErrorCode::ServiceUnavailable, text))
        }
    }
}
