//! How far this node's clock is from that of the registry's leader.
//!
//! Why: tokens, certificates and times of messages depend on the clock of the node that checks or stores them; a clock that runs away
//! shows as devices that are refused at one node alone. One measure per node is enough to see which one it is.
//! Not here: setting the clock, and the limit (the alert's).

use std::time::Duration;

use holdfast_model::UnixMillis;
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_request::Request;
use holdfast_tasks::Phase;
use tokio::time::Instant;

use super::Control;

/// How often it is measured.
const INTERVAL: Duration = Duration::from_secs(30);
/// A slower answer is no measure: half of its time is the error.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(500);

/// Measures until the node ends.
pub(super) async fn run(control: Control) {
    let inner = &control.0;
    loop {
        if let Some(offset) = measure(&control).await {
            inner.metrics.clock_offset.set(offset);
        }
        tokio::select! {
            biased;
            () = inner.stop.reached(Phase::Closing) => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// The offset in seconds, positive: this clock is ahead. `None` without a leader, or with one that does not say its time.
async fn measure(control: &Control) -> Option<f64> {
    let leader = control.0.registry.group().leader()?.node;
    if leader == control.0.id {
        return Some(0.0);
    }
    let (sent, before) = (Instant::now(), control.0.replicas.facts().now);
    let request = Request::Ready(proto::ReadyRequest { group: 0 });
    let answer = control.call_control(leader, request, MAX_ROUND_TRIP).await.ok()?;
    let Answer::Ready(answer) = answer else { return None };
    offset(before, sent.elapsed(), answer.unix_ms)
}

/// `theirs`: the other clock half-way through the call, 0 when it was not said.
fn offset(before: UnixMillis, took: Duration, theirs: u64) -> Option<f64> {
    if theirs == 0 {
        return None;
    }
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let halfway = signed(before.0).saturating_add(signed(u64::try_from(took.as_millis()).unwrap_or(u64::MAX) / 2));
    let ms = halfway.saturating_sub(signed(theirs));
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let seconds = ms as f64 / 1000.0;
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_round_trip_is_not_the_clocks() {
        let took = Duration::from_millis(40);
        assert_eq!(offset(UnixMillis(1_000_000), took, 1_000_020), Some(0.0));
        assert_eq!(offset(UnixMillis(1_005_000), took, 1_000_020), Some(5.0));
        assert_eq!(offset(UnixMillis(1_000_000), took, 1_002_020), Some(-2.0));
        assert_eq!(
            offset(UnixMillis(1_000_000), took, 0),
            None,
            "an earlier version does not say its time"
        );
    }
}
