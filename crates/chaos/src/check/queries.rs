//! The guarantee about queries: each device once over all pages, counts that are right, and twins no older than the query.
//!
//! A page is not a snapshot, so a device that is created or deleted meanwhile may be in the results or not, but never
//! twice. What exists all along is there once, whatever node owns it on which page.

use std::collections::BTreeSet;

use super::Findings;
use crate::history::Micros;
use crate::history::queries::{Counted, Queries, Walk};

/// A version that a write or a read of the twin itself was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownVersion {
    /// The device.
    pub device: String,
    /// When the call began.
    pub asked: Micros,
    /// When the answer had come.
    pub answered: Micros,
    /// The version of the desired properties.
    pub version: u64,
}

/// Checks all queries. `known`: versions of the same twins that other calls were answered with.
#[must_use]
pub fn check(queries: &Queries, known: &[KnownVersion]) -> Findings {
    let mut findings =
        Findings::about("queries visit each device once, count right, and see what was written before them");
    for walk in &queries.walks {
        findings.checked += 1;
        check_walk(walk, &mut findings);
    }
    for counted in &queries.counts {
        findings.checked += 1;
        let Counted {
            query, found, expected, ..
        } = counted;
        if found != expected {
            findings.violation(Some(counted.answered), || {
                format!("{query} counts {found} instead of {expected}")
            });
        }
    }
    for seen in &queries.versions {
        findings.checked += 1;
        let of_device = known.iter().filter(|call| call.device == seen.device);
        for call in of_device {
            let (device, version, other) = (&seen.device, seen.version, call.version);
            if call.answered < seen.asked && version < other {
                findings.violation(Some(seen.answered), || {
                    format!("{device}: a query finds version {version} after the answer with version {other}")
                });
            } else if seen.answered < call.asked && other < version {
                findings.violation(Some(call.answered), || {
                    format!("{device}: version {other} after a query had found version {version}")
                });
            }
        }
    }
    findings
}

fn check_walk(walk: &Walk, findings: &mut Findings) {
    let Walk {
        query,
        devices,
        steady,
        answered,
        ..
    } = walk;
    for (before, after) in devices.iter().zip(devices.iter().skip(1)) {
        if before >= after {
            findings.violation(Some(*answered), || format!("{query}: {after} comes after {before}"));
        }
    }
    let found: BTreeSet<&String> = devices.iter().collect();
    let missing: Vec<&String> = steady.iter().filter(|device| !found.contains(device)).collect();
    if !missing.is_empty() {
        findings.violation(Some(*answered), || {
            format!("{query} does not find {missing:?}, which existed all along")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::queries::SeenVersion;

    fn walk(devices: &[&str]) -> Queries {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Queries {
            walks: vec![Walk {
                query: "q".to_owned(),
                asked: 10,
                answered: 20,
                devices: names(devices),
                steady: names(&["a", "c"]).into_iter().collect(),
            }],
            ..Queries::default()
        }
    }

    #[test]
    fn devices_that_come_and_go_may_be_there_once_and_others_must() {
        for good in [&["a", "c"][..], &["a", "b", "c"], &["a", "c", "d"]] {
            let findings = check(&walk(good), &[]);
            assert!(findings.is_clean() && findings.checked == 1, "{good:?}");
        }
        for (bad, text) in [
            (&["a", "a", "c"][..], "a comes after a"),
            (&["c", "a"], "a comes after c"),
            (&["a", "b"], "does not find [\"c\"]"),
            (&[], "does not find"),
        ] {
            let findings = check(&walk(bad), &[]);
            assert!(!findings.is_clean(), "{bad:?}");
            assert!(findings.examples[0].text.contains(text), "{:?}", findings.examples);
        }
    }

    #[test]
    fn a_wrong_count_is_found() {
        let counted = |found| Queries {
            counts: vec![Counted {
                query: "q".to_owned(),
                asked: 1,
                answered: 2,
                found,
                expected: 3,
            }],
            ..Queries::default()
        };
        assert!(check(&counted(3), &[]).is_clean());
        for wrong in [2, 4] {
            assert_eq!(check(&counted(wrong), &[]).violations, 1);
        }
    }

    #[test]
    fn a_twin_that_is_older_than_the_query_is_found() {
        let seen = |asked, answered, version| Queries {
            versions: vec![SeenVersion {
                device: "d".to_owned(),
                asked,
                answered,
                version,
            }],
            ..Queries::default()
        };
        let known = |asked, answered, version| KnownVersion {
            device: "d".to_owned(),
            asked,
            answered,
            version,
        };
        let calls = [known(10, 20, 5), known(40, 50, 6)];
        for good in [seen(21, 30, 5), seen(15, 18, 4), seen(45, 60, 5), seen(51, 60, 7)] {
            assert!(check(&good, &calls).is_clean(), "{good:?}");
        }
        for bad in [seen(21, 30, 4), seen(51, 60, 5), seen(22, 30, 7)] {
            assert_eq!(check(&bad, &calls).violations, 1, "{bad:?}");
        }
    }
}
