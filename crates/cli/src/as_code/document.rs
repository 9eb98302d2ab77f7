//! The file: what of a hub is written down, and its form.

use holdfast_model::{ByteSize, HumanDuration};
use serde::{Deserialize, Serialize};

use crate::exit_code::Failure;

const HEADER: &str = "# A hub's settings, for `holdfast apply -f FILE`. A section that is left out is not touched.\n\n";

/// A hub as a file. A section that is `None` is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HubDocument {
    pub(super) consumer_groups: Option<Vec<String>>,
    pub(super) settings: Option<Settings>,
    pub(super) policies: Option<Vec<Policy>>,
    pub(super) cas: Option<Vec<Ca>>,
    pub(super) saved_queries: Option<Vec<SavedQuery>>,
}

/// Values of the whole hub; one that is left out is not touched.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// A duration, as `"1d"`.
    pub(super) retention: Option<String>,
    /// A size, as `"10GiB"`; `"0B"`: no limit.
    pub(super) retention_size: Option<String>,
    pub(super) max_identities: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) rights: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ca {
    pub(super) name: String,
    /// PEM.
    pub(super) certificate: String,
    /// Taken as verified, without a proof of its key.
    #[serde(default)]
    pub(super) verified: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedQuery {
    pub(super) name: String,
    pub(super) query: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
}

impl HubDocument {
    /// Reads a file. The error names line and column.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let document: Self = toml::from_str(text).map_err(|error| Failure::usage(error.to_string()))?;
        // Faults are reported before the first change.
        if let Some(settings) = &document.settings {
            settings.retention()?;
            settings.retention_size()?;
        }
        Ok(document)
    }

    pub(super) fn to_toml(&self) -> Result<String, Failure> {
        let text = toml::to_string_pretty(self).map_err(anyhow::Error::from)?;
        Ok(format!("{HEADER}{text}"))
    }
}

impl Settings {
    pub(super) fn retention(&self) -> Result<Option<HumanDuration>, Failure> {
        parsed("settings.retention", self.retention.as_deref())
    }

    pub(super) fn retention_size(&self) -> Result<Option<ByteSize>, Failure> {
        parsed("settings.retention_size", self.retention_size.as_deref())
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str, text: Option<&str>) -> Result<Option<T>, Failure> {
    let value = text.map(str::parse).transpose();
    value.map_err(|error| Failure::usage(format!("{name}: {error}")))
}
