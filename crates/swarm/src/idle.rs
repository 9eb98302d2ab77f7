//! A device that only keeps its connection.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connect::Stream;
use crate::fleet::{Counters, Worker};
use crate::wire::{PINGREQ, Reply, Scanner};

pub(crate) async fn run(worker: Rc<Worker>, device: u32) {
    let mut stream = match worker.open_first(device).await {
        Ok(stream) => stream,
        Err(error) => {
            worker.counters.note(&error);
            Counters::add(&worker.counters.failed, 1);
            return;
        }
    };
    Counters::add(&worker.counters.up, 1);
    if let Err(error) = hold(&worker, &mut stream, device).await {
        worker.counters.note(&error);
    }
    worker.counters.up.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    Counters::add(&worker.counters.disconnects, 1);
}

/// Pings in time until the connection is lost.
async fn hold(worker: &Worker, stream: &mut Stream, device: u32) -> Result<()> {
    let period = match worker.habits().keep_alive {
        0 => Duration::from_secs(u64::from(u32::MAX)),
        seconds => Duration::from_secs(u64::from(seconds)) * 4 / 5,
    };
    // The first ping of each device falls somewhere in the first period, so that a fleet does not ping as one.
    let mut wait = period.mul_f64(f64::from(device % 97 + 3) / 100.0);
    let mut scanner = Scanner::default();
    loop {
        let mut input = [0; 16];
        tokio::select! {
            biased;
            read = stream.read(&mut input) => match read.context("reading")? {
                0 => bail!("the server closed an idle connection"),
                length => scanner.scan(&input[..length], |reply| match reply {
                    Reply::PingResp => Ok(()),
                    other => bail!("the server sent {other:?} to an idle device"),
                })?,
            },
            () = tokio::time::sleep(wait) => {
                stream.write_all(&PINGREQ).await.context("pinging")?;
                stream.flush().await.context("pinging")?;
                wait = period;
            }
        }
    }
}
