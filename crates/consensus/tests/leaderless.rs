//! The histogram of the times without a leader, over a simulated network.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::cluster::Cluster;
use holdfast_model::NodeId;
use holdfast_testkit::eventually;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::time::Instant;

/// Keeps every value of the histogram, by its label `cause`.
#[derive(Clone, Default)]
struct Kept {
    handover: Values,
    lost: Values,
}

#[derive(Clone, Default)]
struct Values(Arc<Mutex<Vec<f64>>>);

impl Values {
    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        if key.name() != "holdfast_consensus_leaderless_seconds" {
            return Histogram::noop();
        }
        let cause = key.labels().find(|label| label.key() == "cause").unwrap().value();
        let values = if cause == "handover" {
            &self.handover
        } else {
            &self.lost
        };
        Histogram::from_arc(Arc::new(values.clone()))
    }
}

/// Each replica counts once for each new leader: neither a start, nor a node that comes back, nor a silent but living leader counts.
#[tokio::test(start_paused = true)]
async fn each_replica_counts_the_time_between_two_leaders_once() {
    let kept = Kept::default();
    let _recording = metrics::set_default_local_recorder(&kept);
    let mut cluster = Cluster::of(40, 3).await;
    cluster.leader().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(
        (kept.handover.count(), kept.lost.count()),
        (0, 0),
        "there was a leader all the time"
    );

    cluster.group(NodeId(1)).transfer_leader(NodeId(2)).await.unwrap();
    eventually("all three know the new leader", || kept.handover.count() == 3).await;
    let after = kept.handover.take();
    assert!(after.iter().all(|seconds| *seconds < 0.2), "{after:?}");

    let heartbeat = cluster.config.heartbeat.get();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let died = Instant::now();
    cluster.kill(NodeId(2));
    eventually("both know the new leader", || kept.lost.count() == 2).await;
    let without = died.elapsed();
    let after = kept.lost.take();
    for seconds in &after {
        let seconds = Duration::from_secs_f64(*seconds);
        assert!(seconds >= cluster.config.election_timeout_min.get(), "{after:?}");
        assert!(seconds <= without + heartbeat + heartbeat / 4, "{after:?}, {without:?}");
    }

    cluster.start(NodeId(2)).await;
    let leader = cluster.leader().await;
    cluster.group(leader).propose(Bytes::from_static(b"x")).await.unwrap();
    cluster.all_applied(1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        (kept.handover.count(), kept.lost.count()),
        (0, 0),
        "a node that comes back"
    );
}

/// The others count what their side was without a leader; the leader that was cut off does not know when that began.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_counts_nothing() {
    let kept = Kept::default();
    let _recording = metrics::set_default_local_recorder(&kept);
    let cluster = Cluster::of(41, 3).await;
    cluster.leader().await;
    cluster.network.isolate(NodeId(1));
    eventually("the others have another leader", || kept.lost.count() == 2).await;
    cluster.network.heal_all();
    assert!(cluster.leader().await != NodeId(1));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((kept.handover.count(), kept.lost.count()), (0, 2));
}
