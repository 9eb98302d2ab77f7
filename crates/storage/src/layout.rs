//! The layout of all keys (docs/storage.md, "Keys").
//!
//! Numbers are big-endian, so that the order of keys is the order of numbers. A key begins with the Raft group, so
//! that a group's data is one range of each family.

/// A group's number in keys: 0 is the registry, 1 + p partition p.
pub type GroupNumber = u32;

/// Length of a log key in bytes.
pub const LOG_KEY_BYTES: usize = 13;
/// Length of a hard-state key in bytes.
pub const HARD_KEY_BYTES: usize = 5;

const LOG: u8 = 0;
/// The last kind: state machines use lower ones.
const INSTALL: u8 = 255;

/// Records of a group beside its log, in [`crate::Family::Raft`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HardState {
    /// The vote.
    Vote = 1,
    /// The watermark set by the consensus engine: it does not read below.
    Purged = 2,
    /// The watermark set by retention: no reader reads below.
    Trimmed = 3,
    /// The applied index, written without the write-ahead log: its flushed value bounds retention.
    Applied = 4,
    /// The last position of a prior replica, which was deleted with its log.
    PriorLog = 5,
    /// The vote of the prior replica.
    PriorVote = 6,
}

/// The key of a log entry: group, 0, index.
#[must_use]
pub fn log_key(group: GroupNumber, index: u64) -> [u8; LOG_KEY_BYTES] {
    let mut key = [0; LOG_KEY_BYTES];
    key[..4].copy_from_slice(&group.to_be_bytes());
    key[4] = LOG;
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The first key after all log entries of `group`.
#[must_use]
pub fn log_end(group: GroupNumber) -> [u8; HARD_KEY_BYTES] {
    let mut key = [0; HARD_KEY_BYTES];
    key[..4].copy_from_slice(&group.to_be_bytes());
    key[4] = LOG + 1;
    key
}

/// The group and index of a log key; `None` for any other key.
#[must_use]
pub fn parse_log_key(key: &[u8]) -> Option<(GroupNumber, u64)> {
    let (group, rest) = key.split_first_chunk::<4>()?;
    let (tag, index) = rest.split_first()?;
    let index: [u8; 8] = index.try_into().ok()?;
    (*tag == LOG).then(|| (u32::from_be_bytes(*group), u64::from_be_bytes(index)))
}

/// The key of a group's hard state.
#[must_use]
pub fn hard_key(group: GroupNumber, what: HardState) -> [u8; HARD_KEY_BYTES] {
    let mut key = [0; HARD_KEY_BYTES];
    key[..4].copy_from_slice(&group.to_be_bytes());
    key[4] = what as u8;
    key
}

/// A key of a state machine in [`crate::Family::Registry`] or [`crate::Family::Device`]: group, kind, and the machine's
/// own suffix.
#[must_use]
pub fn state_key(group: GroupNumber, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + rest.len());
    key.extend_from_slice(&group.to_be_bytes());
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

/// The range `[from, to)` of all keys of `kind` of `group`.
#[must_use]
pub fn state_range(group: GroupNumber, kind: u8) -> (Vec<u8>, Vec<u8>) {
    let from = state_key(group, kind, &[]);
    let to = match kind.checked_add(1) {
        Some(next) => state_key(group, next, &[]),
        // The kind's successor is the next group; groups never reach u32::MAX.
        None => group.saturating_add(1).to_be_bytes().to_vec(),
    };
    (from, to)
}

/// The seal key: its presence means that the files of a snapshot of `group` have been ingested. Exists only during an
/// installation, after all other keys of the group.
#[must_use]
pub fn install_key(group: GroupNumber) -> Vec<u8> {
    state_key(group, INSTALL, b"install")
}

/// The group that a key of any family begins with; 0 for shorter keys.
#[must_use]
pub fn group_of(key: &[u8]) -> GroupNumber {
    key.first_chunk::<4>().map_or(0, |group| u32::from_be_bytes(*group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keys_sort_by_group_and_index_and_read_back() {
        let keys = [
            log_key(1, 0),
            log_key(1, 255),
            log_key(1, 256),
            log_key(1, u64::MAX),
            log_key(2, 0),
        ];
        assert!(keys.is_sorted());
        assert!(log_key(1, u64::MAX)[..] < log_end(1)[..] && log_end(1)[..] < log_key(2, 0)[..]);
        assert_eq!(parse_log_key(&log_key(7, 258)), Some((7, 258)));
        assert_eq!(parse_log_key(&hard_key(7, HardState::Vote)), None);
        assert_eq!(parse_log_key(b""), None);
        assert_eq!(
            log_key(1, 258),
            [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2],
            "these bytes are on disks"
        );
    }

    #[test]
    fn hard_state_lies_after_the_log_of_its_group() {
        assert!(hard_key(3, HardState::Vote)[..] >= log_end(3)[..]);
        assert!(hard_key(3, HardState::Applied)[..] < log_key(4, 0)[..]);
    }

    #[test]
    fn a_state_range_holds_its_kind_alone() {
        let (from, to) = state_range(5, 9);
        assert!(from <= state_key(5, 9, b"") && state_key(5, 9, &[255; 9]) < to && to <= state_key(5, 10, b""));
        let (from, to) = state_range(5, 255);
        assert!(
            from <= state_key(5, 255, &[255; 9]) && state_key(5, 255, &[255; 9]) < to && to <= state_key(6, 0, b"")
        );
        assert_eq!(group_of(&state_key(5, 1, b"x")), 5);
    }
}
