//! Fleets that publish for as long as they are let, through every death of the hub.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_swarm::batch::Shape;
use holdfast_swarm::connect::ConnectionOptions;
use holdfast_swarm::fleet::{Fleet, Plan, Protocol, Publish, Work};
use holdfast_swarm::hub::Hub;
use holdfast_swarm::ledger::Ledger;
use holdfast_swarm::target::{Credentials, DeviceNames, ReconnectTo, Target, Transport};

use crate::scenario::{block_on, wait_for};

/// Devices of one protocol.
struct FleetPlan {
    protocol: Protocol,
    transport: Transport,
    /// What the devices' names begin with.
    prefix: &'static str,
    devices: u32,
    /// Messages that each keeps in flight.
    window: usize,
}

const GATEWAY: Protocol = Protocol::Amqp {
    devices_a_connection: 8,
};
const FLEETS: [FleetPlan; 5] = [
    fleet(Protocol::Mqtt, Transport::Plain, "one-at-a-time-", 24, 1),
    fleet(Protocol::Mqtt, Transport::Plain, "windowed-", 16, 24),
    fleet(Protocol::Mqtt, Transport::Tls13, "secured-", 8, 8),
    fleet(GATEWAY, Transport::Plain, "amqp-", 16, 8),
    fleet(Protocol::Https, Transport::Tls13, "https-", 6, 1),
];
const PAYLOAD_BYTES: usize = 256;
const TOKEN_LIFETIME: Duration = Duration::from_secs(6 * 3600);
const TIMEOUT: Duration = Duration::from_secs(90);

const fn fleet(
    protocol: Protocol,
    transport: Transport,
    prefix: &'static str,
    devices: u32,
    window: usize,
) -> FleetPlan {
    FleetPlan {
        protocol,
        transport,
        prefix,
        devices,
        window,
    }
}

/// Running fleets, all of whose acknowledgements are written down.
pub(crate) struct Load(Vec<Fleet>);

/// Makes the fleets' devices, which must be done once before the first load.
pub(crate) fn create_devices(hub: &Hub) -> Result<()> {
    FLEETS.iter().try_for_each(|fleet| {
        let names = DeviceNames::new(fleet.prefix)?;
        block_on(holdfast_swarm::devices::create(hub, &names, 0..fleet.devices))
    })
}

impl Load {
    /// Starts to publish to `hub`, and continues across its restarts.
    pub(crate) fn start(hub: &Hub) -> Result<Self> {
        let fleets: Vec<Fleet> = FLEETS.iter().map(|fleet| start(hub, fleet)).collect::<Result<_>>()?;
        for fleet in &fleets {
            fleet.wait_up(TIMEOUT)?;
        }
        fleets.iter().for_each(Fleet::begin);
        Ok(Self(fleets))
    }

    /// Acknowledgements so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.0
            .iter()
            .map(|fleet| fleet.counters().acknowledged.load(Ordering::Relaxed))
            .sum()
    }

    /// Waits until every fleet has got some acknowledgements, `count` in all, from now on.
    pub(crate) fn wait_acknowledged(&self, count: u64) -> Result<()> {
        let before = self.acknowledged();
        let found = wait_for(TIMEOUT, "the hub acknowledges", || {
            Ok((self.acknowledged() >= before + count).then_some(()))
        });
        found.with_context(|| format!("wanted {count} more than {before}, failures: {:?}", self.failures()))
    }

    /// Stops, waits for what is outstanding, and says what was promised.
    pub(crate) fn end(self) -> Result<Vec<Ledger>> {
        self.0
            .into_iter()
            .map(|fleet| {
                let outcome = fleet.end(TIMEOUT)?;
                let unknown = outcome.counters.unknown.load(Ordering::Relaxed);
                let disordered = outcome.counters.out_of_order.load(Ordering::Relaxed);
                ensure!(unknown == 0, "{unknown} acknowledgements of nothing outstanding");
                ensure!(
                    disordered == 0,
                    "{disordered} acknowledgements not in the order of sending"
                );
                Ok(outcome.ledger)
            })
            .collect()
    }

    fn failures(&self) -> Vec<String> {
        let reasons = self.0.iter().flat_map(|fleet| fleet.counters().failures());
        reasons.map(|(reason, times)| format!("{times} × {reason}")).collect()
    }
}

fn start(hub: &Hub, fleet: &FleetPlan) -> Result<Fleet> {
    let (address, nodes) = hub.addresses(fleet.protocol, fleet.transport)?;
    let topic = "devices/{device}/messages/events/".to_owned();
    Fleet::start(Plan {
        target: Target {
            address,
            nodes,
            begin_at: None,
            reconnect_to: ReconnectTo::Same,
            tls: hub.tls(fleet.transport)?,
            sources: Vec::new(),
            names: DeviceNames::new(fleet.prefix)?,
            credentials: Credentials::Hub(hub.devices(TOKEN_LIFETIME)?),
            topic: topic.clone(),
        },
        first: 0,
        connections: fleet.devices,
        threads: 1,
        connect_rate: 2_000.0,
        options: ConnectionOptions {
            keep_alive: 60,
            clean_session: true,
        },
        protocol: fleet.protocol,
        work: Work::Publish(Publish {
            shape: Shape {
                topic,
                payload_bytes: PAYLOAD_BYTES,
                run: rand::random(),
            },
            window: fleet.window,
            refill: 1,
            messages: None,
            survive_disconnect: true,
            pace: Duration::ZERO,
            acknowledgements: None,
        }),
    })
}
