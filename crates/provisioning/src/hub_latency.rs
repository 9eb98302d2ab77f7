//! How far linked hubs are from this node, whose place stands for that of the devices that register here (docs/decisions/0057).
//!
//! Why: `geoLatency` assigns a device to the nearest hub, and a device measures nothing itself.
//! Invariants: bounded by the number of linked hubs; a hub that does not answer has no latency, so that it is not the nearest one; a device
//! stays at its hub unless another one is clearly nearer, since a move costs more than some milliseconds.
//! Not here: requests to hubs (`remote_hub`), which hubs an enrollment may use (`allocation`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use crate::metrics;
use crate::service::Provisioning;

/// How often a hub is measured.
const INTERVAL: Duration = Duration::from_secs(60);

/// How often links are looked through for new ones.
const TICK: Duration = Duration::from_secs(1);

/// A hub is clearly nearer than that of the device if its latency is below this part of it, and lower by [`MARGIN`].
const NEARER_PERCENT: u32 = 80;
const MARGIN: Duration = Duration::from_millis(5);

struct Measured {
    /// Weighted by age; `None`: it has not answered the last time.
    average: Option<Duration>,
    next: Instant,
}

/// The latencies of all linked hubs, by host name in lower case.
#[derive(Default)]
pub(crate) struct HubLatency(Mutex<HashMap<String, Measured>>);

impl HubLatency {
    /// Of all `hosts`, those that are to be measured now; others are forgotten.
    fn due(&self, hosts: &[String]) -> Vec<String> {
        let now = Instant::now();
        let mut all = self.0.lock();
        all.retain(|known, _| hosts.iter().any(|host| host.eq_ignore_ascii_case(known)));
        let mut due = Vec::new();
        for host in hosts {
            let measured = all.entry(host.to_ascii_lowercase()).or_insert(Measured {
                average: None,
                next: now,
            });
            if measured.next <= now {
                // Spread, so that nodes that have started together do not measure together.
                measured.next = now + INTERVAL.mul_f64(rand::random_range(0.75..1.25));
                due.push(host.clone());
            }
        }
        due
    }

    /// A hub has answered after `latency`; `None`: it has not.
    pub(crate) fn measured(&self, host: &str, latency: Option<Duration>) {
        if let Some(measured) = self.0.lock().get_mut(&host.to_ascii_lowercase()) {
            measured.average = match (measured.average, latency) {
                (Some(average), Some(latency)) => Some((average * 3 + latency) / 4),
                (None, latency) => latency,
                (Some(_), None) => None,
            };
        }
    }

    /// Each hub that answers, with its latency.
    fn answering(&self) -> Vec<(String, Duration)> {
        let all = self.0.lock();
        all.iter()
            .filter_map(|(host, measured)| Some((host.clone(), measured.average?)))
            .collect()
    }

    /// The hubs that answer, the nearest first. This hub is the first one, since the device has reached it. `before`: the hub of the device.
    pub(crate) fn nearest(&self, own: &str, before: Option<&str>) -> Vec<String> {
        let all = self.0.lock();
        let mut hubs: Vec<(Duration, &str)> = all
            .iter()
            .filter_map(|(host, measured)| {
                let average = measured.average?;
                let is_before = before.is_some_and(|before| before.eq_ignore_ascii_case(host));
                let counted = match is_before {
                    true => (average * NEARER_PERCENT / 100).saturating_sub(MARGIN),
                    false => average,
                };
                Some((counted, host.as_str()))
            })
            .collect();
        hubs.sort_unstable();
        let hubs = hubs.into_iter().map(|(_, host)| host.to_owned());
        std::iter::once(own.to_owned()).chain(hubs).collect()
    }
}

impl Provisioning {
    /// Sets the gauges of linked hubs that answer now, in the recorder of one scrape.
    pub fn export_latencies(&self) {
        for (host, latency) in self.latency.answering() {
            metrics::hub_latency(host).set(latency.as_secs_f64());
        }
    }

    /// Measures linked hubs until the node drains. Every node does: each has its own place.
    pub(crate) async fn measure_hubs(self: Arc<Self>, stop: Stop) {
        loop {
            let links = self.registry().linked_hubs();
            let hubs = self.hubs();
            let names: Vec<String> = links
                .iter()
                .map(|link| link.content.host_name.clone())
                .filter(|name| !hubs.is_own(name))
                .collect();
            let mut probes: FuturesUnordered<_> = self
                .latency
                .due(&names)
                .into_iter()
                .filter_map(|name| links.iter().find(|link| link.content.host_name == name))
                .map(|link| async {
                    let latency = self.remote(link).latency().await;
                    let host = &link.content.host_name;
                    tracing::debug!(hub = host, ?latency, "a linked hub is measured");
                    self.latency.measured(host, latency);
                })
                .collect();
            let probed = async { while probes.next().await.is_some() {} };
            tokio::select! {
                biased;
                () = stop.reached(Phase::Draining) => return,
                () = probed => {}
            }
            tokio::select! {
                biased;
                () = stop.reached(Phase::Draining) => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn latencies(all: &[(&str, u64)]) -> HubLatency {
        let latency = HubLatency::default();
        let hosts: Vec<String> = all.iter().map(|(host, _)| (*host).to_owned()).collect();
        assert_eq!(latency.due(&hosts).len(), hosts.len());
        assert!(latency.due(&hosts).is_empty(), "once in an interval");
        for (host, number) in all {
            latency.measured(host, Some(ms(*number)));
        }
        latency
    }

    #[test]
    fn the_nearest_hub_that_answers_is_the_first_after_this_one() {
        let hubs = latencies(&[("Far.example", 200), ("near.example", 20), ("middle.example", 90)]);
        assert_eq!(
            hubs.nearest("own", None),
            ["own", "near.example", "middle.example", "far.example"]
        );
        hubs.measured("near.example", None);
        assert_eq!(hubs.nearest("own", None), ["own", "middle.example", "far.example"]);
        let mut shown = hubs.answering();
        shown.sort();
        let expected =
            [("far.example", 200), ("middle.example", 90)].map(|(host, number)| (host.to_owned(), ms(number)));
        assert_eq!(shown, expected, "the gauges of a scrape");
        // One slow answer changes little.
        hubs.measured("middle.example", Some(ms(400)));
        assert_eq!(hubs.nearest("own", None)[1], "middle.example");
        hubs.measured("near.example", Some(ms(30)));
        assert_eq!(hubs.nearest("own", None)[1], "near.example");
        // A link that is removed is forgotten.
        hubs.due(&["far.example".to_owned()]);
        assert_eq!(hubs.nearest("own", None), ["own", "far.example"]);
        hubs.measured("gone.example", Some(ms(1)));
        assert_eq!(hubs.nearest("own", None).len(), 2);
    }

    #[test]
    fn a_device_moves_to_a_hub_that_is_clearly_nearer_alone() {
        let hubs = latencies(&[("a.example", 50), ("b.example", 45)]);
        assert_eq!(hubs.nearest("own", None)[1], "b.example");
        assert_eq!(hubs.nearest("own", Some("A.example"))[1], "a.example");
        let hubs = latencies(&[("a.example", 50), ("b.example", 30)]);
        assert_eq!(hubs.nearest("own", Some("a.example"))[1], "b.example");
        let hubs = latencies(&[("a.example", 5), ("b.example", 1)]);
        assert_eq!(hubs.nearest("own", Some("a.example"))[1], "a.example");
    }
}
