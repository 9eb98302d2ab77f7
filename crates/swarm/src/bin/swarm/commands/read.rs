//! `swarm read`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use holdfast_amqp::selector::Start;
use holdfast_swarm::events::EventHub;
use holdfast_swarm::hub::Hub;
use holdfast_swarm::process::Sample;
use holdfast_swarm::read::{Until, timed};
use holdfast_swarm::report::{ProcessReport, ReadReport, VERSION};
use holdfast_swarm::target::Transport;

use super::{block_on, publish_report};
use crate::args::MeasureArgs;

/// Reads one partition as fast as possible: events per second and CPU per event.
#[derive(Args)]
pub(crate) struct Read {
    /// The hub's connection.json
    #[arg(long, value_name = "FILE")]
    hub: PathBuf,
    /// Transport
    #[arg(long, value_enum, default_value = "plain")]
    transport: Transport,
    /// The partition
    #[arg(long, default_value = "0")]
    partition: String,
    /// Read only the newest N of the events that are there
    #[arg(long, value_name = "N", conflicts_with = "live")]
    newest: Option<u64>,
    /// Read new events for this many seconds, instead of stored ones
    #[arg(long, value_name = "SECONDS")]
    live: Option<f64>,
    /// Read the same range this many times
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    #[command(flatten)]
    measure: MeasureArgs,
}

impl Read {
    pub(crate) fn run(self) -> Result<()> {
        let hub = Hub::load(&self.hub)?;
        let endpoint = EventHub::of(&hub, self.transport)?;
        let report = block_on(self.read(&hub, &endpoint))?;
        publish_report(&report, self.measure.json.as_deref())
    }

    async fn read(&self, hub: &Hub, endpoint: &EventHub) -> Result<ReadReport> {
        let pids = self.measure.pids(Some(hub));
        let mut client = endpoint.connect().await?;
        let state = client.partition(&self.partition).await?;
        let (start, until) = match (self.live, self.newest) {
            (Some(seconds), _) => (Start::Latest, Until::Time(Duration::from_secs_f64(seconds))),
            (None, newest) => {
                ensure!(state.last >= state.begin, "partition {} is empty", self.partition);
                let newest = newest.and_then(|count| i64::try_from(count).ok()).unwrap_or(i64::MAX);
                let first = state.begin.max(state.last.saturating_sub(newest) + 1);
                let number = u64::try_from(first).context("a sequence number below 0")?;
                (
                    Start::Sequence {
                        number,
                        inclusive: true,
                    },
                    Until::Sequence(state.last),
                )
            }
        };
        let (mut events, mut body_bytes, mut seconds) = (0, 0, 0.0);
        let mut before: Option<(Sample, Option<Sample>)> = None;
        for _ in 0..self.repeat.max(1) {
            let reading = timed(&mut client, &self.partition, start, until, || {
                if before.is_none() {
                    before = Some((Sample::own()?, sample(&pids)?));
                }
                Ok(())
            })
            .await?;
            events += reading.events;
            body_bytes += reading.body_bytes;
            seconds += reading.took.as_secs_f64();
        }
        let (own, server) = before.context("no event arrived")?;
        let server = server
            .zip(sample(&pids)?)
            .map(|(from, to)| ProcessReport::new(to.since(&from), events));
        Ok(ReadReport {
            version: VERSION,
            source: format!("partition {} ({start:?}) over {:?}", self.partition, self.transport),
            events,
            body_bytes,
            seconds,
            rate: events as f64 / seconds,
            generator: ProcessReport::new(Sample::own()?.since(&own), events),
            server,
        })
    }
}

fn sample(pids: &[u32]) -> Result<Option<Sample>> {
    (!pids.is_empty()).then(|| Sample::take(pids)).transpose()
}
