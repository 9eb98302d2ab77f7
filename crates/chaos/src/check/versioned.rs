//! Decides whether calls to a register with a version are linearizable, in the time of a sort.
//!
//! Why not the search of [`super::linear`]: every write raises the version by one and answers name it, so that the versions
//! are the order. A search has to try each write of unknown outcome at each place, and there are hundreds.
//! A history is linearizable exactly when no version has two values, every version is some write's, no write has two versions,
//! and no call that ended before another one began comes behind it in the order of versions.

use std::collections::BTreeMap;

use crate::history::Micros;

/// A call to the register, as far as it takes part in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// A write with the version that it made; `None`: the outcome is unknown.
    Write { tag: u64, version: Option<u64> },
    /// A read, and the value and version that it found.
    Read { tag: u64, version: u64 },
}

/// A call with its times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) call: Call,
    pub(crate) asked: Micros,
    /// Not looked at for writes of unknown outcome: they may take effect at any later time.
    pub(crate) answered: Micros,
}

/// Why no order explains the calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unexplained {
    pub(crate) at: Option<Micros>,
    pub(crate) reason: String,
}

/// The write that made a version.
#[derive(Debug, Clone, Copy)]
struct Made {
    tag: u64,
    asked: Micros,
    answered: Option<Micros>,
}

/// Whether an order of `calls` explains all answers. The register begins with `first` as version, and 0 as value.
///
/// # Errors
/// The first contradiction.
pub(crate) fn check(calls: &[Timed], first: u64) -> Result<(), Unexplained> {
    let mut unknown: BTreeMap<u64, Micros> = BTreeMap::new();
    let mut made = BTreeMap::new();
    made.insert(
        first,
        Made {
            tag: 0,
            asked: 0,
            answered: None,
        },
    );
    for timed in calls {
        if let Call::Write { tag, version } = timed.call {
            let Some(version) = version else {
                unknown.insert(tag, timed.asked);
                continue;
            };
            let write = Made {
                tag,
                asked: timed.asked,
                answered: Some(timed.answered),
            };
            if let Some(other) = made.insert(version, write) {
                return unexplained(timed.answered, || {
                    format!("the writes {} and {tag} both made version {version}", other.tag)
                });
            }
        }
    }
    let reads = calls.iter().filter_map(|timed| match timed.call {
        Call::Read { tag, version } => Some((tag, version, timed)),
        Call::Write { .. } => None,
    });
    let mut reads: Vec<(u64, u64, &Timed)> = reads.collect();
    reads.sort_by_key(|(_, version, timed)| (*version, timed.asked));
    for (tag, version, timed) in &reads {
        match made.get(version) {
            Some(write) if write.tag == *tag => {}
            Some(write) => {
                return unexplained(timed.answered, || {
                    format!("version {version} is the write {} and was read as {tag}", write.tag)
                });
            }
            None => match unknown.remove(tag) {
                Some(asked) => {
                    let write = Made {
                        tag: *tag,
                        asked,
                        answered: None,
                    };
                    made.insert(*version, write);
                }
                None => {
                    return unexplained(timed.answered, || {
                        format!("version {version} was read as {tag}, which was not written, or made another version")
                    });
                }
            },
        }
    }
    respects_time(&made, &reads)?;
    fill_gaps(&made, &reads, unknown, first)
}

fn unexplained<T>(at: Micros, reason: impl FnOnce() -> String) -> Result<T, Unexplained> {
    Err(Unexplained {
        at: Some(at),
        reason: reason(),
    })
}

/// For each version the earliest end of a call that comes behind its write in the order.
fn ends(made: &BTreeMap<u64, Made>, reads: &[(u64, u64, &Timed)]) -> BTreeMap<u64, Micros> {
    let mut earliest: BTreeMap<u64, Micros> = BTreeMap::new();
    let mut note = |version: u64, end: Micros| {
        let known = earliest.entry(version).or_insert(end);
        *known = end.min(*known);
    };
    for (version, write) in made {
        // Behind the writes of all earlier versions.
        if let (Some(before), Some(end)) = (version.checked_sub(1), write.answered) {
            note(before, end);
        }
    }
    for (_, version, timed) in reads {
        note(*version, timed.answered);
    }
    let mut least = Micros::MAX;
    for end in earliest.values_mut().rev() {
        least = least.min(*end);
        *end = least;
    }
    earliest
}

/// No call that ended before another one began comes behind it.
fn respects_time(made: &BTreeMap<u64, Made>, reads: &[(u64, u64, &Timed)]) -> Result<(), Unexplained> {
    let ends = ends(made, reads);
    let behind = |version: u64| ends.range(version..).next().map(|(_, end)| *end);
    for (version, write) in made {
        if let Some(end) = behind(*version).filter(|end| *end < write.asked) {
            return unexplained(write.asked, || {
                format!(
                    "the write {} made version {version}, and a call that ended at {end} µs had seen it or a later one",
                    write.tag
                )
            });
        }
    }
    for (_, version, timed) in reads {
        if let Some(end) = behind_reads(&ends, made, *version).filter(|end| *end < timed.asked) {
            return unexplained(timed.answered, || {
                format!("version {version} was read after a call that ended at {end} µs had seen a later one")
            });
        }
    }
    Ok(())
}

/// The earliest end of a call behind the reads of `version`.
fn behind_reads(ends: &BTreeMap<u64, Micros>, made: &BTreeMap<u64, Made>, version: u64) -> Option<Micros> {
    let next = version.saturating_add(1);
    let write = made.get(&next).and_then(|write| write.answered);
    let later = ends.range(next..).next().map(|(_, end)| *end);
    write.into_iter().chain(later).min()
}

/// Every version without a write of known outcome was made by one of unknown outcome that began before a later version was seen.
fn fill_gaps(
    made: &BTreeMap<u64, Made>,
    reads: &[(u64, u64, &Timed)],
    unknown: BTreeMap<u64, Micros>,
    first: u64,
) -> Result<(), Unexplained> {
    let ends = ends(made, reads);
    let mut began: Vec<Micros> = unknown.into_values().collect();
    began.sort_unstable_by(|one, other| other.cmp(one));
    let mut next = first;
    for version in made.keys().copied() {
        if version < first {
            return Err(Unexplained {
                at: None,
                reason: format!("version {version} is before the first one"),
            });
        }
        // A damaged answer may name any version: there are no more gaps to fill than writes.
        while next < version {
            let before = ends.range(next..).next().map_or(Micros::MAX, |(_, end)| *end);
            match began.pop() {
                Some(asked) if asked <= before => {}
                _ => {
                    return Err(Unexplained {
                        at: Some(before).filter(|at| *at != Micros::MAX),
                        reason: format!("no write made version {next}, and a later one was seen"),
                    });
                }
            }
            next += 1;
        }
        next = version.saturating_add(1);
    }
    Ok(())
}
