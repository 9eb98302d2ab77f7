//! Reads partitions: all of them for verification, one to measure its speed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_amqp::selector::Start;

use crate::events::{Client, EventHub};
use crate::ledger::Ledger;
use crate::verify::{Judge, Verdict};

/// How long a reader waits for an event that must be there.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads every partition from its beginning to its present end, and verifies the acknowledgements of `ledger`.
///
/// # Errors
/// When the hub cannot be read. Findings are part of the verdict and no error.
pub async fn verify(hub: &EventHub, ledger: &Ledger) -> Result<Verdict> {
    let mut client = hub.connect().await?;
    let mut judge = Judge::new(ledger)?;
    for partition in client.partitions().await? {
        read_partition(&mut client, &partition, &mut judge)
            .await
            .with_context(|| format!("partition {partition}"))?;
    }
    Ok(judge.finish())
}

async fn read_partition(client: &mut Client, partition: &str, judge: &mut Judge<'_>) -> Result<()> {
    let state = client.partition(partition).await?;
    if state.last < state.begin {
        return Ok(());
    }
    let link = client.receive(partition, Start::Oldest).await?;
    let mut expected = state.begin;
    client
        .events(link, EVENT_TIMEOUT, |event| {
            let sequence = event.sequence().context("an event without a sequence number")?;
            if sequence != expected {
                judge.sequence_jump(partition, expected, sequence);
            }
            expected = sequence + 1;
            judge.event(event.device().unwrap_or_default(), event.body());
            Ok(sequence < state.last)
        })
        .await
        .with_context(|| format!("reading {expected} of {} to {}", state.begin, state.last))?;
    client.leave(link).await
}

/// The result of a timed reading.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Events read.
    pub events: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// The time from the first event's arrival to the last's.
    pub took: Duration,
}

/// Where a timed reading ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// At this event.
    Sequence(i64),
    /// After this time from the first event.
    Time(Duration),
}

/// Reads one partition as fast as possible. `begun` is called at the first event, to take the first sample.
///
/// # Errors
/// When the hub cannot be read, or events do not follow one another.
pub async fn timed(
    client: &mut Client,
    partition: &str,
    start: Start,
    until: Until,
    mut begun: impl FnMut() -> Result<()>,
) -> Result<Reading> {
    let link = client.receive(partition, start).await?;
    let (mut events, mut body_bytes) = (0_u64, 0_u64);
    let mut expected = None;
    let mut started = Instant::now();
    client
        .events(link, EVENT_TIMEOUT, |event| {
            if events == 0 {
                begun()?;
                started = Instant::now();
            }
            let sequence = event.sequence().context("an event without a sequence number")?;
            ensure!(
                expected.is_none_or(|expected| expected == sequence),
                "{sequence} follows after {expected:?}"
            );
            expected = Some(sequence + 1);
            events += 1;
            body_bytes += event.body().len() as u64;
            Ok(match until {
                Until::Sequence(last) => sequence < last,
                // Reading the clock costs time: once for many events.
                Until::Time(time) => events % 64 != 0 || started.elapsed() < time,
            })
        })
        .await?;
    let took = started.elapsed();
    client.leave(link).await?;
    Ok(Reading {
        events,
        body_bytes,
        took,
    })
}
