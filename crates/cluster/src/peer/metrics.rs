//! Metrics of peer connections. Handles belong to a node, so that several nodes in one process are counted apart.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::protocol::frame::Violation;
use super::protocol::hello;

/// See docs/metrics.md.
pub(crate) struct PeerMetrics {
    pub(crate) calls: Counter,
    pub(crate) calls_failed: Counter,
    pub(crate) calls_served: Counter,
    pub(crate) calls_over_limit: Counter,
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
    pub(crate) certificate_expires: Gauge,
    pub(crate) reloads: Counter,
    pub(crate) reloads_failed: Counter,
    refusals: Vec<(&'static str, Counter)>,
    violations: Vec<(&'static str, Counter)>,
}

/// A refusal before the hello: the TLS handshake failed.
pub(crate) const TLS: &str = "tls";
/// The certificate is valid, but not that of a node.
pub(crate) const CERTIFICATE: &str = "certificate";
/// A frame is longer than the limit.
pub(crate) const TOO_LONG: &str = "frame-too-long";
/// The received bytes are not HTTP/2 or gRPC.
pub(crate) const GARBAGE: &str = "garbage";
/// No hello arrived within the timeout.
pub(crate) const SILENT: &str = "silent";
/// Too many connections have not sent a hello yet.
pub(crate) const HANDSHAKE_LIMIT: &str = "crowd";

impl PeerMetrics {
    pub(crate) fn new() -> Self {
        Self {
            calls: counter!("holdfast_peer_calls_total"),
            calls_failed: counter!("holdfast_peer_calls_refused_here_total"),
            calls_served: counter!("holdfast_peer_calls_served_total"),
            calls_over_limit: counter!("holdfast_peer_calls_turned_away_total"),
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
            certificate_expires: gauge!("holdfast_peer_certificate_expiry_seconds"),
            reloads: counter!("holdfast_peer_certificate_reloads_total", "outcome" => "done"),
            reloads_failed: counter!("holdfast_peer_certificate_reloads_total", "outcome" => "failed"),
            refusals: [TLS, CERTIFICATE, SILENT, HANDSHAKE_LIMIT]
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

    /// Counts a refused connection.
    pub(crate) fn refused(&self, reason: &'static str) {
        if let Some((_, counter)) = self.refusals.iter().find(|(label, _)| *label == reason) {
            counter.increment(1);
        }
    }

    /// Counts a broken rule of the protocol.
    pub(crate) fn violation(&self, rule: &'static str) {
        if let Some((_, counter)) = self.violations.iter().find(|(label, _)| *label == rule) {
            counter.increment(1);
        }
    }
}
