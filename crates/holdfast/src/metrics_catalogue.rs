//! Every metric of the hub with its meaning: the source of `# HELP` and of docs/metrics.md.
//!
//! Invariant: the tests compare this table with the names in the crates' sources, both ways.

/// Name, kind, labels and meaning.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the page, which the tests write"))]
    pub(crate) labels: &'static str,
    pub(crate) meaning: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const fn counter(name: &'static str, labels: &'static str, meaning: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        labels,
        meaning,
    }
}

const fn gauge(name: &'static str, labels: &'static str, meaning: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        labels,
        meaning,
    }
}

const fn histogram(name: &'static str, labels: &'static str, meaning: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Histogram,
        labels,
        meaning,
    }
}

/// All of them, in the order of the page.
pub(crate) const METRICS: &[Metric] = &[
    gauge(
        "holdfast_build_info",
        "version",
        "Always 1; the version is in the label.",
    ),
    gauge(
        "holdfast_process_resident_bytes",
        "",
        "Memory of the process, as the kernel counts it.",
    ),
    gauge(
        "holdfast_process_cpu_seconds",
        "",
        "CPU time of the process since its start, user and system.",
    ),
    gauge("holdfast_process_open_files", "", "Open files, connections included."),
    gauge(
        "holdfast_tasks_panics",
        "",
        "Tasks that have panicked; anything but 0 is a bug.",
    ),
    gauge(
        "holdfast_tls_certificate_expiry_seconds",
        "certificate",
        "When the server certificate ends, seconds since 1970.",
    ),
    counter(
        "holdfast_tls_certificate_reloads_total",
        "outcome",
        "Times that changed server certificate files were loaded.",
    ),
    counter(
        "holdfast_audit_lost_total",
        "",
        "Audit lines that did not reach the file.",
    ),
    counter(
        "holdfast_gateway_connections_accepted_total",
        "protocol",
        "Device connections accepted, before they have authenticated.",
    ),
    counter(
        "holdfast_gateway_connects_total",
        "protocol",
        "Devices and modules that have authenticated.",
    ),
    gauge("holdfast_gateway_connections", "protocol", "Device connections now."),
    counter(
        "holdfast_gateway_connections_ended_total",
        "protocol, reason",
        "Device connections that have ended.",
    ),
    counter(
        "holdfast_gateway_violations_total",
        "protocol, rule",
        "Peers that broke a rule of the protocol; the connection was closed.",
    ),
    counter(
        "holdfast_refusals_total",
        "reason",
        "Clients that were refused: for their credential, or before they had shown one.",
    ),
    counter(
        "holdfast_d2c_telemetry_ingress_success_total",
        "",
        "Messages of devices that were committed and acknowledged.",
    ),
    counter(
        "holdfast_device_hub_entries_retried_total",
        "",
        "Batches that were proposed again, because their outcome was unknown.",
    ),
    counter(
        "holdfast_device_hub_entries_rejected_total",
        "",
        "Batches that could never be committed, whose sessions were closed; the log has an error for each.",
    ),
    counter(
        "holdfast_device_hub_deliveries_queued_total",
        "",
        "Messages for devices that this node has taken as the owner of their partition.",
    ),
    counter(
        "holdfast_device_hub_deliveries_refused_total",
        "",
        "Messages for devices that were not taken: no session, too many waiting, or another owner.",
    ),
    counter(
        "holdfast_device_hub_reads_paused_total",
        "",
        "Times that a connection was not read because too much waited for its commit.",
    ),
    counter(
        "holdfast_device_hub_sessions_taken_over_total",
        "",
        "Sessions that a newer connection of the same identity has replaced.",
    ),
    counter(
        "holdfast_device_hub_sessions_closed_total",
        "reason",
        "Sessions that the hub has closed.",
    ),
    counter(
        "holdfast_partition_appended_messages_total",
        "partition",
        "Messages that were given a sequence number, since the start of the process.",
    ),
    counter(
        "holdfast_partition_appended_bytes_total",
        "partition",
        "Bytes of their log entries.",
    ),
    counter(
        "holdfast_partition_void_entries_total",
        "partition, reason",
        "Entries that apply did not count: repeats, gaps, stale streams, damage, effects of another leadership.",
    ),
    gauge(
        "holdfast_partition_retained_bytes",
        "partition",
        "Bytes of the entries that readers may have.",
    ),
    gauge(
        "holdfast_partition_tail_bytes",
        "partition",
        "Bytes of the newest entries that are held in memory.",
    ),
    gauge(
        "holdfast_partition_device_state_cache_bytes",
        "partition",
        "Bytes of the most recently used device state that is held in memory.",
    ),
    gauge("holdfast_partition_readers", "partition", "Readers."),
    gauge(
        "holdfast_partition_reader_lag_messages",
        "partition",
        "Messages between the reader that is furthest behind and the end.",
    ),
    counter(
        "holdfast_partition_disk_reads_total",
        "partition",
        "Reads of the log by readers that were not at its end.",
    ),
    counter(
        "holdfast_partition_disk_read_bytes_total",
        "partition",
        "Bytes that they read.",
    ),
    counter(
        "holdfast_partition_missed_messages_total",
        "partition",
        "Messages that readers missed because retention had removed them.",
    ),
    counter(
        "holdfast_events_connections_accepted_total",
        "",
        "AMQP connections accepted.",
    ),
    gauge("holdfast_events_connections", "", "AMQP connections now."),
    gauge("holdfast_events_receivers", "", "Receivers of partitions now."),
    counter("holdfast_events_sent_total", "", "Events sent to readers."),
    counter(
        "holdfast_events_written_bytes_total",
        "",
        "Bytes written to AMQP connections.",
    ),
    counter("holdfast_events_refusals_total", "code", "Readers that were refused."),
    counter(
        "holdfast_events_violations_total",
        "condition",
        "Peers that broke a rule of AMQP; the connection was closed.",
    ),
    counter(
        "holdfast_rest_requests_total",
        "class",
        "REST calls answered, by class of status.",
    ),
    histogram(
        "holdfast_rest_request_seconds",
        "",
        "Time from a call's head to its answer.",
    ),
    counter(
        "holdfast_registry_writes_total",
        "outcome",
        "Writes of identities and settings: done, refused, failed.",
    ),
    counter(
        "holdfast_registry_confirms_total",
        "",
        "Confirmations that the local replica is not stale.",
    ),
    counter(
        "holdfast_registry_identity_cache_total",
        "outcome",
        "Lookups of identities: hit in memory, or miss and a read of the disk.",
    ),
    gauge("holdfast_registry_devices", "", "Devices registered."),
    gauge("holdfast_registry_modules", "", "Modules registered."),
    counter("holdfast_consensus_proposals_total", "kind", "Entries proposed."),
    counter("holdfast_consensus_proposed_bytes_total", "kind", "Their bytes."),
    counter(
        "holdfast_consensus_applied_total",
        "kind",
        "Entries applied, replayed ones included.",
    ),
    histogram(
        "holdfast_consensus_commit_seconds",
        "kind",
        "Time from a proposal to its commit.",
    ),
    counter("holdfast_storage_syncs_total", "", "Syncs of the write-ahead log."),
    histogram("holdfast_storage_sync_seconds", "", "Time of one sync."),
    histogram(
        "holdfast_storage_sync_completions",
        "",
        "Writes that one sync made durable.",
    ),
    gauge(
        "holdfast_storage_sync_queue",
        "",
        "Writes that waited when the last sync began.",
    ),
    counter(
        "holdfast_storage_written_bytes_total",
        "durability",
        "Bytes written through the write-ahead log (logged) and without it (replayed).",
    ),
    gauge(
        "holdfast_storage_free_bytes",
        "",
        "Free bytes of the data directory's file system.",
    ),
    gauge(
        "holdfast_storage_refusing_writes",
        "",
        "1 while writes are refused for lack of space.",
    ),
    counter(
        "holdfast_cluster_garbled_calls_total",
        "",
        "Calls of other nodes about partitions that could not be understood.",
    ),
    counter(
        "holdfast_cluster_owner_changes_total",
        "",
        "Times that this node has learned of a new owner of a partition.",
    ),
    counter(
        "holdfast_cluster_remote_appends_total",
        "",
        "Batches sent to owners on other nodes.",
    ),
    counter("holdfast_cluster_remote_append_bytes_total", "", "Their bytes."),
    counter(
        "holdfast_cluster_remote_append_failures_total",
        "",
        "Batches that an owner on another node did not acknowledge; they are sent again.",
    ),
    counter(
        "holdfast_cluster_served_appends_total",
        "",
        "Batches of other nodes that this node, as the owner, has taken.",
    ),
    counter(
        "holdfast_cluster_refused_appends_total",
        "",
        "Batches of other nodes that were refused here, mostly since this node does not own the partition.",
    ),
    gauge(
        "holdfast_cluster_served_readers",
        "",
        "Readers on other nodes that read from a replica here.",
    ),
    counter(
        "holdfast_cluster_reader_moves_total",
        "",
        "Times that a reader moved to another replica.",
    ),
    counter(
        "holdfast_cluster_reader_missed_messages_total",
        "",
        "Messages that retention had deleted before a reader of another node's replica came to them.",
    ),
    gauge(
        "holdfast_cluster_unowned_partitions",
        "",
        "Partitions whose owner this node does not know: nothing is acknowledged there meanwhile.",
    ),
    counter(
        "holdfast_consensus_forwarded_total",
        "kind",
        "Proposals, reads and leases that were handed to a leader on another node.",
    ),
    counter(
        "holdfast_consensus_refused_calls_total",
        "kind",
        "Calls of other members that could not be understood or were not for a member.",
    ),
    counter(
        "holdfast_consensus_snapshots_total",
        "kind, direction, outcome",
        "Snapshots for replicas that cannot catch up from the log.",
    ),
    counter(
        "holdfast_consensus_snapshot_bytes_total",
        "kind, direction",
        "Their bytes.",
    ),
    gauge(
        "holdfast_control_led_groups",
        "",
        "Groups that this node leads, the registry included.",
    ),
    gauge("holdfast_control_replicas", "", "Replicas of partitions that run here."),
    gauge(
        "holdfast_control_unsettled_groups",
        "",
        "Groups led here whose members are not yet as wanted.",
    ),
    counter(
        "holdfast_control_steps_total",
        "outcome",
        "Steps towards what the registry wants: members changed, leaders moved, replicas started and given up.",
    ),
    counter(
        "holdfast_control_leaders_handed_over_total",
        "",
        "Leaderships that this node has handed over because it stops.",
    ),
    gauge(
        "holdfast_device_hub_sessions",
        "",
        "Sessions that this node has as a gateway.",
    ),
    gauge(
        "holdfast_device_hub_owned_sessions",
        "",
        "Sessions, on all gateways, of the partitions that this node owns.",
    ),
    counter(
        "holdfast_device_hub_connects_turned_away_total",
        "",
        "Devices that were told to come again: too many waited, or the decision took too long.",
    ),
    counter(
        "holdfast_device_hub_connections_recorded_total",
        "",
        "Begins, ends and activity of connections that were written into the logs of partitions owned here.",
    ),
    counter(
        "holdfast_device_hub_dead_states_removed_total",
        "",
        "Values of device state that were removed because their identity was deleted or created again.",
    ),
    counter(
        "holdfast_device_hub_entries_held_total",
        "",
        "Times that a batch waited until its sessions had been confirmed by a new owner.",
    ),
    counter(
        "holdfast_device_hub_gateways_marked_away_total",
        "",
        "Times that sessions of a partition owned here went on without a node that was silent.",
    ),
    counter(
        "holdfast_device_hub_links_failed_total",
        "",
        "Times that the sessions of a partition could not be synced to its owner at once; it is retried.",
    ),
    counter(
        "holdfast_device_hub_messages_dropped_total",
        "",
        "Unacknowledged messages of sessions that were taken over elsewhere; their devices send them again.",
    ),
    gauge("holdfast_peer_connected", "", "Nodes that can be called now."),
    counter("holdfast_peer_connects_total", "", "Connections made to other nodes."),
    counter(
        "holdfast_peer_losses_total",
        "",
        "Connections to other nodes that were lost.",
    ),
    counter("holdfast_peer_refusals_total", "reason", "Nodes that were not let in."),
    counter(
        "holdfast_peer_violations_total",
        "rule",
        "Rules of the peer protocol that a connection has broken; it is closed.",
    ),
    counter("holdfast_peer_calls_total", "", "Calls to other nodes."),
    counter(
        "holdfast_peer_calls_served_total",
        "",
        "Calls of other nodes that were carried out.",
    ),
    counter(
        "holdfast_peer_calls_refused_here_total",
        "",
        "Calls that were refused before they left: no connection, or too much waits.",
    ),
    counter(
        "holdfast_peer_calls_turned_away_total",
        "",
        "Calls of other nodes beyond what may be under way.",
    ),
    counter(
        "holdfast_peer_frames_total",
        "direction",
        "Frames of calls and answers.",
    ),
    counter("holdfast_peer_bytes_total", "direction", "Their bytes."),
    counter(
        "holdfast_peer_streams_total",
        "",
        "Uploads and downloads begun here: snapshots and remote readers.",
    ),
    gauge(
        "holdfast_peer_queue_bytes",
        "",
        "Bytes of calls and answers that wait to be sent.",
    ),
    gauge("holdfast_peer_waiting_calls", "", "Calls without an answer yet."),
    histogram("holdfast_peer_rtt_seconds", "", "Time of a ping to another node."),
    gauge(
        "holdfast_peer_certificate_expiry_seconds",
        "",
        "When this node's certificate for other nodes ends, seconds since 1970.",
    ),
    counter(
        "holdfast_peer_certificate_reloads_total",
        "outcome",
        "Times that changed certificate files were loaded.",
    ),
    gauge(
        "holdfast_registry_lease_held",
        "",
        "1 while this node's replica of the registry is confirmed, and connections are accepted.",
    ),
    counter(
        "holdfast_registry_lease_lost_total",
        "",
        "Times that the confirmation was lost.",
    ),
    counter(
        "holdfast_registry_lease_renewals_total",
        "outcome",
        "Attempts to renew it.",
    ),
];

/// Registers the meanings with the recorder.
pub(crate) fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.meaning),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.meaning),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.meaning),
        }
    }
}

/// `docs/metrics.md`; the page is written by the tests.
#[cfg(test)]
fn page() -> String {
    use std::fmt::Write as _;

    let mut out = String::from(
        "# Metrics\n\n\
         <!-- Written by the test `metrics_page_is_up_to_date`; run it with HOLDFAST_REWRITE=1 to rewrite. -->\n\n\
         Prometheus text at `/metrics` of `ops.listen` (`metrics` in `connection.json`). Labels come from fixed sets: never a\n\
         device id, a topic or an address. Units are in the names; `_total` only grows. What to alert on: runbook.md.\n\n\
         | metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = if metric.labels.is_empty() { "–" } else { metric.labels };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| `{}` | {kind} | {labels} | {} |", metric.name, metric.meaning);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    /// Every `"holdfast_…"` in the sources of the server's crates.
    fn names_in_sources(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in_sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("src/metrics_catalogue.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                for part in text.split("!(").skip(1).map(str::trim_start) {
                    if let Some(rest) = part.strip_prefix("\"holdfast_")
                        && let Some((name, _)) = rest.split_once('"')
                    {
                        found.insert(format!("holdfast_{name}"));
                    }
                }
            }
        }
    }

    #[test]
    fn every_metric_of_the_sources_is_in_the_table_and_the_other_way_round() {
        let mut in_sources = BTreeSet::new();
        for entry in std::fs::read_dir(root().join("crates")).unwrap() {
            let path = entry.unwrap().path();
            if path.join("src").is_dir() && !path.ends_with("swarm") {
                names_in_sources(&path.join("src"), &mut in_sources);
            }
        }
        let in_table: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
        let missing: Vec<_> = in_sources.difference(&in_table).collect();
        let gone: Vec<_> = in_table.difference(&in_sources).collect();
        assert!(
            missing.is_empty() && gone.is_empty(),
            "not in metrics_catalogue.rs: {missing:?}; not in the sources: {gone:?}"
        );
        assert_eq!(in_table.len(), METRICS.len(), "a name is in the table twice");
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in METRICS {
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{}",
                metric.name
            );
            assert!(metric.meaning.ends_with('.'), "{} has no sentence", metric.name);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
    fn metrics_page_is_up_to_date() {
        let path = root().join("docs/metrics.md");
        if std::env::var("HOLDFAST_REWRITE").is_ok() {
            std::fs::write(&path, page()).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == page(),
            "docs/metrics.md is stale; rewrite it: HOLDFAST_REWRITE=1 cargo test -p holdfast metrics_page"
        );
    }
}
