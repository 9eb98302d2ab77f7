//! One node: its process, its disk, its machine.
//!
//! Invariant: the process ends when this value is dropped, and when this program ends for whatever reason.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rustix::process::{Pid, Signal, kill_process};

use super::certificates::{Certificates, write_private};
use super::config::{NodeConfig, token_file};
use super::disk::Disk;
use super::shims::{Machine, Shims};
use crate::interrupt;
use crate::net::Network;

/// Poll interval while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long an orderly stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of one request to the health page.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);
/// Lines of a node's log that a message quotes, and the most characters of each.
const LAST_LINES: usize = 6;
const LINE_LENGTH: usize = 240;
/// The most bytes of a node's log that are read at once.
const LOG_BYTES: u64 = 1 << 20;

/// Settings of all nodes of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The binary.
    pub binary: PathBuf,
    /// The run's folder.
    pub folder: PathBuf,
    /// The certificates.
    pub certificates: Certificates,
    /// The libraries to preload.
    pub shims: Shims,
}

/// A process that ended unexpectedly.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The node's number.
    pub node: u32,
    /// Its exit status.
    pub status: ExitStatus,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its configuration.
    pub config: NodeConfig,
    /// Its disk.
    pub disk: Disk,
    /// Its machine.
    pub machine: Machine,
    plan: Plan,
    folder: PathBuf,
    child: Option<Child>,
    started: Instant,
    /// From each start to ready.
    pub ready_after: Vec<Duration>,
}

impl Node {
    /// A node that has not been started. `small` gives it a disk of so many bytes.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn new(plan: &Plan, config: NodeConfig, small: Option<u64>) -> Result<Self> {
        let folder = plan.folder.join(format!("node-{}", config.number));
        std::fs::create_dir_all(&folder)?;
        let place = folder.join("disk");
        let disk = match small {
            // Without the right to mount, only the fault of the full disk is skipped.
            Some(bytes) => Disk::small(&place, bytes).or_else(|_| Disk::folder(&place))?,
            None => Disk::folder(&place)?,
        };
        let machine = Machine::new(&folder.join("machine"))?;
        Ok(Self {
            config,
            disk,
            machine,
            plan: plan.clone(),
            folder,
            child: None,
            started: Instant::now(),
            ready_after: Vec::new(),
        })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.config.number
    }

    /// The connection file, which exists once the node is ready.
    #[must_use]
    pub fn connection_file(&self) -> PathBuf {
        self.folder.join("connection.json")
    }

    /// Gives it the token with which it joins.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn give_token(&self, token: &str) -> Result<()> {
        write_private(&token_file(&self.folder), token)
    }

    /// Starts the process. It ends with the calling thread.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self, network: &Network) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.config.name);
        let file = self.folder.join("node.toml");
        let text = self
            .config
            .text(&self.disk.data(), &self.folder, &self.plan.certificates);
        std::fs::write(&file, text)?;
        let _ = std::fs::remove_file(self.connection_file());
        self.disk.remember()?;
        let mut preload = self.plan.shims.machine.clone().into_os_string();
        preload.push(" ");
        preload.push(&self.plan.shims.unsynced);
        let mut variables = self.disk.environment();
        variables.push(("MACHINE_CONTROL", self.folder.join("machine")));
        variables.push(("LD_PRELOAD", preload.into()));
        let mut command = network.command(self.number());
        // Set by `env`, for the node alone: the programs that start it must not preload the libraries.
        command.arg("env");
        for (name, value) in variables {
            let mut word = std::ffi::OsString::from(format!("{name}="));
            word.push(value);
            command.arg(word);
        }
        command.arg(&self.plan.binary).arg("start").arg("--config").arg(&file);
        // The node reads such variables as its configuration.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
        let mut log = File::options().create(true).append(true).open(self.log_file())?;
        writeln!(log, "---- started by chaos")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.started = Instant::now();
        self.child = Some(command.spawn().context("cannot start a node")?);
        Ok(())
    }

    /// Whether the process has been started and not been reaped.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Whether its health page says that clients can connect.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.child.is_some() && self.connection_file().exists() && self.health().is_ok_and(|status| status == 200)
    }

    fn health(&self) -> Result<u16> {
        let address = SocketAddr::from((self.config.address, self.config.port(9600)));
        let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
        stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(std::str::from_utf8(&head[9..])?.parse()?)
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or takes longer than `timeout`.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.is_ready() {
            if let Some(status) = self.ended()? {
                bail!(
                    "{} ended with {status} instead of getting ready: {}",
                    self.config.name,
                    self.last_errors()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "{} is not ready after {} s: {}",
                self.config.name,
                timeout.as_secs(),
                self.last_errors()
            );
            interrupt::sleep(POLL_INTERVAL)?;
        }
        self.ready_after.push(self.started.elapsed());
        Ok(())
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    /// When the status cannot be read.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Waits for it to end by itself; killed when it does not.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        ensure!(self.child.is_some(), "{} does not run", self.config.name);
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                bail!("{} did not end within {} s", self.config.name, timeout.as_secs());
            }
            interrupt::sleep(POLL_INTERVAL)?;
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self
            .child
            .as_ref()
            .with_context(|| format!("{} does not run", self.config.name))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process has a number")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Sends SIGKILL.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends SIGKILL, and the machine loses unsynced data; returns the number of bytes lost.
    ///
    /// # Errors
    /// When it cannot be killed, or the disk cannot be restored.
    pub fn cut_power(&mut self, rng: &mut StdRng) -> Result<u64> {
        self.kill()?;
        self.disk.forget(rng)
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGTERM and waits; returns the exit status.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_end(STOP_TIMEOUT)
    }

    fn log_file(&self) -> PathBuf {
        self.plan.folder.join(format!("node-{}.log", self.config.number))
    }

    /// The end of its log, over all its processes.
    #[must_use]
    pub fn log(&self) -> String {
        tail(&self.log_file()).unwrap_or_default()
    }

    /// Its log since the last start.
    #[must_use]
    pub fn log_since_start(&self) -> String {
        let log = self.log();
        let from = log.rfind("---- started by chaos").unwrap_or_default();
        log[from..].to_owned()
    }

    /// The last warnings and errors of its log.
    #[must_use]
    pub fn last_errors(&self) -> String {
        let log = self.log_since_start();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].iter();
        let last: Vec<String> = last.map(|line| line.chars().take(LINE_LENGTH).collect()).collect();
        last.join(" | ")
    }
}

fn tail(path: &Path) -> Result<String> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Drop for Node {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too; `drop` cannot report errors.
        let _ = self.kill();
    }
}
