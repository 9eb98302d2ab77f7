//! Rounds of death: by SIGKILL, by SIGKILL on a disk that forgets, and by SIGTERM.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_swarm::ledger::Ledger;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::hub::Hub;
use crate::load::{Load, create_devices};
use crate::read_back::read_back;
use crate::scenario::{Figures, Scenario, rounds, run, say};
use crate::unsynced::{Names, Tail};

/// Rounds with one load, after which everything is read back.
const ROUNDS_A_LOAD: u64 = 10;
/// The most acknowledgements that a round waits for before its death.
const MOST_ACKNOWLEDGEMENTS: f64 = 6_000.0;
/// Deaths during a start happen up to this long after it; it need not be the whole of it.
const START_US: u64 = 600_000;

/// How a round ends.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// SIGKILL after so many acknowledgements and then so many microseconds.
    Kill { acknowledged: u64, later_us: u64 },
    /// SIGKILL so many microseconds after the start, ready or not.
    KillAtStart { after_us: u64 },
    /// SIGTERM after so many acknowledgements: an orderly stop.
    Terminate { acknowledged: u64 },
}

impl Death {
    /// The deaths of one load, in an order of chance: each kind is there.
    fn deck(rng: &mut StdRng) -> Vec<Self> {
        let mut deck: Vec<Self> = (0..ROUNDS_A_LOAD).map(|place| Self::draw(place, rng)).collect();
        deck.shuffle(rng);
        deck
    }

    fn draw(place: u64, rng: &mut StdRng) -> Self {
        // Few and many alike: the first messages after a start are as dangerous as a full log.
        let acknowledged = MOST_ACKNOWLEDGEMENTS.powf(rng.random::<f64>()) as u64;
        match place {
            0 | 1 => Self::KillAtStart {
                after_us: rng.random_range(0..START_US),
            },
            2 => Self::Terminate { acknowledged },
            _ => Self::Kill {
                acknowledged,
                later_us: rng.random_range(0..3_000),
            },
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_sigkill_under_load() -> Result<()> {
    run("nothing_acknowledged_is_lost_by_sigkill_under_load", |scenario| {
        let mut hub = Hub::new(scenario.folder.path())?;
        // Small, so that rounds end in the middle of flushes and compactions.
        hub.set("storage.write_buffer", "4MiB");
        hub.set("storage.max_replay", "16MiB");
        let figures = deaths(scenario, &mut hub, rounds(60), |_, _| Ok(()))?;
        say(&format!("SIGKILL: {figures}"));
        figures.check()
    })
}

#[test]
fn nothing_acknowledged_is_lost_with_all_that_was_not_synced() -> Result<()> {
    run(
        "nothing_acknowledged_is_lost_with_all_that_was_not_synced",
        |scenario| {
            let mut hub = Hub::new(scenario.folder.path())?;
            hub.set("storage.write_buffer", "4MiB");
            hub.set("storage.max_replay", "16MiB");
            hub.forget_unsynced()?;
            let figures = deaths(scenario, &mut hub, rounds(30), |hub, rng| {
                let disk = hub.disk()?;
                disk.names = if rng.random() { Names::Synced } else { Names::Eager };
                disk.tail = match rng.random_range(0..3) {
                    0 => Tail::Gone,
                    1 => Tail::Cut(rng.random()),
                    _ => Tail::Zeros(rng.random()),
                };
                Ok(())
            })?;
            let forgotten = hub.disk()?.forgotten;
            say(&format!("unsynced thrown away: {figures}; {forgotten} bytes forgotten"));
            figures.check()
        },
    )
}

/// Lets the hub die `rounds` times under load; `prepare` is called before each start.
fn deaths(
    scenario: &mut Scenario,
    hub: &mut Hub,
    rounds: u64,
    mut prepare: impl FnMut(&mut Hub, &mut StdRng) -> Result<()>,
) -> Result<Figures> {
    let rng = &mut scenario.rng;
    let mut ledgers: Vec<Ledger> = Vec::new();
    let mut figures = Figures {
        rounds,
        ..Figures::default()
    };
    prepare(hub, rng)?;
    let mut reached = hub.start()?;
    create_devices(&reached)?;
    let mut round = 0;
    while round < rounds {
        let load = Load::start(&reached)?;
        for death in Death::deck(rng) {
            die(hub, &load, death)?;
            prepare(hub, rng)?;
            round += 1;
            reached = hub.start()?;
        }
        // The hub also works after the last kill.
        load.wait_acknowledged(100)?;
        ledgers.extend(load.end()?);
        figures.rounds = round;
        figures.acknowledged = ledgers.iter().map(Ledger::acknowledged).sum();
        figures.verdicts = read_back(&reached, &ledgers)?;
        figures.check()?;
    }
    figures.ready.clone_from(&hub.ready);
    let status = hub.terminate()?;
    ensure!(status.success(), "the hub ended with {status} after SIGTERM");
    Ok(figures)
}

/// One round: the hub runs, perhaps gets as far as `death` says, and dies.
fn die(hub: &mut Hub, load: &Load, death: Death) -> Result<()> {
    match death {
        Death::Kill { acknowledged, later_us } => {
            load.wait_acknowledged(acknowledged)?;
            std::thread::sleep(Duration::from_micros(later_us));
            hub.kill()
        }
        Death::KillAtStart { after_us } => {
            // First the death that makes the start worth watching.
            load.wait_acknowledged(1)?;
            hub.kill()?;
            hub.spawn()?;
            std::thread::sleep(Duration::from_micros(after_us));
            hub.kill()
        }
        Death::Terminate { acknowledged } => {
            load.wait_acknowledged(acknowledged)?;
            let status = hub.terminate()?;
            ensure!(status.success(), "the hub ended with {status} after SIGTERM under load");
            Ok(())
        }
    }
}
