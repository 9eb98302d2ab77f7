//! A device that only keeps its connection open.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connect::Stream;
use crate::fleet::Worker;
use crate::wire::{PINGREQ, Reply, Scanner};

pub(crate) async fn run(worker: Rc<Worker>, device: u32, survive_disconnect: bool) {
    let open = async |attempt| {
        let stream = worker.open_mqtt(device, attempt).await?;
        let server = stream.server();
        Ok((stream, server))
    };
    let drive = async |mut stream| hold(&worker, &mut stream, device).await;
    worker.sustain(1, survive_disconnect, open, drive).await;
}

/// Pings in time until the connection is lost.
async fn hold(worker: &Worker, stream: &mut Stream, device: u32) -> Result<()> {
    let period = match worker.connection_options().keep_alive {
        0 => Duration::from_secs(u64::from(u32::MAX)),
        seconds => Duration::from_secs(u64::from(seconds)) * 4 / 5,
    };
    // The first ping of each device falls somewhere in the first period, so that a fleet does not ping as one.
    let mut wait = period.mul_f64(f64::from(device % 97 + 3) / 100.0);
    let mut scanner = Scanner::default();
    let mut pinged_us = 0;
    loop {
        let mut input = [0; 16];
        tokio::select! {
            biased;
            read = stream.read(&mut input) => match read.context("reading")? {
                0 => bail!("the server closed an idle connection"),
                length => scanner.scan(&input[..length], |reply| match reply {
                    Reply::PingResp => {
                        let took_us = worker.now_us().saturating_sub(pinged_us);
                        worker.latency.borrow_mut().add(u32::try_from(took_us).unwrap_or(u32::MAX));
                        Ok(())
                    }
                    other => bail!("the server sent {other:?} to an idle device"),
                })?,
            },
            () = tokio::time::sleep(wait) => {
                pinged_us = worker.now_us();
                stream.write_all(&PINGREQ).await.context("pinging")?;
                stream.flush().await.context("pinging")?;
                wait = period;
            }
        }
    }
}
