//! Reloads this node's certificates when their files change.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use holdfast_net::{CertificateReload, ReloadOutcome};

use super::error_text;
use super::peer_table::PeerTable;
use super::transport::tls::PeerTlsError;

/// Reports when the certificate expires, and reloads the files until this node stops.
pub(crate) async fn run(table: Arc<PeerTable>) {
    report_expiry(&table);
    let Some(stamps) = table.tls.stamps().cloned() else {
        return;
    };
    let tls = table.tls.clone();
    let reload = CertificateReload {
        name: "peer",
        stamps,
        interval: table.config.reload_interval,
        load: move || tls.reload(),
        describe: |error: &PeerTlsError| error_text::of_error(error),
        report: |outcome| match outcome {
            ReloadOutcome::Reloaded => {
                table.metrics.reloads.increment(1);
                report_expiry(&table);
            }
            ReloadOutcome::Failed => table.metrics.reloads_failed.increment(1),
        },
    };
    reload.run(table.stop.clone()).await;
}

fn report_expiry(table: &PeerTable) {
    let expires = table.tls.expires().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let seconds = expires.map_or(0.0, |at| at.as_secs_f64());
    table.metrics.certificate_expires.set(seconds);
}
