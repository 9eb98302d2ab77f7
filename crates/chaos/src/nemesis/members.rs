//! Membership changes during a crash.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http::Method;
use serde_json::Value;

use super::injection::{Hit, Nemesis};
use crate::cluster::SETTLE_TIMEOUT;
use crate::interrupt;

/// How long a node may take to drain.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);
/// Poll interval while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

impl Nemesis<'_> {
    pub(super) fn membership_in_crash(&mut self, leader: u32) -> Result<Hit> {
        let spare = self.cluster.spare().context("there is no spare node")?;
        let result = self.join_in_crash(leader, spare);
        if result.is_err() {
            // It must not remain a member that the run does not track.
            let name = self.cluster.node(spare).config.name.clone();
            self.cluster.targets.remove(spare);
            self.cluster.node(spare).kill()?;
            let _ = self.cluster.forget(&name);
            self.cluster.node(spare).disk.wipe()?;
            self.cluster.rename(spare);
        }
        result
    }

    fn join_in_crash(&mut self, leader: u32, spare: u32) -> Result<Hit> {
        let began = self.now();
        self.cluster.begin_join(spare)?;
        self.wait(0..3_000)?;
        self.cluster.node(leader).kill()?;
        let down = self.wait(0..3_000)?;
        self.cluster.restart(leader)?;
        if self.cluster.node(spare).ended()?.is_some() {
            // Joining needs a leader; a supervisor starts it again, with the same token.
            self.cluster.launch(spare)?;
        }
        self.cluster.finish_join(spare)?;
        let joined = self.now();
        self.cluster.wait_settled(SETTLE_TIMEOUT)?;
        self.drain_and_remove(spare)?;
        let mut hit = self.hit(
            vec![leader],
            began,
            format!("SIGKILL for {down} ms while node {spare} joined; then drained and removed"),
        )?;
        hit.ended = hit.ended.max(joined);
        Ok(hit)
    }

    fn drain_and_remove(&mut self, number: u32) -> Result<()> {
        let name = self.cluster.node(number).config.name.clone();
        self.cluster
            .admin(Method::POST, &format!("/holdfast/v1/nodes/{name}/drain"), None)?;
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        loop {
            let status = self.cluster.status().unwrap_or_default();
            let nodes = status
                .get("nodes")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            let node = nodes
                .iter()
                .find(|node| node.get("name").and_then(Value::as_str) == Some(&name));
            if node
                .and_then(|node| node.get("state")?.as_str())
                .is_some_and(|state| state.eq_ignore_ascii_case("drained"))
            {
                break;
            }
            if Instant::now() > deadline {
                bail!("{name} is not drained after {} s: {node:?}", DRAIN_TIMEOUT.as_secs());
            }
            interrupt::sleep(POLL_INTERVAL)?;
        }
        self.cluster.targets.remove(number);
        self.cluster
            .admin(Method::DELETE, &format!("/holdfast/v1/nodes/{name}"), None)?;
        self.cluster.node(number).kill()?;
        self.cluster.node(number).disk.wipe()?;
        self.cluster.rename(number);
        Ok(())
    }
}
