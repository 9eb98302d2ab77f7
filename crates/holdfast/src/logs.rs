//! The log on standard error and the audit log in a file.
//!
//! Why two: the log serves the operator of the process and may be thinned by level; the audit log is the record of
//! refusals and changes, and is always whole.
//! Invariants: neither slows a core down: audit lines go through a bounded queue to a thread of their own, and what
//! does not fit is counted, never waited for. No secret reaches either, because no type that holds one prints it.
//! Not here: the audited events (the crates that write to the target `audit`).

mod expected;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use holdfast_tasks::sync::Mutex;

use crate::config::{Config, LogFormat};
use crate::metrics_catalogue;
use expected::WithoutExpected;

/// The target of audit events.
const AUDIT_TARGET: &str = "audit";
/// Audit lines that may wait for the disk; past it they are dropped and counted.
const AUDIT_QUEUE: usize = 4096;
/// The least time between two writes of the audit file. A line that comes after a pause is written at once; in a storm of connects one
/// write, and one waking of the thread, serves all lines of such a time: 8 % of what a connect costs otherwise.
const AUDIT_WRITE_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes of the log's last lines that are kept for a debug bundle.
const MAX_RECENT_BYTES: usize = 256 * 1024;
/// Bytes of lines that are written at once.
const AUDIT_WRITE_BYTES: usize = 64 * 1024;

/// The last lines of the log, for a debug bundle. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Recent(Arc<Mutex<VecDeque<u8>>>);

impl Recent {
    /// The lines, as they were written; the first one may be a part.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.lock().iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn add(&self, line: &[u8]) {
        let line = &line[line.len().saturating_sub(MAX_RECENT_BYTES)..];
        let mut bytes = self.0.lock();
        let excess = (bytes.len() + line.len()).saturating_sub(MAX_RECENT_BYTES);
        bytes.drain(..excess);
        bytes.extend(line);
    }
}

/// Standard error, and the last lines of it.
struct WithRecent(Recent);

impl Write for WithRecent {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Keeps the audit thread alive; dropping it writes the queued lines.
pub(crate) struct Logs {
    /// The last lines of the log.
    pub(crate) recent: Recent,
    writer: Option<std::thread::JoinHandle<()>>,
    lines: SyncSender<Entry>,
}

enum Entry {
    Line(Vec<u8>),
    End,
}

impl Drop for Logs {
    fn drop(&mut self) {
        // The thread may have ended with the disk; then there is nothing left to write to.
        if self.lines.send(Entry::End).is_ok()
            && let Some(writer) = self.writer.take()
        {
            let _ = writer.join();
        }
    }
}

/// Starts both logs for the whole process.
///
/// # Errors
/// When the audit file cannot be opened, or logs have been started before.
pub(crate) fn start(config: &Config) -> Result<Logs> {
    let path = config.audit_file();
    let file = RotatingFile::open(&path, config.audit.max_file_size.bytes(), config.audit.max_files)
        .with_context(|| format!("cannot open the audit log {}", path.display()))?;
    let (lines, queue) = sync_channel(AUDIT_QUEUE);
    let writer = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
        let mut file = file;
        write_lines(&queue, &mut file);
    })?;

    let audit = fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_target(false)
        .with_level(false)
        .with_writer(AuditWriter(lines.clone()))
        .with_filter(filter_fn(|metadata| metadata.target() == AUDIT_TARGET));
    let recent = Recent::default();
    let filter = EnvFilter::try_new(with_quiet_libraries(&config.log.level))?;
    let shows_libraries = names_libraries(&config.log.level);
    let others = filter_fn(|metadata| metadata.target() != AUDIT_TARGET);
    let base = fmt::layer()
        .with_writer({
            let recent = recent.clone();
            move || WithRecent(recent.clone())
        })
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let log = match config.log.format {
        LogFormat::Json => base
            .json()
            .flatten_event(true)
            .map_event_format(|format| WithoutExpected::new(format, !shows_libraries))
            .with_filter(others)
            .boxed(),
        LogFormat::Text => base
            .compact()
            .map_event_format(|format| WithoutExpected::new(format, !shows_libraries))
            .with_filter(others)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(audit)
        .try_init()
        .map_err(|_| anyhow!("logs have been started before"))?;
    Ok(Logs {
        recent,
        writer: Some(writer),
        lines,
    })
}

/// Writes the lines of `queue` until its end.
fn write_lines(queue: &Receiver<Entry>, file: &mut RotatingFile) {
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        let mut failed = None;
        while let Some(Entry::Line(line)) = next {
            if let Err(error) = file.append(&line) {
                metrics_catalogue::audit_lost().increment(1);
                failed = Some(error);
            }
            next = queue.try_recv().ok();
        }
        let flushed = file.flush();
        if let Some(error) = flushed.err().or(failed) {
            // The audit log itself cannot say so.
            tracing::error!(path = %file.path.display(), %error, "cannot write the audit log");
        }
        if let Some(Entry::End) = next {
            return;
        }
        std::thread::sleep(AUDIT_WRITE_INTERVAL);
    }
}

/// The consensus library logs every step at `info`: it is shown only when the filter names it.
fn with_quiet_libraries(level: &str) -> String {
    if names_libraries(level) {
        level.to_owned()
    } else {
        format!("{level},openraft=warn")
    }
}

/// Whether the filter asks for the consensus library by name, and so for everything that it logs.
fn names_libraries(level: &str) -> bool {
    level.contains("openraft")
}

struct AuditWriter(SyncSender<Entry>);

impl<'a> MakeWriter<'a> for AuditWriter {
    type Writer = AuditLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        AuditLine(&self.0)
    }
}

/// One event; the formatter writes it whole, in one call.
struct AuditLine<'a>(&'a SyncSender<Entry>);

impl Write for AuditLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Entry::Line(line.to_vec())).is_err() {
            metrics_catalogue::audit_lost().increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that moves aside when it is full: `x`, `x.1`, `x.2`, the oldest of `max_files` is overwritten.
struct RotatingFile {
    path: PathBuf,
    file: std::fs::File,
    /// Whole lines that are not written yet.
    pending: Vec<u8>,
    /// Of the file, with what is pending.
    size: u64,
    max_size: u64,
    max_files: u16,
}

impl RotatingFile {
    fn open(path: &Path, max_size: u64, max_files: u16) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = open_append(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            pending: Vec::new(),
            size,
            max_size,
            max_files,
        })
    }

    /// Adds a line, which is in the file after [`Self::flush`] at the latest.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.max_size {
            self.rotate()?;
        } else if self.pending.len() >= AUDIT_WRITE_BYTES {
            self.flush()?;
        }
        self.pending.extend_from_slice(line);
        self.size += line.len() as u64;
        Ok(())
    }

    /// Writes what is pending. What a full disk refuses is lost, and counted: the queue behind it must not grow.
    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.pending);
        if written.is_err() {
            let lines = self.pending.iter().filter(|byte| **byte == b'\n').count();
            metrics_catalogue::audit_lost().increment(lines as u64);
        }
        self.pending.clear();
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.flush()?;
        let numbered = |number: u16| match number {
            0 => self.path.clone(),
            number => {
                let mut name = self.path.as_os_str().to_owned();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            }
        };
        for number in (0..self.max_files.saturating_sub(1)).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.max_files <= 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = open_append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_up_to_a_limit() {
        let recent = Recent::default();
        for number in 0..20_000 {
            recent.add(format!("line {number} of many\n").as_bytes());
        }
        let text = recent.text();
        assert!(text.len() <= MAX_RECENT_BYTES && text.ends_with("line 19999 of many\n"));
        recent.add(&[b'x'; 2 * MAX_RECENT_BYTES]);
        assert_eq!(recent.text().len(), MAX_RECENT_BYTES);
    }

    #[test]
    fn the_audit_file_is_rotated_by_size_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut file = RotatingFile::open(&path, 10, 3).unwrap();
        for line in ["one....\n", "two....\n", "three..\n", "four...\n"] {
            file.append(line.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("audit.jsonl"), read("audit.jsonl.1")),
            ("four...\n".into(), "three..\n".into())
        );
        assert_eq!(read("audit.jsonl.2"), "two....\n");
        assert!(!dir.path().join("audit.jsonl.3").exists());
    }

    #[test]
    fn the_lines_of_a_burst_are_written_whole_and_in_order_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut file = RotatingFile::open(&path, u64::MAX, 1).unwrap();
        let (lines, queue) = sync_channel(AUDIT_QUEUE);
        let expected: String = (0..2000)
            .map(|number| format!("{{\"line\":{number}}}{}\n", "x".repeat(80)))
            .collect();
        for line in expected.lines() {
            lines.send(Entry::Line(format!("{line}\n").into_bytes())).unwrap();
        }
        lines.send(Entry::End).unwrap();
        write_lines(&queue, &mut file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn a_reopened_audit_file_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for line in ["one\n", "two\n"] {
            let mut file = RotatingFile::open(&path, 100, 3).unwrap();
            file.append(line.as_bytes()).unwrap();
            file.flush().unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
