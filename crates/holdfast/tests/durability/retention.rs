//! Deaths while old events are trimmed and files are flushed, moved and deleted all the time.

use anyhow::{Result, ensure};
use holdfast_swarm::ledger::Ledger;
use rand::Rng as _;

use crate::hub::Hub;
use crate::load::{Load, create_devices};
use crate::read_back::{Retention, read};
use crate::scenario::{Figures, rounds, run, say};
use crate::unsynced::Names;

/// A round's messages are fewer than a partition keeps, so that all of them must be there after the round.
const ACKNOWLEDGEMENTS: std::ops::Range<u64> = 1_500..3_000;

#[test]
fn deaths_during_retention_lose_nothing_that_is_retained() -> Result<()> {
    run("deaths_during_retention_lose_nothing_that_is_retained", |scenario| {
        let mut hub = Hub::new(scenario.folder.path())?;
        for (key, value) in [
            ("storage.write_buffer", "1MiB"),
            ("storage.max_replay", "4MiB"),
            ("partition.retention_size", "2MiB"),
            ("partition.retention_interval", "20ms"),
            ("partition.reclaim_step", "64KiB"),
        ] {
            hub.set(key, value);
        }
        hub.forget_unsynced()?.names = Names::Eager;
        let mut reached = hub.start()?;
        create_devices(&reached)?;
        let mut figures = Figures {
            rounds: rounds(14),
            ..Figures::default()
        };
        let mut begins = Vec::new();
        for _ in 0..figures.rounds {
            let load = Load::start(&reached)?;
            load.wait_acknowledged(scenario.rng.random_range(ACKNOWLEDGEMENTS))?;
            hub.kill()?;
            reached = hub.start()?;
            let ledgers = load.end()?;
            figures.acknowledged += ledgers.iter().map(Ledger::acknowledged).sum::<u64>();
            let (found, verdicts) = read(&reached, &ledgers, Retention::Busy)?;
            ensure!(
                begins.iter().zip(&found).all(|(before, now)| before <= now),
                "partitions begin earlier than before: {begins:?}, {found:?}"
            );
            begins = found;
            figures.verdicts.extend(verdicts);
            figures.check()?;
        }
        figures.ready.clone_from(&hub.ready);
        say(&format!("retention: {figures}; partitions begin with {begins:?}"));
        ensure!(begins.iter().any(|begin| *begin > 0), "nothing was trimmed");
        Ok(())
    })
}
