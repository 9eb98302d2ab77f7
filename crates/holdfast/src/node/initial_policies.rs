//! The shared access policies that a hub is created with (`hub.initial_policies_file`).
//!
//! Why: back ends, and what watches over a deployment, have their connection strings in a secret store before the hub exists.
//! Invariants: written before the first listener opens, and again by a node that died while it created the hub and resumes; no error
//! repeats a key.
//! Not here: later changes (`holdfast policy`, the service API).

use std::collections::HashSet;
use std::path::Path;

use anyhow::Context as _;
use holdfast_auth::{ConnectionString, DEFAULT_POLICIES, Key, Rights};
use holdfast_cli::exit_code::Failure;
use holdfast_registry::{PolicyCondition, PolicyKeys, PolicyWrite, Registry};
use thiserror::Error;
use zeroize::Zeroizing;

/// The most bytes of the file: far more than a hub may have policies.
const MAX_BYTES: u64 = 256 << 10;

/// Why a line does not count.
#[derive(Debug, PartialEq, Eq, Error)]
enum LineError {
    #[error(transparent)]
    Malformed(#[from] holdfast_auth::ConnectionStringError),
    #[error("it is no connection string of a policy: SharedAccessKeyName and SharedAccessKey are needed")]
    NoPolicy,
    #[error("Rights: {0}")]
    Rights(#[from] holdfast_auth::InvalidRights),
    #[error("policy {0} is none of a new hub: add ;Rights=… to its first line")]
    NoRights(String),
    #[error("policy {0} has more than two lines")]
    ThirdKey(String),
    #[error("policy {0} has its rights in its first line")]
    LateRights(String),
}

/// Writes the policies of the file into the registry of a new hub.
///
/// # Errors
/// A file that cannot be read, a line that is no connection string of a policy, a policy that the registry refuses.
pub(super) async fn enter(file: Option<&Path>, registry: &Registry) -> Result<(), Failure> {
    let Some(file) = file else {
        return Ok(());
    };
    let text =
        read(file).map_err(|reason| Failure::cannot_start(format!("cannot read {}: {reason}", file.display())))?;
    let policies = parse(&text).map_err(|(number, error)| {
        Failure::cannot_start(format!("line {number} of {} does not count: {error}", file.display()))
            .advise("a line is HostName=…;SharedAccessKeyName=…;SharedAccessKey=… (hub.initial_policies_file)")
    })?;
    for policy in &policies {
        registry
            .write_policy(policy)
            .await
            .with_context(|| format!("policy {} of {} cannot be written", policy.name, file.display()))?;
        tracing::info!(
            policy = policy.name,
            "the hub has this policy from hub.initial_policies_file"
        );
    }
    Ok(())
}

fn read(file: &Path) -> Result<Zeroizing<String>, String> {
    let bytes = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if bytes > MAX_BYTES {
        return Err(format!("it has {bytes} bytes, and may have {MAX_BYTES}"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    Ok(Zeroizing::new(text))
}

/// The policies of the lines, in their order; an error names its line.
fn parse(text: &str) -> Result<Vec<PolicyWrite>, (usize, LineError)> {
    let mut policies: Vec<PolicyWrite> = Vec::new();
    let mut complete = HashSet::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        enter_line(line, &mut policies, &mut complete).map_err(|error| (at + 1, error))?;
    }
    Ok(policies)
}

fn enter_line(line: &str, policies: &mut Vec<PolicyWrite>, complete: &mut HashSet<String>) -> Result<(), LineError> {
    let (name, key) = match ConnectionString::parse(line)? {
        ConnectionString::Iot(connection) => match (connection.policy, connection.key) {
            (Some(policy), Some(key)) => (policy, key),
            _ => return Err(LineError::NoPolicy),
        },
        ConnectionString::EventHubs(_) => return Err(LineError::NoPolicy),
    };
    let rights = rights_of(line).map(Rights::parse).transpose()?;
    let known = policies
        .iter_mut()
        .find(|policy| policy.name.eq_ignore_ascii_case(&name));
    if let Some(known) = known {
        if rights.is_some() {
            return Err(LineError::LateRights(name));
        }
        if !complete.insert(name.to_ascii_lowercase()) {
            return Err(LineError::ThirdKey(name));
        }
        set_secondary(known, key);
        return Ok(());
    }
    let is_default = DEFAULT_POLICIES
        .iter()
        .any(|(default, _)| default.eq_ignore_ascii_case(&name));
    if rights.is_none() && !is_default {
        return Err(LineError::NoRights(name));
    }
    policies.push(PolicyWrite {
        name,
        condition: PolicyCondition::Any,
        rights,
        keys: PolicyKeys::Set {
            primary: Some(key),
            secondary: None,
        },
    });
    Ok(())
}

fn set_secondary(policy: &mut PolicyWrite, key: Key) {
    if let PolicyKeys::Set { secondary, .. } = &mut policy.keys {
        *secondary = Some(key);
    }
}

/// The value of `Rights=` in a connection string, where other clients ignore it.
fn rights_of(line: &str) -> Option<&str> {
    let parts = line.split(';').filter_map(|part| part.split_once('='));
    let mut rights = parts.filter(|(name, _)| name.trim().eq_ignore_ascii_case("Rights"));
    rights.next().map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER: &str = "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn line(name: &str, key: &str) -> String {
        format!("HostName=any.example.com;SharedAccessKeyName={name};SharedAccessKey={key}")
    }

    #[test]
    fn lines_are_policies_with_one_or_two_keys() {
        let text = format!(
            "{}\n\n{}\n{};Rights=ServiceConnect, RegistryRead\n",
            line("iothubowner", KEY),
            line("IotHubOwner", OTHER),
            line("reports", KEY)
        );
        let policies = parse(&text).unwrap();
        assert_eq!(policies.len(), 2);
        let key = |text: &str| Some(Key::from_base64(text).unwrap());
        assert_eq!(policies[0].rights, None, "those that every hub has keep their rights");
        assert_eq!(
            policies[0].keys,
            PolicyKeys::Set {
                primary: key(KEY),
                secondary: key(OTHER)
            }
        );
        assert_eq!(policies[1].name, "reports");
        assert_eq!(
            policies[1].rights,
            Some(Rights::parse("RegistryRead,ServiceConnect").unwrap())
        );
    }

    #[test]
    fn a_line_that_does_not_count_is_named_without_its_key() {
        let (owner, own) = (line("iothubowner", KEY), line("own", KEY));
        for (text, number) in [
            ("nonsense".to_owned(), 1),
            (format!("HostName=h;DeviceId=d;SharedAccessKey={KEY}"), 1),
            (format!("{owner}\n{own}"), 2),
            (format!("{own};Rights=Everything"), 1),
            (format!("{owner}\n{owner}\n\n{owner}"), 4),
            (format!("{owner}\n{owner};Rights=RegistryRead"), 2),
            (line("service", "no-base64!"), 1),
        ] {
            let (at, error) = parse(&text).unwrap_err();
            assert_eq!(at, number, "{error}");
            assert!(!error.to_string().contains(KEY), "{error}");
        }
    }
}
