//! The methods that a client has received and not answered (Spec device-mqtt §8).
//!
//! Invariants: a client has at most [`MAX_IN_FLIGHT`] of them; only they can be answered, each once; one whose caller has
//! given up does not count; those that are left when the connection ends are reported at once.

use holdfast_device_hub::{MethodAnswer, MethodResult, Session};

use super::connection::{Connection, State};

/// Method calls of one client that it has not answered.
const MAX_IN_FLIGHT: usize = 64;

/// The methods of one connection.
#[derive(Default)]
pub(super) struct MethodsInFlight(Vec<InFlight>);

struct InFlight {
    rid: Box<str>,
    /// The caller has given up by then.
    until_ms: u64,
}

/// The name, request id and time-out in milliseconds in the head of a method.
pub(super) fn head(head: &str) -> Option<(&str, &str, u64)> {
    let (name, rest) = head.split_once('/')?;
    let (rid, timeout_ms) = rest.split_once('/')?;
    Some((name, rid, timeout_ms.parse().ok()?))
}

impl MethodsInFlight {
    /// Adds a method; `false` when the client has as many as it may.
    pub(super) fn add(&mut self, rid: &str, now_ms: u64, timeout_ms: u64) -> bool {
        if self.0.len() >= MAX_IN_FLIGHT {
            self.0.retain(|one| one.until_ms > now_ms);
        }
        if self.0.len() >= MAX_IN_FLIGHT {
            return false;
        }
        self.0.push(InFlight {
            rid: rid.into(),
            until_ms: now_ms.saturating_add(timeout_ms),
        });
        true
    }

    /// Removes a method that is answered; `false` when there is no such one.
    fn remove(&mut self, rid: &str) -> bool {
        let index = self.0.iter().position(|one| *one.rid == *rid);
        index.is_some_and(|index| {
            self.0.swap_remove(index);
            true
        })
    }
}

impl Connection {
    /// The client has answered a method. A late, unknown or repeated answer is ignored.
    pub(super) fn method_answered(&self, state: &mut State, rid: &str, status: i32, payload: &[u8]) {
        let State { session, downlink, .. } = state;
        if let (Some(session), Some(downlink)) = (session, downlink)
            && downlink.methods.remove(rid)
        {
            let answer = MethodAnswer {
                status,
                payload: payload.to_vec().into(),
            };
            let core = &self.front.core;
            core.report_method_result(session, rid, MethodResult::Answered(answer));
        }
    }

    /// The connection has ended: its methods have no answer.
    pub(super) fn methods_ended(&self, session: &Session, methods: &MethodsInFlight) {
        let now_ms = self.transport.now_ms();
        for one in methods.0.iter().filter(|one| one.until_ms > now_ms) {
            let core = &self.front.core;
            core.report_method_result(session, &one.rid, MethodResult::Disconnected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_bounded_number_of_methods_in_flight() {
        let mut methods = MethodsInFlight::default();
        for number in 0..MAX_IN_FLIGHT {
            assert!(methods.add(&number.to_string(), 0, 100 + number as u64));
        }
        assert!(!methods.add("more", 99, 100));
        assert!(methods.remove("5") && !methods.remove("5"), "each is answered once");
        assert!(methods.add("more", 99, 100));
        assert!(!methods.add("too many", 99, 100));
        assert!(
            methods.add("later", 100, 100),
            "nobody waits for the first one any more"
        );
        assert!(!methods.remove("0"));
    }

    #[test]
    fn a_head_has_three_parts() {
        assert_eq!(head("reboot/1-2-3/30000"), Some(("reboot", "1-2-3", 30_000)));
        for wrong in ["", "reboot", "reboot/1", "reboot/1/x", "reboot/1/2/3"] {
            assert_eq!(head(wrong), None, "{wrong}");
        }
    }
}
