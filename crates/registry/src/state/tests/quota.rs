//! The count of the daily quota.

use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{NodeQuotaUse, PutQuotaUse, QuotaUseRecord};

use super::Memory;
use crate::state::{View, layout, version_of};

fn put(day: u64, counted: u64) -> Command {
    let row = NodeQuotaUse {
        node: 1,
        incarnation: 3,
        before: 2,
        counted,
    };
    let used = QuotaUseRecord {
        version: 1,
        day,
        gone: 5,
        nodes: vec![row],
    };
    Command::PutQuotaUse(PutQuotaUse { used: Some(used) })
}

#[test]
fn the_count_of_a_day_does_not_shrink_and_a_later_day_replaces_it() {
    let mut hub = Memory::founded(100);
    assert_eq!(version_of(&put(1, 1)), 10);
    for (day, counted, stored) in [
        (20, 10, (20, 10)),
        (20, 9, (20, 10)),
        (20, 11, (20, 11)),
        (19, 99, (20, 11)),
        (21, 0, (21, 0)),
    ] {
        hub.command(0, put(day, counted));
        let record: QuotaUseRecord = View::new(&hub).message(layout::QUOTA_USE).unwrap().unwrap();
        assert_eq!((record.day, record.nodes[0].counted), stored, "{day} {counted}");
    }
}
