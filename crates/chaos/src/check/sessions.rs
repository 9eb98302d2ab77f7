//! One identity has one live session in the whole cluster, as observed by its own connections.
//!
//! The strict form: once a device has been accepted on a newer connection, no message that it sends afterwards on an
//! older one is acknowledged, faults or not. The lenient form: the older connection is closed in time; faults excuse delay.

use std::collections::BTreeMap;

use super::Findings;
use crate::history::{Connection, Fault, Micros, SECOND};

/// How long the older connection may stay open without a fault.
const CLOSE_TIMEOUT: Micros = 5 * SECOND;
/// How long the cluster may take to recover after a fault.
pub const SETTLE: Micros = 5 * SECOND;

/// Moves `deadline` behind every fault that overlaps with the time from `from` to it.
#[must_use]
pub fn excused(faults: &[Fault], from: Micros, deadline: Micros) -> Micros {
    let mut deadline = deadline;
    loop {
        let overlapping = faults
            .iter()
            .filter(|fault| fault.began <= deadline && fault.ended + SETTLE >= from)
            .map(|fault| fault.ended + SETTLE);
        match overlapping.max() {
            Some(later) if later > deadline => deadline = later,
            _ => return deadline,
        }
    }
}

/// The fault that cuts a node off from clients, too.
const CUTS_CLIENTS: &str = "isolate-fully";

/// The latest time at which a client learns that its connection to `node` was closed during a partition: TCP doubles its
/// retransmission timeout, so delivery may take as long again as the outage lasted.
fn heard(faults: &[Fault], node: u32, from: Micros) -> Micros {
    let cut_off = faults
        .iter()
        .filter(|fault| fault.kind == CUTS_CLIENTS && fault.nodes.contains(&node) && fault.began <= from);
    let heard = cut_off.map(|fault| fault.ended + (fault.ended - fault.began));
    heard.max().unwrap_or(0)
}

/// Checks each device's connections.
#[must_use]
pub fn check(connections: &[Connection], faults: &[Fault]) -> Findings {
    let mut findings = Findings::about("an identity has one live session");
    let mut devices: BTreeMap<&str, Vec<&Connection>> = BTreeMap::new();
    for connection in connections {
        devices.entry(&connection.device).or_default().push(connection);
    }
    for (device, mut list) in devices {
        list.sort_by_key(|connection| connection.up);
        for pair in list.windows(2) {
            let [older, newer] = pair else { continue };
            findings.checked += 1;
            let name = || {
                format!(
                    "{device}: connection {} on node {} (up {}), then {} on node {} (up {})",
                    older.epoch, older.node, older.up, newer.epoch, newer.node, newer.up
                )
            };
            if let Some(sent) = older.newest_acknowledged_sent.filter(|sent| *sent > newer.up) {
                findings.violation(Some(sent), || {
                    format!(
                        "{}: the older one got a message acknowledged that was sent at {sent}",
                        name()
                    )
                });
            }
            let deadline = excused(faults, newer.up, newer.up + CLOSE_TIMEOUT);
            let deadline = deadline.max(heard(faults, older.node, newer.up));
            if older.ended > deadline {
                findings.violation(Some(newer.up), || {
                    format!(
                        "{}: the older one was open until {}, due {deadline}",
                        name(),
                        older.ended
                    )
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::End;

    fn connection(epoch: u32, up: Micros, ended: Micros, acknowledged: Option<Micros>) -> Connection {
        Connection {
            device: "d".into(),
            epoch,
            node: epoch,
            asked: up.saturating_sub(1),
            up,
            ended,
            end: End::Remote,
            newest_acknowledged_sent: acknowledged,
        }
    }

    fn fault(began: Micros, ended: Micros) -> Fault {
        Fault {
            kind: "cut".into(),
            detail: String::new(),
            nodes: vec![1],
            began,
            ended,
            majority: true,
            led: vec![],
        }
    }

    #[test]
    fn a_takeover_that_closes_the_older_one_passes() {
        let list = [
            connection(0, 10, SECOND + 500, Some(9)),
            connection(1, SECOND, 9 * SECOND, Some(SECOND + 5)),
        ];
        let findings = check(&list, &[]);
        assert!(findings.is_clean() && findings.checked == 1, "{findings:?}");
    }

    #[test]
    fn an_older_session_that_is_still_served_is_found_even_under_a_fault() {
        let list = [
            connection(0, 10, SECOND + 500, Some(SECOND + 1)),
            connection(1, SECOND, 9 * SECOND, None),
        ];
        assert_eq!(check(&list, &[fault(0, 20 * SECOND)]).violations, 1);
    }

    #[test]
    fn an_older_session_that_is_not_closed_is_found_unless_a_fault_excuses_it() {
        let list = [
            connection(0, 10, 9 * SECOND, None),
            connection(1, SECOND, 99 * SECOND, None),
        ];
        assert_eq!(check(&list, &[]).violations, 1);
        assert_eq!(check(&list, &[fault(2 * SECOND, 7 * SECOND)]).violations, 0);
        assert_eq!(check(&list, &[fault(50 * SECOND, 60 * SECOND)]).violations, 1);
    }

    #[test]
    fn messages_of_a_client_that_was_cut_off_may_arrive_as_late_as_the_cut_lasted() {
        let cut_off = |nodes| Fault {
            kind: CUTS_CLIENTS.into(),
            nodes,
            ..fault(2 * SECOND, 10 * SECOND)
        };
        // The older one is a connection to node 0.
        let list = |ended| {
            [
                connection(0, 10, ended, None),
                connection(1, 11 * SECOND, 99 * SECOND, None),
            ]
        };
        assert_eq!(check(&list(17 * SECOND), &[cut_off(vec![0])]).violations, 0);
        assert_eq!(check(&list(19 * SECOND), &[cut_off(vec![0])]).violations, 1);
        assert_eq!(check(&list(17 * SECOND), &[cut_off(vec![2])]).violations, 1);
    }
}
