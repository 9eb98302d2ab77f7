//! A hub as a process of its own: started on a free loopback address, killed by its id.
//!
//! Everything waits for conditions; a failure shows the hub's last lines.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take; generous, because tests share the machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(20);
/// Lines of a hub's log that a failure shows.
const LOG_LINES: usize = 40;

/// The binary under test.
pub(crate) fn holdfast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    // The environment of the test run is not meant for the hub.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOLDFAST_")) {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    holdfast().args(args).stdin(Stdio::null()).output().unwrap()
}

/// A development hub; killed when dropped.
pub(crate) struct Hub {
    pub(crate) data_dir: PathBuf,
    variables: &'static [(&'static str, &'static str)],
    child: Option<Child>,
    _dir: tempfile::TempDir,
}

impl Hub {
    /// Starts a hub on free ports and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// [`Self::start`] with environment variables.
    pub(crate) fn start_with(args: &[&str], variables: &'static [(&'static str, &'static str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut hub = Self {
            data_dir: dir.path().join("data"),
            variables,
            child: None,
            _dir: dir,
        };
        hub.launch(args);
        hub
    }

    /// A hub that has not been started, and has no data directory yet.
    pub(crate) fn idle() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            data_dir: dir.path().join("data"),
            variables: &[],
            child: None,
            _dir: dir,
        }
    }

    /// Starts a hub on the data directory `data` of an archive.
    pub(crate) fn unpack(archive: &Path, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let unpacked = Command::new("tar")
            .arg("-xzf")
            .arg(archive)
            .arg("-C")
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(unpacked.success(), "{} is not unpacked", archive.display());
        let mut hub = Self {
            data_dir: dir.path().join("data"),
            variables: &[],
            child: None,
            _dir: dir,
        };
        hub.launch(args);
        hub
    }

    /// Starts it again after it has stopped, with the same data.
    pub(crate) fn launch(&mut self, args: &[&str]) {
        assert!(self.child.is_none(), "the hub is still running");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let child = holdfast()
            .args(["dev", "--ports", "0", "--data-dir"])
            .arg(&self.data_dir)
            .args(args)
            .envs(self.variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + TIMEOUT;
        while !self.connection_file().exists() {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the hub ended with {status} while starting\n{}", self.last_lines());
            }
            assert!(Instant::now() < deadline, "not ready in time\n{}", self.last_lines());
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn connection_file(&self) -> PathBuf {
        self.data_dir.join("connection.json")
    }

    pub(crate) fn connection(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.connection_file()).unwrap()).unwrap()
    }

    fn log_file(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    /// Waits until `holds`.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !holds(self) {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.last_lines());
            std::thread::sleep(POLL);
        }
    }

    /// The audit log, once it has all `parts`: its lines are written a few milliseconds after what they are about.
    pub(crate) fn audit_with(&self, parts: &[&str]) -> String {
        let read = || std::fs::read_to_string(self.data_dir.join("audit.jsonl")).unwrap_or_default();
        self.until(&format!("{parts:?} in the audit log"), |_| {
            let audit = read();
            parts.iter().all(|part| audit.contains(part))
        });
        read()
    }

    /// Everything that the hub has written.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The hub's last lines, for messages.
    pub(crate) fn last_lines(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// SIGTERM, and the way it ends.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// SIGKILL: as if the process had never been.
    pub(crate) fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.wait();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "the hub does not end\n{}", self.last_lines());
            std::thread::sleep(POLL);
        }
    }

    /// Runs a command against this hub.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        holdfast()
            .args(args)
            .arg("--connection-file")
            .arg(self.connection_file())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert!(
            output.status.success(),
            "{args:?}: {}\n{}",
            text(&output.stderr),
            self.last_lines()
        );
        text(&output.stdout)
    }

    /// As [`Self::ok`], as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// GET of the operators' listener: status and body.
    pub(crate) fn ops(&self, path: &str) -> (u16, String) {
        let metrics = self.connection()["metrics"].as_str().unwrap().to_owned();
        get(
            metrics.strip_prefix("http://").unwrap().split('/').next().unwrap(),
            path,
        )
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Already gone is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A plain HTTP GET.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        answer
            .split_once("\r\n\r\n")
            .map_or_else(String::new, |(_, body)| body.to_owned()),
    )
}

/// Whether `path` holds `needle` anywhere, files in folders included.
pub(crate) fn holds(path: &Path, needle: &[u8]) -> bool {
    if path.is_dir() {
        return std::fs::read_dir(path)
            .unwrap()
            .any(|entry| holds(&entry.unwrap().path(), needle));
    }
    std::fs::read(path)
        .unwrap()
        .windows(needle.len())
        .any(|window| window == needle)
}

/// Runs a command at the node whose connection file `file` is.
pub(crate) fn at(file: &Path, args: &[&str]) -> Result<String, String> {
    let output = holdfast()
        .args(args)
        .arg("--connection-file")
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// The status of the cluster that the node of `file` gives.
pub(crate) fn status_of(file: &Path) -> Option<Value> {
    serde_json::from_str(&at(file, &["cluster", "status", "--json"]).ok()?).ok()
}
