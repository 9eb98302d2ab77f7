//! Twins: back ends that write and read them through any node, and the promises about them.
//!
//! A write adds a desired property of its own. So the version of the desired properties orders all writes to a device.
//! Promises, whatever breaks:
//! - an acknowledged write is there for good, once; a write that was refused is nowhere;
//! - writes and reads are linearizable: one that begins after the answer to another sees it, and has a later version.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use holdfast_chaos::check::queries::KnownVersion;
use holdfast_chaos::history::Micros;
use holdfast_device_hub::{Twin, TwinError, TwinWrite, WriteMode};
use holdfast_simulation::identity;
use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use crate::shared::{Access, Shared};

/// Numbers of one back end.
const NUMBERS: u64 = 1_000_000;

/// The longest time that a call may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Acknowledged with this version.
    Version(u64),
    /// It certainly had no effect.
    Refused,
    /// It may have taken effect.
    Unknown,
}

/// A write of a back end.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    device: String,
    from: Micros,
    to: Micros,
    answer: Answer,
}

/// A twin as a back end read it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    device: String,
    from: Micros,
    to: Micros,
    version: u64,
    numbers: BTreeSet<u64>,
}

/// All that back ends have done with twins.
#[derive(Debug, Default)]
pub(crate) struct TwinHistory {
    /// By number.
    pub(crate) written: BTreeMap<u64, Written>,
    pub(crate) seen: Vec<Seen>,
}

/// Writes and reads through any node until the end; then reads each twin once more.
pub(crate) async fn write_at_random(
    shared: Rc<Shared>,
    devices: &'static [&'static str],
    back_end: u64,
    mut rng: SmallRng,
) {
    let mut number = back_end * NUMBERS;
    while !shared.ending.get() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..150))).await;
        let device = devices[rng.random_range(0..devices.len())];
        let Some(access) = shared.any(&mut rng) else { continue };
        let from = shared.at(Instant::now());
        if rng.random_bool(0.4) {
            if let Some(Ok(twin)) = read(&access, device).await {
                shared
                    .history
                    .borrow_mut()
                    .twins
                    .seen
                    .push(Seen::of(&twin, device, from, &shared));
            }
            continue;
        }
        number += 1;
        let answer = write(&access, device, number).await;
        shared.note(format!(
            "{number} into the twin of {device} via {}: {answer:?}",
            access.node
        ));
        let written = Written {
            device: device.to_owned(),
            from,
            to: shared.at(Instant::now()),
            answer,
        };
        shared.history.borrow_mut().twins.written.insert(number, written);
    }
    for device in devices {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Some(access) = shared.any(&mut rng) else { continue };
            let from = shared.at(Instant::now());
            if let Some(Ok(twin)) = read(&access, device).await {
                shared
                    .history
                    .borrow_mut()
                    .twins
                    .seen
                    .push(Seen::of(&twin, device, from, &shared));
                break;
            }
        }
    }
}

async fn read(access: &Access, device: &str) -> Option<Result<Twin, TwinError>> {
    let id = identity(device);
    // Devices of this test are never deleted.
    let generation = access.registry.identity(&id).ok().flatten()?.generation.clone();
    let view = access.call(access.hub.twin(&id, &generation, TIMEOUT)).await?;
    Some(view.map(|view| view.twin))
}

async fn write(access: &Access, device: &str, number: u64) -> Answer {
    let id = identity(device);
    let Some(registered) = access.registry.identity(&id).ok().flatten() else {
        return Answer::Refused;
    };
    let write = TwinWrite {
        mode: WriteMode::Merge,
        tags: None,
        desired: Some(format!(r#"{{"{number}":1}}"#)),
        if_etag: None,
    };
    let written = access.hub.write_twin(&id, &registered.generation, write, TIMEOUT);
    match access.call(written).await {
        Some(Ok(view)) => Answer::Version(view.twin.desired_version()),
        // The node has ended.
        None | Some(Err(TwinError::Unknown)) => Answer::Unknown,
        Some(Err(_)) => Answer::Refused,
    }
}

impl Seen {
    fn of(twin: &Twin, device: &str, from: Micros, shared: &Shared) -> Self {
        let desired = twin.desired_view();
        let keys = desired.as_object().into_iter().flat_map(|map| map.keys());
        Self {
            device: device.to_owned(),
            from,
            to: shared.at(Instant::now()),
            version: twin.desired_version(),
            numbers: keys.filter_map(|key| key.parse().ok()).collect(),
        }
    }
}

impl TwinHistory {
    /// The versions that calls were answered with, for the check of queries.
    pub(crate) fn versions(&self) -> Vec<KnownVersion> {
        let writes = self.written.values().filter_map(|written| match written.answer {
            Answer::Version(version) => Some((&written.device, written.from, written.to, version)),
            Answer::Refused | Answer::Unknown => None,
        });
        let reads = self
            .seen
            .iter()
            .map(|seen| (&seen.device, seen.from, seen.to, seen.version));
        let all = writes
            .chain(reads)
            .map(|(device, asked, answered, version)| KnownVersion {
                device: device.clone(),
                asked,
                answered,
                version,
            });
        all.collect()
    }
}

/// Returns broken promises.
pub(crate) fn check(history: &TwinHistory) -> Vec<String> {
    let mut broken = Vec::new();
    for seen in &history.seen {
        let Seen { device, version, .. } = seen;
        if *version != seen.numbers.len() as u64 + 1 {
            broken.push(format!("{device}: version {version} has {} writes", seen.numbers.len()));
        }
        for number in &seen.numbers {
            match history.written.get(number).map(|written| written.answer) {
                None => broken.push(format!("{device}: {number} was never written")),
                Some(Answer::Refused) => broken.push(format!("{device}: {number} is there, and was refused")),
                Some(Answer::Version(_) | Answer::Unknown) => {}
            }
        }
        let of_device = history.written.iter().filter(|(_, written)| written.device == *device);
        for (number, written) in of_device {
            if let Answer::Version(of_write) = written.answer
                && (of_write <= *version) != seen.numbers.contains(number)
            {
                broken.push(format!(
                    "{device}: write {number} made version {of_write}, and is not as it should be in version {version}"
                ));
            }
        }
    }
    // Everything with a version, in the order of real time.
    let writes = history.written.values().filter_map(|written| match written.answer {
        Answer::Version(version) => Some((&written.device, written.from, written.to, version, true)),
        Answer::Refused | Answer::Unknown => None,
    });
    let reads = history
        .seen
        .iter()
        .map(|seen| (&seen.device, seen.from, seen.to, seen.version, false));
    let calls: Vec<_> = writes.chain(reads).collect();
    for (device, _, to, version, _) in &calls {
        for (other, from, _, later, is_write) in &calls {
            let is_behind = if *is_write { later <= version } else { later < version };
            if device == other && from > to && is_behind {
                broken.push(format!(
                    "{device}: version {later} after the answer with version {version}"
                ));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_promise_is_found() {
        let written = |from, to, answer| Written {
            device: "d".to_owned(),
            from,
            to,
            answer,
        };
        let seen = |from, to, version, numbers: &[u64]| Seen {
            device: "d".to_owned(),
            from,
            to,
            version,
            numbers: numbers.iter().copied().collect(),
        };
        let history = |seen: Vec<Seen>| TwinHistory {
            written: BTreeMap::from([
                (1, written(0, 10, Answer::Version(2))),
                (2, written(20, 30, Answer::Version(3))),
                (3, written(20, 40, Answer::Unknown)),
                (4, written(20, 40, Answer::Refused)),
            ]),
            seen,
        };
        let kept = history(vec![
            seen(11, 12, 2, &[1]),
            seen(25, 60, 3, &[1, 2]),
            seen(70, 71, 4, &[1, 2, 3]),
        ]);
        assert_eq!(check(&kept), Vec::<String>::new());
        for (read, expected) in [
            (seen(31, 32, 2, &[1]), "version 2 after the answer with version 3"),
            (seen(50, 60, 3, &[1, 3]), "write 2 made version 3"),
            (seen(50, 60, 4, &[1, 2]), "version 4 has 2 writes"),
            (seen(50, 60, 4, &[1, 2, 4]), "4 is there, and was refused"),
            (seen(50, 60, 4, &[1, 2, 9]), "9 was never written"),
        ] {
            let found = check(&history(vec![read]));
            assert!(
                found.iter().any(|text| text.contains(expected)),
                "{expected}: {found:?}"
            );
        }
    }
}
