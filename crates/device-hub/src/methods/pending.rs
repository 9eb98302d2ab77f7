//! The method calls of this node that wait for their devices.
//!
//! Invariants: a call ends with its caller, and leaves nothing behind; the first result of a call counts, and only one from
//! the identity that was called; later, unknown and repeated ones are dropped.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_model::{IdentityId, Incarnation, NodeId};
use holdfast_tasks::sync::Mutex;
use tokio::sync::oneshot;

use super::call::MethodAnswer;

/// Calls of one node that wait; each may hold a request of 128 KiB.
const MAX_CALLS: usize = 20_000;

/// The name of a call, unique in the cluster: the request id of a method (Spec device-mqtt §8). As text: the waiting node,
/// its incarnation and a counter, in base 36.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MethodCallId {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) counter: u64,
}

/// What became of a method that was sent to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MethodResult {
    /// The device has answered.
    Answered(MethodAnswer),
    /// The device has as many calls in flight as it may; it has not received this one.
    TooMany,
    /// The connection ended before the device answered.
    Disconnected,
}

#[derive(Debug)]
struct WaitingCall {
    identity: IdentityId,
    reply: oneshot::Sender<MethodResult>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct MethodCalls {
    node: NodeId,
    incarnation: Incarnation,
    next: AtomicU64,
    waiting: Arc<Mutex<HashMap<u64, WaitingCall>>>,
}

/// A call that waits; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct PendingCall {
    pub(crate) id: MethodCallId,
    pub(crate) result: oneshot::Receiver<MethodResult>,
    waiting: Arc<Mutex<HashMap<u64, WaitingCall>>>,
}

impl MethodCalls {
    pub(crate) fn new(node: NodeId, incarnation: Incarnation) -> Self {
        Self {
            node,
            incarnation,
            next: AtomicU64::new(1),
            waiting: Arc::default(),
        }
    }

    /// Begins a call; `None` when too many wait.
    pub(crate) fn begin(&self, identity: &IdentityId) -> Option<PendingCall> {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, result) = oneshot::channel();
        let call = WaitingCall {
            identity: identity.clone(),
            reply,
        };
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_CALLS {
            return None;
        }
        waiting.insert(counter, call);
        Some(PendingCall {
            id: MethodCallId {
                node: self.node,
                incarnation: self.incarnation,
                counter,
            },
            result,
            waiting: Arc::clone(&self.waiting),
        })
    }

    /// A gateway reports the result of a call.
    pub(crate) fn complete(&self, id: MethodCallId, identity: &IdentityId, result: MethodResult) {
        if (id.node, id.incarnation) != (self.node, self.incarnation) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.get(&id.counter).is_some_and(|call| call.identity == *identity)
            && let Some(call) = waiting.remove(&id.counter)
        {
            // The caller may have given up.
            let _ = call.reply.send(result);
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id.counter);
    }
}

impl MethodCallId {
    /// The id in a request id; `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-').map(|part| u64::from_str_radix(part, 36).ok());
        let mut next = || numbers.next().flatten();
        let id = Self {
            node: NodeId(next()?),
            incarnation: Incarnation(next()?),
            counter: next()?,
        };
        // No other text has the same meaning.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for MethodCallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, incarnation) = (base_36(self.node.get()), base_36(self.incarnation.get()));
        write!(f, "{node}-{incarnation}-{}", base_36(self.counter))
    }
}

fn base_36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % 36)
            .ok()
            .and_then(|digit| char::from_digit(digit, 36));
        digits.extend(digit);
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    fn device(id: &str) -> IdentityId {
        IdentityId::device(DeviceId::parse(id).unwrap())
    }

    #[test]
    fn an_id_is_read_as_it_was_written_and_nothing_else_is() {
        for (node, incarnation, counter) in [(1, 1, 1), (36, 35, 1_000_000), (u64::MAX, 0, u64::MAX)] {
            let id = MethodCallId {
                node: NodeId(node),
                incarnation: Incarnation(incarnation),
                counter,
            };
            assert_eq!(MethodCallId::parse(&id.to_string()), Some(id), "{id}");
        }
        for text in [
            "",
            "1",
            "1-2",
            "1-2-3-4",
            "01-2-3",
            "+1-2-3",
            "1-2-G",
            "1--3",
            "1-2-zzzzzzzzzzzzzz",
            "ä-1-1",
        ] {
            assert_eq!(MethodCallId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_result_from_the_called_identity_counts() {
        let calls = MethodCalls::new(NodeId(1), Incarnation(2));
        let mut call = calls.begin(&device("d")).unwrap();
        let answer = MethodResult::Answered(MethodAnswer {
            status: 200,
            payload: "1".into(),
        });
        calls.complete(call.id, &device("other"), answer.clone());
        let earlier = MethodCallId {
            incarnation: Incarnation(1),
            ..call.id
        };
        calls.complete(earlier, &device("d"), answer.clone());
        assert!(
            call.result.try_recv().is_err(),
            "another identity, another start of the node"
        );
        calls.complete(call.id, &device("d"), answer.clone());
        calls.complete(call.id, &device("d"), MethodResult::Disconnected);
        assert_eq!(call.result.try_recv(), Ok(answer));
    }

    #[test]
    fn a_call_ends_with_its_caller_and_their_number_is_bounded() {
        let calls = MethodCalls::new(NodeId(1), Incarnation(1));
        let waiting: Vec<_> = (0..MAX_CALLS).map(|_| calls.begin(&device("d")).unwrap()).collect();
        assert!(calls.begin(&device("d")).is_none());
        drop(waiting);
        assert!(calls.waiting.lock().is_empty());
        assert!(calls.begin(&device("d")).is_some());
    }
}
