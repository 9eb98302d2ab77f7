//! The methods that a client has received and not answered (Spec device-mqtt §8, amqp §6.3).
//!
//! Invariants: a client has at most [`MAX_IN_FLIGHT`] of them; only they can be answered, each once; one whose caller has
//! given up does not count; those that are left when the connection ends are reported at once.

use holdfast_device_hub::{Core, MethodResult, Session};

/// Method calls of one client that it has not answered.
const MAX_IN_FLIGHT: usize = 64;

/// The methods of one session.
#[derive(Default)]
pub(crate) struct MethodsInFlight(Vec<InFlight>);

struct InFlight {
    /// The client's name for it.
    name: Box<str>,
    rid: Box<str>,
    /// The caller has given up by then.
    until_ms: u64,
}

/// The name, request id and time-out in milliseconds in the head of a method.
pub(crate) fn head(head: &str) -> Option<(&str, &str, u64)> {
    let (name, rest) = head.split_once('/')?;
    let (rid, timeout_ms) = rest.split_once('/')?;
    Some((name, rid, timeout_ms.parse().ok()?))
}

impl MethodsInFlight {
    /// Adds a method with the hub's request id `rid`, which the client answers by `name`; `false` when the client has as
    /// many as it may.
    pub(crate) fn add(&mut self, name: &str, rid: &str, now_ms: u64, timeout_ms: u64) -> bool {
        if self.0.len() >= MAX_IN_FLIGHT {
            self.0.retain(|one| one.until_ms > now_ms);
        }
        if self.0.len() >= MAX_IN_FLIGHT {
            return false;
        }
        self.0.push(InFlight {
            name: name.into(),
            rid: rid.into(),
            until_ms: now_ms.saturating_add(timeout_ms),
        });
        true
    }

    /// Removes a method that is answered; its request id, or `None` when there is no such one.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Box<str>> {
        let index = self.0.iter().position(|one| *one.name == *name)?;
        Some(self.0.swap_remove(index).rid)
    }

    /// The client cannot answer them any more.
    pub(crate) fn ended(&mut self, core: &Core, session: &Session, now_ms: u64) {
        for one in self.0.drain(..).filter(|one| one.until_ms > now_ms) {
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
        let mut add = |name: &str, now, timeout| methods.add(name, name, now, timeout);
        for number in 0..MAX_IN_FLIGHT {
            assert!(add(&number.to_string(), 0, 100 + number as u64));
        }
        assert!(!add("more", 99, 100));
        assert_eq!(methods.remove("5").as_deref(), Some("5"));
        assert!(methods.remove("5").is_none(), "each is answered once");
        let mut add = |name: &str, now, timeout| methods.add(name, name, now, timeout);
        assert!(add("more", 99, 100));
        assert!(!add("too many", 99, 100));
        assert!(add("later", 100, 100), "the first one's caller has given up");
        assert!(methods.remove("0").is_none());
    }

    #[test]
    fn a_head_has_three_parts() {
        assert_eq!(head("reboot/1-2-3/30000"), Some(("reboot", "1-2-3", 30_000)));
        for wrong in ["", "reboot", "reboot/1", "reboot/1/x", "reboot/1/2/3"] {
            assert_eq!(head(wrong), None, "{wrong}");
        }
    }
}
