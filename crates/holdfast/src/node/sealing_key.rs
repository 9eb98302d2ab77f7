//! The key-encryption key of a node, from a file, the environment or a command (docs/security.md).
//!
//! Invariants: the key is in no log and no error; it is read once, at the start; only the default and `secrets.key_file` make a missing one,
//! since a key that comes from elsewhere exists there first.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use holdfast_storage::{Kek, SealError};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::Config;

/// How long the command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// More than a key and its line end.
const MAX_OUTPUT_BYTES: u64 = 256;

const DIGITS: &str = "is not 64 hexadecimal digits";

/// Why there is no key.
#[derive(Debug, Error)]
pub(crate) enum SealingKeyError {
    #[error(transparent)]
    File(#[from] SealError),
    #[error("environment variable {name} (secrets.key_variable) {reason}")]
    Variable { name: String, reason: &'static str },
    #[error("{program} (secrets.key_command) cannot be run")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the output of {program} (secrets.key_command) {reason}")]
    Command { program: String, reason: String },
}

/// Reads the key from the configured place; makes a missing file.
pub(crate) fn read(config: &Config) -> Result<Kek, SealingKeyError> {
    let secrets = &config.secrets;
    if !secrets.key_variable.is_empty() {
        return from_variable(&secrets.key_variable);
    }
    match secrets.key_command.split_first() {
        Some((program, args)) => from_command(program, args),
        None => Ok(Kek::open_or_create(&config.sealing_key_file())?),
    }
}

/// Reads or makes a key file.
pub(crate) fn from_file(path: &Path) -> Result<Kek, SealingKeyError> {
    Ok(Kek::open_or_create(path)?)
}

#[expect(clippy::disallowed_methods, reason = "the configuration names the variable")]
fn from_variable(name: &str) -> Result<Kek, SealingKeyError> {
    let failed = |reason| SealingKeyError::Variable {
        name: name.to_owned(),
        reason,
    };
    let text = std::env::var(name).map_err(|_| failed("is not set"))?;
    let text = Zeroizing::new(text);
    Kek::from_hex(text.trim()).ok_or_else(|| failed(DIGITS))
}

fn from_command(program: &str, args: &[String]) -> Result<Kek, SealingKeyError> {
    let failed = |reason: String| SealingKeyError::Command {
        program: program.to_owned(),
        reason,
    };
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Its own complaints reach the operator.
        .stderr(Stdio::inherit())
        .spawn();
    let mut child = child.map_err(|source| SealingKeyError::Start {
        program: program.to_owned(),
        source,
    })?;
    let output = output_of(&mut child);
    // A command that still runs is not waited for.
    let _ = child.kill();
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let text = output.map_err(failed)?;
    if !status.success() && status.code().is_some() {
        return Err(failed(format!("does not count: {status}")));
    }
    Kek::from_hex(text.trim()).ok_or_else(|| failed(DIGITS.to_owned()))
}

/// All that the command prints, within [`COMMAND_TIMEOUT`] and [`MAX_OUTPUT_BYTES`].
fn output_of(child: &mut Child) -> Result<Zeroizing<String>, String> {
    let Some(stdout) = child.stdout.take() else {
        return Err("is not readable".to_owned());
    };
    let (sender, receiver) = mpsc::sync_channel(1);
    let read = move || {
        let mut text = Zeroizing::new(String::new());
        let outcome = stdout.take(MAX_OUTPUT_BYTES).read_to_string(&mut text);
        // After the time-out the receiver is gone.
        let _ = sender.send(outcome.map(|_| text));
    };
    std::thread::Builder::new()
        .name("key-command".to_owned())
        .spawn(read)
        .map_err(|error| error.to_string())?;
    match receiver.recv_timeout(COMMAND_TIMEOUT) {
        Ok(Ok(text)) if text.len() as u64 == MAX_OUTPUT_BYTES => Err("is longer than a key".to_owned()),
        Ok(outcome) => outcome.map_err(|error| format!("cannot be read: {error}")),
        Err(_) => Err(format!("did not end within {} s", COMMAND_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn by_command(script: &str) -> Result<Kek, SealingKeyError> {
        from_command("sh", &["-c".to_owned(), script.to_owned()])
    }

    #[test]
    fn a_command_prints_the_key_or_says_why_not() {
        assert!(by_command(&format!("echo {KEY}")).is_ok());
        for (script, word) in [
            ("echo 00", DIGITS),
            ("printf ''", DIGITS),
            ("exit 3", "exit status: 3"),
            ("yes", "longer than a key"),
            (&format!("echo {KEY}; exit 1"), "exit status: 1"),
        ] {
            let message = by_command(script).unwrap_err().to_string();
            assert!(message.contains(word), "{script}: {message}");
            assert!(!message.contains(KEY), "{message}");
        }
        let missing = from_command("/no/such/program", &[]).unwrap_err();
        assert!(matches!(missing, SealingKeyError::Start { .. }), "{missing}");
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let message = from_variable("HOLDFAST_TEST_NO_SUCH_VARIABLE").unwrap_err().to_string();
        assert!(message.contains("HOLDFAST_TEST_NO_SUCH_VARIABLE"), "{message}");
    }
}
