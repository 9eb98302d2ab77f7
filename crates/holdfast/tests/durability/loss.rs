//! Proofs: that the library forgets exactly what was not synced, and that the check finds losses where there are some.

use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use holdfast_storage::{DataDir, Disk as _, Durability, Family, NodeIdentity, StorageConfig, WriteBatch, layout};

use crate::hub::Hub;
use crate::load::{Load, create_devices};
use crate::read_back::read_back;
use crate::scenario::{Figures, run, say, wait_for};
use crate::unsynced::{Fault, Names, Tail, Unsynced};

/// Tells the child's test where to write; without it that test does nothing.
const CHILD_FOLDER: &str = "DURABILITY_CHILD_FOLDER";
/// Keys that the child syncs, and keys that it writes behind them.
const SYNCED: u64 = 200;
const UNSYNCED: u64 = 100;

#[test]
fn a_disk_that_lies_about_syncs_is_found_out_by_its_losses() -> Result<()> {
    run("a_disk_that_lies_about_syncs_is_found_out_by_its_losses", |scenario| {
        let mut hub = Hub::new(scenario.folder.path())?;
        hub.forget_unsynced()?;
        let reached = hub.start()?;
        create_devices(&reached)?;
        let load = Load::start(&reached)?;
        load.wait_acknowledged(200)?;
        hub.disk()?.begin(Fault::Lie)?;
        load.wait_acknowledged(2_000)?;
        hub.kill()?;
        let reached = hub.start()?;
        let ledgers = load.end()?;
        let figures = Figures {
            rounds: 1,
            acknowledged: ledgers.iter().map(|ledger| ledger.acknowledged()).sum(),
            verdicts: read_back(&reached, &ledgers)?,
            ready: hub.ready.clone(),
        };
        say(&format!("lying disk, losses wanted: {figures}"));
        ensure!(
            figures.sum(|verdict| verdict.lost) > 0,
            "the disk lost acknowledged messages, and no check noticed"
        );
        Ok(())
    })
}

#[test]
fn the_forgetful_disk_forgets_what_was_not_synced_and_nothing_else() -> Result<()> {
    run(
        "the_forgetful_disk_forgets_what_was_not_synced_and_nothing_else",
        |scenario| {
            for (names, tail) in [
                (Names::Synced, Tail::Gone),
                (Names::Eager, Tail::Gone),
                (Names::Synced, Tail::Cut(0.5)),
                (Names::Eager, Tail::Zeros(0.5)),
            ] {
                let kept = keys_after_a_kill(scenario.folder.path(), names, tail, false)?;
                let expected = match tail {
                    Tail::Gone => SYNCED..=SYNCED,
                    Tail::Cut(_) | Tail::Zeros(_) => SYNCED..=SYNCED + UNSYNCED,
                };
                ensure!(expected.contains(&kept), "{names:?}, {tail:?}: {kept} keys are left");
            }
            let kept = keys_after_a_kill(scenario.folder.path(), Names::Synced, Tail::Gone, true)?;
            ensure!(
                kept == SYNCED / 2,
                "{kept} keys are left by a disk that lies from the middle on"
            );
            Ok(())
        },
    )
}

/// Lets a child write to a database and be killed; how many keys are left, the first without a gap.
fn keys_after_a_kill(folder: &Path, names: Names, tail: Tail, lie: bool) -> Result<u64> {
    let folder = tempfile::tempdir_in(folder.canonicalize()?)?;
    let data = folder.path().join("data");
    let mut disk = Unsynced::new(folder.path(), &data)?;
    (disk.names, disk.tail) = (names, tail);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "loss::child_that_writes_until_it_is_killed", "--nocapture"]);
    command
        .env(CHILD_FOLDER, &data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    disk.preload(&mut command);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut until = |wanted: &str| {
        let found = lines
            .by_ref()
            .map_while(|line| line.ok())
            .any(|line| line.ends_with(wanted));
        ensure!(found, "the child never said {wanted:?}");
        Ok(())
    };
    let seen = until("half")
        .and_then(|()| if lie { disk.begin(Fault::Lie) } else { Ok(()) })
        .and_then(|()| {
            std::fs::write(data.with_file_name("data-go"), "")?;
            until("written")
        });
    child.kill()?;
    child.wait()?;
    seen?;
    disk.forget()?;
    count_keys(&data)
}

fn open(data: &Path) -> Result<std::sync::Arc<holdfast_storage::RocksDisk>> {
    let new = || NodeIdentity {
        cluster: "c".to_owned(),
        incarnation: 1,
    };
    Ok(holdfast_storage::open(
        &DataDir::open(data, new)?,
        &StorageConfig::default(),
    )?)
}

fn key(number: u64) -> Vec<u8> {
    layout::log_key(1, number).to_vec()
}

fn count_keys(data: &Path) -> Result<u64> {
    let disk = open(data)?;
    let mut found = 0;
    let mut gap = None;
    disk.scan(Family::Log, &key(0), &key(u64::MAX), &mut |here, _| {
        if here != key(found) {
            gap = Some(found);
            return ControlFlow::Break(());
        }
        found += 1;
        ControlFlow::Continue(())
    })?;
    ensure!(gap.is_none(), "key {found} is missing and later ones are there");
    Ok(found)
}

/// Not a test of its own: [`keys_after_a_kill`] starts it.
#[test]
fn child_that_writes_until_it_is_killed() -> Result<()> {
    let Some(data) = std::env::var_os(CHILD_FOLDER) else {
        return Ok(());
    };
    let data = Path::new(&data);
    let disk = open(data)?;
    let write = |number: u64| {
        let mut batch = WriteBatch::default();
        batch.put(Family::Log, &key(number), &[0x5a; 300]);
        disk.write(&batch, Durability::Logged)
    };
    for number in 0..SYNCED {
        if number == SYNCED / 2 {
            println!("half");
            let go = data.with_file_name("data-go");
            wait_for(std::time::Duration::from_secs(60), "the parent says go", || {
                Ok(go.exists().then_some(()))
            })?;
        }
        write(number)?;
        disk.sync()?;
    }
    for number in SYNCED..SYNCED + UNSYNCED {
        write(number)?;
    }
    println!("written");
    loop {
        std::thread::park();
    }
}
