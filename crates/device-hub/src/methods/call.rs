//! A call of a device's method: sent as soon as the device takes it, answered by the device, or ended with a reason.
//!
//! Time-outs: the connect time-out is the time in which the device must be connected, and have subscribed to methods if it
//! connects during the call. The response time-out begins with each attempt to send; while the partition has no owner that
//! knows all sessions, the attempt continues.
//! Not here: HTTP (`service-api`), topics (`gateway`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::IdentityId;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_spans::{Attribute, SpanName, TraceContext};
use thiserror::Error;
use tokio::time::Instant;

use super::pending::{MethodCallId, MethodResult, PendingCall};
use crate::DeviceHub;
use crate::downlink::delivery::{Delivery, DeliveryError, DeliveryKind, DeliveryOutcome, OnSessionChange, Settlement};
use crate::rpc::codec;

/// Delay before a device that is not connected is looked for again.
const CONNECT_POLL: Duration = Duration::from_millis(200);

/// How long the waiting node may take to answer a gateway's report, and how often the report is sent.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
const REPORT_ATTEMPTS: u32 = 5;

/// A call of a method.
#[derive(Debug, Clone)]
pub struct MethodCall {
    /// Its name: without `/`.
    pub name: Arc<str>,
    /// The argument as JSON; empty when there is none.
    pub payload: Bytes,
    /// How long the call waits for a device that is not connected.
    pub connect_timeout: Duration,
    /// How long the device may take to answer.
    pub response_timeout: Duration,
    /// The caller's context, if it has sent one.
    pub trace: Option<TraceContext>,
}

/// A device's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodAnswer {
    /// The application's own status.
    pub status: i32,
    /// As the device sent it.
    pub payload: Bytes,
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MethodError {
    /// The device was not connected within the connect time-out. It has not received the call.
    #[error("the device is not connected")]
    NotConnected,
    /// The device is connected and has not subscribed to methods. It has not received the call.
    #[error("the device is connected and has not subscribed to methods")]
    NotSubscribed,
    /// The connection ended before the device answered. It may have received the call.
    #[error("the device disconnected before it answered")]
    Disconnected,
    /// The device did not answer within the response time-out. It may have received the call.
    #[error("the device did not answer in time")]
    NoAnswer,
    /// The device has as many calls in flight as it may. It has not received the call.
    #[error("the device has as many method calls in flight as it may")]
    TooManyInFlight,
    /// Too many calls wait at this node. The device has not received the call.
    #[error("too many method calls wait at this node")]
    Busy,
    /// No owner of the device's partition was reached within the time-outs. The device has not received the call.
    #[error("no owner of the device's partition was reached that knows all sessions")]
    NoOwner,
}

impl MethodError {
    /// The word in spans.
    const fn as_str(self) -> &'static str {
        match self {
            Self::NotConnected => "not-connected",
            Self::NotSubscribed => "not-subscribed",
            Self::Disconnected => "disconnected",
            Self::NoAnswer => "no-answer",
            Self::TooManyInFlight => "too-many-in-flight",
            Self::Busy => "busy",
            Self::NoOwner => "no-owner",
        }
    }
}

/// What follows from the outcome of sending a call.
enum Sent {
    /// The device has it, or may have it.
    Waits,
    /// The device is not connected.
    Absent,
    Ended(MethodError),
}

impl DeviceHub {
    /// Calls a method of `identity`, from any node. Dropping the future ends the call: a device that has not received it
    /// does not get it any more.
    ///
    /// # Errors
    /// [`MethodError`]: there is no answer; each variant says whether the device may have received the call.
    pub async fn invoke_method(
        self: &Arc<Self>,
        identity: &IdentityId,
        call: &MethodCall,
    ) -> Result<MethodAnswer, MethodError> {
        let mut span = self.tracer().enter(SpanName::InvokeMethod, call.trace);
        span.set(Attribute::Identity, || identity.to_string());
        span.set(Attribute::Method, || call.name.to_string());
        let result = self.call_method(identity, call, span.context()).await;
        match &result {
            Ok(answer) => span.set(Attribute::MethodStatus, || answer.status),
            Err(error) => span.fail(error.as_str(), || error.to_string()),
        }
        result
    }

    async fn call_method(
        self: &Arc<Self>,
        identity: &IdentityId,
        call: &MethodCall,
        trace: Option<TraceContext>,
    ) -> Result<MethodAnswer, MethodError> {
        let mut pending = self.method_calls.begin(identity).ok_or(MethodError::Busy)?;
        self.metrics.methods_invoked.increment(1);
        let result = self.call_until_answered(identity, call, trace, &mut pending).await;
        if may_have_received(&result) {
            self.charge(|| call.payload.len());
        }
        if let Ok(answer) = &result {
            self.charge(|| answer.payload.len());
        }
        if result.is_err() {
            self.metrics.methods_failed.increment(1);
        }
        result
    }

    async fn call_until_answered(
        self: &Arc<Self>,
        identity: &IdentityId,
        call: &MethodCall,
        trace: Option<TraceContext>,
        pending: &mut PendingCall,
    ) -> Result<MethodAnswer, MethodError> {
        let connect_until = Instant::now() + call.connect_timeout;
        let head: Arc<str> = format!("{}/{}/{}", call.name, pending.id, call.response_timeout.as_millis()).into();
        // A device that connects during the call may need a moment to subscribe.
        let mut has_been_absent = false;
        loop {
            let answer_until = Instant::now() + call.response_timeout;
            let delivery = Delivery {
                kind: DeliveryKind::Method,
                on_session_change: OnSessionChange::Return,
                head: Arc::clone(&head),
                body: call.payload.clone(),
                trace,
            };
            let sent = tokio::select! {
                biased;
                result = &mut pending.result => return finish(result.ok()),
                outcome = self.deliver(identity, delivery, call.response_timeout) => sent(outcome),
            };
            match sent {
                Sent::Waits => {
                    let result = tokio::time::timeout_at(answer_until, &mut pending.result).await;
                    return finish(result.map_or(None, Result::ok));
                }
                Sent::Absent => has_been_absent = true,
                Sent::Ended(MethodError::NotSubscribed) if has_been_absent => {}
                Sent::Ended(error) => return Err(error),
            }
            if Instant::now() >= connect_until {
                return Err(match sent {
                    Sent::Ended(error) => error,
                    Sent::Absent | Sent::Waits => MethodError::NotConnected,
                });
            }
            tokio::time::sleep_until(connect_until.min(Instant::now() + CONNECT_POLL)).await;
        }
    }

    /// A gateway's report of the result of a call that its session has received; `request_id` as in the delivery.
    pub(crate) fn report_method_result(
        self: &Arc<Self>,
        identity: &IdentityId,
        request_id: &str,
        result: MethodResult,
    ) {
        let Some(id) = MethodCallId::parse(request_id) else {
            return;
        };
        if id.node == self.parts.node {
            return self.method_calls.complete(id, identity, result);
        }
        let (hub, identity) = (Arc::clone(self), identity.clone());
        holdfast_tasks::spawn("method-result", async move {
            let message = codec::encode_method_result(id, &identity, &result);
            for _ in 0..REPORT_ATTEMPTS {
                let request = Request::MethodResult(message.clone());
                // A node that has answered has it, also when it knew nothing of the call.
                match hub.call_node(id.node, 0, request, REPORT_TIMEOUT).await {
                    Ok(_) => return,
                    Err(error) => {
                        tracing::debug!(node = %id.node, %identity, %error, "the result of a method call was not delivered; sending it again");
                        tokio::time::sleep(CONNECT_POLL).await;
                    }
                }
            }
        });
    }
}

/// Whether the device has the call, or may have it.
fn may_have_received(result: &Result<MethodAnswer, MethodError>) -> bool {
    match result {
        Ok(_) | Err(MethodError::Disconnected | MethodError::NoAnswer) => true,
        Err(
            MethodError::NotConnected
            | MethodError::NotSubscribed
            | MethodError::TooManyInFlight
            | MethodError::Busy
            | MethodError::NoOwner,
        ) => false,
    }
}

fn sent(outcome: Result<DeliveryOutcome, DeliveryError>) -> Sent {
    match outcome {
        Ok(DeliveryOutcome::Settled(Settlement::Accepted)) | Err(DeliveryError::Unknown) => Sent::Waits,
        Ok(DeliveryOutcome::Settled(Settlement::Released | Settlement::Rejected))
        | Err(DeliveryError::NotListening) => Sent::Ended(MethodError::NotSubscribed),
        Ok(DeliveryOutcome::NotDelivered) | Err(DeliveryError::NotConnected) => Sent::Absent,
        Ok(DeliveryOutcome::Unknown) => Sent::Ended(MethodError::Disconnected),
        Err(DeliveryError::NoOwner) => Sent::Ended(MethodError::NoOwner),
        Err(DeliveryError::Busy) => Sent::Ended(MethodError::Busy),
        Err(DeliveryError::QueueFull { .. }) => Sent::Ended(MethodError::TooManyInFlight),
        Err(DeliveryError::Unsettled) => Sent::Ended(MethodError::NoAnswer),
    }
}

fn finish(result: Option<MethodResult>) -> Result<MethodAnswer, MethodError> {
    match result {
        Some(MethodResult::Answered(answer)) => Ok(answer),
        Some(MethodResult::TooMany) => Err(MethodError::TooManyInFlight),
        Some(MethodResult::Disconnected) => Err(MethodError::Disconnected),
        None => Err(MethodError::NoAnswer),
    }
}
