//! Devices that stay connected: they ping, come back when their connection breaks, and show what they have been given last.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

use super::Plan;
use crate::connect::{Door, Stream, close, open_as};
use crate::connects::Device;
use crate::latency::Latency;
use crate::wire::{PINGREQ, Reply, Scanner};

/// Connections between TCP and CONNACK at a time.
const HANDSHAKES_AT_ONCE: usize = 64;
/// How long all devices may take to be connected with what they have been given.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Before a refused device tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Different reasons that are kept.
const MAX_REASONS: usize = 100;

/// What the devices have seen since the beginning.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) connects: u64,
    /// Connections that broke on purpose.
    pub(super) broken: u64,
    /// Connections that the hub did not accept.
    pub(super) refused: u64,
    /// Connections that the hub ended.
    pub(super) closed: u64,
    /// The reasons of both.
    pub(super) reasons: BTreeMap<String, u64>,
}

/// The orders of a device.
#[derive(Clone)]
struct Orders {
    device: Rc<Device>,
    /// Grows with each new credential.
    version: u64,
    /// Grows each time that its connection is to break.
    breaks: u64,
}

struct Shared {
    plan: Rc<Plan>,
    seen: RefCell<Seen>,
    latency: RefCell<Latency>,
    /// Devices that are connected with the version that they were given last.
    settled: Cell<usize>,
    changed: Notify,
    handshakes: Semaphore,
}

struct Member {
    orders: Rc<watch::Sender<Orders>>,
    is_settled: Rc<Cell<bool>>,
    task: JoinHandle<()>,
}

/// See the module.
pub(super) struct Fleet {
    shared: Rc<Shared>,
    members: Vec<Member>,
    breaking: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Starts a device for each of `shown`, with this credential.
    pub(super) fn start(plan: &Rc<Plan>, shown: Vec<Device>) -> Self {
        let shared = Rc::new(Shared {
            plan: Rc::clone(plan),
            seen: RefCell::default(),
            latency: RefCell::default(),
            settled: Cell::new(0),
            changed: Notify::new(),
            handshakes: Semaphore::new(HANDSHAKES_AT_ONCE),
        });
        let members: Vec<Member> = (0..)
            .zip(shown)
            .map(|(number, device)| {
                let (orders, told) = watch::channel(Orders {
                    device: Rc::new(device),
                    version: 0,
                    breaks: 0,
                });
                let is_settled = Rc::new(Cell::new(false));
                let life = live(Rc::clone(&shared), number, told, Rc::clone(&is_settled));
                Member {
                    orders: Rc::new(orders),
                    is_settled,
                    task: holdfast_tasks::spawn_local("rotated-device", Box::pin(life)),
                }
            })
            .collect();
        let breaking = (plan.cuts_a_second > 0.0).then(|| {
            let orders: Vec<_> = members.iter().map(|member| Rc::clone(&member.orders)).collect();
            let gap = Duration::from_secs_f64(1.0 / plan.cuts_a_second);
            holdfast_tasks::spawn_local("breaks", Box::pin(break_connections(orders, gap)))
        });
        Self {
            shared,
            members,
            breaking,
        }
    }

    /// Gives the devices from `first` on what they are to show from now on.
    pub(super) fn switch(&self, first: usize, shown: &[Device]) {
        for (member, device) in self.members.iter().skip(first).zip(shown) {
            member.orders.send_modify(|orders| {
                orders.device = Rc::new(device.clone());
                orders.version += 1;
            });
            self.shared.set_settled(&member.is_settled, false);
        }
    }

    /// Waits until every device is connected with what it was given last.
    ///
    /// # Errors
    /// When that takes longer than [`SETTLE_TIMEOUT`].
    pub(super) async fn settled(&self) -> Result<()> {
        let all = self.members.len();
        let waited = tokio::time::timeout(SETTLE_TIMEOUT, async {
            while self.shared.settled.get() < all {
                self.shared.changed.notified().await;
            }
        });
        if waited.await.is_err() {
            bail!(
                "{} of {all} devices are connected after {} s: {:?}",
                self.shared.settled.get(),
                SETTLE_TIMEOUT.as_secs(),
                self.shared.seen.borrow().reasons
            );
        }
        Ok(())
    }

    /// What the devices have seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Times from the begin of a connection to CONNACK since the last call.
    pub(super) fn take_latency(&self) -> Latency {
        self.shared.latency.take()
    }

    /// Ends all devices.
    pub(super) async fn stop(self) {
        if let Some(breaking) = self.breaking {
            breaking.abort();
        }
        for member in &self.members {
            member.task.abort();
        }
        for member in self.members {
            // An aborted task has ended, as it should.
            let _ = member.task.await;
        }
    }
}

async fn break_connections(orders: Vec<Rc<watch::Sender<Orders>>>, gap: Duration) {
    loop {
        tokio::time::sleep(gap).await;
        let number = rand::random_range(0..orders.len());
        orders[number].send_modify(|orders| orders.breaks += 1);
    }
}

/// Why a connection has ended.
enum End {
    /// The device was given another credential.
    Switch,
    /// It broke on purpose.
    Broken,
    /// By the hub.
    Closed(anyhow::Error),
}

async fn live(shared: Rc<Shared>, number: u32, mut told: watch::Receiver<Orders>, is_settled: Rc<Cell<bool>>) {
    let plan = Rc::clone(&shared.plan);
    let addresses: Vec<_> = plan.target.addresses_of(number).collect();
    loop {
        let orders = told.borrow_and_update().clone();
        let door = Door {
            addresses: &addresses,
            source: plan.target.source_of(number),
            names_server: false,
        };
        let Ok(permit) = shared.handshakes.acquire().await else {
            return;
        };
        let (device, started) = (&orders.device, Instant::now());
        let opened = open_as(door, device.tls.as_ref(), &device.login, plan.options).await;
        drop(permit);
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                shared.note(|seen| &mut seen.refused, &error);
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
        };
        let took = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
        shared.latency.borrow_mut().add(took);
        shared.seen.borrow_mut().connects += 1;
        // A device that was given something else meanwhile is not settled; it switches at once.
        shared.set_settled(&is_settled, told.borrow().version == orders.version);
        let end = hold(&plan, &mut stream, number, &mut told, orders.version).await;
        shared.set_settled(&is_settled, false);
        match end {
            End::Switch => close(stream).await,
            End::Broken => shared.seen.borrow_mut().broken += 1,
            End::Closed(error) => shared.note(|seen| &mut seen.closed, &error),
        }
    }
}

impl Shared {
    /// Notes whether a device is connected with what it was given last.
    fn set_settled(&self, device: &Cell<bool>, is_settled: bool) {
        match (device.replace(is_settled), is_settled) {
            (false, true) => self.settled.set(self.settled.get() + 1),
            (true, false) => self.settled.set(self.settled.get() - 1),
            _ => {}
        }
        self.changed.notify_one();
    }

    fn note(&self, counter: impl FnOnce(&mut Seen) -> &mut u64, error: &anyhow::Error) {
        let mut seen = self.seen.borrow_mut();
        *counter(&mut seen) += 1;
        let reason = format!("{error:#}");
        if seen.reasons.len() < MAX_REASONS || seen.reasons.contains_key(&reason) {
            *seen.reasons.entry(reason).or_default() += 1;
        }
    }
}

/// Pings until the connection ends or its orders change.
async fn hold(plan: &Plan, stream: &mut Stream, number: u32, told: &mut watch::Receiver<Orders>, version: u64) -> End {
    let period = match plan.options.keep_alive {
        0 => Duration::from_secs(u64::from(u32::MAX)),
        seconds => Duration::from_secs(u64::from(seconds)) * 4 / 5,
    };
    // Devices do not ping as one.
    let mut wait = period.mul_f64(f64::from(number % 97 + 3) / 100.0);
    let mut scanner = Scanner::default();
    loop {
        let mut input = [0; 16];
        tokio::select! {
            biased;
            changed = told.changed() => {
                if changed.is_err() || told.borrow().version != version {
                    return End::Switch;
                }
                return End::Broken;
            }
            read = stream.read(&mut input) => {
                if let Err(error) = read.context("reading").and_then(|length| check(&mut scanner, &input[..length])) {
                    return End::Closed(error);
                }
            }
            () = tokio::time::sleep(wait) => {
                let pinged = async {
                    stream.write_all(&PINGREQ).await?;
                    stream.flush().await
                };
                if let Err(error) = pinged.await {
                    return End::Closed(anyhow::Error::new(error).context("pinging"));
                }
                wait = period;
            }
        }
    }
}

fn check(scanner: &mut Scanner, input: &[u8]) -> Result<()> {
    ensure!(!input.is_empty(), "the hub closed the connection");
    scanner.scan(input, |reply| match reply {
        Reply::PingResp => Ok(()),
        other => bail!("the hub sent {other:?}"),
    })
}
