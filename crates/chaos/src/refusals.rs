//! Operators' mistakes must be refused, with an error that says what to do instead.
//!
//! Checked once, before the faults, on a healthy cluster, which must be healthy afterwards.

use std::time::Duration;

use anyhow::Result;
use http::Method;

use crate::check::Findings;
use crate::cluster::Cluster;

/// How long a refused node may take to log the reason and end.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(40);

/// Tries operations that must be refused.
///
/// # Errors
/// When the run is interrupted, or processes cannot be started.
pub fn check(cluster: &mut Cluster) -> Result<Findings> {
    let mut findings = Findings::about("mistakes of operators are refused, with what to do");
    if !cluster.is_cluster() {
        return Ok(findings);
    }
    let name = cluster.node(1).config.name.clone();
    let all_needed = cluster.setup().nodes <= 3;
    let calls = [
        (
            all_needed,
            Method::POST,
            format!("/holdfast/v1/nodes/{name}/drain"),
            "draining below the replication factor",
        ),
        (
            true,
            Method::DELETE,
            format!("/holdfast/v1/nodes/{name}"),
            "removing a node that is up and holds replicas",
        ),
        (
            true,
            Method::DELETE,
            format!("/holdfast/v1/nodes/{name}?force=true"),
            "removing a node as dead that is up",
        ),
        (
            true,
            Method::DELETE,
            "/holdfast/v1/nodes/nobody".to_owned(),
            "removing a node that does not exist",
        ),
    ];
    for (_, method, path, what) in calls.into_iter().filter(|(applies, ..)| *applies) {
        findings.checked += 1;
        let (status, text) = cluster.ask(method, &path)?;
        if !status.is_client_error() || text.len() < 40 {
            findings.violation(None, || format!("{what} is answered with {status}: {text}"));
        }
    }
    if let Some(spare) = cluster.spare() {
        let used = cluster.used_token().map(str::to_owned);
        let tokens = [(Some("0f".repeat(32)), "an unknown token"), (used, "a used token")];
        for (token, what) in tokens.into_iter().filter_map(|(token, what)| Some((token?, what))) {
            findings.checked += 1;
            cluster.launch_with_token(spare, &token)?;
            match cluster.node(spare).wait_end(REFUSED_TIMEOUT) {
                Ok(status) => {
                    let words = cluster.node(spare).last_errors();
                    if status.success() || !cluster.node(spare).log_since_start().contains("token") {
                        findings.violation(None, || format!("joining with {what}: {status}, {words}"));
                    }
                }
                Err(error) => findings.violation(None, || format!("joining with {what}: {error:#}")),
            }
            cluster.node(spare).disk.wipe()?;
        }
    }
    Ok(findings)
}
