//! Resource use of a process so far, from `/proc`: CPU time, resident memory, voluntary switches, bytes written.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

/// Totals of one or more processes at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    at: Instant,
    /// User and system time since the start, microseconds.
    pub cpu_us: u64,
    /// Resident memory, KiB.
    pub resident_kib: u64,
    /// Resident memory without files that are mapped in: the process's own part, KiB.
    pub anonymous_kib: u64,
    /// How often its threads gave up the processor to wait.
    pub voluntary_switches: u64,
    /// Bytes that it caused to be written to storage.
    pub written_bytes: u64,
}

/// The usage between two samples.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    /// Seconds between the samples.
    pub seconds: f64,
    /// User and system time, microseconds.
    pub cpu_us: u64,
    /// Processors' worth of time.
    pub cores: f64,
    /// Voluntary switches.
    pub voluntary_switches: u64,
    /// Bytes written to storage.
    pub written_bytes: u64,
    /// Resident memory at the end, KiB.
    pub resident_kib: u64,
    /// Growth of anonymous resident memory, KiB.
    pub anonymous_growth_kib: i64,
}

impl Sample {
    /// The sum over `pids`. A process that is gone is an error: half a figure is none.
    ///
    /// # Errors
    /// When one of the files in `/proc` cannot be read.
    pub fn take(pids: &[u32]) -> Result<Self> {
        let mut all = Self {
            at: Instant::now(),
            cpu_us: 0,
            resident_kib: 0,
            anonymous_kib: 0,
            voluntary_switches: 0,
            written_bytes: 0,
        };
        for pid in pids {
            all.add(*pid).with_context(|| format!("cannot sample process {pid}"))?;
        }
        Ok(all)
    }

    /// This process.
    ///
    /// # Errors
    /// As [`Sample::take`].
    pub fn own() -> Result<Self> {
        Self::take(&[std::process::id()])
    }

    fn add(&mut self, pid: u32) -> Result<()> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = cpu_ticks(&stat).context("unexpected /proc stat line")?;
        self.cpu_us += (user + system) * 1_000_000 / rustix::param::clock_ticks_per_second();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let status = fields(&status);
        self.resident_kib += status.get("VmRSS").copied().unwrap_or(0);
        self.anonymous_kib += status.get("RssAnon").copied().unwrap_or(0);
        // Threads come and go between the listing and the reading.
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            self.voluntary_switches += fields(&text).get("voluntary_ctxt_switches").copied().unwrap_or(0);
        }
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        self.written_bytes += fields(&io).get("write_bytes").copied().unwrap_or(0);
        Ok(())
    }

    /// The usage from `earlier` to this sample.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Usage {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        let cpu_us = self.cpu_us.saturating_sub(earlier.cpu_us);
        Usage {
            seconds,
            cpu_us,
            cores: cpu_us as f64 / 1e6 / seconds.max(1e-9),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            resident_kib: self.resident_kib,
            anonymous_growth_kib: self.anonymous_kib as i64 - earlier.anonymous_kib as i64,
        }
    }
}

/// Lets the kernel count the most resident memory of `pid` anew.
///
/// # Errors
/// When the process is another user's, or gone.
pub fn reset_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("cannot reset the peak of process {pid}"))
}

/// The most resident memory of `pid` since its start or [`reset_peak`], KiB.
///
/// # Errors
/// When it cannot be read.
pub fn peak_resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    fields(&status)
        .get("VmHWM")
        .copied()
        .with_context(|| format!("process {pid} has no VmHWM"))
}

/// The open files that this process may have.
#[must_use]
pub fn file_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}

/// Fields 14 and 15; the command in parentheses before them may hold anything.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut rest = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    Some((rest.next()?.parse().ok()?, rest.next()?.parse().ok()?))
}

/// `name: number …` lines.
fn fields(text: &str) -> BTreeMap<&str, u64> {
    let line = |line| {
        let (name, value) = str::split_once(line, ':')?;
        Some((name, value.split_ascii_whitespace().next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_hostile_command_name() {
        let stat = "7 (a) b) 1 2) S 1 7 7 0 -1 4194304 100 0 0 0 41 17 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_ticks(stat), Some((41, 17)));
    }

    #[test]
    fn this_process_has_memory_and_its_use_never_goes_back() {
        let before = Sample::own().unwrap();
        let usage = Sample::own().unwrap().since(&before);
        assert!(usage.resident_kib > 0 && usage.seconds >= 0.0);
        assert!(Sample::take(&[u32::MAX]).is_err(), "a process that is gone");
    }
}
