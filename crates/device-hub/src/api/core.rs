//! One core's part of the hub: its sessions, and its batches.
//!
//! Everything of a core lives on its thread, so that a message needs no lock. Batching and acknowledgements are in
//! `ingest`.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_model::SessionKey;

use super::hub::DeviceHub;
use super::requester::ReportedActivity;
use super::session::{CloseReason, Session, Target, close};
use crate::device_state::Subscriptions;
use crate::downlink::receive::SessionDownlink;
use crate::gateway::subscription_requests::SubscriptionError;
use crate::ingest::batcher::Batcher;
use crate::ingest::command_queue::{Command, CommandQueue};
use crate::ingest::pipeline::OnDrained;
use crate::owner::subscriptions::SubscriptionAction;
use holdfast_model::Clock;
use holdfast_tasks::sync::SharedCell;

/// The outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed by the quorum and synced.
    Committed,
    /// Not committed, or the outcome is unknown: the sender must not get an acknowledgement.
    Failed,
}

/// The front end's receiver of outcomes.
pub trait ReceiptTarget {
    /// Called with neighbouring messages of one sender, in the order in which they were sent.
    fn settled(&self, cookies: &[u64], outcome: Outcome);
}

/// Where to send the outcome of one message.
pub struct Receipt {
    /// The receiver.
    pub target: Rc<dyn ReceiptTarget>,
    /// The receiver's own name for the message.
    pub cookie: u64,
}

/// One core's hub; lives on the core's thread.
pub struct Core {
    pub(crate) hub: Arc<DeviceHub>,
    index: u16,
    pub(crate) commands: CommandQueue,
    pub(crate) batcher: Batcher,
    /// Connections by the key of their session.
    pub(crate) targets: SharedCell<HashMap<SessionKey, Target>>,
    /// Sessions that take deliveries.
    pub(crate) downlinks: SharedCell<HashMap<SessionKey, SessionDownlink>>,
    /// What identities without a session have reported.
    pub(crate) requests: SharedCell<ReportedActivity>,
}

impl Core {
    /// The part of core `index`; [`Self::run`] must be spawned on the same thread.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>, index: u16) -> Rc<Self> {
        let batcher = Batcher::new(&hub, index);
        let commands = hub.commands(index);
        Rc::new(Self {
            hub,
            index,
            commands,
            batcher,
            targets: SharedCell::default(),
            downlinks: SharedCell::default(),
            requests: SharedCell::default(),
        })
    }

    /// The shared part.
    #[must_use]
    pub fn hub(&self) -> &Arc<DeviceHub> {
        &self.hub
    }

    /// The core's number within the node.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The hub's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.hub.parts.clock
    }

    /// Ends a session: its messages are still decided, and then its row is removed.
    pub fn disconnect(&self, session: &Session) {
        // The task of the connection may end alone, and the session must not stay behind.
        holdfast_tasks::critical(|| {
            self.targets.borrow_mut().remove(&session.key);
            self.batcher.stop_waiting(session.partition, session.key);
            self.end_downlink(session.key);
            // A newer session waits for this one's messages as long as it is in the table.
            self.when_drained(
                session.partition,
                OnDrained::Detach(Arc::clone(&session.info), session.key),
            );
        });
    }

    /// Stores the subscriptions of a session that outlives its connections. Ready when they are committed; a session has one
    /// change in flight at a time.
    pub fn store_subscriptions(
        &self,
        session: &Session,
        subscriptions: Subscriptions,
    ) -> impl Future<Output = Result<(), SubscriptionError>> + use<> {
        let action = SubscriptionAction::Store(subscriptions);
        let stored = self
            .hub
            .request_subscriptions(session.partition, &session.info, session.key, action);
        async move { stored.await.map(|_| ()) }
    }

    pub(crate) fn handle(&self, command: Command) {
        match command {
            Command::Decided { partition, outcome } => match outcome {
                Ok(()) => self.committed(partition),
                Err(error) if error.is_retriable() => self.failed(partition, error),
                Err(error) => self.rejected(partition, error),
            },
            Command::Retry { partition } => self.propose_again(partition),
            Command::LinkOpened { partition } => self.link_opened(partition),
            Command::Close {
                info,
                key,
                partition,
                reason,
                drained,
            } => {
                self.close_target(key, reason);
                if reason == CloseReason::TakenOver {
                    self.when_drained(partition, OnDrained::Detach(info, key));
                }
                if let Some(drained) = drained {
                    self.when_drained(partition, OnDrained::Notify(drained));
                }
            }
            Command::Discard { key, partition } => self.discard(key, partition),
            Command::Deliver {
                partition,
                link,
                key,
                items,
                reply,
            } => {
                // A call that has timed out sends them again.
                let _ = reply.send(self.deliver(partition, link, key, items));
            }
        }
    }

    pub(crate) fn close_target(&self, key: SessionKey, reason: CloseReason) {
        let target = self.targets.borrow_mut().remove(&key);
        if let Some(target) = target {
            close(&target, reason);
        }
    }

    /// Handles the commands that have arrived so far, before a session begins, so that everything older is done first.
    /// Commands about the session itself stay in the queue: its connection is busy with the CONNECT.
    pub(crate) fn catch_up(&self, beginning: SessionKey) {
        // They are the core's work, and this is the task of a connection, which may end alone.
        holdfast_tasks::critical(|| {
            for command in self.commands.take() {
                match command {
                    Command::Close { key, .. } | Command::Discard { key, .. } | Command::Deliver { key, .. }
                        if key == beginning =>
                    {
                        self.commands.push(command);
                    }
                    command => self.handle(command),
                }
            }
        });
    }
}
