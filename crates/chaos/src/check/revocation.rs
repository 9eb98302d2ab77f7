//! A device that lost its right to connect is disconnected in time; a device that has it is never refused as unauthorized.
//!
//! A change with an unknown outcome makes the rights unknown until the next answered change: changes carry If-Match, so
//! an old one cannot take effect after a newer one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::sessions::SETTLE;
use super::{Findings, availability};
use crate::history::{Connection, Fault, Micros, Refusal, RightsChange, SECOND};

/// How long a session of a revoked identity may last on a node inside its lease, with a margin for the client's delay.
const LIMIT: Micros = SECOND + SECOND / 5;

/// The result of the check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revocations {
    /// The findings of the two guarantees.
    pub findings: [Findings; 2],
    /// Times from the answer to the end of a live session, without a fault nearby.
    pub took: availability::Summary,
}

/// Rights between two moments; times in between are unknown.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    allowed: bool,
    asked: Micros,
    from: Micros,
    until: Micros,
}

fn stretches(changes: &[&RightsChange]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for (index, change) in changes.iter().enumerate() {
        let until = changes.get(index + 1).map_or(Micros::MAX, |next| next.asked);
        if let Some(from) = change.answered {
            found.push(Stretch {
                allowed: change.allowed,
                asked: change.asked,
                from,
                until,
            });
        }
    }
    found
}

/// Checks `changes` against the observations of devices. `grace` is how long a node outside its lease keeps its sessions.
#[must_use]
pub fn check(
    changes: &[RightsChange],
    connections: &[Connection],
    refusals: &[Refusal],
    faults: &[Fault],
    grace: Micros,
) -> Revocations {
    let mut cut_off = Findings::about("revoked identities are cut off in time");
    let mut refused = Findings::about("no device with rights is refused as unauthorized");
    let mut took = Vec::new();
    let mut devices: BTreeMap<&str, Vec<&RightsChange>> = BTreeMap::new();
    for change in changes {
        devices.entry(&change.device).or_default().push(change);
    }
    for (device, mut changes) in devices {
        changes.sort_by_key(|change| change.asked);
        let stretches = stretches(&changes);
        for stretch in stretches.iter().filter(|stretch| !stretch.allowed) {
            let revoked = stretch.from;
            let due = due(faults, revoked, grace);
            for connection in connections.iter().filter(|connection| connection.device == device) {
                let name = || format!("{device} on node {} (connection {})", connection.node, connection.epoch);
                // A session that closed before the answer arrived counts, too.
                if connection.up <= revoked && connection.ended > stretch.asked {
                    cut_off.checked += 1;
                    if connection.ended > due && due < stretch.until {
                        cut_off.violation(Some(revoked), || {
                            format!(
                                "{}: revoked at {revoked}, open until {}, due {due}",
                                name(),
                                connection.ended
                            )
                        });
                    }
                    if due == revoked + LIMIT && connection.ended < stretch.until {
                        took.push(connection.ended.saturating_sub(revoked));
                    }
                }
                if connection.asked > revoked && connection.up < stretch.until {
                    cut_off.checked += 1;
                    // After the limit no node may accept: inside its lease it knows the change, outside it accepts no device.
                    if connection.asked > revoked + LIMIT {
                        cut_off.violation(Some(connection.up), || {
                            format!("{}: revoked at {revoked}, accepted at {}", name(), connection.up)
                        });
                    }
                }
                if let Some(sent) = connection.newest_acknowledged_sent
                    && connection.up <= stretch.until
                    && sent > due
                    && sent < stretch.until
                {
                    cut_off.violation(Some(sent), || {
                        format!("{}: revoked at {revoked}, a message of {sent} acknowledged", name())
                    });
                }
            }
        }
        for refusal in refusals.iter().filter(|refusal| refusal.device == device) {
            let wrong = stretches
                .iter()
                .find(|stretch| stretch.allowed && refusal.asked > stretch.from && refusal.answered < stretch.until);
            refused.checked += 1;
            if let Some(stretch) = wrong {
                refused.violation(Some(refusal.answered), || {
                    format!(
                        "{device} on node {}: allowed since {}, refused at {}",
                        refusal.node, stretch.from, refusal.answered
                    )
                });
            }
        }
        refused.checked += connections
            .iter()
            .filter(|connection| connection.device == device)
            .count() as u64;
    }
    Revocations {
        findings: [cut_off, refused],
        took: availability::summary(took),
    }
}

/// When a session of a device revoked at `revoked` must have ended. A node that lost its lease by a fault may keep the
/// session until `grace` is over or the lease is back.
fn due(faults: &[Fault], revoked: Micros, grace: Micros) -> Micros {
    let mut due = revoked + LIMIT;
    loop {
        let later = faults
            .iter()
            .filter(|fault| fault.began <= due && fault.ended + SETTLE >= revoked)
            // A process that is stopped or starting closes no connection: not before the fault is over.
            .map(|fault| (fault.ended + SETTLE).min((fault.began.max(revoked) + grace).max(fault.ended) + LIMIT))
            .max();
        match later {
            Some(later) if later > due => due = later,
            _ => return due,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::End;

    const GRACE: Micros = 5 * SECOND;

    fn connection(up: Micros, ended: Micros) -> Connection {
        Connection {
            device: "d".into(),
            epoch: 0,
            node: 1,
            asked: up,
            up,
            ended,
            end: End::Remote,
            newest_acknowledged_sent: None,
        }
    }

    fn change(allowed: bool, asked: Micros, answered: Option<Micros>) -> RightsChange {
        RightsChange {
            device: "d".into(),
            allowed,
            asked,
            answered,
        }
    }

    fn judge(connections: &[Connection], refusals: &[Refusal], faults: &[Fault]) -> (u64, u64) {
        let changes = [
            change(true, 0, Some(1)),
            change(false, 10 * SECOND, Some(11 * SECOND)),
            change(true, 40 * SECOND, Some(41 * SECOND)),
        ];
        let found = check(&changes, connections, refusals, faults, GRACE);
        (found.findings[0].violations, found.findings[1].violations)
    }

    #[test]
    fn a_session_that_outlives_its_rights_is_found() {
        assert_eq!(judge(&[connection(5, 11 * SECOND + 900_000)], &[], &[]), (0, 0));
        assert_eq!(judge(&[connection(5, 13 * SECOND)], &[], &[]), (1, 0));
        let fault = Fault {
            kind: "cut".into(),
            detail: String::new(),
            nodes: vec![1],
            began: 9 * SECOND,
            ended: 12 * SECOND,
            majority: true,
            led: vec![],
        };
        assert_eq!(
            judge(&[connection(5, 13 * SECOND)], &[], std::slice::from_ref(&fault)),
            (0, 0)
        );
        assert_eq!(judge(&[connection(5, 39 * SECOND)], &[], &[fault]), (1, 0));
    }

    #[test]
    fn a_connection_accepted_after_the_revocation_is_found() {
        assert_eq!(
            judge(&[connection(11 * SECOND + 100_000, 11 * SECOND + 500_000)], &[], &[]),
            (0, 0)
        );
        assert_eq!(judge(&[connection(15 * SECOND, 15 * SECOND + 1)], &[], &[]), (1, 0));
        assert_eq!(judge(&[connection(45 * SECOND, 99 * SECOND)], &[], &[]), (0, 0));
    }

    #[test]
    fn an_acknowledgement_after_the_revocation_is_found() {
        let mut served = connection(5, 12 * SECOND);
        served.newest_acknowledged_sent = Some(13 * SECOND);
        assert_eq!(judge(&[served], &[], &[]), (1, 0));
    }

    #[test]
    fn a_refusal_of_a_device_with_rights_is_found() {
        let refusal = |at: Micros| Refusal {
            device: "d".into(),
            node: 1,
            asked: at,
            answered: at + 10,
        };
        assert_eq!(judge(&[], &[refusal(5 * SECOND)], &[]), (0, 1));
        assert_eq!(judge(&[], &[refusal(20 * SECOND)], &[]), (0, 0));
        assert_eq!(judge(&[], &[refusal(40 * SECOND)], &[]), (0, 0));
        assert_eq!(judge(&[], &[refusal(50 * SECOND)], &[]), (0, 1));
    }

    #[test]
    fn an_unknown_change_makes_the_rights_unknown() {
        let changes = [
            change(true, 0, Some(1)),
            change(false, 10 * SECOND, None),
            change(true, 40 * SECOND, Some(41 * SECOND)),
        ];
        let refusal = Refusal {
            device: "d".into(),
            node: 1,
            asked: 20 * SECOND,
            answered: 20 * SECOND + 1,
        };
        let found = check(&changes, &[connection(5, 39 * SECOND)], &[refusal], &[], GRACE);
        assert!(found.findings.iter().all(Findings::is_clean), "{found:?}");
    }
}
