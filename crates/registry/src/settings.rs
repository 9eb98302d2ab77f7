//! The hub's settings as the rest of the node sees them, policies opened.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::Policy;
use holdfast_model::limits::{
    MAX_CONSUMER_GROUP_CHARS, MAX_IDENTITIES, MAX_POLICY_NAME_BYTES, MAX_RETENTION, MIN_RETENTION,
};
use holdfast_model::{ErrorCode, PartitionCount, UnixMillis};

use crate::state::Rejection;

/// The settings of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The first label of the host name; also the entity path of the Event-Hubs-compatible endpoint.
    pub hub_name: String,
    /// Random; chosen when the hub is created.
    pub hub_id: String,
    /// Fixed when the hub is created.
    pub partition_count: PartitionCount,
    /// Minimum retention of events, as far as `retention_bytes` allows.
    pub retention: Duration,
    /// Limit of the bytes of events that each partition keeps; `None`: limited by `retention` only.
    pub retention_bytes: Option<u64>,
    /// The retention that the configuration said when it was applied last. A later change by the API stays in force until the
    /// configuration says something else.
    pub configured_retention: Duration,
    /// The same of `retention_bytes`.
    pub configured_retention_bytes: Option<u64>,
    /// Sorted; always contains `$Default`.
    pub consumer_groups: Vec<String>,
    /// Sorted by name.
    pub policies: Vec<Arc<Policy>>,
    /// When the hub was created.
    pub created: UnixMillis,
    /// Most devices and modules.
    pub max_identities: u64,
    /// Which formats may be written; `None`: the hub was created before there were levels, and none has been set.
    pub feature_level: Option<u32>,
}

impl HubSettings {
    /// The policy named `name`, in any case.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Arc<Policy>> {
        self.policies
            .iter()
            .find(|policy| policy.name.eq_ignore_ascii_case(name))
    }

    /// The consumer group named `name` in any case, as it is written in the settings.
    #[must_use]
    pub fn consumer_group(&self, name: &str) -> Option<&str> {
        self.consumer_groups
            .iter()
            .find(|group| group.eq_ignore_ascii_case(name))
            .map(String::as_str)
    }
}

/// Settings of a new hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding {
    /// The first label of its host name.
    pub hub_name: String,
    /// Its number of partitions, which never changes.
    pub partition_count: PartitionCount,
    /// Retention of events.
    pub retention: Duration,
    /// Limit of the bytes that each partition keeps.
    pub retention_bytes: Option<u64>,
    /// Most devices and modules.
    pub max_identities: u64,
}

impl Default for Founding {
    fn default() -> Self {
        Self {
            hub_name: "localhost".to_owned(),
            partition_count: PartitionCount::DEFAULT,
            retention: MIN_RETENTION,
            retention_bytes: None,
            max_identities: MAX_IDENTITIES,
        }
    }
}

/// Where a change of settings comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChangeSource {
    /// The configuration of the node that leads the registry.
    #[default]
    Configuration,
    /// A call of the API.
    Api,
}

/// Changes of settings; `None` = stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettingsChange {
    /// Where it comes from.
    pub source: ChangeSource,
    /// The hub's name.
    pub hub_name: Option<String>,
    /// How long events are kept.
    pub retention: Option<Duration>,
    /// How many bytes each partition keeps; `Some(None)` lifts the limit.
    pub retention_bytes: Option<Option<u64>>,
    /// Most devices and modules.
    pub max_identities: Option<u64>,
}

/// The least and the most devices and modules that a hub may be limited to.
pub(crate) const MAX_IDENTITIES_RANGE: RangeInclusive<u64> = 1..=1_000_000_000;

pub(crate) fn check_max_identities(count: u64) -> Result<(), Rejection> {
    if MAX_IDENTITIES_RANGE.contains(&count) {
        return Ok(());
    }
    Err(Rejection::new(
        ErrorCode::ArgumentInvalid,
        "the limit of identities is between 1 and 1,000,000,000",
    ))
}

pub(crate) fn check_retention(retention: Duration) -> Result<(), Rejection> {
    if (MIN_RETENTION..=MAX_RETENTION).contains(&retention) {
        return Ok(());
    }
    Err(Rejection::new(
        ErrorCode::ArgumentInvalid,
        "retention is between 1 and 7 days",
    ))
}

/// 1–50 letters, digits, `.`, `-`, `_`; a letter or digit first. `$Default` has its own rule: it always exists.
pub(crate) fn check_consumer_group(name: &str) -> Result<(), Rejection> {
    check_name("consumer group", name, MAX_CONSUMER_GROUP_CHARS)
}

/// A name that is part of paths and labels: 1 to `longest` letters, digits, `.`, `-`, `_`; a letter or digit first.
pub(crate) fn check_name(kind: &str, name: &str, longest: usize) -> Result<(), Rejection> {
    let legal = name.len() <= longest
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if legal {
        return Ok(());
    }
    let text = format!(
        "a {kind}'s name has 1 to {longest} ASCII letters, digits and . - _, and begins with a letter or digit"
    );
    Err(Rejection::new(ErrorCode::ArgumentInvalid, text))
}

/// 1–64 letters, digits and `. - _ `, which need no escaping in a token's `skn`.
pub(crate) fn check_policy_name(name: &str) -> Result<(), Rejection> {
    let legal = (1..=MAX_POLICY_NAME_BYTES).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if legal {
        return Ok(());
    }
    let text = format!("a policy's name has 1 to {MAX_POLICY_NAME_BYTES} ASCII letters, digits and . - _");
    Err(Rejection::new(ErrorCode::ArgumentInvalid, text))
}

/// Whole milliseconds.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
