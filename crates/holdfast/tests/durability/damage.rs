//! Damaged files: a tail that a crash cut off is dropped, anything else stops the hub, which names the file and the place.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use holdfast_swarm::ledger::Ledger;
use rand::Rng as _;

use crate::hub::Hub;
use crate::load::{Load, create_devices};
use crate::read_back::read_back;
use crate::scenario::{run, say};

/// The exit code for damaged data: starting again does not help (docs/runbook.md).
const DAMAGED: i32 = 7;

#[test]
fn a_record_cut_off_by_a_crash_is_dropped_and_logged() -> Result<()> {
    run("a_record_cut_off_by_a_crash_is_dropped_and_logged", |scenario| {
        let mut hub = Hub::new(scenario.folder.path())?;
        let ledgers = load_and(&mut hub, Hub::kill)?;
        let log = newest_log(&hub.database())?;
        let length = fs::metadata(&log)?.len();
        File::options()
            .write(true)
            .open(&log)?
            .set_len(length - scenario.rng.random_range(1..8))?;
        let reached = hub.start()?;
        let said = hub.log();
        let line = said
            .lines()
            .find(|line| line.contains("cut off by a crash"))
            .context("the hub does not log it")?;
        ensure!(
            line.contains(&*log.to_string_lossy()) && line.contains("offset"),
            "no file, no offset: {line}"
        );
        let verdicts = read_back(&reached, &ledgers)?;
        // The record that was cut off had been acknowledged: it is gone, and nothing else is.
        for verdict in &verdicts {
            let broken = verdict.doubled + verdict.out_of_order + verdict.phantoms + verdict.sequence_jumps;
            ensure!(broken == 0 && verdict.corrupt == 0, "{verdict:#?}");
        }
        let (lost, read) = verdicts
            .iter()
            .fold((0, 0), |(lost, read), v| (lost + v.lost, read + v.events));
        say(&format!("torn log tail: {read} read, {lost} of the torn record gone"));
        ensure!(read > lost, "more than the last record is gone");
        Ok(())
    })
}

#[test]
fn a_flipped_bit_in_the_log_stops_the_hub_naming_file_and_offset() -> Result<()> {
    run(
        "a_flipped_bit_in_the_log_stops_the_hub_naming_file_and_offset",
        |scenario| {
            let mut hub = Hub::new(scenario.folder.path())?;
            let ledgers = load_and(&mut hub, Hub::kill)?;
            let log = newest_log(&hub.database())?;
            let length = fs::metadata(&log)?.len();
            let at = scenario.rng.random_range(0..length / 2);
            flip(&log, at)?;
            refuses_to_start(&mut hub, &log)?;
            flip(&log, at)?;
            let reached = hub.start()?;
            let verdicts = read_back(&reached, &ledgers)?;
            ensure!(
                verdicts.iter().all(|verdict| verdict.is_clean()),
                "the refusal has changed something: {verdicts:#?}"
            );
            say(&format!(
                "flipped bit at {at} of {}: refused, naming it; mended: nothing lost",
                log.display()
            ));
            Ok(())
        },
    )
}

#[test]
fn a_flipped_bit_in_a_table_stops_the_hub_naming_file_and_offset() -> Result<()> {
    run(
        "a_flipped_bit_in_a_table_stops_the_hub_naming_file_and_offset",
        |scenario| {
            let mut hub = Hub::new(scenario.folder.path())?;
            // An orderly stop writes everything to tables.
            let ledgers = load_and(&mut hub, |hub| {
                let status = hub.terminate()?;
                ensure!(status.success(), "the hub ended with {status}");
                Ok(())
            })?;
            let table = largest(&hub.database(), "sst")?;
            let at = scenario.rng.random_range(0..fs::metadata(&table)?.len() / 2);
            flip(&table, at)?;
            // Tables are read when their data is needed.
            let seen = match hub.start() {
                Err(error) => {
                    let status = format!("exit status: {DAMAGED}");
                    ensure!(
                        format!("{error:#}").contains(&status),
                        "the hub does not end as damaged: {error:#}"
                    );
                    "at the start"
                }
                Ok(reached) => {
                    let read = read_back(&reached, &ledgers);
                    ensure!(read.is_err(), "damaged data was served: {read:#?}");
                    ensure!(
                        hub.wait_end()?.code() == Some(DAMAGED),
                        "the hub continues with damaged data"
                    );
                    "when it was read"
                }
            };
            names(&hub, &table)?;
            flip(&table, at)?;
            let reached = hub.start()?;
            let verdicts = read_back(&reached, &ledgers)?;
            ensure!(
                verdicts.iter().all(|verdict| verdict.is_clean()),
                "the refusal has changed something: {verdicts:#?}"
            );
            say(&format!(
                "flipped bit at {at} of {}: refused {seen}, naming it",
                table.display()
            ));
            Ok(())
        },
    )
}

/// Loads the hub, ends it, and says what it has promised.
fn load_and(hub: &mut Hub, end: impl FnOnce(&mut Hub) -> Result<()>) -> Result<Vec<Ledger>> {
    let reached = hub.start()?;
    create_devices(&reached)?;
    let load = Load::start(&reached)?;
    load.wait_acknowledged(3_000)?;
    let ledgers = load.end()?;
    end(hub)?;
    Ok(ledgers)
}

fn refuses_to_start(hub: &mut Hub, file: &Path) -> Result<()> {
    hub.spawn()?;
    let status = hub.wait_end()?;
    ensure!(status.code() == Some(DAMAGED), "the hub ended with {status}");
    names(hub, file)
}

/// Checks that the hub's last words name `file` and an offset.
fn names(hub: &Hub, file: &Path) -> Result<()> {
    let said = hub.log();
    let name = file
        .file_name()
        .context("a file has a name")?
        .to_string_lossy()
        .into_owned();
    let last = said
        .lines()
        .rev()
        .find(|line| line.starts_with("holdfast:"))
        .context("the hub does not say why")?;
    ensure!(
        last.contains(&name) && last.contains("offset"),
        "no {name}, or no offset: {last}"
    );
    Ok(())
}

fn flip(file: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    Ok(())
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) && fs::metadata(&path)?.len() > 0 {
            found.push(path);
        }
    }
    Ok(found)
}

/// Names of logs are numbers of one length.
fn newest_log(database: &Path) -> Result<PathBuf> {
    files(database, "log")?.into_iter().max().context("there is no log")
}

fn largest(database: &Path, extension: &str) -> Result<PathBuf> {
    let found = files(database, extension)?;
    let largest = found
        .into_iter()
        .max_by_key(|path| fs::metadata(path).map_or(0, |about| about.len()));
    largest.with_context(|| format!("there is no .{extension} file"))
}
