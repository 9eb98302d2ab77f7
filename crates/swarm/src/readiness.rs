//! Which nodes of a hub are in service, as a load balancer finds out: by asking `/readyz`.

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

/// How often each node is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks the nodes of `hub` for as long as the process lives: one flag for each, in order.
///
/// # Errors
/// When a node's metrics address is missing, beside which `/readyz` is.
pub fn follow(hub: &Hub) -> Result<Arc<[AtomicBool]>> {
    let hosts = hub.nodes.iter().map(|node| {
        let url = node.metrics.as_deref().context("a node without a metrics address")?;
        let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        host.map(str::to_owned).with_context(|| format!("{url} is not http://"))
    });
    let hosts = hosts.collect::<Result<Vec<String>>>()?;
    let flags: Arc<[AtomicBool]> = hosts.iter().map(|_| AtomicBool::new(true)).collect();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let told = Arc::clone(&flags);
    thread::Builder::new().name("readiness".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                for (host, flag) in hosts.iter().zip(told.iter()) {
                    let answer = tokio::time::timeout(PATIENCE, is_ready(host)).await;
                    flag.store(matches!(answer, Ok(Ok(true))), Ordering::Relaxed);
                }
                tokio::time::sleep(EVERY).await;
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
