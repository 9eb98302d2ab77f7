//! The receiving devices, on a thread of their own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::oneshot;

use super::device::{Device, Role};
use super::{HANDSHAKES_AT_ONCE, local_runtime};
use crate::connect::ConnectionOptions;
use crate::latency::Latency;
use crate::target::Target;

/// The reasons why devices lost their connection, with counts.
pub(super) type Failures = BTreeMap<String, u64>;

/// What the devices have seen.
#[derive(Default)]
pub(super) struct Received {
    pub(super) failures: Failures,
    /// Times of the patches of [`Role::Measure`].
    pub(super) notified: Latency,
}

/// Connected devices.
pub(super) struct Receivers {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<Received>>,
}

impl Receivers {
    /// Connects one device for each role, from number `first` on; returns when all have subscribed to `channel`.
    ///
    /// # Errors
    /// When one cannot connect.
    pub(super) fn start(
        target: &Arc<Target>,
        options: ConnectionOptions,
        first: u32,
        roles: Vec<Role>,
        channel: &'static str,
    ) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = sync_channel(1);
        let target = Arc::clone(target);
        let thread = thread::Builder::new()
            .name("devices".to_owned())
            .spawn(move || drive(&target, options, first, roles, channel, &ready, stopped))?;
        // An error of the thread is its result.
        if is_ready.recv().is_ok() {
            return Ok(Self { stop, thread });
        }
        Err(match thread.join() {
            Ok(Err(error)) => error.context("connecting the devices"),
            Ok(Ok(_)) | Err(_) => anyhow!("the devices' thread ended"),
        })
    }

    /// Ends the connections; what was seen on them, and which were lost before.
    ///
    /// # Errors
    /// When the thread has panicked.
    pub(super) fn stop(self) -> Result<Received> {
        let _ = self.stop.send(());
        self.thread
            .join()
            .map_err(|_| anyhow!("the devices' thread panicked"))?
    }
}

fn drive(
    target: &Arc<Target>,
    options: ConnectionOptions,
    first: u32,
    roles: Vec<Role>,
    channel: &str,
    ready: &SyncSender<()>,
    stopped: oneshot::Receiver<()>,
) -> Result<Received> {
    let notified = Rc::new(RefCell::new(Latency::default()));
    let (lost, mut losses) = tokio::sync::mpsc::channel(roles.len());
    local_runtime()?.block_on(async {
        let devices: Vec<Device> = stream::iter(first..first + roles.len() as u32)
            .map(|number| Device::open(target, options, number, channel))
            .buffered(HANDSHAKES_AT_ONCE)
            .try_collect()
            .await?;
        for (device, role) in devices.into_iter().zip(roles) {
            let (lost, notified) = (lost.clone(), Rc::clone(&notified));
            let serve = async move {
                if let Err(error) = device.serve(&role, &notified).await {
                    // There is room for one loss of each device.
                    let _ = lost.try_send(format!("{error:#}"));
                }
            };
            holdfast_tasks::spawn_local("receiving-device", Box::pin(serve));
        }
        ready.send(()).context("the caller is gone")?;
        let _ = stopped.await;
        anyhow::Ok(())
    })?;
    let mut failures = Failures::new();
    while let Ok(reason) = losses.try_recv() {
        *failures.entry(reason).or_default() += 1;
    }
    let notified = notified.borrow().clone();
    Ok(Received { failures, notified })
}
