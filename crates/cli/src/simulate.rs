//! `holdfast simulate`: a few devices that send readings over MQTT with TLS, answer methods, take messages and report their
//! twins, as real ones do.
//!
//! For demonstrations; load tests are `swarm`'s.

mod connection;
mod device;
mod onboarding;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use holdfast_auth::Key;
use holdfast_model::{DeviceId, IdentityId};
use http::Method;
use serde_json::json;

use crate::device::{KeyType, key_of, path_of};
use crate::exit_code::{Failure, Outcome};
use crate::http::{Call, block_on, call};
use crate::hub::{Hub, LoginArgs};
use device::{Credential, Device, MAX_INTERVAL_SECONDS};
use onboarding::tpm::MAX_TPMS;
use onboarding::{Onboarder, Onboarding};

/// Most devices of a simulation: each has a task and a TLS session of its own here.
const MAX_DEVICES: u32 = 5_000;
/// Connections that are being opened at once.
const OPENING: usize = 16;
/// How often the fleet prints its progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Let a small fleet of simulated devices send readings, answer methods (echo, setInterval) and report their twins
#[derive(Debug, Args)]
pub struct Simulate {
    /// How many devices
    #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEVICES)))]
    devices: u32,
    /// Seconds between two messages of a device
    #[arg(long, default_value_t = 2.0)]
    interval: f64,
    /// The prefix of the devices' ids
    #[arg(long, default_value = "sim-")]
    prefix: String,
    /// Stop after this many messages of each device
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// Let the devices register with the provisioning service first, which creates them at the hub
    #[arg(long, value_name = "WITH", value_enum, num_args = 0..=1, default_missing_value = "group-key")]
    provision: Option<Onboarding>,
    /// Stop when standard input closes, that is with the program that started this one
    #[arg(long)]
    until_stdin_closes: bool,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Default)]
struct Counters {
    connected: AtomicU64,
    acknowledged: AtomicU64,
    /// Direct methods that were answered.
    methods: AtomicU64,
    /// Cloud-to-device messages.
    received: AtomicU64,
    /// Changes of the desired properties.
    desired: AtomicU64,
    lost: AtomicU64,
}

pub(crate) fn run(args: &Simulate) -> Result<(), Failure> {
    let hub = Arc::new(args.login.hub()?);
    if !(args.interval.is_finite() && (0.001..=MAX_INTERVAL_SECONDS).contains(&args.interval)) {
        return Err(Failure::usage(format!(
            "--interval must be 0.001 to {MAX_INTERVAL_SECONDS} seconds"
        )));
    }
    if args.provision == Some(Onboarding::Tpm) && args.devices > MAX_TPMS {
        let text = format!("--provision tpm takes at most {MAX_TPMS} devices: each has a process of its own");
        return Err(Failure::usage(text));
    }
    block_on(async {
        let fleet = simulate(&hub, args);
        let ended = async {
            if args.until_stdin_closes {
                holdfast_tasks::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await?;
            } else {
                tokio::signal::ctrl_c().await?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            result = fleet => result,
            ended = ended => ended,
        }
    })
}

async fn simulate(hub: &Arc<Hub>, args: &Simulate) -> Result<(), Failure> {
    let port = hub
        .ports
        .mqtt
        .ok_or_else(|| Failure::new(Outcome::Unreachable, "the hub does not serve MQTT with TLS"))?;
    let counters = Arc::new(Counters::default());
    let opening = Arc::new(tokio::sync::Semaphore::new(OPENING));
    let onboarder = match args.provision {
        Some(kind) => Some(Onboarder::new(hub, &args.login, kind).await?),
        None => None,
    };
    let mut devices = tokio::task::JoinSet::new();
    for number in 0..args.devices {
        let id = DeviceId::parse(&format!("{}{number:04}", args.prefix)).map_err(Failure::usage)?;
        let (identity, credential) = match &onboarder {
            Some(onboarder) => onboarder.register(&id).await?,
            None => {
                let identity = IdentityId::device(id);
                let key = provision(hub, &identity).await?;
                (identity, Credential::Key(key))
            }
        };
        let device = Device {
            hub: Arc::clone(hub),
            port,
            identity,
            credential,
            interval: Duration::from_secs_f64(args.interval),
            messages: args.messages,
            counters: Arc::clone(&counters),
            opening: Arc::clone(&opening),
        };
        devices.spawn(device.run());
    }
    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    tick.tick().await;
    let mut before = (Instant::now(), 0);
    loop {
        tokio::select! {
            biased;
            finished = devices.join_next() => match finished {
                None => break,
                Some(result) => result.map_err(anyhow::Error::from)?,
            },
            _ = tick.tick() => before = report(&counters, before)?,
        }
    }
    report(&counters, before)?;
    Ok(())
}

fn report(counters: &Counters, before: (Instant, u64)) -> Result<(Instant, u64), Failure> {
    let now = Instant::now();
    let acknowledged = counters.acknowledged.load(Ordering::Relaxed);
    let rate = (acknowledged - before.1) as f64 / now.duration_since(before.0).as_secs_f64().max(0.001);
    crate::print(&format!(
        "fleet: {} connected, {acknowledged} messages acknowledged ({rate:.1}/s), {} methods answered, {} messages received, \
         {} desired changes, {} connections lost\n",
        counters.connected.load(Ordering::Relaxed),
        counters.methods.load(Ordering::Relaxed),
        counters.received.load(Ordering::Relaxed),
        counters.desired.load(Ordering::Relaxed),
        counters.lost.load(Ordering::Relaxed),
    ))?;
    Ok((now, acknowledged))
}

/// Registers the device, or finds its key when it is registered.
async fn provision(hub: &Hub, identity: &IdentityId) -> Result<Key, Failure> {
    let mut create = Call::new(Method::PUT, path_of(identity));
    create.body = Some(json!({"deviceId": identity.device.as_str()}));
    let document = match call(hub, create).await {
        Ok(document) => document,
        Err(failure) if failure.message.contains("409001") => {
            call(hub, Call::new(Method::GET, path_of(identity))).await?
        }
        Err(failure) => return Err(failure),
    };
    key_of(&document, KeyType::Primary)
}
