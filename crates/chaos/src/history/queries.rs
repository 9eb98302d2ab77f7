//! Queries, as back ends saw them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Micros;

/// All pages of a query for devices, one after the other, each from any node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// The text.
    pub query: String,
    /// When the first page was requested.
    pub asked: Micros,
    /// When the last page had come.
    pub answered: Micros,
    /// The ids of the results, in their order.
    pub devices: Vec<String>,
    /// The devices that existed all along and that the query selects.
    pub steady: BTreeSet<String>,
}

/// An aggregate over devices that existed all along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The text.
    pub query: String,
    /// When it was requested.
    pub asked: Micros,
    /// When the answer had come.
    pub answered: Micros,
    /// What it counted.
    pub found: u64,
    /// How many there are.
    pub expected: u64,
}

/// The version of a twin's desired properties in a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenVersion {
    /// The device.
    pub device: String,
    /// When the query was requested.
    pub asked: Micros,
    /// When the answer had come.
    pub answered: Micros,
    /// The version.
    pub version: u64,
}

/// All queries that were answered.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queries {
    /// Walks over all pages.
    pub walks: Vec<Walk>,
    /// Aggregates.
    pub counts: Vec<Counted>,
    /// Twins in results.
    pub versions: Vec<SeenVersion>,
}
