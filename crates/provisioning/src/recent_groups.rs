//! The groups in which devices were found last, with the registration ids of those devices.
//!
//! Why: a device's token names no group, so that its first registration searches for one. Devices of a group mostly have ids that begin
//! alike, or come one after the other, and a guess from memory costs no look at the disk.
//! Invariants: one device a group, the last one found; bounded, and begins anew when it is full. Not here: whether a guess is right, which
//! the caller checks by the token.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use holdfast_tasks::sync::Mutex;

/// Groups that are remembered.
const MAX_GROUPS: usize = 65_536;

/// Groups that are likely whatever a device's id: as many lines of factories register at a time.
const LAST_GROUPS: usize = 16;

/// The last device of each group.
#[derive(Default)]
pub(crate) struct RecentGroups(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// By registration id in lower case.
    groups: BTreeMap<Arc<str>, Arc<str>>,
    /// By group.
    devices: HashMap<Arc<str>, Arc<str>>,
    /// Those of the last devices, the last one first.
    last: VecDeque<Arc<str>>,
}

impl RecentGroups {
    /// Remembers that the device `registration_id` belongs to `group`.
    pub(crate) fn record(&self, registration_id: &str, group: &str) {
        let device: Arc<str> = registration_id.to_ascii_lowercase().into();
        let mut table = self.0.lock();
        if table.devices.len() >= MAX_GROUPS && !table.devices.contains_key(group) {
            *table = Table::default();
        }
        let group = match table.devices.get_key_value(group) {
            Some((group, _)) => Arc::clone(group),
            None => group.into(),
        };
        if let Some(before) = table.devices.insert(Arc::clone(&group), Arc::clone(&device))
            && table.groups.get(&before) == Some(&group)
        {
            table.groups.remove(&before);
        }
        table.groups.insert(device, Arc::clone(&group));
        if let Some(at) = table.last.iter().position(|last| *last == group) {
            table.last.remove(at);
        }
        table.last.push_front(group);
        table.last.truncate(LAST_GROUPS);
    }

    /// Groups that the device `registration_id` may belong to, each once: those of the devices before and behind it by id, and those of
    /// the last devices.
    pub(crate) fn likely(&self, registration_id: &str) -> Vec<Arc<str>> {
        let device = registration_id.to_ascii_lowercase();
        let table = self.0.lock();
        let before = table
            .groups
            .range::<str, _>((Unbounded, Included(&*device)))
            .next_back();
        let behind = table.groups.range::<str, _>((Excluded(&*device), Unbounded)).next();
        let neighbours = [before, behind].into_iter().flatten().map(|(_, group)| group);
        let mut likely: Vec<Arc<str>> = Vec::with_capacity(2 + LAST_GROUPS);
        for group in neighbours.chain(&table.last) {
            if !likely.contains(group) {
                likely.push(Arc::clone(group));
            }
        }
        likely
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likely(recent: &RecentGroups, id: &str) -> Vec<String> {
        recent.likely(id).iter().map(|group| group.to_string()).collect()
    }

    #[test]
    fn the_groups_of_the_nearest_ids_are_likely_and_then_the_last_ones() {
        let recent = RecentGroups::default();
        assert!(likely(&recent, "a").is_empty());
        for (id, group) in [("b-1", "two"), ("D-1", "four"), ("f-1", "six")] {
            recent.record(id, group);
        }
        assert_eq!(likely(&recent, "B-2"), ["two", "four", "six"]);
        assert_eq!(likely(&recent, "d-1"), ["four", "six", "two"]);
        assert_eq!(likely(&recent, "a"), ["two", "six", "four"]);
        recent.record("d-2", "four");
        assert_eq!(likely(&recent, "g"), ["six", "four", "two"]);
        for number in 0..LAST_GROUPS {
            recent.record(&format!("x-{number}"), &format!("x-{number}"));
        }
        assert!(!likely(&recent, "g").contains(&"two".to_owned()));
        assert_eq!(likely(&recent, "b")[0], "two");
    }

    #[test]
    fn a_group_is_remembered_by_its_last_device_alone() {
        let recent = RecentGroups::default();
        recent.record("x-1", "two");
        recent.record("b-1", "two");
        recent.record("m-1", "four");
        assert_eq!(likely(&recent, "y"), ["four", "two"]);
        // The device moves to another group; what the first one has later does not take it away from there.
        recent.record("b-1", "four");
        recent.record("z-1", "two");
        assert_eq!(likely(&recent, "b-2"), ["four", "two"]);
        assert_eq!(recent.0.lock().groups.len(), 2);
    }

    #[test]
    fn the_table_is_bounded() {
        let recent = RecentGroups::default();
        for number in 0..=MAX_GROUPS {
            recent.record(&format!("device-{number}"), &format!("group-{number}"));
        }
        assert_eq!(recent.0.lock().groups.len(), 1);
        assert_eq!(recent.0.lock().devices.len(), 1);
    }
}
