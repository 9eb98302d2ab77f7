//! A hub process from start to exit: checks, start, readiness, signals, drain, exit code. Shared by `start` and `dev`.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use holdfast_registry::{Changes, RegistryEvent};
use holdfast_storage::{DataDir, NodeIdentity};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::connection::{self, ConnectionFile, NodeFacts};
use crate::node::{self, Node};
use crate::ops::{self, Ops};
use crate::{debug_report, logs, preflight};
use holdfast_cli::exit_code::{Failure, Outcome};

/// Called with the connection file's content when the hub is ready; the child that it returns ends with the hub.
pub(crate) type OnReady = Box<dyn FnOnce(&ConnectionFile) -> Result<Option<std::process::Child>, Failure>>;

/// Runs a hub until it is asked to stop. A failure is reported and ends the process.
///
/// # Errors
/// None is returned: other threads still use the database, and an orderly end of the process would take it down under
/// them (RocksDB aborts then, and the exit code is lost).
pub(crate) fn run(config: &Config, data: DataDir, on_ready: OnReady) -> Result<(), Failure> {
    if let Err(failure) = serve(config, data, on_ready) {
        let _ = failure.report();
        signal_hook::low_level::exit(failure.outcome as i32);
    }
    Ok(())
}

/// From here on a panic outside a connection ends the process at once, for the reason that [`run`] gives
/// (docs/decisions/0006).
fn end_on_panic() {
    holdfast_tasks::end_process_on_panic(|| signal_hook::low_level::exit(Outcome::Panicked as i32));
    #[cfg(debug_assertions)]
    if std::env::var_os("TEST_PANIC_POINTS").is_some() {
        holdfast_tasks::arm_panic_points();
    }
}

fn serve(config: &Config, data: DataDir, on_ready: OnReady) -> Result<(), Failure> {
    let begun = Instant::now();
    end_on_panic();
    preflight::clock(SystemTime::now())?;
    preflight::ports(node::addresses(config).chain([config.ops.listen]))?;
    let connections = preflight::open_files(u64::from(config.storage.max_open_files))?;
    let logs = logs::start(config)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        host = config.hub.host,
        data_dir = %config.data_dir().display(),
        cores = config.core_count(),
        max_connections = connections,
        "starting"
    );
    if let Some(warning) = preflight::memory_shortage(config.storage.write_buffer, config.storage.block_cache) {
        tracing::warn!("{warning}");
    }
    let metrics = ops::install_metrics()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (fatal, mut fatals) = mpsc::channel(1);
        // Only the first reason counts.
        let on_fatal = Arc::new(move |reason: String| drop(fatal.try_send(reason)));
        let mut signals = Signals::new()?;
        let (ops, ops_address) = Ops::start(config.ops.listen, metrics)?;
        let node = match Node::start(config, &data, on_fatal).await {
            Ok(node) => node,
            // A part that could not start because the disk or the data is bad says so in its own words.
            Err(failure) => match fatals.try_recv() {
                Ok(reason) if failure.message.contains(&reason) => return Err(had_to_stop(&failure.message)),
                Ok(reason) => return Err(had_to_stop(&format!("{reason} ({})", failure.message))),
                Err(_) => return Err(failure),
            },
        };
        ops.node_started(node.scrape(), node.readiness());
        node.set_debug_source(debug_report::source(config, logs.recent.clone(), ops.clone(), node.start_count()));
        let is_ready = node.readiness();
        tokio::select! {
            biased;
            reason = fatals.recv() => return Err(had_to_stop(&reason.unwrap_or_default())),
            () = signals.stop() => {
                tracing::info!("stopping before it was ready");
                ops.node_stops();
                return Ok(node.stop(config.ops.drain_timeout).await?);
            }
            () = ready(&is_ready) => {}
        }

        let mut ports = node.ports();
        ports.ops = Some(ops_address.port());
        let url = format!("http://{ops_address}/metrics");
        let changes = node.changes();
        let mut file = connection::new(&config.hub.host, &node.policies()?, ca_file(config)?, url, ports)?;
        if let Ok(()) = tokio::time::timeout(PROVISIONING_TIMEOUT, provisioned(&node)).await
            && let Some((host, settings)) = node.provisioning()
        {
            connection::set_provisioning(&mut file, host, &settings);
        }
        file.blobs = node.blobs();
        file.nodes.extend(own_facts(config, &file));
        let published = Published::new(config.hub.connection_file.clone(), &file)?;
        let ready_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(ready_ms, ports = ?file.ports, "ready");
        let mut child = on_ready(&file)?;

        let reason = tokio::select! {
            biased;
            reason = fatals.recv() => reason,
            () = signals.stop() => None,
            never = published.follow(&mut file, &node, changes) => match never {},
        };
        drop(published);
        if let Some(child) = &mut child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(reason) = reason {
            tracing::error!(reason, "stopping at once: unsynced writes cannot be acknowledged any more");
            // Nothing may be flushed or acknowledged after a failed sync, so the process ends without an orderly stop.
            return Err(had_to_stop(&reason));
        }
        tracing::info!("stopping: no new connections; finishing messages in flight");
        ops.node_stops();
        tokio::select! {
            biased;
            stopped = node.stop(config.ops.drain_timeout) => stopped?,
            () = signals.stop() => {
                return Err(Failure::new(Outcome::Failed, "stopped at once by a second signal; the log is replayed at the next start"));
            }
        }
        tracing::info!("stopped");
        Ok(())
    })
}

/// Returns when the node is ready; logs from time to time why it is not.
async fn ready(is_ready: &ops::Readiness) {
    let begun = Instant::now();
    let mut logged = begun;
    while let Err(reason) = is_ready() {
        if logged.elapsed() >= READY_LOG_INTERVAL {
            logged = Instant::now();
            tracing::info!(waiting_s = begun.elapsed().as_secs(), reason, "not ready yet");
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

/// Returns when the provisioning service is there, if the hub is to have one.
async fn provisioned(node: &Node) {
    while node.awaits_provisioning() {
        tokio::time::sleep(READY_POLL).await;
    }
}

/// How long the connection file waits for the provisioning service, which a first start creates.
const PROVISIONING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often readiness is checked.
const READY_POLL: Duration = Duration::from_millis(10);
/// How often the log says why the node is not ready.
const READY_LOG_INTERVAL: Duration = Duration::from_secs(10);

fn had_to_stop(reason: &str) -> Failure {
    Failure::new(Outcome::Storage, format!("the hub had to stop: {reason}"))
        .advise("see \"Storage errors\" in docs/runbook.md before starting it again")
}

/// The connection file's entry for this node.
fn own_facts(config: &Config, file: &ConnectionFile) -> Option<NodeFacts> {
    let listener = node::addresses(config).next()?;
    let address = if listener.ip().is_unspecified() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        listener.ip()
    };
    Some(NodeFacts {
        name: config.cluster.name(),
        address: address.to_string(),
        ports: file.ports.clone(),
        metrics: file.metrics.clone(),
        config_file: None,
        data_dir: config.data_dir().to_owned(),
    })
}

fn ca_file(config: &Config) -> Result<Option<PathBuf>, Failure> {
    config
        .tls
        .ca_file
        .as_deref()
        .map(std::path::absolute)
        .transpose()
        .map_err(Failure::from)
}

/// Makes the data directory and takes it for this process alone.
///
/// # Errors
/// When another hub has it, it cannot be written, or it is not what this program left.
pub(crate) fn take_data_dir(dir: &Path, in_cluster: bool) -> Result<DataDir, Failure> {
    preflight::data_dir(dir)?;
    if dir.join(node::RESTORING_FILE).exists() {
        let text = format!("a restore into {} has begun and not ended", dir.display());
        return Err(Failure::cannot_start(text).advise(
            "give `holdfast restore` again, with the same backup: it continues; or remove the directory, which holds nothing else",
        ));
    }
    let new = || NodeIdentity {
        // A node of a cluster learns its id from the members, or creates the cluster.
        cluster: if in_cluster { String::new() } else { node::new_cluster() },
        incarnation: new_incarnation(),
    };
    DataDir::open(dir, new).map_err(|error| node::storage_failure(&error))
}

/// An id for a new node: not zero, and exact in the floating-point numbers of tools that read metrics and JSON.
pub(crate) fn new_incarnation() -> u64 {
    (rand::random::<u64>() >> 11) | 1
}

/// The connection file while the hub is ready.
struct Published(Option<PathBuf>);

impl Published {
    fn new(path: Option<PathBuf>, file: &ConnectionFile) -> Result<Self, Failure> {
        if let Some(path) = &path {
            connection::write(file, path)?;
        }
        Ok(Self(path))
    }

    /// Writes the file anew when its keys have changed, so that commands that read it stay logged in.
    async fn follow(&self, file: &mut ConnectionFile, node: &Node, mut changes: Changes) -> Infallible {
        while let Some(event) = changes.next().await {
            let concerns = matches!(
                event,
                RegistryEvent::Settings | RegistryEvent::Provisioning | RegistryEvent::Resync
            );
            let Some(path) = self.0.as_ref().filter(|_| concerns) else {
                continue;
            };
            let before = file.clone();
            if let Some((host, settings)) = node.provisioning() {
                connection::set_provisioning(file, host, &settings);
            }
            let written = node
                .policies()
                .and_then(|policies| connection::set_policies(file, &policies));
            let written = written.and_then(|()| {
                if *file == before {
                    Ok(())
                } else {
                    connection::write(file, path)
                }
            });
            if let Err(error) = written {
                tracing::warn!(error = format!("{error:#}"), path = %path.display(), "the connection file has old keys");
            }
        }
        std::future::pending().await
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // It may have been removed already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The signals that stop a hub: from an operator, a terminal that closes, Ctrl-C.
struct Signals {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns at the next of them.
    async fn stop(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
