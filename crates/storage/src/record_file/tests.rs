use proptest::prelude::*;

use super::*;

fn mask(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Appends `payload` as RocksDB would, and says where it begins and ends.
fn append(file: &mut Vec<u8>, mut payload: &[u8]) -> (u64, u64) {
    let mut start = None;
    loop {
        let left = BLOCK - file.len() % BLOCK;
        if left < HEADER {
            file.resize(file.len() + left, 0);
            continue;
        }
        let first = start.is_none();
        start.get_or_insert(file.len() as u64);
        let now = payload.len().min(left - HEADER);
        let kind = match (first, now == payload.len()) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let mut covered = vec![kind];
        covered.extend_from_slice(&payload[..now]);
        file.extend_from_slice(&mask(crc32c::crc32c(&covered)).to_le_bytes());
        file.extend_from_slice(&u16::try_from(now).unwrap().to_le_bytes());
        file.extend_from_slice(&covered);
        payload = &payload[now..];
        if kind == 1 || kind == 4 {
            return (start.unwrap(), file.len() as u64);
        }
    }
}

fn check_bytes(content: &[u8]) -> Result<Checked, Unreadable> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    check(file.path())
}

fn offset_of(result: Result<Checked, Unreadable>) -> Option<u64> {
    match result {
        Ok(_) => None,
        Err(Unreadable::Damaged { offset, .. }) => Some(offset),
        Err(Unreadable::Io(error)) => panic!("{error}"),
    }
}

fn payload(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31) ^ seed | 1).collect()
}

#[test]
fn complete_files_have_no_cut_off_tail() {
    for lengths in [
        &[][..],
        &[0],
        &[10, 20],
        &[BLOCK - HEADER, 5],
        &[BLOCK - HEADER - 3, 5],
        &[200_000, 1, 70_000],
    ] {
        let mut file = Vec::new();
        for length in lengths {
            append(&mut file, &payload(*length, 3));
        }
        let found = check_bytes(&file).unwrap();
        let length = file.len() as u64;
        assert_eq!(
            found,
            Checked {
                length,
                whole: length,
                records: lengths.len() as u64
            },
            "{lengths:?}"
        );
    }
}

#[test]
fn a_tail_that_was_cut_off_is_not_counted() {
    let mut file = Vec::new();
    let (_, first_end) = append(&mut file, &payload(100, 1));
    let (_, second_end) = append(&mut file, &payload(300, 2));
    for length in first_end + 1..second_end {
        let found = check_bytes(&file[..usize::try_from(length).unwrap()]).unwrap();
        assert_eq!((found.whole, found.records), (first_end, 1), "cut to {length}");
    }
}

#[test]
fn a_long_record_that_was_cut_off_between_its_parts_is_not_counted() {
    let mut file = Vec::new();
    let (_, first_end) = append(&mut file, &payload(100, 1));
    append(&mut file, &payload(150_000, 2));
    for length in [BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 9, 4 * BLOCK] {
        let found = check_bytes(&file[..length]).unwrap();
        assert_eq!((found.whole, found.records), (first_end, 1), "cut to {length}");
    }
}

#[test]
fn pages_that_were_never_written_are_a_cut_off_tail() {
    let mut file = Vec::new();
    let (_, first_end) = append(&mut file, &payload(1_000, 1));
    append(&mut file, &payload(20_000, 2));
    let length = file.len();
    for from in [PAGE, 2 * PAGE, 4 * PAGE] {
        let mut torn = file.clone();
        torn[from..].fill(0);
        torn.resize(length + 3 * BLOCK, 0);
        let found = check_bytes(&torn).unwrap();
        assert_eq!((found.whole, found.records), (first_end, 1), "zeros from {from}");
    }
    file.resize(length + 100_000, 0);
    let found = check_bytes(&file).unwrap();
    assert_eq!(
        (found.whole, found.records),
        (length as u64, 2),
        "room that was allocated ahead"
    );
}

#[test]
fn a_flipped_bit_is_damage_wherever_it_is() {
    let mut file = Vec::new();
    let ends: Vec<u64> = [60, 0, 200, 33]
        .map(|length| append(&mut file, &payload(length, 7)).1)
        .into();
    for bit in 0..file.len() * 8 {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let start = ends
            .iter()
            .rev()
            .find(|end| **end <= bit as u64 / 8)
            .copied()
            .unwrap_or(0);
        assert_eq!(offset_of(check_bytes(&changed)), Some(start), "bit {bit}");
    }
}

#[test]
fn a_flipped_bit_in_a_long_record_is_damage() {
    let mut file = Vec::new();
    append(&mut file, &payload(100, 1));
    append(&mut file, &payload(100_000, 2));
    append(&mut file, &payload(100, 3));
    for byte in [
        0,
        107,
        112,
        113,
        BLOCK - 1,
        BLOCK,
        BLOCK + 4,
        BLOCK + 6,
        3 * BLOCK + 2,
        file.len() - 1,
    ] {
        let mut changed = file.clone();
        changed[byte] ^= 0x10;
        assert!(offset_of(check_bytes(&changed)).is_some(), "byte {byte}");
    }
}

#[test]
fn a_missing_part_of_a_record_is_damage() {
    let mut file = Vec::new();
    append(&mut file, &payload(100_000, 2));
    append(&mut file, &payload(10, 2));
    let without_first = &file[BLOCK..];
    assert_eq!(offset_of(check_bytes(without_first)), Some(0));
    let without_last = [&file[..2 * BLOCK], &file[..BLOCK]].concat();
    assert!(offset_of(check_bytes(&without_last)).is_some());
}

proptest! {
    #[test]
    fn nothing_that_is_in_a_file_makes_the_check_panic(content in proptest::collection::vec(any::<u8>(), 0..70_000)) {
        let _ = check_bytes(&content);
    }

    #[test]
    fn a_prefix_is_never_damage(lengths in proptest::collection::vec(0_usize..50_000, 1..6), cut in any::<u64>()) {
        let mut file = Vec::new();
        let ends: Vec<u64> = lengths.iter().map(|length| append(&mut file, &payload(*length, 1)).1).collect();
        let length = cut % (file.len() as u64 + 1);
        let found = check_bytes(&file[..usize::try_from(length).unwrap()]).unwrap();
        let whole = ends.iter().rev().find(|end| **end <= length).copied().unwrap_or(0);
        // Behind the last whole record may lie the zeros that fill its block.
        prop_assert_eq!((found.whole, found.length), (whole, length));
    }
}
