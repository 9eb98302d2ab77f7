//! Checks of the machine before a hub starts, so that its faults are found now and not under load.
//!
//! Not here: the data itself (`storage` checks it when it is opened).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_cli::exit_code::Failure;
use holdfast_model::ByteSize;

/// Fewer open files leave no room for connections.
const MIN_OPEN_FILES: u64 = 1024;
/// Open files that are neither the database's nor connections.
const OTHER_FILES: u64 = 128;
/// 2026-01-01: a clock before it is wrong, since this program is younger.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);

/// Raises the limit of open files as far as it goes, and returns how many connections it leaves room for when the
/// database takes `database_files`.
///
/// # Errors
/// When even the hard limit is too low to start.
pub(crate) fn open_files(database_files: u64) -> Result<u64, Failure> {
    let current = holdfast_storage::raise_open_file_limit();
    let needed = MIN_OPEN_FILES.max(database_files + OTHER_FILES + MIN_OPEN_FILES / 2);
    if current < needed {
        return Err(Failure::cannot_start(format!(
            "{current} open files are allowed, {needed} are needed to start"
        ))
        .advise("raise the limit (LimitNOFILE= in systemd, `ulimit -n` in a shell) or lower storage.max_open_files"));
    }
    Ok(current - database_files - OTHER_FILES)
}

/// Refuses to start with a clock that would make every token expired, or none.
///
/// # Errors
/// When the clock is before this program was written.
pub(crate) fn clock(now: SystemTime) -> Result<(), Failure> {
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since_1970 >= EARLIEST {
        return Ok(());
    }
    Err(Failure::cannot_start(format!(
        "the clock says {} seconds after 1970, which is in the past",
        since_1970.as_secs()
    ))
    .advise("set the clock (timedatectl set-ntp true); tokens and enqueued times depend on it"))
}

/// What a hub takes besides the database: some 1,000 devices over TLS, and the tails of its logs.
const OTHER_MEMORY: u64 = 72 << 20;

/// A warning for a process whose control group allows less memory than the database alone may take: it would be killed once the write buffer
/// has filled, which is long after the start.
pub(crate) fn memory_shortage(write_buffer: ByteSize, block_cache: ByteSize) -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let limit = limit_files(&groups)
        .into_iter()
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
        .min()?;
    let needed = write_buffer
        .0
        .saturating_add(block_cache.0)
        .saturating_add(OTHER_MEMORY);
    (limit < needed).then(|| {
        format!(
            "the memory limit of {} MiB is less than the {} MiB that the hub may take: lower storage.write_buffer, for example to 16MiB, or raise the limit",
            limit >> 20,
            needed >> 20
        )
    })
}

/// Where the kernel has the limit, by the lines of /proc/self/cgroup; in a container, its own group may be the root of what is seen.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (mount, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            named if named.split(',').any(|one| one == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let own = Path::new(mount).join(path.trim_start_matches('/'));
        files.extend([own.join(name), Path::new(mount).join(name)]);
    }
    files
}

/// Makes the data directory and checks that it can be written.
///
/// # Errors
/// The operating system's reason.
pub(crate) fn data_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let probe = dir.join(".writable");
    // It will hold keys and messages: private to the owner.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.and_then(|()| std::fs::write(&probe, b"")).map_err(|error| {
        Failure::cannot_start(format!("cannot write to the data directory {}: {error}", dir.display()))
            .advise("check its owner and mode, and that the file system is mounted read-write")
    })?;
    // A leftover empty file does no harm.
    let _ = std::fs::remove_file(probe);
    Ok(())
}

/// Whether a port can be bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PortState {
    Free,
    /// Another process listens there.
    InUse,
    /// This process may not bind it (ports below 1024).
    Denied,
    /// The machine has no such address, for example no IPv6.
    NoAddress,
}

/// Tries to bind `address` alone, without sharing it.
///
/// The hub's own listeners share their ports between cores (`SO_REUSEPORT`), so a second hub of the same user would bind
/// them as well, and the two would steal each other's connections.
///
/// # Errors
/// Any other reason of the operating system.
pub(crate) fn port(address: SocketAddr) -> io::Result<PortState> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(PortState::Free),
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => Ok(PortState::InUse),
            io::ErrorKind::PermissionDenied => Ok(PortState::Denied),
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => Ok(PortState::NoAddress),
            _ => Err(error),
        },
    }
}

/// Checks that every address can be bound.
///
/// # Errors
/// Names the first that cannot, and what to do.
pub(crate) fn ports(addresses: impl IntoIterator<Item = SocketAddr>) -> Result<(), Failure> {
    for address in addresses.into_iter().filter(|address| address.port() != 0) {
        let advice = match port(address)? {
            PortState::Free => continue,
            PortState::InUse => format!(
                "`ss -ltnp sport = :{}` shows who has it; is a hub running already?",
                address.port()
            ),
            PortState::Denied => grant_advice(),
            PortState::NoAddress => "this machine has no such address; `ip addr` lists what it has".to_owned(),
        };
        return Err(Failure::cannot_start(format!("cannot listen on {address}")).advise(advice));
    }
    Ok(())
}

/// The one command that lets this program bind ports below 1024.
pub(crate) fn grant_advice() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "holdfast".into());
    format!("sudo setcap cap_net_bind_service=+ep {}", program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_this_program_was_written_is_refused() {
        assert!(clock(UNIX_EPOCH + Duration::from_secs(86_400)).is_err());
        assert!(clock(SystemTime::now()).is_ok());
    }

    #[test]
    fn a_port_in_use_is_refused_with_its_number() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let failure = ports([address]).unwrap_err();
        assert_eq!(failure.message, format!("cannot listen on {address}"));
        drop(taken);
        assert!(ports([address]).is_ok());
    }

    #[test]
    fn the_limit_of_memory_is_that_of_the_own_group() {
        let files = |groups| {
            limit_files(groups)
                .iter()
                .map(|file| file.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            files("0::/pods/one\n"),
            ["/sys/fs/cgroup/pods/one/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            files("5:cpu,cpuacct:/x\n4:memory:/pods/one\nnonsense\n"),
            [
                "/sys/fs/cgroup/memory/pods/one/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        // No machine has so much.
        if let Some(warning) = memory_shortage(ByteSize(1 << 60), ByteSize(0)) {
            assert!(warning.contains("storage.write_buffer"), "{warning}");
        }
    }

    #[test]
    fn a_database_that_wants_all_open_files_is_refused_before_it_starts() {
        assert!(open_files(u64::from(u32::MAX)).is_err());
        assert!(open_files(64).is_ok());
    }
}
