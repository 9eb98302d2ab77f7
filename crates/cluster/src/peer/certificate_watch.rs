//! Reloads this node's certificates when their files change.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_tasks::Phase;
use tokio::time::sleep;

use super::error_text;
use super::peer_table::PeerTable;
use super::transport::tls::{PeerTls, PeerTlsFiles};

/// Modification time and length of each file, to detect changes.
type Stamp = [Option<(SystemTime, u64)>; 3];

/// Reads the stamps from the disk.
fn read_stamp(files: &PeerTlsFiles) -> Stamp {
    [&files.ca, &files.certificate, &files.key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}

async fn stamp(files: &PeerTlsFiles) -> Stamp {
    let files = files.clone();
    holdfast_tasks::spawn_blocking(move || read_stamp(&files)).await
}

/// Checks the files every few seconds and reloads them when they have changed. A reload that fails, such as of a renewal
/// that is half written, is retried; its error is logged once.
pub(crate) async fn run(table: Arc<PeerTable>) {
    let expires = |tls: &PeerTls| {
        tls.expires()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .map_or(0.0, |at| at.as_secs_f64())
    };
    table.metrics.certificate_expires.set(expires(&table.tls));
    let Some(files) = table.tls.files().cloned() else {
        return;
    };
    let mut known = stamp(&files).await;
    let mut logged = String::new();
    loop {
        tokio::select! {
            biased;
            () = table.stop.reached(Phase::Closing) => return,
            () = sleep(table.config.reload_interval) => {}
        }
        let now = stamp(&files).await;
        if now == known {
            continue;
        }
        let tls = table.tls.clone();
        match holdfast_tasks::spawn_blocking(move || tls.reload()).await {
            Ok(()) => {
                known = now;
                logged.clear();
                table.metrics.reloads.increment(1);
                table.metrics.certificate_expires.set(expires(&table.tls));
                tracing::info!("reloaded the peer certificates");
            }
            Err(error) => {
                table.metrics.reloads_failed.increment(1);
                let text = error_text::of_error(&error);
                if text != logged {
                    tracing::warn!(
                        error = text,
                        "cannot load the changed peer certificates; the old ones stay in use"
                    );
                    logged = text;
                }
            }
        }
    }
}
