//! A whole run: start the cluster and the load, inject and heal faults, read everything back, check.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use holdfast_swarm::ledger::Ledger;
use holdfast_swarm::ledger::Span;
use holdfast_swarm::{read, verify::Verdict};
use rand::Rng as _;

use crate::check::{
    Findings, availability, identity, messages, methods, queries, reconnection, revocation, sessions, twins,
};
use crate::cluster::{Cluster, SETTLE_TIMEOUT, Setup};
use crate::history::{Fault, Micros, REGISTRY, SECOND};
use crate::interrupt;
use crate::load::{Load, LoadPlan};
use crate::nemesis::{Capabilities, Kind, Nemesis, Survived, fault_schedule};
use crate::recorder::Recorder;
use crate::refusals;
use crate::report::{DownFigures, KindReport, Report, led_pauses, pauses_of, telemetry};
use crate::targets::Protocol;

/// Acknowledgements before the first fault.
const WARM_UP: u64 = 300;
/// How long the load may take to get them.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long devices and readers may take to finish.
const END_TIMEOUT: Duration = Duration::from_secs(90);
/// Time between faults, in milliseconds: the time after a fault belongs to it.
const REST_MS: std::ops::Range<u64> = 500..3_000;
/// After this many faults there is a longer time without any, so that checks which faults excuse apply.
const FAULTS_A_CALM: usize = 6;
/// The length of that time, in milliseconds.
const CALM_MS: std::ops::Range<u64> = 10_000..15_000;
/// Shorter pauses are not listed.
const WORTH_LISTING: Micros = SECOND / 10;
/// Kinds that end a leader at once.
const DEATHS: [&str; 3] = ["kill", "kill-leader", "power-cut"];
/// Kinds that freeze a process.
const FREEZES: [&str; 2] = ["pause", "pause-leader"];
/// Poll interval while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster.
    pub setup: Setup,
    /// How many faults.
    pub faults: usize,
    /// Only these kinds; empty = all.
    pub kinds: Vec<Kind>,
    /// Devices that publish.
    pub devices: u32,
    /// Devices whose rights are revoked and restored.
    pub revocable: u32,
    /// Devices whose twins are written, which get messages, and whose methods are called.
    pub commanded: u32,
    /// Back ends that write identities.
    pub writers: u32,
    /// After this time no further fault is injected.
    pub limit: Option<Duration>,
    /// Whether the run ends at the first violation that is found during the faults.
    pub stop_at_violation: bool,
}

/// Runs it. `say` gets a line for each event.
///
/// # Errors
/// When the cluster cannot be started, or the run is interrupted; violations are part of the report and no error.
pub fn run(options: &Options, mut say: impl FnMut(&str)) -> Result<Report> {
    let seed = options.setup.seed;
    say(&format!("seed {seed}, folder {}", options.setup.folder.display()));
    let mut cluster = Cluster::start(&options.setup).context("the cluster does not start")?;
    if let Some(why) = cluster.network.without() {
        say(&format!("no network namespaces, nodes are on loopback: {why}"));
    }
    say(&format!("{} nodes are ready", options.setup.nodes));
    let mistakes = refusals::check(&mut cluster)?;
    cluster.wait_settled(SETTLE_TIMEOUT)?;
    let recorder = cluster.recorder.clone();
    let plan = LoadPlan {
        devices: options.devices,
        revocable: options.revocable,
        commanded: options.commanded,
        writers: options.writers,
        readers: options.setup.nodes.max(2),
        partitions: options.setup.partitions,
        seed: cluster.rng.random(),
    };
    let load = Load::start(&plan, &cluster.targets, &recorder)?;
    wait(WARM_UP_TIMEOUT, "the load starts", || recorder.progress().0 >= WARM_UP)
        .with_context(|| format!("failures: {:?}", recorder.history().failures))?;
    let (faults, skipped, aborted) = inject_faults(options, &mut cluster, &mut say)?;
    let stopped = recorder.now();
    say("no more faults; reading everything back");
    let ends = finish(&mut cluster, &load, &recorder, plan.readers);
    let ledger = load.end()?;
    let mut findings = vec![mistakes];
    let mut aborted = aborted;
    match ends {
        Ok(()) => findings.extend(read_back(&cluster, &ledger)?),
        Err(error) => {
            interrupt::sleep(Duration::ZERO)?;
            aborted.get_or_insert(format!("{error:#}"));
        }
    }
    let report = judge(options, &cluster, faults, skipped, stopped, findings, aborted);
    let folder = cluster.folder();
    std::fs::write(folder.join("history.json"), serde_json::to_vec(&*recorder.history())?)?;
    report.save(folder)?;
    Ok(report)
}

type Broken = (Vec<Fault>, BTreeMap<Kind, String>, Option<String>);

fn inject_faults(options: &Options, cluster: &mut Cluster, say: &mut impl FnMut(&str)) -> Result<Broken> {
    let capabilities = Capabilities {
        cluster: cluster.is_cluster(),
        without_links: cluster.network.without().map(str::to_owned),
        small_disk: cluster.nodes.iter().any(|node| node.disk.is_small()),
        spare: options.setup.spares > 0,
    };
    let wanted = if options.kinds.is_empty() {
        &Kind::ALL[..]
    } else {
        &options.kinds
    };
    let mut skipped = BTreeMap::new();
    let mut possible = Vec::new();
    for kind in wanted {
        match capabilities.lacks(*kind) {
            Some(why) => {
                skipped.insert(*kind, why);
            }
            None => possible.push(*kind),
        }
    }
    let schedule = fault_schedule(&possible, options.faults, &mut cluster.rng);
    let count = schedule.len();
    let mut nemesis = Nemesis {
        cluster,
        faults: Vec::new(),
    };
    let begun = Instant::now();
    for (place, kind) in schedule.into_iter().enumerate() {
        if options.limit.is_some_and(|limit| begun.elapsed() > limit) {
            say("the time is up");
            break;
        }
        let started = Instant::now();
        let anomalies_before = nemesis.cluster.recorder.history().anomaly_count;
        let survived = nemesis.inject(kind)?;
        let fault = nemesis.faults.last().context("a fault is recorded")?;
        let (acknowledged, ..) = nemesis.cluster.recorder.progress();
        say(&format!(
            "{}/{count} {} ({}), {:.1} s, {acknowledged} acknowledged",
            place + 1,
            fault.kind,
            fault.detail,
            started.elapsed().as_secs_f64()
        ));
        let violated = {
            let history = nemesis.cluster.recorder.history();
            for (at, anomaly) in history.anomalies.iter().skip(usize::try_from(anomalies_before)?) {
                say(&format!("  anomaly at {at}: {anomaly}"));
            }
            history.anomaly_count > anomalies_before || !nemesis.cluster.recorder.readers().findings().is_clean()
        };
        if let Survived::No(why) = survived {
            say(&format!("  the cluster does not recover: {why}"));
            let status = nemesis.cluster.status().unwrap_or_default();
            std::fs::write(
                nemesis.cluster.folder().join("status.json"),
                serde_json::to_vec_pretty(&status)?,
            )?;
            return Ok((nemesis.faults, skipped, Some(format!("after {}: {why}", kind.name()))));
        }
        if violated && options.stop_at_violation {
            return Ok((nemesis.faults, skipped, Some("a violation".to_owned())));
        }
        let is_calm = (place + 1) % FAULTS_A_CALM == 0;
        let rest = nemesis.cluster.draw(if is_calm { CALM_MS } else { REST_MS });
        interrupt::sleep(Duration::from_millis(rest))?;
    }
    Ok((nemesis.faults, skipped, None))
}

/// Stops the load, and waits until everything is acknowledged and readers have reached the end.
fn finish(cluster: &mut Cluster, load: &Load, recorder: &Arc<Recorder>, readers: u32) -> Result<()> {
    load.stop();
    wait(END_TIMEOUT, "devices finish", || load.is_drained())?;
    let endpoint = cluster
        .targets
        .endpoints()
        .first()
        .copied()
        .context("there is no node")?;
    let hub = cluster.targets.events(endpoint)?;
    let ends = block_on(async {
        let mut client = hub.connect().await?;
        let mut ends = Vec::new();
        for partition in client.partitions().await? {
            ends.push((partition.parse::<u32>()?, client.partition(&partition).await?.last));
        }
        Ok(ends)
    })?;
    let all_there = || {
        let checker = recorder.readers();
        let names = (0..readers).map(|reader| format!("reader-{reader}"));
        names.into_iter().all(|name| {
            ends.iter()
                .all(|(partition, last)| checker.next(&name, *partition) > *last)
        })
    };
    // The check finds readers that did not get there in time.
    let _ = wait(END_TIMEOUT, "readers reach the end", all_there);
    interrupt::sleep(Duration::ZERO)?;
    let mut checker = recorder.readers();
    for reader in 0..readers {
        for (partition, last) in &ends {
            checker.end(&format!("reader-{reader}"), *partition, *last);
        }
    }
    Ok(())
}

/// Reads everything through every node, and compares it with the ledger of acknowledgements.
fn read_back(cluster: &Cluster, ledger: &Ledger) -> Result<Vec<Findings>> {
    let mut findings = Vec::new();
    for endpoint in cluster.targets.endpoints() {
        let hub = cluster.targets.events(endpoint)?;
        let name = format!("by node {}", endpoint.node);
        let verdict: Result<Verdict> = block_on(read::verify(&hub, ledger));
        findings.push(match verdict {
            Ok(verdict) => telemetry(&name, &verdict),
            Err(error) => {
                let mut findings = telemetry(&name, &Verdict::default());
                findings.violation(None, || format!("cannot be read: {error:#}"));
                findings
            }
        });
    }
    Ok(findings)
}

fn judge(
    options: &Options,
    cluster: &Cluster,
    faults: Vec<Fault>,
    skipped: BTreeMap<Kind, String>,
    stopped: Micros,
    mut findings: Vec<Findings>,
    aborted: Option<String>,
) -> Report {
    let recorder = &cluster.recorder;
    let history = recorder.history();
    findings.push(recorder.readers().findings().clone());
    findings.push(identity::check(&history.operations));
    findings.push(sessions::check(&history.connections, &faults));
    let grace = options.setup.grace_seconds * SECOND;
    let revocations = revocation::check(&history.rights, &history.connections, &history.refusals, &faults, grace);
    findings.extend(revocations.findings);
    findings.push(twins::check(&history.down.twins));
    findings.push(messages::check(&history.down));
    findings.push(methods::check(&history.down, &faults));
    // Its devices write no twins that queries show.
    findings.push(queries::check(&history.queries, &[]));
    let mut acknowledged: BTreeMap<u32, Vec<Micros>> = BTreeMap::new();
    for (device, moments) in &history.acknowledged {
        if let Some(partition) = history.partition_of.get(device) {
            acknowledged.entry(*partition).or_default().extend(moments);
        }
    }
    let answered = history.operations.iter().filter(|operation| operation.answer.is_some());
    acknowledged.insert(REGISTRY, answered.map(|operation| operation.answered).collect());
    acknowledged.values_mut().for_each(|moments| moments.sort_unstable());
    let pauses = availability::pauses(&acknowledged, &faults, stopped);
    findings.push(availability::check(&pauses, &faults));
    let mut odd = Findings::about("nothing happens that no correct hub does");
    odd.checked = recorder.progress().0;
    for (at, text) in &history.anomalies {
        odd.violation(Some(*at), || text.clone());
    }
    odd.violations = history.anomaly_count;
    findings.push(odd);
    let mut kinds: BTreeMap<String, KindReport> = BTreeMap::new();
    for fault in &faults {
        kinds.entry(fault.kind.clone()).or_default().injected += 1;
    }
    for (kind, report) in &mut kinds {
        report.pauses = pauses_of(kind, &pauses);
    }
    for (kind, why) in skipped {
        kinds.entry(kind.name()).or_default().skipped = Some(why);
    }
    let mut acknowledged_by_protocol = BTreeMap::new();
    for (device, spans) in &history.spans {
        let protocol = Protocol::of(*device, options.devices).name();
        *acknowledged_by_protocol.entry(protocol).or_default() += spans.iter().map(Span::acknowledged).sum::<u64>();
    }
    let (acknowledged, calls, read) = recorder.progress();
    let ready = cluster.nodes.iter().flat_map(|node| &node.ready_after);
    Report {
        seed: options.setup.seed,
        nodes: options.setup.nodes,
        seconds: stopped / SECOND,
        kinds,
        acknowledged,
        acknowledged_by_protocol,
        calls,
        read,
        connections: history.connections.len(),
        down: DownFigures::of(&history.down),
        twin_gaps: twins::gaps(&history.down.twins),
        findings,
        leader_killed: led_pauses(&DEATHS, &pauses, |partition| partition != REGISTRY),
        registry_leader_killed: led_pauses(&DEATHS, &pauses, |partition| partition == REGISTRY),
        leader_handed_over: led_pauses(&["restart"], &pauses, |partition| partition != REGISTRY),
        back_from_killed: reconnection::back_after(&history.connections, &faults, &DEATHS),
        back_from_frozen: reconnection::back_after(&history.connections, &faults, &FREEZES),
        revocation: revocations.took,
        ready: availability::summary(ready.map(|time| time.as_micros() as Micros).collect()),
        aborted,
        failures: history.failures.clone(),
        pauses: pauses
            .into_iter()
            .filter(|pause| pause.length >= WORTH_LISTING)
            .collect(),
        faults,
    }
}

fn wait(timeout: Duration, what: &str, mut is_there: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !is_there() {
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", timeout.as_secs());
        }
        interrupt::sleep(POLL_INTERVAL)?;
    }
    Ok(())
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
