//! How soon the devices of a lost gateway are connected again: a measurement, not a check.
//!
//! A device counts that was connected to a node when a fault hit that node. Its time runs from the end of that connection,
//! or from the fault if that came later, until another node has accepted it.

use std::collections::HashMap;

use super::availability::{Summary, summary};
use crate::history::{Connection, Fault};

/// The times of the devices that faults of the kinds `kinds` hit.
#[must_use]
pub fn back_after(connections: &[Connection], faults: &[Fault], kinds: &[&str]) -> Summary {
    let mut by_device: HashMap<&str, Vec<&Connection>> = HashMap::new();
    for connection in connections {
        by_device.entry(&connection.device).or_default().push(connection);
    }
    for connections in by_device.values_mut() {
        connections.sort_unstable_by_key(|connection| connection.up);
    }
    // Without a majority no node may accept a device.
    let faults = faults
        .iter()
        .filter(|fault| fault.majority && kinds.contains(&fault.kind.as_str()));
    let mut times = Vec::new();
    for fault in faults {
        for connections in by_device.values() {
            for pair in connections.windows(2) {
                let (lost, next) = (pair[0], pair[1]);
                let was_hit = fault.nodes.contains(&lost.node) && lost.up <= fault.began && fault.began <= lost.ended;
                if was_hit && !fault.nodes.contains(&next.node) {
                    times.push(next.up.saturating_sub(lost.ended.max(fault.began)));
                }
            }
        }
    }
    summary(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{End, Micros, SECOND};

    fn connection(device: &str, node: u32, up: Micros, ended: Micros) -> Connection {
        Connection {
            device: device.to_owned(),
            epoch: 0,
            node,
            asked: up,
            up,
            ended,
            end: End::Remote,
            newest_acknowledged_sent: None,
        }
    }

    #[test]
    fn only_devices_of_the_hit_node_count_from_the_end_of_their_connection() {
        let fault = |kind: &str, node| Fault {
            kind: kind.to_owned(),
            detail: String::new(),
            nodes: vec![node],
            began: 10 * SECOND,
            ended: 20 * SECOND,
            majority: true,
            led: Vec::new(),
        };
        let connections = [
            connection("hit", 2, SECOND, 10 * SECOND + 5),
            connection("hit", 3, 12 * SECOND, 30 * SECOND),
            connection("elsewhere", 1, SECOND, 11 * SECOND),
            connection("elsewhere", 3, 19 * SECOND, 30 * SECOND),
            connection("before", 2, SECOND, 9 * SECOND),
            connection("before", 3, 18 * SECOND, 30 * SECOND),
            connection("returns", 2, SECOND, 10 * SECOND),
            connection("returns", 2, 21 * SECOND, 30 * SECOND),
        ];
        let back = back_after(&connections, &[fault("kill", 2), fault("pause", 1)], &["kill"]);
        assert_eq!(
            (back.count, back.median, back.worst),
            (1, 2 * SECOND - 5, 2 * SECOND - 5)
        );
        let back = back_after(&connections, &[fault("kill", 2), fault("pause", 1)], &["pause"]);
        assert_eq!((back.count, back.worst), (1, 8 * SECOND));
    }
}
