//! The composition root: builds a node from its parts, bottom up, and stops it, top down.
//!
//! Order: storage → registry and partitions on their cores → device hub → front ends and listeners on every core.
//! Stopping: listeners close, what is under way is finished and acknowledged, sessions close, groups end, storage
//! flushes. Nothing is acknowledged after the flush has begun.
//! Not here: what the parts do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use holdfast_auth::Key;
use holdfast_tasks::{Phase, Stop};

use crate::config::Config;
use crate::connection::Ports;
use crate::cores::Core;
use crate::exit::Failure;
use crate::ops::Readiness;

/// Called once, from any thread, when the node cannot go on; the text is the reason.
pub(crate) type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// A running node.
pub(crate) struct Node {
    cores: Vec<Core>,
    stop: Stop,
    ports: Ports,
    keys: BTreeMap<String, Key>,
}

impl Node {
    /// Builds and starts everything; when it returns, the hub takes connections.
    ///
    /// # Errors
    /// Names the part that could not start. What had started is gone with the process.
    pub(crate) async fn start(config: &Config, _on_fatal: OnFatal) -> Result<Self, Failure> {
        let cores = (0..config.core_count()).map(Core::start).collect::<Result<Vec<_>>>()?;
        Ok(Self { cores, stop: Stop::new(), ports: Ports::default(), keys: BTreeMap::new() })
    }

    /// The ports that it listens on.
    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The primary keys of the hub's policies.
    pub(crate) fn policy_keys(&self) -> &BTreeMap<String, Key> {
        &self.keys
    }

    /// What `/readyz` asks.
    pub(crate) fn readiness(&self) -> Readiness {
        let stop = self.stop.clone();
        Arc::new(move || if stop.is_in(Phase::Accepting) { Err("the hub is stopping".to_owned()) } else { Ok(()) })
    }

    /// Stops in order; `drain_timeout` bounds how long sessions may take to finish.
    pub(crate) async fn stop(self, _drain_timeout: std::time::Duration) -> Result<()> {
        self.stop.enter(Phase::Accepting);
        self.stop.enter(Phase::Draining);
        self.stop.enter(Phase::Closing);
        self.cores.into_iter().for_each(Core::end);
        Ok(())
    }
}

/// Every address that the node will bind.
pub(crate) fn addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let listen = &config.listen;
    [&listen.mqtts, &listen.amqps, &listen.https, &listen.mqtt, &listen.amqp].into_iter().flatten().copied()
}
