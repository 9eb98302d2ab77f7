//! Counters of the device-session API.

use metrics::{Counter, Gauge};

use crate::api::connect_request::Protocol;
use crate::api::session::CloseReason;
use crate::queries::SavedQueryCount;
use crate::throttles::class::ThrottleClass;
use crate::throttles::quota::count::DailyQuota;

holdfast_model::metrics! {
    /// Messages of devices that were committed and acknowledged.
    counter acknowledged() = "holdfast_d2c_telemetry_ingress_success_total";
    /// Batches that were proposed again, because their outcome was unknown.
    counter retried() = "holdfast_device_hub_entries_retried_total";
    /// Batches that could never be committed, whose sessions were closed; the log has an error for each.
    counter rejected() = "holdfast_device_hub_entries_rejected_total";
    /// Times that a connection was not read because too much waited for its commit.
    counter paused() = "holdfast_device_hub_reads_paused_total";
    /// Sessions that a newer connection of the same identity has replaced.
    counter taken_over() = "holdfast_device_hub_sessions_taken_over_total";
    /// Times that a batch waited until its sessions had been confirmed by a new owner.
    counter held() = "holdfast_device_hub_entries_held_total";
    /// Unacknowledged messages of sessions that were taken over elsewhere; their devices send them again.
    counter dropped() = "holdfast_device_hub_messages_dropped_total";
    /// Times that the sessions of a partition could not be synced to its owner at once; it is retried.
    counter links_failed() = "holdfast_device_hub_links_failed_total";
    /// Times that sessions of a partition owned here went on without a node that was silent.
    counter absences_recorded() = "holdfast_device_hub_gateways_marked_away_total";
    /// Connections that were accepted by a SHA-1 thumbprint, which is deprecated.
    counter sha1_connects() = "holdfast_device_hub_sha1_thumbprint_connects_total";
    /// Certificates whose path to a CA of the hub this node had verified before, and those whose signatures it has verified.
    counter certificate_paths(result) = "holdfast_certificate_paths_total";
    /// Verified paths that this node knows.
    gauge certificate_paths_known() = "holdfast_certificate_paths_known";
    /// Devices that were asked to retry later: too many waited, or the decision took too long.
    counter turned_away() = "holdfast_device_hub_connects_turned_away_total";
    /// Begins, ends and activity of connections that were written into the logs of partitions owned here.
    counter connections_recorded() = "holdfast_device_hub_connections_recorded_total";
    /// Values of device state that were removed because their identity was deleted or created again.
    counter dead_states_removed() = "holdfast_device_hub_dead_states_removed_total";
    /// Messages for devices that this node has taken as the owner of their partition.
    counter deliveries_queued() = "holdfast_device_hub_deliveries_queued_total";
    /// Messages for devices that were not taken: no session, too many waiting, or another owner.
    counter deliveries_refused() = "holdfast_device_hub_deliveries_refused_total";
    /// Method calls that this node has taken.
    counter methods_invoked() = "holdfast_device_hub_methods_invoked_total";
    /// Method calls of this node that ended without an answer of the device.
    counter methods_failed() = "holdfast_device_hub_methods_failed_total";
    /// Cloud-to-device messages that devices have completed.
    counter c2d_completed() = "holdfast_c2d_commands_egress_complete_success_total";
    /// Deliveries of cloud-to-device messages that came back: given back, or their connection ended.
    counter c2d_abandoned() = "holdfast_c2d_commands_egress_abandon_success_total";
    /// Cloud-to-device messages that devices have rejected.
    counter c2d_rejected() = "holdfast_c2d_commands_egress_reject_success_total";
    /// Cloud-to-device messages whose time was over before a device completed them.
    counter c2d_expired() = "holdfast_c2d_messages_expired_total";
    /// Cloud-to-device messages that were queued.
    counter c2d_enqueued() = "holdfast_c2d_messages_enqueued_total";
    /// Cloud-to-device messages that were refused because the queue of the device was full.
    counter c2d_queue_full() = "holdfast_c2d_messages_queue_full_total";
    /// Feedback records that were dropped because too many of their device waited for a back end.
    counter c2d_feedback_dropped() = "holdfast_c2d_feedback_dropped_total";
    /// Uploads of files that devices have begun.
    counter uploads_begun() = "holdfast_uploads_begun_total";
    /// Uploads that were refused because the device had begun as many as it may.
    counter uploads_refused() = "holdfast_uploads_refused_total";
    /// Uploads that devices have reported as done.
    counter uploads_succeeded() = "holdfast_uploads_success_total";
    /// Uploads that devices have reported as failed.
    counter uploads_failed() = "holdfast_uploads_failed_total";
    /// Uploads whose time was over before their device has reported; counted with the next request about uploads of the device.
    counter uploads_expired() = "holdfast_uploads_expired_total";
    /// Notifications about uploads that were dropped: no back end has accepted them in time, or too many of their device waited.
    counter upload_notifications_dropped() = "holdfast_upload_notifications_dropped_total";
    /// Cloud-to-device messages in the queues of partitions that this node owns.
    gauge c2d_queued() = "holdfast_c2d_queued_messages";
    /// Age of the oldest of them in seconds.
    gauge c2d_oldest() = "holdfast_c2d_oldest_message_seconds";
    /// Twins that this node has read as the owner of their partition.
    counter twins_read() = "holdfast_twin_reads_total";
    /// Writes to tags and desired properties that this node has committed as the owner of their partition.
    counter twins_written() = "holdfast_twin_writes_total";
    /// Patches of reported properties that this node has committed as the owner of their partition.
    counter twins_reported() = "holdfast_twin_reports_total";
    /// Writes to twins that were refused: invalid, too large, or their condition did not hold.
    counter twins_refused() = "holdfast_twin_refusals_total";
    /// Changes of desired properties that were queued for connected devices.
    counter twins_notified() = "holdfast_twin_notifications_total";
    /// Devices or modules that the saved query selects; from the node that leads the registry's group, without the query's TOP and groups.
    gauge saved_query_matches(query) = "holdfast_saved_query_matches";
    /// Age of that count.
    gauge saved_query_age(query) = "holdfast_saved_query_age_seconds";
    /// How long the count has taken.
    gauge saved_query_evaluation(query) = "holdfast_saved_query_evaluation_seconds";
    /// Times that a saved query could not be counted.
    counter saved_query_failures() = "holdfast_saved_query_failures_total";
    /// Sessions that this node has as a gateway.
    gauge sessions() = "holdfast_device_hub_sessions";
    /// Sessions, on all gateways, of the partitions that this node owns.
    gauge owned_sessions() = "holdfast_device_hub_owned_sessions";
    /// Sessions that the hub has closed.
    counter sessions_closed(reason) = "holdfast_device_hub_sessions_closed_total";
    /// Requests that met a used-up rate of the hub: delayed, refused, or dropped (messages of quality of service 0).
    counter throttled(class, protocol, effect) = "holdfast_throttled_total";
    /// Requests that met the used-up daily quota: refused, or dropped (messages of quality of service 0).
    counter quota_refusals(class, protocol, effect) = "holdfast_daily_message_quota_refusals_total";
    /// Messages of today, of the whole hub, that count for the daily quota; from 00:00 UTC on.
    gauge quota_used() = "holdfast_daily_message_quota_used";
    /// The daily quota.
    gauge quota_limit() = "holdfast_daily_message_quota_limit";
    /// The part of the daily quota that is used, from 0 to 1 and beyond.
    gauge quota_share() = "holdfast_daily_message_quota_share";
    /// Requests that met a used-up rate of their device.
    counter device_throttled(class, protocol, effect) = "holdfast_device_throttled_total";
    /// The part of the hub's rate that this node may use, from 0 to 1.
    gauge throttle_share(class) = "holdfast_throttle_share";
    /// Refusals of wrong credentials that were answered later, since their credential or source was refused again and again.
    counter refusals_delayed(protocol) = "holdfast_refusals_delayed_total";
    /// Clients that were refused: for their credential, or before they had shown one.
    counter refusals(reason) = "holdfast_refusals_total";
}

/// Handles made once per hub.
pub(crate) struct Metrics {
    pub(crate) acknowledged: Counter,
    pub(crate) retried: Counter,
    pub(crate) rejected: Counter,
    pub(crate) paused: Counter,
    pub(crate) taken_over: Counter,
    pub(crate) held: Counter,
    pub(crate) dropped: Counter,
    pub(crate) links_failed: Counter,
    pub(crate) absences_recorded: Counter,
    pub(crate) sha1_connects: Counter,
    pub(crate) turned_away: Counter,
    pub(crate) connections_recorded: Counter,
    pub(crate) dead_states_removed: Counter,
    pub(crate) deliveries_queued: Counter,
    pub(crate) deliveries_refused: Counter,
    pub(crate) methods_invoked: Counter,
    pub(crate) methods_failed: Counter,
    pub(crate) c2d_completed: Counter,
    pub(crate) c2d_abandoned: Counter,
    pub(crate) c2d_rejected: Counter,
    pub(crate) c2d_expired: Counter,
    pub(crate) c2d_enqueued: Counter,
    pub(crate) c2d_queue_full: Counter,
    pub(crate) c2d_feedback_dropped: Counter,
    pub(crate) uploads_begun: Counter,
    pub(crate) uploads_refused: Counter,
    pub(crate) uploads_succeeded: Counter,
    pub(crate) uploads_failed: Counter,
    pub(crate) uploads_expired: Counter,
    pub(crate) upload_notifications_dropped: Counter,
    c2d_queued: Gauge,
    c2d_oldest: Gauge,
    pub(crate) twins_read: Counter,
    pub(crate) twins_written: Counter,
    pub(crate) twins_reported: Counter,
    pub(crate) twins_refused: Counter,
    pub(crate) twins_notified: Counter,
    pub(crate) saved_query_failures: Counter,
    sessions: Gauge,
    owned_sessions: Gauge,
    closed: [(CloseReason, Counter); 7],
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let reasons = [
            CloseReason::TakenOver,
            CloseReason::TokenExpired,
            CloseReason::CertificateExpired,
            CloseReason::Revoked,
            CloseReason::CertificateRevoked,
            CloseReason::Stopping,
            CloseReason::Unavailable,
        ];
        Self {
            acknowledged: acknowledged(),
            retried: retried(),
            rejected: rejected(),
            paused: paused(),
            taken_over: taken_over(),
            held: held(),
            dropped: dropped(),
            links_failed: links_failed(),
            absences_recorded: absences_recorded(),
            sha1_connects: sha1_connects(),
            turned_away: turned_away(),
            connections_recorded: connections_recorded(),
            dead_states_removed: dead_states_removed(),
            deliveries_queued: deliveries_queued(),
            deliveries_refused: deliveries_refused(),
            methods_invoked: methods_invoked(),
            methods_failed: methods_failed(),
            c2d_completed: c2d_completed(),
            c2d_abandoned: c2d_abandoned(),
            c2d_rejected: c2d_rejected(),
            c2d_expired: c2d_expired(),
            c2d_enqueued: c2d_enqueued(),
            c2d_queue_full: c2d_queue_full(),
            c2d_feedback_dropped: c2d_feedback_dropped(),
            uploads_begun: uploads_begun(),
            uploads_refused: uploads_refused(),
            uploads_succeeded: uploads_succeeded(),
            uploads_failed: uploads_failed(),
            uploads_expired: uploads_expired(),
            upload_notifications_dropped: upload_notifications_dropped(),
            c2d_queued: c2d_queued(),
            c2d_oldest: c2d_oldest(),
            twins_read: twins_read(),
            twins_written: twins_written(),
            twins_reported: twins_reported(),
            twins_refused: twins_refused(),
            twins_notified: twins_notified(),
            saved_query_failures: saved_query_failures(),
            sessions: sessions(),
            owned_sessions: owned_sessions(),
            closed: reasons.map(|reason| (reason, sessions_closed(reason.as_str()))),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "no node has 2^52 sessions")]
    pub(crate) fn count(&self, here: usize, owned: u64) {
        self.sessions.set(here as f64);
        self.owned_sessions.set(owned as f64);
    }

    /// The queues of the partitions owned here; the age in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    pub(crate) fn count_queues(&self, messages: usize, oldest_ms: u64) {
        self.c2d_queued.set(messages as f64);
        self.c2d_oldest.set(oldest_ms as f64 / 1000.0);
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        if let Some((_, counter)) = self.closed.iter().find(|(known, _)| *known == reason) {
            counter.increment(1);
        }
    }
}

/// Counts a request that met a used-up rate of the hub; the handle is looked up, which only a hub at its limit pays.
pub(crate) fn throttle(class: ThrottleClass, protocol: Protocol, effect: &'static str) {
    throttled(class.as_str(), protocol.as_str(), effect).increment(1);
}

/// Counts a request that met the used-up daily quota.
pub(crate) fn over_quota(class: ThrottleClass, protocol: Protocol, effect: &'static str) {
    quota_refusals(class.as_str(), protocol.as_str(), effect).increment(1);
}

/// Shows the use of the daily quota.
#[expect(clippy::cast_precision_loss, reason = "a measurement")]
pub(crate) fn show_quota(quota: DailyQuota) {
    quota_used().set(quota.used as f64);
    quota_limit().set(quota.limit as f64);
    quota_share().set(quota.used as f64 / quota.limit.max(1) as f64);
}

/// Shows the part of a rate that this node may use.
pub(crate) fn show_share(class: ThrottleClass, share: f64) {
    throttle_share(class.as_str()).set(share);
}

/// Counts a refusal that is answered later.
pub(crate) fn refusal_delayed(protocol: Protocol) {
    refusals_delayed(protocol.as_str()).increment(1);
}

/// Counts a request that met a used-up rate of its device.
pub(crate) fn device_throttle(class: ThrottleClass, protocol: Protocol, effect: &'static str) {
    device_throttled(class.as_str(), protocol.as_str(), effect).increment(1);
}

/// Sets the gauges of one saved query in the current recorder.
#[expect(clippy::cast_precision_loss, reason = "a measurement")]
pub(crate) fn show_saved_query(count: &SavedQueryCount) {
    let name = &count.name;
    saved_query_matches(name.clone()).set(count.matches as f64);
    saved_query_age(name.clone()).set(count.age.as_secs_f64());
    saved_query_evaluation(name.clone()).set(count.took.as_secs_f64());
}
