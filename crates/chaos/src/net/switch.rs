//! The switch: reads IP packets from one TUN device per namespace and writes each to the device of its destination, as
//! far as the link between the two permits.
//!
//! It has a thread of its own, so that its delays are accurate. A link's packets stay in order.
//! Bounded: past [`MAX_DELAYED`] packets in delay new ones are dropped, as a real queue would.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_tun::Tun;

/// The most packets in delay on all slow links together.
const MAX_DELAYED: usize = 20_000;
/// Large, so that there are few packets.
const MTU: i32 = 8_000;
/// How long the creation of the devices may take.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The condition of a link in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Drops all packets.
    pub cut: bool,
    /// The share of packets that is lost, 0 to 1.
    pub loss: f64,
    /// How long packets take, in microseconds; empty = no delay.
    pub delay_us: Range<u64>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            cut: false,
            loss: 0.0,
            delay_us: 0..0,
        }
    }
}

/// The links with a condition; all others work.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<Mutex<HashMap<(u32, u32), Link>>>);

impl Links {
    /// Sets the condition of the link from one node to another, in this direction only.
    pub fn set(&self, from: u32, to: u32, link: Link) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((from, to), link);
    }

    /// Heals all links.
    pub fn heal(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn get(&self, from: u32, to: u32) -> Option<Link> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(from, to))
            .cloned()
    }
}

/// The running switch; dropping it removes the devices.
#[derive(Debug)]
pub(super) struct Switch {
    links: Links,
    devices: Vec<String>,
    begin: Option<oneshot::Sender<()>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Switch {
    /// Makes a device for this process and one for each node.
    pub(super) fn start(nodes: u32, seed: u64) -> Result<Self> {
        let links = Links::default();
        let (ready, is_ready) = sync_channel(1);
        let (begin, begun) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let shared = links.clone();
        let thread = thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || run(nodes, seed, &shared, &ready, begun, stopped))?;
        let devices = wait(&is_ready)?;
        Ok(Self {
            links,
            devices,
            begin: Some(begin),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The devices' names: this process's first, then the nodes'.
    pub(super) fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Begins to carry packets, once the devices are up.
    pub(super) fn begin(&mut self) -> Result<()> {
        let begin = self.begin.take().context("the switch has begun")?;
        begin.send(()).map_err(|()| anyhow!("the switch has ended"))
    }

    pub(super) fn links(&self) -> &Links {
        &self.links
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.begin.take());
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait(ready: &Receiver<Result<Vec<String>>>) -> Result<Vec<String>> {
    ready.recv_timeout(START_TIMEOUT).context("no TUN devices")?
}

fn run(
    nodes: u32,
    seed: u64,
    links: &Links,
    ready: &SyncSender<Result<Vec<String>>>,
    begun: oneshot::Receiver<()>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async {
        let devices = match make_devices(nodes) {
            Ok(devices) => devices,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let names = devices.iter().map(|device| device.name().to_owned()).collect();
        let _ = ready.send(Ok(names));
        // An error means that the sender was dropped: the switch will not begin.
        if begun.await.is_err() {
            return;
        }
        let fabric = Rc::new(Fabric {
            devices,
            links: links.clone(),
            rng: RefCell::new(StdRng::seed_from_u64(seed)),
            delayed: RefCell::default(),
            sooner: Notify::new(),
        });
        let slow = fabric.clone();
        let late = async move { slow.deliver_late().await };
        let mut tasks = vec![holdfast_tasks::spawn_local("switch-delay", Box::pin(late))];
        for port in 0..fabric.devices.len() {
            let fabric = fabric.clone();
            let carry = async move { fabric.carry(port).await };
            tasks.push(holdfast_tasks::spawn_local("switch-port", Box::pin(carry)));
        }
        // Ends with an error when the sender is dropped.
        let _ = stopped.await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

fn make_devices(nodes: u32) -> Result<Vec<Tun>> {
    let process = std::process::id() % 1_000_000;
    (0..=nodes)
        .map(|node| {
            let made = Tun::builder().name(&format!("hfc{process}-{node}")).mtu(MTU).build();
            let made = made.with_context(|| format!("cannot make the TUN device of node {node}"))?;
            made.into_iter().next().context("no device was made")
        })
        .collect()
}

/// A delayed packet: when it is due, a number that keeps packets of the same time in order, its destination, its bytes.
type Delayed = Reverse<(Instant, u64, usize, Box<[u8]>)>;

#[derive(Default)]
struct Queue {
    heap: BinaryHeap<Delayed>,
    /// When the last packet of each slow link is due: none overtakes it.
    last: HashMap<(usize, usize), Instant>,
    count: u64,
}

struct Fabric {
    devices: Vec<Tun>,
    links: Links,
    rng: RefCell<StdRng>,
    delayed: RefCell<Queue>,
    sooner: Notify,
}

impl Fabric {
    /// Forwards the packets of one device.
    async fn carry(&self, port: usize) {
        let mut packet = vec![0; 65_536];
        loop {
            let Ok(length) = self.devices[port].recv(&mut packet).await else {
                return;
            };
            let Some(to) = self.destination(&packet[..length]) else {
                continue;
            };
            if to != port {
                self.forward(port, to, &packet[..length]);
            }
        }
    }

    /// The port of an IPv4 packet's destination: the last byte of the address is the node's number.
    fn destination(&self, packet: &[u8]) -> Option<usize> {
        let [0x40..=0x4f, ..] = *packet else { return None };
        match usize::from(*packet.get(19)?) {
            100 => Some(0),
            node if node < self.devices.len() => Some(node),
            _ => None,
        }
    }

    fn forward(&self, from: usize, to: usize, packet: &[u8]) {
        let link = self.links.get(from as u32, to as u32).unwrap_or_default();
        let mut rng = self.rng.borrow_mut();
        if link.cut || (link.loss > 0.0 && rng.random_bool(link.loss.min(1.0))) {
            return;
        }
        let mut queue = self.delayed.borrow_mut();
        let now = Instant::now();
        let earliest = queue.last.get(&(from, to)).copied().unwrap_or(now);
        if link.delay_us.is_empty() && earliest <= now {
            // A device that accepts nothing loses packets, as a full queue does.
            let _ = self.devices[to].try_send(packet);
            return;
        }
        if queue.heap.len() >= MAX_DELAYED {
            return;
        }
        let delay = if link.delay_us.is_empty() {
            0
        } else {
            rng.random_range(link.delay_us)
        };
        let due = (now + Duration::from_micros(delay)).max(earliest);
        queue.last.insert((from, to), due);
        queue.count += 1;
        let count = queue.count;
        queue.heap.push(Reverse((due, count, to, packet.into())));
        self.sooner.notify_one();
    }

    async fn deliver_late(&self) {
        loop {
            let next = self.delayed.borrow().heap.peek().map(|Reverse((due, ..))| *due);
            match next {
                None => self.sooner.notified().await,
                Some(due) if due > Instant::now() => {
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = self.sooner.notified() => {}
                    }
                }
                Some(_) => {
                    let due = self.delayed.borrow_mut().heap.pop();
                    if let Some(Reverse((_, _, to, packet))) = due {
                        let _ = self.devices[to].try_send(&packet);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_in_order_until_set_and_again_when_mended() {
        let links = Links::default();
        assert_eq!(links.get(1, 2), None);
        links.set(
            1,
            2,
            Link {
                cut: true,
                ..Link::default()
            },
        );
        assert!(links.get(1, 2).is_some_and(|link| link.cut) && links.get(2, 1).is_none());
        links.heal();
        assert_eq!(links.get(1, 2), None);
    }
}
