//! The metrics of the process, and those of all crates joined: the source of `# HELP` and of docs/metrics.md.
//!
//! Invariant: the tests compare the joined metrics with the names in the crates' sources, both ways.
//! Not here: the metrics of a crate, which it declares beside their use.

use holdfast_model::{Metric, MetricKind};

holdfast_model::metrics! {
    /// Always 1; the version is in the label.
    gauge build_info(version) = "holdfast_build_info";
    /// Tasks that have panicked; anything but 0 is a bug.
    gauge panics() = "holdfast_tasks_panics";
    /// Memory of the process, as the kernel counts it.
    gauge resident_bytes() = "holdfast_process_resident_bytes";
    /// CPU time of the process since its start, user and system.
    gauge cpu_seconds() = "holdfast_process_cpu_seconds";
    /// Open files, connections included.
    gauge open_files() = "holdfast_process_open_files";
    /// The most files that the process may have open: the limit that the system gives it.
    gauge max_open_files() = "holdfast_process_max_open_files";
    /// Audit lines that did not reach the file.
    counter audit_lost() = "holdfast_audit_lost_total";
    /// Times that changed server certificate files were loaded.
    counter certificate_reloads(outcome) = "holdfast_tls_certificate_reloads_total";
    /// When the server certificate ends, seconds since 1970.
    gauge certificate_expiry(certificate) = "holdfast_tls_certificate_expiry_seconds";
    /// When the OCSP response that is stapled to the server certificate was made, seconds since 1970; 0: its file cannot be stapled.
    gauge ocsp_made(certificate) = "holdfast_tls_ocsp_made_seconds";
    /// When that OCSP response ends; from then on it is not stapled.
    gauge ocsp_expiry(certificate) = "holdfast_tls_ocsp_expiry_seconds";
    /// CAs of devices that end within so many days: 90d, 30d, 7d, or 0d for those that have ended.
    gauge cas_ending(within) = "holdfast_cas_ending";
    /// CRLs of CAs of devices whose time has ended; what they revoke stays revoked.
    gauge crls_ended() = "holdfast_crls_ended";
    /// Attempts to deliver notifications about uploaded files to the webhook: delivered, failed.
    counter webhook_deliveries(outcome) = "holdfast_upload_webhook_deliveries_total";
    /// When the newest backup of the schedule had ended, seconds since 1970; 0: none is known. On the leader of the registry.
    gauge backup_last_success() = "holdfast_backup_last_success_timestamp_seconds";
    /// How long it took.
    gauge backup_duration() = "holdfast_backup_last_duration_seconds";
    /// What it holds, with what it shares with others.
    gauge backup_bytes() = "holdfast_backup_last_bytes";
    /// The longest time between two backups that the schedule has; 0: there is no schedule.
    gauge backup_interval() = "holdfast_backup_interval_seconds";
    /// Runs of the schedule: done, failed.
    counter backup_runs(outcome) = "holdfast_backup_runs_total";
    /// Bytes that runs of the schedule have read from the hub.
    counter backup_read_bytes() = "holdfast_backup_read_bytes_total";
    /// States of the registry that were kept between backups.
    counter backup_registry_states() = "holdfast_backup_registry_states_total";
    /// Fetches of CRLs: new, unchanged, failed.
    counter crl_fetches(outcome) = "holdfast_crl_fetches_total";
}

/// All metrics, in the order of the page.
pub(crate) fn all() -> impl Iterator<Item = &'static Metric> {
    [
        METRICS,
        holdfast_net::METRICS,
        holdfast_gateway::METRICS,
        holdfast_device_hub::METRICS,
        holdfast_blob::METRICS,
        holdfast_partition::METRICS,
        holdfast_amqp_server::METRICS,
        holdfast_service_api::events::METRICS,
        holdfast_service_api::rest::METRICS,
        holdfast_oidc::METRICS,
        holdfast_provisioning::METRICS,
        holdfast_spans::METRICS,
        holdfast_registry::METRICS,
        holdfast_consensus::METRICS,
        holdfast_storage::METRICS,
        holdfast_cluster::route::METRICS,
        holdfast_cluster::control::METRICS,
        holdfast_cluster::peer::METRICS,
    ]
    .into_iter()
    .flatten()
}

/// Registers the meanings with the recorder.
pub(crate) fn describe() {
    for metric in all() {
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, metric.meaning()),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.meaning()),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, metric.meaning()),
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
         device id, a topic or an address; `query` is the name of a saved query, of which there are 100 at most. Units are in the names; `_total` only grows. Signs to alert on: runbook.md.\n\n\
         | metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for metric in all() {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels = if metric.labels.is_empty() {
            "–".to_owned()
        } else {
            metric.labels.join(", ")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| `{}` | {kind} | {labels} | {} |", metric.name, metric.meaning());
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

    /// The names of the metrics that the sources of the server's crates declare, or use without declaring them.
    fn names_in_sources(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in_sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for (before, part) in text.split("\"holdfast_").zip(text.split("\"holdfast_").skip(1)) {
                    let is_metric = [") =", "counter!(", "gauge!(", "histogram!("];
                    if is_metric.iter().any(|end| before.trim_end().ends_with(end))
                        && let Some((name, _)) = part.split_once('"')
                    {
                        found.insert(format!("holdfast_{name}"));
                    }
                }
            }
        }
    }

    #[test]
    fn every_metric_of_the_sources_is_joined_here_and_the_other_way_round() {
        let mut in_sources = BTreeSet::new();
        for entry in std::fs::read_dir(root().join("crates")).unwrap() {
            let path = entry.unwrap().path();
            if path.join("src").is_dir() && !path.ends_with("swarm") && !path.ends_with("model") {
                names_in_sources(&path.join("src"), &mut in_sources);
            }
        }
        let joined: BTreeSet<String> = all().map(|metric| metric.name.to_owned()).collect();
        let missing: Vec<_> = in_sources.difference(&joined).collect();
        let gone: Vec<_> = joined.difference(&in_sources).collect();
        assert!(
            missing.is_empty() && gone.is_empty(),
            "not joined in metrics_catalogue.rs: {missing:?}; not in the sources: {gone:?}"
        );
        assert_eq!(joined.len(), all().count(), "a name is declared twice");
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in all() {
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == MetricKind::Counter,
                "{}",
                metric.name
            );
            assert!(metric.meaning().ends_with('.'), "{} has no sentence", metric.name);
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
