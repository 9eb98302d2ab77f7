//! One simulation from its beginning to its end.

use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use holdfast_chaos::check::{self, Findings, identity, revocation, sessions};
use holdfast_chaos::history::{Fault, Micros};
use holdfast_model::PartitionCount;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use crate::backends::{call_at_random, revoke_at_random};
use crate::devices::Device;
use crate::faults::Faults;
use crate::lease::Leases;
use crate::operator::{Changes, Operator};
use crate::shared::Shared;
use crate::world::World;
use crate::{downlink, logs, queries, queues, readers, twins};
use holdfast_simulation::{Cluster, Image, SECOND, Setup, simulate};

/// How often devices and checks run.
const STEP: Duration = Duration::from_millis(20);
/// How long new faults are injected.
const FAULTS: Duration = Duration::from_secs(4);
/// How long the cluster may take to recover once all faults have ended.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(40);
/// Devices that keep their rights.
const STEADY: [&str; 3] = ["d0", "d1", "d2"];
/// Devices that lose theirs and get them back.
const REVOKED: [&str; 2] = ["v0", "v1"];
const GRACE: Duration = Duration::from_secs(3);

/// A fault of the harness itself, which the checks must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    Nothing,
    /// Disks report syncs that they have not made.
    Syncs,
}

/// The result of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Digest of the trace: every observation with its time.
    pub(crate) digest: u64,
    pub(crate) calls: u64,
    pub(crate) took: Duration,
    pub(crate) faults: usize,
    pub(crate) changes: Changes,
    pub(crate) acknowledged: usize,
    pub(crate) operations: u64,
    pub(crate) revocations: u64,
    pub(crate) connections: u64,
    pub(crate) read: u64,
    pub(crate) sent: usize,
    pub(crate) delivered: usize,
    /// Messages sent into queues, received from them, and left as dead letters.
    pub(crate) queued: usize,
    pub(crate) messages: usize,
    pub(crate) dead_letters: usize,
    /// Writes to twins, and reads of them.
    pub(crate) twin_writes: usize,
    pub(crate) twin_reads: usize,
    /// Checked queries.
    pub(crate) queries: u64,
    /// Acknowledged changes of subscriptions.
    pub(crate) subscribed: u64,
}

/// A settled cluster of three with its devices: made once, since founding is the same in every run, and a start from disks
/// is a test of its own.
fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let founded = std::thread::spawn(|| {
            simulate(async {
                let setup = Setup {
                    cores: 2,
                    controlled: true,
                    session_grace: GRACE,
                    log_entries: 5,
                    ..Setup::default()
                };
                let cluster = Cluster::start_as(0, setup).await;
                for device in STEADY.into_iter().chain(REVOKED) {
                    cluster.create(device).await;
                }
                cluster.into_image().await
            })
        });
        founded.join().unwrap()
    })
}

/// Runs `seed`. An error lists every violation and the end of the trace.
pub(crate) fn run(seed: u64, broken: Break, print_trace: bool) -> Result<Outcome, String> {
    let image = image();
    simulate(async move {
        let shared = Shared::new();
        let outcome = play(seed, image, broken, &shared).await;
        let wrong = shared.history.borrow().violations.join("\n");
        if print_trace {
            println!("{}", shared.trace(true));
        }
        match outcome {
            Ok(outcome) if wrong.is_empty() => Ok(outcome),
            outcome => Err(format!(
                "{}\n{wrong}\nthe end of the trace:\n{}",
                outcome.err().unwrap_or_default(),
                shared.trace(false)
            )),
        }
    })
}

async fn play(seed: u64, image: &Image, broken: Break, shared: &Rc<Shared>) -> Result<Outcome, String> {
    let cluster = Cluster::resume(seed, image).await;
    if broken == Break::Syncs {
        cluster.disks.values().for_each(holdfast_storage::SimDisk::ignore_syncs);
    }
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let mut draw = || SmallRng::seed_from_u64(rng.random());
    for number in 0..2 {
        shared.spawn("back end", call_at_random(shared.clone(), number, draw()));
    }
    for device in REVOKED {
        shared.spawn("revoker", revoke_at_random(shared.clone(), device.to_owned(), draw()));
    }
    for partition in PartitionCount::DEFAULT.iter() {
        let name = "a reader".to_owned();
        shared.spawn("reader", readers::follow(shared.clone(), name, partition, draw()));
    }
    let mut faults = Faults::new(draw());
    let devices = STEADY.into_iter().chain(REVOKED);
    for back_end in 1..3 {
        let all = devices.clone().collect();
        shared.spawn(
            "sender of deliveries",
            downlink::send_at_random(shared.clone(), all, &STEADY, back_end, draw()),
        );
    }
    for back_end in 1..3 {
        shared.spawn(
            "sender of messages",
            queues::send_at_random(shared.clone(), &STEADY, back_end, draw()),
        );
    }
    for back_end in 1..4 {
        shared.spawn(
            "writer of twins",
            twins::write_at_random(shared.clone(), &STEADY, back_end, draw()),
        );
    }
    let mut devices: Vec<Device> = devices
        .map(|name| {
            Device::new(
                name.to_owned(),
                shared.clone(),
                draw().random(),
                REVOKED.contains(&name),
            )
        })
        .collect();
    shared.spawn(
        "operator",
        Operator::new(shared.clone(), cluster.network.clone(), draw()).work(),
    );
    shared.spawn(
        "asker of queries",
        queries::ask_at_random(shared.clone(), &STEADY, draw()),
    );
    let mut world = World::new(cluster, shared.clone());
    let mut leases = Leases::default();
    // Faults hit a cluster that works, not one that has yet to elect.
    let mut until = Instant::now() + FAULTS;
    while !world.cluster.is_settled() && Instant::now() < until {
        tokio::time::sleep(STEP).await;
    }
    until = Instant::now() + FAULTS;
    let mut is_well = Wellness::default();
    let give_up = until + RECOVERY_TIMEOUT;
    loop {
        let healing = Instant::now() >= until;
        if healing && !shared.ending.replace(true) {
            faults.heal(&mut world);
        }
        world.step().await;
        faults.step(&mut world, until);
        if shared.has_operator.get() {
            shared.is_whole.set(world.has_all_replicas());
        }
        if healing {
            // A machine that has just lost its power, or whose node ended by itself, starts at once.
            world.machines().into_iter().for_each(|node| world.start(node));
        }
        for device in &mut devices {
            device.step(&mut world.cluster, healing).await;
        }
        leases.check(&world.cluster, &devices, shared, GRACE);
        if healing && is_well.check(&world, &devices) {
            break;
        }
        if Instant::now() >= give_up {
            return Err(format!("not well again in time: {}", is_well.why(&world, &devices)));
        }
        tokio::time::sleep(STEP).await;
    }
    shared.note("well".to_owned());
    judge(&world, &mut devices, shared, faults.count).await
}

/// Whether the cluster has recovered.
#[derive(Default)]
struct Wellness {
    /// Consecutive checks that found it recovered.
    seen: usize,
}

impl Wellness {
    fn check(&mut self, world: &World, devices: &[Device]) -> bool {
        let cluster = &world.cluster;
        let is_well = world.is_complete()
            && world.shared.active.borrow().is_empty()
            && devices.iter().all(Device::is_settled)
            && cluster.is_settled()
            && cluster.has_its_members()
            && logs::are_level(cluster);
        self.seen = if is_well { self.seen + 1 } else { 0 };
        self.seen > 1
    }

    fn why(&self, world: &World, devices: &[Device]) -> String {
        let cluster = &world.cluster;
        let devices: Vec<String> = devices
            .iter()
            .filter(|device| !device.is_settled())
            .map(Device::state)
            .collect();
        format!(
            "nodes {:?} up, all of them {}, actors not done {:?}, owners and leases known {}, members as wanted {}, logs \
             level {}, devices {devices:?}; {}",
            cluster.nodes.keys().collect::<Vec<_>>(),
            world.is_complete(),
            world.shared.active.borrow(),
            cluster.is_settled(),
            cluster.has_its_members(),
            logs::are_level(cluster),
            cluster.membership(),
        )
    }
}

fn demand(shared: &Shared, findings: &Findings) -> u64 {
    for example in &findings.examples {
        shared.violation(format!("{}: {}", findings.promise, example.text));
    }
    if findings.undecided > 0 {
        shared.violation(format!("{}: {} undecided", findings.promise, findings.undecided));
    }
    findings.checked
}

async fn judge(world: &World, devices: &mut [Device], shared: &Rc<Shared>, faults: usize) -> Result<Outcome, String> {
    let cluster = &world.cluster;
    logs::compare(cluster, devices, shared);
    for device in &mut *devices {
        logs::check_device(cluster, device, shared).await;
        device.record_connections();
    }
    let mut history = shared.history.take();
    logs::read_all(cluster, &mut history.readers).await;
    // It excuses only the time that an older session stays, which [`Leases`] and [`Device::is_settled`] check more closely.
    let excuse = Fault {
        kind: "whatever the seed brought".to_owned(),
        detail: String::new(),
        nodes: shared
            .all_nodes()
            .map(|node| u32::try_from(node.get()).unwrap())
            .collect(),
        began: 0,
        ended: Micros::MAX / 2,
        majority: false,
        led: vec![],
    };
    let excuses = std::slice::from_ref(&excuse);
    let revocations = revocation::check(
        &history.changes,
        &history.connections,
        &history.refusals,
        excuses,
        Micros::MAX / 4,
    );
    let operations = demand(shared, &identity::check(&history.operations));
    let checked = revocations
        .findings
        .iter()
        .map(|findings| demand(shared, findings))
        .sum();
    let connections = demand(shared, &sessions::check(&history.connections, excuses));
    let read = demand(shared, history.readers.findings());
    for broken in downlink::check(&history.sent, &history.received) {
        shared.violation(broken);
    }
    let messages: Vec<_> = history
        .received
        .iter()
        .map(|session| (session.device.clone(), session.messages.clone()))
        .collect();
    for broken in queues::check(&history.queued, &messages, &history.dead_letters) {
        shared.violation(broken);
    }
    for broken in twins::check(&history.twins) {
        shared.violation(broken);
    }
    let queries = demand(
        shared,
        &check::queries::check(&history.queries, &history.twins.versions()),
    );
    for device in &mut *devices {
        device.connect_last(cluster).await;
    }
    let mut wrong = std::mem::take(&mut shared.history.borrow_mut().violations);
    wrong.splice(0..0, history.violations);
    shared.history.borrow_mut().violations = wrong;
    Ok(Outcome {
        digest: shared.digest(),
        calls: cluster.network.calls(),
        took: Duration::from_micros(shared.now()),
        faults,
        changes: shared.changes.take(),
        acknowledged: devices.iter().map(|device| device.acked.len()).sum(),
        operations,
        revocations: checked,
        connections,
        read,
        sent: history.sent.len(),
        delivered: history.received.iter().map(|session| session.deliveries.len()).sum(),
        queued: history.queued.len(),
        messages: messages.iter().map(|(_, messages)| messages.len()).sum(),
        dead_letters: history.dead_letters.len(),
        twin_writes: history.twins.written.len(),
        twin_reads: history.twins.seen.len(),
        queries,
        subscribed: devices
            .iter()
            .filter_map(|device| device.subscriptions.as_ref())
            .map(|subscriptions| subscriptions.acknowledged)
            .sum(),
    })
}

const _: () = assert!(GRACE.as_millis() > SECOND.as_millis());
