//! What is counted about peer connections; kept as handles, so that several nodes in one process do not add up.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::frame::Violation;
use super::hello;

/// See docs/metrics.md.
pub(crate) struct PeerMetrics {
    pub(crate) calls: Counter,
    pub(crate) calls_failed: Counter,
    pub(crate) calls_served: Counter,
    pub(crate) calls_turned_away: Counter,
    pub(crate) frames_sent: Counter,
    pub(crate) frames_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) streams: Counter,
    pub(crate) connected: Gauge,
    pub(crate) connects: Counter,
    pub(crate) losses: Counter,
    pub(crate) queue_bytes: Gauge,
    pub(crate) waiting_calls: Gauge,
    pub(crate) rtt: Histogram,
    pub(crate) certificate_ends: Gauge,
    pub(crate) reloads: Counter,
    pub(crate) reloads_failed: Counter,
    refusals: Vec<(&'static str, Counter)>,
    violations: Vec<(&'static str, Counter)>,
}

/// Why somebody is not let in before there is a hello.
pub(crate) const TLS: &str = "tls";
/// The certificate is good, but not one of a node.
pub(crate) const CERTIFICATE: &str = "certificate";
/// A frame above the limit.
pub(crate) const TOO_LONG: &str = "frame-too-long";
/// Something that is no frame at all.
pub(crate) const GARBAGE: &str = "garbage";
/// No hello in time.
pub(crate) const SILENT: &str = "silent";
/// Too many connections that have not proved who they are.
pub(crate) const CROWD: &str = "crowd";

impl PeerMetrics {
    pub(crate) fn new() -> Self {
        Self {
            calls: counter!("holdfast_peer_calls_total"),
            calls_failed: counter!("holdfast_peer_calls_refused_here_total"),
            calls_served: counter!("holdfast_peer_calls_served_total"),
            calls_turned_away: counter!("holdfast_peer_calls_turned_away_total"),
            frames_sent: counter!("holdfast_peer_frames_total", "direction" => "sent"),
            frames_received: counter!("holdfast_peer_frames_total", "direction" => "received"),
            bytes_sent: counter!("holdfast_peer_bytes_total", "direction" => "sent"),
            bytes_received: counter!("holdfast_peer_bytes_total", "direction" => "received"),
            streams: counter!("holdfast_peer_streams_total"),
            connected: gauge!("holdfast_peer_connected"),
            connects: counter!("holdfast_peer_connects_total"),
            losses: counter!("holdfast_peer_losses_total"),
            queue_bytes: gauge!("holdfast_peer_queue_bytes"),
            waiting_calls: gauge!("holdfast_peer_waiting_calls"),
            rtt: histogram!("holdfast_peer_rtt_seconds"),
            certificate_ends: gauge!("holdfast_peer_certificate_expiry_seconds"),
            reloads: counter!("holdfast_peer_certificate_reloads_total", "outcome" => "done"),
            reloads_failed: counter!("holdfast_peer_certificate_reloads_total", "outcome" => "failed"),
            refusals: [TLS, CERTIFICATE, SILENT, CROWD]
                .into_iter()
                .chain(hello::LABELS)
                .map(|reason| (reason, counter!("holdfast_peer_refusals_total", "reason" => reason)))
                .collect(),
            violations: [TOO_LONG, GARBAGE]
                .into_iter()
                .chain(Violation::RULES)
                .map(|rule| (rule, counter!("holdfast_peer_violations_total", "rule" => rule)))
                .collect(),
        }
    }

    /// Somebody was not let in.
    pub(crate) fn refused(&self, reason: &'static str) {
        if let Some((_, counter)) = self.refusals.iter().find(|(label, _)| *label == reason) {
            counter.increment(1);
        }
    }

    /// A node broke a rule.
    pub(crate) fn violation(&self, rule: &'static str) {
        if let Some((_, counter)) = self.violations.iter().find(|(label, _)| *label == rule) {
            counter.increment(1);
        }
    }
}
