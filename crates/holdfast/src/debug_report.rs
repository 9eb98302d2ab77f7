//! What this process says about itself in a debug bundle: configuration, metrics, last log lines, versions and limits, threads.
//!
//! Invariants: no secret is in it. The configuration names files and never holds keys, and where people put them all the same (a URL
//! with a password, a program's arguments) [`redact`] takes them out; log lines and metrics go through it as well.
//! Not here: collecting the reports of all nodes (`cluster::control`), the archive (`holdfast debug bundle`).

mod redact;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use holdfast_cluster::control::{DebugFile, DebugSource};
use serde_json::json;

use crate::config::Config;
use crate::logs::Recent;
use crate::ops::Ops;

use redact::{redact, redact_config};

/// The most threads that are listed.
const MAX_THREADS: usize = 1024;

/// Makes the report of this process whenever it is wanted.
pub(crate) fn source(config: &Config, recent: Recent, ops: Ops, start: u64) -> DebugSource {
    let config = redact_config(&holdfast_config::page::effective(&mut config.clone()));
    let begun = Instant::now();
    Arc::new(move || {
        let file = |name: &str, text: String| DebugFile {
            name: name.to_owned(),
            text,
        };
        vec![
            file("versions.json", versions(begun, start)),
            file("config.toml", config.clone()),
            file("threads.txt", threads()),
            file("log.txt", redact(&recent.text())),
            file("metrics.txt", redact(&ops.render())),
        ]
    })
}

/// The program, the system, and the limits that it gives.
fn versions(begun: Instant, start: u64) -> String {
    let system = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let facts = json!({
        "holdfast": env!("CARGO_PKG_VERSION"),
        "registryCommandVersion": holdfast_registry::COMMAND_VERSION,
        "startsOfThisDirectory": start,
        "upSeconds": begun.elapsed().as_secs(),
        "unixSeconds": now.as_secs(),
        "system": text(system.sysname()),
        "release": text(system.release()),
        "machine": text(system.machine()),
        "cpus": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory": of_proc("/proc/meminfo", &["MemTotal", "MemAvailable"]),
        "process": of_proc("/proc/self/status", &["VmRSS", "VmHWM", "Threads", "Uid", "Gid"]),
        "openFilesLimit": limit.current,
        "memoryLimit": read("/sys/fs/cgroup/memory.max"),
        "cpuLimit": read("/sys/fs/cgroup/cpu.max"),
    });
    format!("{facts:#}\n")
}

fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Lines `KEY: value` of a file of the kernel.
fn of_proc(path: &str, keys: &[&str]) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let found = text.lines().filter_map(|line| line.split_once(':'));
    let found = found.filter(|(key, _)| keys.contains(key));
    found
        .map(|(key, value)| {
            (
                key.to_owned(),
                json!(value.split_whitespace().collect::<Vec<_>>().join(" ")),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Each thread with its state, what it waits for in the kernel, and its CPU time.
fn threads() -> String {
    let mut out = String::from("ID NAME STATE CPU_TICKS WAITS_IN\n");
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return out;
    };
    for task in tasks.flatten().take(MAX_THREADS) {
        let path = task.path();
        let part = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        let stat = part("stat");
        // A thread that has just ended.
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let state = fields.first().copied().unwrap_or("?");
        let (name, waits) = (part("comm"), part("wchan"));
        let waits = if waits.is_empty() { "-" } else { waits.as_str() };
        let id = task.file_name();
        let _ = writeln!(
            out,
            "{} {} {state} {} {waits}",
            id.to_string_lossy(),
            name.trim(),
            ticks(11) + ticks(12)
        );
    }
    out
}
