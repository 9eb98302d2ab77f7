//! Metrics of peer connections. Handles belong to a node, so that several nodes in one process are counted apart.

use metrics::{Counter, Gauge, Histogram};

use super::protocol::frame::Violation;
use super::protocol::hello;

holdfast_model::metrics! {
    /// Calls to other nodes.
    counter calls() = "holdfast_peer_calls_total";
    /// Calls that were refused before they left: no connection, or too much waits.
    counter calls_failed() = "holdfast_peer_calls_refused_here_total";
    /// Calls of other nodes that were carried out.
    counter calls_served() = "holdfast_peer_calls_served_total";
    /// Calls of other nodes beyond the limit of calls in flight.
    counter calls_over_limit() = "holdfast_peer_calls_turned_away_total";
    /// Frames of calls and answers.
    counter frames(direction) = "holdfast_peer_frames_total";
    /// Their bytes.
    counter bytes(direction) = "holdfast_peer_bytes_total";
    /// Uploads and downloads begun here: snapshots and remote readers.
    counter streams() = "holdfast_peer_streams_total";
    /// Nodes that can be called now.
    gauge connected() = "holdfast_peer_connected";
    /// Connections made to other nodes.
    counter connects() = "holdfast_peer_connects_total";
    /// Connections to other nodes that were lost.
    counter losses() = "holdfast_peer_losses_total";
    /// Bytes of calls and answers that wait to be sent.
    gauge queue_bytes() = "holdfast_peer_queue_bytes";
    /// Calls without an answer yet.
    gauge waiting_calls() = "holdfast_peer_waiting_calls";
    /// Time of a ping to another node.
    histogram rtt() = "holdfast_peer_rtt_seconds";
    /// When this node's certificate for other nodes ends, seconds since 1970.
    gauge certificate_expires() = "holdfast_peer_certificate_expiry_seconds";
    /// Times that changed certificate files were loaded.
    counter certificate_reloads(outcome) = "holdfast_peer_certificate_reloads_total";
    /// Nodes that were not let in.
    counter refusals(reason) = "holdfast_peer_refusals_total";
    /// Rules of the peer protocol that a connection has broken; it is closed.
    counter violations(rule) = "holdfast_peer_violations_total";
}

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
            calls: calls(),
            calls_failed: calls_failed(),
            calls_served: calls_served(),
            calls_over_limit: calls_over_limit(),
            frames_sent: frames("sent"),
            frames_received: frames("received"),
            bytes_sent: bytes("sent"),
            bytes_received: bytes("received"),
            streams: streams(),
            connected: connected(),
            connects: connects(),
            losses: losses(),
            queue_bytes: queue_bytes(),
            waiting_calls: waiting_calls(),
            rtt: rtt(),
            certificate_expires: certificate_expires(),
            reloads: certificate_reloads("done"),
            reloads_failed: certificate_reloads("failed"),
            refusals: [TLS, CERTIFICATE, SILENT, HANDSHAKE_LIMIT]
                .into_iter()
                .chain(hello::LABELS)
                .map(|reason| (reason, refusals(reason)))
                .collect(),
            violations: [TOO_LONG, GARBAGE]
                .into_iter()
                .chain(Violation::RULES)
                .map(|rule| (rule, violations(rule)))
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
