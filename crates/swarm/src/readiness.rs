//! Polls `/readyz` of each node, as a load balancer does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use http::{Method, StatusCode};
use tokio::runtime::Builder;

use crate::http::Client;
use crate::hub::Hub;
use crate::target::resolve;

/// Between two requests to the same node.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a node may take to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Polls the nodes of `hub` until the process ends; one flag for each node, in their order.
///
/// # Errors
/// When a node's metrics address, which serves `/readyz` too, is no URL.
pub fn follow(hub: &Hub) -> Result<Arc<[AtomicBool]>> {
    let hosts = hub.0.nodes.iter().map(|node| {
        let url = &node.metrics;
        let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        host.map(str::to_owned).with_context(|| format!("{url} is not http://"))
    });
    let hosts = hosts.collect::<Result<Vec<String>>>()?;
    let flags: Arc<[AtomicBool]> = hosts.iter().map(|_| AtomicBool::new(true)).collect();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let updated = Arc::clone(&flags);
    thread::Builder::new().name("readiness".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                for (host, flag) in hosts.iter().zip(updated.iter()) {
                    let answer = tokio::time::timeout(REQUEST_TIMEOUT, is_ready(host)).await;
                    flag.store(matches!(answer, Ok(Ok(true))), Ordering::Relaxed);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
    })?;
    Ok(flags)
}

async fn is_ready(host: &str) -> Result<bool> {
    let mut client = Client::connect(resolve(host)?, host, None).await?;
    let (status, _) = client.request(Method::GET, "/readyz", None, Vec::new()).await?;
    Ok(status == StatusCode::OK)
}
