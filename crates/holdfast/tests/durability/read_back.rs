//! Reading everything that a hub holds, once, for the judges of all ledgers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_amqp::selector::Start;
use holdfast_swarm::events::{Client, EventHub};
use holdfast_swarm::hub::Hub;
use holdfast_swarm::ledger::Ledger;
use holdfast_swarm::target::Transport;
use holdfast_swarm::verify::{Judge, Verdict};

use crate::scenario::block_on;

/// For one partition, from its beginning to its end.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The content of a hub's partitions, ledger by ledger; nothing has been trimmed.
pub(crate) fn read_back(hub: &Hub, ledgers: &[Ledger]) -> Result<Vec<Verdict>> {
    let (begins, verdicts) = read(hub, ledgers, Retention::Idle)?;
    ensure!(
        begins.iter().all(|begin| *begin == 0),
        "partitions begin with {begins:?}, though nothing is old"
    );
    Ok(verdicts)
}

/// Whether old events may vanish while they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retention {
    Idle,
    Busy,
}

/// Where each partition begins, and what is there of each ledger.
pub(crate) fn read(hub: &Hub, ledgers: &[Ledger], retention: Retention) -> Result<(Vec<i64>, Vec<Verdict>)> {
    let hub = EventHub::of(hub, Transport::Plain)?;
    let mut judges = ledgers.iter().map(Judge::new).collect::<Result<Vec<_>>>()?;
    let begins = block_on(async {
        let mut client = hub.connect().await?;
        let mut begins = Vec::new();
        for partition in client.partitions().await? {
            let begin = read_partition(&mut client, &partition, &mut judges, retention).await;
            begins.push(begin.with_context(|| format!("reading partition {partition}"))?);
        }
        Ok(begins)
    })?;
    Ok((begins, judges.into_iter().map(Judge::finish).collect()))
}

/// Reads one partition to what is its end now; where it begins.
async fn read_partition(
    client: &mut Client,
    partition: &str,
    judges: &mut [Judge<'_>],
    retention: Retention,
) -> Result<i64> {
    let state = client.partition(partition).await?;
    if state.last < state.begin {
        return Ok(state.begin);
    }
    let link = client.receive(partition, Start::Oldest).await?;
    let mut expected = state.begin;
    let read = client.events(link, TIMEOUT, |event| {
        let sequence = event.sequence().context("an event without a sequence number")?;
        ensure!(sequence >= expected, "{sequence} comes after {}", expected - 1);
        for judge in &mut *judges {
            // A reader that retention has overtaken continues with the oldest event that is left.
            if sequence != expected && retention == Retention::Idle {
                judge.sequence_jump(partition, expected, sequence);
            }
            judge.event(event.device().unwrap_or_default(), event.body());
        }
        expected = sequence + 1;
        Ok(sequence < state.last)
    });
    read.await
        .with_context(|| format!("at {expected} of {} to {}", state.begin, state.last))?;
    client.leave(link).await?;
    Ok(state.begin)
}
