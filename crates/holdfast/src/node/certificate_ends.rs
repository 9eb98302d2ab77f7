//! Warns before certificates end: those of the listeners, and the CAs of devices; and when the CRL of a CA has ended.
//!
//! Why: a server certificate that ends stops every client, and a CA that ends stops all its devices at once.
//! Invariant: a certificate is warned of once when it comes within each of [`LIMITS`], by each node since its start.
//! Not here: certificates of devices, whose number has no bound; their sessions end, and the audit log says why.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_device_hub::DeviceHub;
use holdfast_model::{UnixMillis, round_trip};
use holdfast_registry::{Changes, RegistryEvent};
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use super::certificates::Tls;
use crate::metrics_catalogue::{cas_ending, crls_ended};

/// Days before the end of a certificate at which it is warned of, and the metric's label of each; 0: it has ended.
const LIMITS: [(u64, &str); 4] = [(0, "0d"), (7, "7d"), (30, "30d"), (90, "90d")];

const DAY_MS: u64 = 24 * 3600 * 1000;

/// How often the ends are checked; also when CAs change.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Checks until the node closes; to be spawned once per node.
pub(crate) async fn watch(tls: Tls, hub: Arc<DeviceHub>, stop: Stop) {
    let mut changes = hub.registry().changes();
    let mut warned = Warned::default();
    let mut ended = HashSet::new();
    loop {
        check(&tls, &hub, &mut warned);
        ended = check_crls(&hub, &ended);
        tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            () = next_check(&mut changes) => {}
        }
    }
}

/// Waits for a change of the CAs, for [`INTERVAL`] at most.
async fn next_check(changes: &mut Changes) {
    let deadline = Instant::now() + INTERVAL;
    loop {
        match tokio::time::timeout_at(deadline, changes.next()).await {
            Err(_) | Ok(Some(RegistryEvent::Authorities | RegistryEvent::Revocations | RegistryEvent::Resync)) => {
                return;
            }
            Ok(Some(_)) => {}
            // The registry has ended, and the node with it.
            Ok(None) => std::future::pending().await,
        }
    }
}

fn check(tls: &Tls, hub: &DeviceHub, warned: &mut Warned) {
    let now = hub.clock().now();
    let authorities = hub.registry().authorities();
    let cas = authorities
        .iter()
        .map(|ca| (format!("CA {}", ca.name), ca.certificate.ends()));
    let servers = tls
        .ends()
        .into_iter()
        .map(|(name, ends)| (format!("server {name}"), ends));
    for (name, ends, days) in warned.due(cas.chain(servers), now) {
        let ends = i64::try_from(ends.0).ok().and_then(round_trip);
        tracing::warn!(
            certificate = name,
            ends,
            "{}",
            match days {
                0 => "a certificate has ended".to_owned(),
                days => format!("a certificate ends within {days} days: replace it (docs/runbook.md)"),
            }
        );
    }
    for (days, label) in LIMITS {
        let ending = authorities
            .iter()
            .filter(|ca| is_within(ca.certificate.ends(), days, now));
        let count = u32::try_from(ending.count()).unwrap_or(u32::MAX);
        cas_ending(label).set(f64::from(count));
    }
}

/// Warns of each CRL once when its time has ended, and counts all such; returns them.
fn check_crls(hub: &DeviceHub, warned: &HashSet<(String, String)>) -> HashSet<(String, String)> {
    let now = hub.clock().now();
    let authorities = hub.registry().authorities();
    let lists = authorities
        .crls()
        .map(|crl| &crl.list)
        .filter(|list| list.has_ended(now));
    let mut ended = HashSet::new();
    for list in lists {
        let name = (list.ca.clone(), list.number.to_string());
        if !warned.contains(&name) {
            let next_update = i64::try_from(list.next_update.0).ok().and_then(round_trip);
            tracing::warn!(
                ca = list.ca,
                number = name.1,
                next_update,
                "the CRL of a CA has ended: give the hub the CA's current one (docs/runbook.md)"
            );
        }
        ended.insert(name);
    }
    crls_ended().set(f64::from(u32::try_from(ended.len()).unwrap_or(u32::MAX)));
    ended
}

fn is_within(ends: UnixMillis, days: u64, now: UnixMillis) -> bool {
    ends.0 <= now.0.saturating_add(days * DAY_MS)
}

/// The narrowest limit, in days, that each certificate has been warned of.
#[derive(Default)]
struct Warned(HashMap<String, u64>);

impl Warned {
    /// Of all certificates those to be warned of now, with the days of their limit.
    fn due(
        &mut self,
        certificates: impl Iterator<Item = (String, UnixMillis)>,
        now: UnixMillis,
    ) -> Vec<(String, UnixMillis, u64)> {
        let mut reached = HashMap::new();
        let mut due = Vec::new();
        for (name, ends) in certificates {
            let Some((days, _)) = LIMITS.into_iter().find(|(days, _)| is_within(ends, *days, now)) else {
                continue;
            };
            if self.0.get(&name).is_none_or(|before| days < *before) {
                due.push((name.clone(), ends, days));
            }
            reached.insert(name, days);
        }
        // One that is far from its end again, or gone, is forgotten.
        self.0 = reached;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_warned_of_once_per_limit_and_again_after_its_renewal() {
        let mut warned = Warned::default();
        let day = |number: u64| UnixMillis(number * DAY_MS);
        let mut due = |ends: u64, now: u64| -> Vec<u64> {
            let certificates = [("CA a".to_owned(), day(ends))].into_iter();
            warned
                .due(certificates, day(now))
                .into_iter()
                .map(|(_, _, days)| days)
                .collect()
        };
        let expected: [(u64, &[u64]); 9] = [
            (0, &[]),
            (9, &[]),
            (10, &[90]),
            (11, &[]),
            (70, &[30]),
            (92, &[]),
            (93, &[7]),
            (100, &[0]),
            (101, &[]),
        ];
        for (now, limits) in expected {
            assert_eq!(due(100, now), limits, "day {now}");
        }
        assert_eq!(due(300, 102), [] as [u64; 0]);
        assert_eq!(due(300, 295), [7], "one warning, of the narrowest limit");
    }
}
