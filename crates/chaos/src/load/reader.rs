//! A reader of one partition: reads from its beginning, and continues at its position after every break, on any node.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_amqp::selector::Start;
use holdfast_swarm::marker::MessageMarker;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::Shared;
use crate::check::readers::Seen;
use crate::targets::Endpoint;

/// Timeout of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A reader without events for longer reconnects to another node.
const SILENCE: Duration = Duration::from_secs(10);
/// The most events from one connection, so that readers change nodes.
const EVENTS: std::ops::Range<u64> = 200..4_000;

pub(super) async fn run(shared: Rc<Shared>, reader: u32, partition: u32, mut rng: StdRng) {
    let name = format!("reader-{reader}");
    while !shared.is_ended() {
        // Each reader begins with a node of its own.
        let endpoints = shared.targets.endpoints();
        let first = endpoints.get(reader as usize % endpoints.len().max(1)).copied();
        let endpoint = if rng.random() {
            first
        } else {
            shared.targets.any(&mut rng)
        };
        let Some(endpoint) = endpoint else {
            tokio::time::sleep(SILENCE).await;
            continue;
        };
        let count = rng.random_range(EVENTS);
        if let Err(error) = follow(&shared, &name, endpoint, partition, count).await {
            shared.recorder.failure(format!("reader: {error:#}"));
            tokio::time::sleep(Duration::from_millis(rng.random_range(50..500))).await;
        }
    }
}

async fn follow(shared: &Shared, name: &str, endpoint: Endpoint, partition: u32, mut count: u64) -> Result<()> {
    let next = shared.recorder.readers().next(name, partition);
    let start = match u64::try_from(next - 1) {
        Ok(number) => Start::Sequence {
            number,
            inclusive: false,
        },
        Err(_) => Start::Oldest,
    };
    let hub = shared.targets.events(endpoint)?;
    let connect = async {
        let mut client = hub.connect().await?;
        let link = client.receive(&partition.to_string(), start).await?;
        anyhow::Ok((client, link))
    };
    let (mut client, link) = tokio::time::timeout(CONNECT_TIMEOUT, connect)
        .await
        .context("connecting")??;
    let reading = client.events(link, SILENCE, |event| {
        let sequence = event.sequence().context("an event without a sequence number")?;
        let mut hasher = DefaultHasher::new();
        (event.device(), event.body()).hash(&mut hasher);
        let seen = Seen {
            partition,
            sequence,
            digest: hasher.finish(),
            at: shared.recorder.now(),
        };
        shared.recorder.readers().event(name, endpoint.node, seen);
        shared.recorder.event_read();
        if let Some(marker) = MessageMarker::read(event.body()).filter(|marker| marker.run == shared.run) {
            let mut history = shared.recorder.history();
            let known = *history.partition_of.entry(marker.device).or_insert(partition);
            drop(history);
            if known != partition {
                shared.recorder.anomaly(format!(
                    "device {} is in partitions {known} and {partition}",
                    marker.device
                ));
            }
        }
        count = count.saturating_sub(1);
        Ok(count > 0 && !shared.is_ended())
    });
    reading.await
}
