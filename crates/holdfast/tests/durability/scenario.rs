//! The common part of all scenarios: one at a time, a seed, a folder, and a report when something fails.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use holdfast_swarm::verify::Verdict;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Hubs under load share the machine badly: scenarios run one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Lines of the hub's log that a failure shows.
const LAST_LINES: usize = 40;

/// The means of a scenario.
pub(crate) struct Scenario {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) rng: StdRng,
}

/// Runs a scenario; a failure keeps its folder and says how to run it again.
pub(crate) fn run(name: &'static str, work: impl FnOnce(&mut Scenario) -> Result<()>) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = number_of("HOLDFAST_SEED").unwrap_or_else(rand::random);
    say(&format!("{name}: seed {seed}"));
    let mut scenario = Scenario {
        folder: tempfile::Builder::new().prefix("holdfast-durability-").tempdir()?,
        rng: StdRng::seed_from_u64(seed),
    };
    let result = work(&mut scenario);
    result.map_err(|error| {
        let folder = scenario.folder.keep();
        let replay = format!(
            "HOLDFAST_SEED={seed} cargo test -p holdfast --test durability -- {name}\nwhat is left: {}",
            folder.display()
        );
        error.context(format!("{replay}\n{}", last_lines(&folder.join("hub.log"))))
    })
}

/// A number from the environment.
pub(crate) fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// How many rounds to run: `usual`, unless the environment says otherwise.
pub(crate) fn rounds(usual: u64) -> u64 {
    number_of("HOLDFAST_ROUNDS").unwrap_or(usual)
}

/// Writes a line past the test harness, which would swallow it when the test passes.
pub(crate) fn say(line: &str) {
    // There may be no listener.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LAST_LINES);
    format!("the hub's last lines:\n{}", lines[first..].join("\n"))
}

/// Polls every millisecond until `found` has something, for at most `timeout`.
pub(crate) fn wait_for<T>(timeout: Duration, what: &str, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = found().with_context(|| what.to_owned())? {
            return Ok(value);
        }
        anyhow::ensure!(Instant::now() < deadline, "{what}: not within {} s", timeout.as_secs());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `work` on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// The content of a scenario's line.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) rounds: u64,
    pub(crate) acknowledged: u64,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) ready: Vec<Duration>,
}

impl Figures {
    /// The sum of one count over all verdicts.
    pub(crate) fn sum(&self, count: impl Fn(&Verdict) -> u64) -> u64 {
        self.verdicts.iter().map(count).sum()
    }

    /// Refuses a broken promise.
    pub(crate) fn check(&self) -> Result<()> {
        match self.verdicts.iter().find(|verdict| !verdict.is_clean()) {
            None => Ok(()),
            Some(verdict) => anyhow::bail!("promises were broken ({self}): {:#?}", verdict),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ready: Vec<u128> = self.ready.iter().map(Duration::as_millis).collect();
        ready.sort_unstable();
        let at = |share: usize| {
            ready
                .get(ready.len().saturating_sub(1) * share / 100)
                .copied()
                .unwrap_or_default()
        };
        write!(
            f,
            "{} rounds, {} acknowledged, {} read, {} lost, {} doubled, {} out of order, {} gaps, {} phantoms, \
             {} corrupt, {} sequence jumps, {} kept of the clients' own resends; {} starts, ready after {} ms \
             (median), {} ms (longest)",
            self.rounds,
            self.acknowledged,
            self.sum(|verdict| verdict.events),
            self.sum(|verdict| verdict.lost),
            self.sum(|verdict| verdict.doubled),
            self.sum(|verdict| verdict.out_of_order),
            self.sum(|verdict| verdict.gaps),
            self.sum(|verdict| verdict.phantoms),
            self.sum(|verdict| verdict.corrupt),
            self.verdicts
                .iter()
                .map(|verdict| verdict.sequence_jumps)
                .max()
                .unwrap_or_default(),
            self.sum(|verdict| verdict.resent_kept),
            ready.len(),
            at(50),
            at(100),
        )
    }
}
