//! Operations: registrations that take several steps, because another server has a part in them.
//!
//! Why: a device is answered at once, and what was begun for it survives every crash. The registration itself holds what the operation
//! needs; the node that leads the registry's group carries on whatever is open, and its successor does where it stopped.
//! Invariants: each step is stored before the next begins; a step may be done twice, with the same effect; an operation ends within
//! a minute and a step, but for those that revoke certificates, which wait for their hub; the number of operations at work is bounded, and none waits for another.
//! Not here: how a registration begins (`registering`), the steps of one operation (`operation`).

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_registry::RegistryError;
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use crate::operation::Operation;
use crate::registering::is_conflict;
use crate::service::Provisioning;

/// Operations that a node works on at once.
const MAX_RUNNING: usize = 128;

/// How often a node looks whether it leads the registry's group.
const LEADER_POLL: Duration = Duration::from_millis(200);

/// How often open registrations are looked through without a sign of a change.
const TICK: Duration = Duration::from_secs(1);

/// Steps of one operation before others have their turn.
const MAX_STEPS: usize = 32;

/// The first pause after a step that could not be done; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// The longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// What becomes of an open registration for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing is left to do.
    Done,
    /// To be tried again.
    Later,
}

/// Why a step was not done.
#[derive(Debug)]
pub(crate) enum StepError {
    /// Something has changed meanwhile: look again.
    Changed,
    /// To be tried again later.
    Later(String),
}

impl From<RegistryError> for StepError {
    fn from(error: RegistryError) -> Self {
        match is_conflict(&error) {
            true => Self::Changed,
            false => Self::Later(error.to_string()),
        }
    }
}

/// The open registrations of a leader.
#[derive(Default)]
struct Queue {
    running: HashSet<String>,
    /// When those that could not be done have their next turn, and how often they could not.
    waiting: HashMap<String, (Instant, u32)>,
    /// The last id that got a turn.
    cursor: Option<String>,
}

impl Queue {
    /// The next ones, at most `most`.
    fn next(&mut self, service: &Provisioning, most: usize) -> Result<Vec<String>, RegistryError> {
        let mut found: Vec<String> = Vec::new();
        if most == 0 {
            return Ok(found);
        }
        let now = Instant::now();
        for after in [self.cursor.clone(), None] {
            let is_second_round = after.is_none() && self.cursor.is_some();
            service.registry().scan_open_registrations(after.as_deref(), |id| {
                if is_second_round && self.cursor.as_deref().is_some_and(|cursor| id > cursor) {
                    return ControlFlow::Break(());
                }
                let is_due = self.waiting.get(id).is_none_or(|(until, _)| *until <= now);
                if is_due && !self.running.contains(id) && !found.iter().any(|other| other == id) {
                    found.push(id.to_owned());
                }
                match found.len() < most {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            if found.len() == most || self.cursor.is_none() {
                break;
            }
        }
        self.cursor = found.last().cloned();
        self.running.extend(found.iter().cloned());
        Ok(found)
    }

    fn ended(&mut self, id: String, turn: Turn) {
        self.running.remove(&id);
        match turn {
            Turn::Done => {
                self.waiting.remove(&id);
            }
            Turn::Later => {
                let failures = self
                    .waiting
                    .get(&id)
                    .map_or(0, |(_, failures)| failures.saturating_add(1));
                let pause = FIRST_BACKOFF.saturating_mul(1 << failures.min(10)).min(MAX_BACKOFF);
                let pause = pause.mul_f64(rand::random_range(0.75..1.25));
                self.waiting.insert(id, (Instant::now() + pause, failures));
            }
        }
    }

    /// How long nothing may be due.
    fn pause(&self) -> Duration {
        let next = self.waiting.values().map(|(until, _)| *until).min();
        let pause = next.map_or(TICK, |next| next.saturating_duration_since(Instant::now()));
        pause.clamp(Duration::from_millis(20), TICK)
    }
}

impl Provisioning {
    /// Carries on open registrations while this node leads the registry's group, and measures linked hubs; ends when the node drains.
    pub async fn run_operations(self: Arc<Self>, stop: Stop) {
        let measuring = Arc::clone(&self).measure_hubs(stop.clone());
        tokio::join!(measuring, self.carry_on(stop));
    }

    async fn carry_on(self: Arc<Self>, stop: Stop) {
        let mut changed = self.registry().watch_open_registrations();
        loop {
            if !self.registry().is_leader() {
                tokio::select! {
                    biased;
                    () = stop.reached(Phase::Draining) => return,
                    () = tokio::time::sleep(LEADER_POLL) => continue,
                }
            }
            // A new leader has no earlier turns, and the work of an earlier one ends with it.
            let mut queue = Queue::default();
            let mut running = FuturesUnordered::new();
            while self.registry().is_leader() {
                match queue.next(&self, MAX_RUNNING.saturating_sub(running.len())) {
                    Ok(ids) => running.extend(ids.into_iter().map(|id| self.turn(id))),
                    Err(error) => tracing::error!(%error, "open registrations cannot be read"),
                }
                let pause = queue.pause();
                tokio::select! {
                    biased;
                    () = stop.reached(Phase::Draining) => return,
                    Some((id, turn)) = running.next(), if !running.is_empty() => queue.ended(id, turn),
                    changed = changed.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    /// Does as many steps of a registration as can be done now.
    async fn turn(&self, id: String) -> (String, Turn) {
        for _ in 0..MAX_STEPS {
            match self.step(&id).await {
                Ok(true) | Err(StepError::Changed) => {}
                Ok(false) => return (id, Turn::Done),
                Err(StepError::Later(reason)) => {
                    tracing::debug!(registration = id, reason, "an open registration has to wait");
                    return (id, Turn::Later);
                }
            }
        }
        (id, Turn::Later)
    }

    /// Does one step; whether there may be another one.
    async fn step(&self, id: &str) -> Result<bool, StepError> {
        let Some(registration) = self.registry().registration(id)? else {
            return Ok(false);
        };
        match registration.pending().cloned() {
            Some(pending) => {
                let operation = Operation {
                    service: self,
                    registration: Arc::new(registration),
                    pending,
                };
                operation.advance().await?;
                Ok(true)
            }
            None => match registration.left.first() {
                Some(left) => {
                    self.remove_left(&registration, left).await?;
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }
}
