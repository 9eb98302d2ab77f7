//! `swarm subscribe`.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use holdfast_swarm::connect::{self, ConnectAttempt};
use holdfast_swarm::wire::{self, Reply, Scanner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::block_on;
use crate::args::TargetArgs;

/// Subscribes at QoS 1 with a durable session and disconnects: from then on the broker must keep messages.
#[derive(Args)]
pub(crate) struct Subscribe {
    #[command(flatten)]
    target: TargetArgs,
    /// The topic filter to subscribe to
    #[arg(long, default_value = "swarm/#")]
    filter: String,
}

impl Subscribe {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(
            self.target.hub.is_none(),
            "a hub's devices do not subscribe to telemetry"
        );
        let target = self.target.prepare(None)?;
        let options = self.target.connection_options(true);
        block_on(async {
            let mut stream = connect::open(&target, options, self.target.first, ConnectAttempt::Initial).await?;
            let mut packet = Vec::new();
            wire::encode_subscribe(&mut packet, 1, &self.filter, 1)?;
            stream.write_all(&packet).await?;
            stream.flush().await?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await.context("no SUBACK")?;
            Scanner::default().scan(&answer, |reply| match reply {
                Reply::SubAck(0..=2) => Ok(()),
                other => bail!("the server answers SUBSCRIBE with {other:?}"),
            })?;
            stream.write_all(&wire::DISCONNECT).await?;
            stream.shutdown().await?;
            println!(
                "subscribed {} to {}",
                self.target.names()?.name(self.target.first),
                self.filter
            );
            Ok(())
        })
    }
}
