//! Work under way: one piece for each thing at a time, and not again at once after it failed.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::GroupId;
use holdfast_model::PartitionId;
use holdfast_tasks::sync::Mutex;
use tokio::time::Instant;

use super::Control;

/// After the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// After many.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// From which failure in a row on it is worth a warning: a leader change in between is none.
const WARN_FROM: u32 = 3;

/// What one piece of work is about; two about the same are not done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A group that this node leads: members and leadership.
    Group(GroupId),
    /// This node's replica of a partition.
    Replica(PartitionId),
    /// The registry's view, as its leader.
    View,
    /// This node's own entry.
    Myself,
}

#[derive(Debug, Default)]
struct Slot {
    running: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// Clones share the table. Bounded by the number of groups.
#[derive(Clone, Default)]
pub(super) struct Jobs(Arc<Mutex<HashMap<Subject, Slot>>>);

impl Jobs {
    /// Whether something may be begun about `subject` now.
    pub(super) fn is_free(&self, subject: Subject) -> bool {
        let jobs = self.0.lock();
        let Some(slot) = jobs.get(&subject) else { return true };
        !slot.running && slot.not_before.is_none_or(|at| at <= Instant::now())
    }

    /// When something that was not done may be tried again, if that is still to come.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let jobs = self.0.lock();
        let now = Instant::now();
        let waiting = jobs.values().filter(|slot| !slot.running);
        waiting.filter_map(|slot| slot.not_before).filter(|at| *at > now).min()
    }

    /// Begins `work`, which [`Self::is_free`] has allowed. Control is woken when it ends.
    pub(super) fn begin<E: Display + Send>(
        &self,
        control: &Control,
        subject: Subject,
        what: String,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.0.lock().entry(subject).or_default().running = true;
        let (jobs, control) = (self.clone(), control.clone());
        holdfast_tasks::spawn_critical("control-step", async move {
            // Also when the work panics: otherwise nothing would ever be done about it again.
            let mut ending = Ending {
                jobs,
                control: control.clone(),
                subject,
                done: false,
            };
            match work.await {
                Ok(()) => {
                    ending.done = true;
                    tracing::info!(step = what, "control: done");
                }
                Err(error) if ending.failures() + 1 >= WARN_FROM => {
                    tracing::warn!(step = what, %error, "control: not done, will be tried again");
                }
                Err(error) => tracing::debug!(step = what, %error, "control: not done, will be tried again"),
            }
        });
    }
}

struct Ending {
    jobs: Jobs,
    control: Control,
    subject: Subject,
    done: bool,
}

impl Ending {
    fn failures(&self) -> u32 {
        self.jobs.0.lock().get(&self.subject).map_or(0, |slot| slot.failures)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let metrics = &self.control.0.metrics;
        let mut jobs = self.jobs.0.lock();
        let slot = jobs.entry(self.subject).or_default();
        slot.running = false;
        if self.done {
            slot.failures = 0;
            slot.not_before = None;
            metrics.steps_done.increment(1);
        } else {
            let pause = FIRST_PAUSE.saturating_mul(1 << slot.failures.min(8)).min(LONGEST_PAUSE);
            slot.not_before = Some(Instant::now() + pause);
            slot.failures = slot.failures.saturating_add(1);
            metrics.steps_again.increment(1);
        }
        drop(jobs);
        self.control.0.wake.notify_one();
    }
}
