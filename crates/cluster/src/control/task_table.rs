//! The running tasks of control: one for each subject at a time, with a backoff after a failure.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::GroupId;
use holdfast_model::PartitionId;
use holdfast_tasks::sync::Mutex;
use tokio::time::Instant;

use super::Control;
use crate::error_chain;

/// Backoff after the first failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// The number of failures in a row from which on a warning is logged: a change of leader in between is normal.
const WARN_FROM: u32 = 3;

/// The subject of a task; two tasks of one subject never run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A group that this node leads: members and leadership.
    Group(GroupId),
    /// This node's replica of a partition.
    Replica(PartitionId),
    /// The registry's view, as its leader.
    View,
    /// This node's own registry entry.
    SelfInfo,
}

#[derive(Debug, Default)]
struct Slot {
    running: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// See the module. Clones share the table. Bounded by the number of groups.
#[derive(Clone, Default)]
pub(super) struct TaskTable(Arc<Mutex<HashMap<Subject, Slot>>>);

impl TaskTable {
    /// Whether a task of `subject` may start now.
    pub(super) fn is_free(&self, subject: Subject) -> bool {
        let tasks = self.0.lock();
        let Some(slot) = tasks.get(&subject) else { return true };
        !slot.running && slot.not_before.is_none_or(|at| at <= Instant::now())
    }

    /// When the next failed task may be retried, if that is in the future.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let tasks = self.0.lock();
        let now = Instant::now();
        let waiting = tasks.values().filter(|slot| !slot.running);
        waiting.filter_map(|slot| slot.not_before).filter(|at| *at > now).min()
    }

    /// Starts `work`; [`Self::is_free`] must have returned `true`. Control is woken when it ends.
    pub(super) fn start<E: Error + Send + 'static>(
        &self,
        control: &Control,
        subject: Subject,
        what: String,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.0.lock().entry(subject).or_default().running = true;
        let (tasks, control) = (self.clone(), control.clone());
        holdfast_tasks::spawn_critical("control-step", async move {
            // A guard, so that the subject becomes free even if the work panics.
            let mut ending = Ending {
                tasks,
                control: control.clone(),
                subject,
                done: false,
            };
            match work.await {
                Ok(()) => {
                    ending.done = true;
                    tracing::info!(step = what, "control step done");
                }
                Err(error) if ending.failures() + 1 >= WARN_FROM => {
                    tracing::warn!(
                        step = what,
                        error = error_chain::text(&error),
                        "control step failed; retrying"
                    );
                }
                Err(error) => {
                    tracing::debug!(
                        step = what,
                        error = error_chain::text(&error),
                        "control step failed; retrying"
                    );
                }
            }
        });
    }
}

struct Ending {
    tasks: TaskTable,
    control: Control,
    subject: Subject,
    done: bool,
}

impl Ending {
    fn failures(&self) -> u32 {
        self.tasks.0.lock().get(&self.subject).map_or(0, |slot| slot.failures)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let metrics = &self.control.0.metrics;
        let mut tasks = self.tasks.0.lock();
        let slot = tasks.entry(self.subject).or_default();
        slot.running = false;
        if self.done {
            slot.failures = 0;
            slot.not_before = None;
            metrics.steps_done.increment(1);
        } else {
            let backoff = FIRST_BACKOFF.saturating_mul(1 << slot.failures.min(8)).min(MAX_BACKOFF);
            slot.not_before = Some(Instant::now() + backoff);
            slot.failures = slot.failures.saturating_add(1);
            metrics.steps_failed.increment(1);
        }
        drop(tasks);
        self.control.0.wake.notify_one();
    }
}
