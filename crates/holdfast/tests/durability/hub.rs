//! A hub as a process: started on its own loopback address, ready by its connection file, killed by its pid.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::scenario::wait_for;
use crate::unsynced::Unsynced;

/// Added to the standard ports: the addresses are ours alone, the right to low ports may be missing.
const PORT_OFFSET: u16 = 20_000;
/// Longer than any start on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A hub and its data; dropping it kills the process.
pub(crate) struct Hub {
    folder: PathBuf,
    address: Ipv4Addr,
    settings: Vec<String>,
    disk: Option<Unsynced>,
    child: Option<Child>,
    started: Instant,
    /// From each start to ready, where it was waited for.
    pub(crate) ready: Vec<Duration>,
}

impl Hub {
    /// A hub that has not been started, with its data and log in `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.canonicalize()?,
            address: free_address()?,
            settings: Vec::new(),
            disk: None,
            child: None,
            started: Instant::now(),
            ready: Vec::new(),
        })
    }

    /// Sets a configuration key.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.settings.push(format!("{key}={value}"));
    }

    /// Puts the hub on a disk that forgets what is not synced.
    pub(crate) fn forget_unsynced(&mut self) -> Result<&mut Unsynced> {
        let disk = Unsynced::new(&self.folder, &self.data())?;
        Ok(self.disk.insert(disk))
    }

    /// The forgetful disk.
    pub(crate) fn disk(&mut self) -> Result<&mut Unsynced> {
        self.disk.as_mut().context("the hub is on an ordinary disk")
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The database's folder.
    pub(crate) fn database(&self) -> PathBuf {
        self.data().join("db")
    }

    /// Starts the process, which takes a while to be ready.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the hub runs already");
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        // The hub takes such variables for its own.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
        command
            .arg("dev")
            .arg("--data-dir")
            .arg(self.data())
            .args(["--host", &self.address.to_string()])
            .args(["--port-offset", &PORT_OFFSET.to_string()]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        if let Some(disk) = &self.disk {
            disk.preload(&mut command);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.started = Instant::now();
        self.child = Some(command.spawn().context("cannot start the hub")?);
        Ok(())
    }

    /// Waits until the hub is ready, and reads how to reach it.
    pub(crate) fn wait_ready(&mut self) -> Result<holdfast_swarm::hub::Hub> {
        let file = self.data().join("connection.json");
        wait_for(TIMEOUT, "the hub gets ready", || {
            if let Some(status) = self.child.as_mut().context("the hub does not run")?.try_wait()? {
                self.child = None;
                bail!("the hub ended with {status}");
            }
            // One that a killed hub has left is removed at the start, and there is nothing to read for a moment.
            Ok(file.exists().then_some(()))
        })?;
        self.ready.push(self.started.elapsed());
        holdfast_swarm::hub::Hub::load(&file)
    }

    /// [`Self::spawn`] and [`Self::wait_ready`].
    pub(crate) fn start(&mut self) -> Result<holdfast_swarm::hub::Hub> {
        let _ = std::fs::remove_file(self.data().join("connection.json"));
        self.spawn()?;
        self.wait_ready()
    }

    /// SIGKILL; a forgetful disk then forgets.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the hub does not run")?;
        child.kill()?;
        let status = child.wait()?;
        ensure!(status.code().is_none(), "the hub had ended by itself: {status}");
        self.forget()
    }

    /// SIGTERM, and how the hub ended; a forgetful disk then forgets.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_ref().context("the hub does not run")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process has a pid")?;
        kill_process(pid, Signal::TERM)?;
        self.wait_end()
    }

    /// Waits until the hub ends by itself.
    pub(crate) fn wait_end(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the hub does not run")?;
        let status = wait_for(TIMEOUT, "the hub ends", || Ok(child.try_wait()?));
        if status.is_err() {
            // It must not outlive the test.
            let _ = child.kill();
            let _ = child.wait();
        }
        let status = status?;
        self.forget()?;
        Ok(status)
    }

    /// All that the hub has logged, over all its lives.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn forget(&mut self) -> Result<()> {
        self.disk.as_mut().map_or(Ok(()), Unsynced::forget)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("hub.log")
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A loopback address without a listener: hubs of other tests and other runs have theirs.
fn free_address() -> Result<Ipv4Addr> {
    for _ in 0..100 {
        let address = Ipv4Addr::new(
            127,
            rand::random_range(16..250),
            rand::random(),
            rand::random_range(1..255),
        );
        if TcpListener::bind((address, 8883 + PORT_OFFSET)).is_ok() {
            return Ok(address);
        }
    }
    bail!("no loopback address is free")
}
