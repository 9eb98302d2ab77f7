//! One identity has one live session in the whole cluster, as its own connections saw it.
//!
//! The sharp form: once a device has been accepted on a newer connection, nothing that it sends afterwards on an older
//! one is acknowledged, faults or not. The soft form: the older connection is closed in time; faults excuse delay.

use std::collections::BTreeMap;

use super::Findings;
use crate::history::{Connection, Fault, Micros, SECOND};

/// How long the older connection may stay open while nothing is wrong.
const CLOSE_PATIENCE: Micros = 5 * SECOND;
/// How long after a fault the cluster may take to be itself again.
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
            let deadline = excused(faults, newer.up, newer.up + CLOSE_PATIENCE);
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
}
