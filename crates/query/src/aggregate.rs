//! COUNT, AVG, SUM, MIN, MAX and GROUP BY (Spec query-and-routing §3.4).
//!
//! Why pages: groups have an order (that of their keys as text), so that a page is the first groups after a key, and neither
//! an owner nor the coordinator holds more than one page of them, however many there are.
//! Invariants: every group below `ceiling` is complete, for the rows that were added; at most [`MAX_GROUP_BYTES`] are held,
//! or one group; parts of several owners may be merged in any order.

mod accumulator;
mod wire;

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use accumulator::Accumulator;
pub use wire::InvalidGroups;

use crate::{Output, Query, Row, Select};

/// Bytes of keys and values of a page of groups.
const MAX_GROUP_BYTES: usize = 4 << 20;

/// What a group costs beside its key and its strings, for each of its values.
const VALUE_BYTES: usize = 64;

/// Identifies a group: its values as JSON, each in an array of its own, which is empty for undefined.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey(String);

impl GroupKey {
    /// A key that [`GroupKey::as_str`] printed.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The key as text, for a continuation.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Groups of a part of the rows: what an owner sends.
#[derive(Debug, PartialEq)]
pub struct Groups {
    groups: BTreeMap<GroupKey, Vec<Accumulator>>,
    ceiling: Option<GroupKey>,
}

/// Collects one page of groups.
#[derive(Debug)]
pub struct Aggregator<'q> {
    query: &'q Query,
    after: Option<GroupKey>,
    limit: usize,
    groups: BTreeMap<GroupKey, Vec<Accumulator>>,
    bytes: usize,
    /// Groups from this key on were dropped.
    ceiling: Option<GroupKey>,
}

impl<'q> Aggregator<'q> {
    /// Collects the first `limit` groups (at least one) after the key `after`, of an aggregate query.
    #[must_use]
    pub fn new(query: &'q Query, after: Option<GroupKey>, limit: usize) -> Self {
        Self {
            query,
            after,
            limit: limit.max(1),
            groups: BTreeMap::new(),
            bytes: 0,
            ceiling: None,
        }
    }

    /// Adds a row that the query selects.
    pub fn add<R: Row>(&mut self, row: &R) {
        let values = self.query.group_by.iter().map(|path| match path.value(row).to_json() {
            Some(value) => Json::Array(vec![value]),
            None => Json::Array(Vec::new()),
        });
        let key = GroupKey(Json::Array(values.collect()).to_string());
        if !self.wants(&key) {
            return;
        }
        let columns = aggregates(self.query);
        let (mut grown, key_bytes) = (0, key.0.len());
        let accumulators = self.groups.entry(key).or_insert_with(|| {
            grown = key_bytes;
            columns.map(Accumulator::new).collect()
        });
        if grown > 0 {
            grown += VALUE_BYTES * (1 + accumulators.len());
        }
        let before: usize = accumulators.iter().map(Accumulator::bytes).sum();
        for (accumulator, aggregate) in accumulators.iter_mut().zip(aggregates(self.query)) {
            accumulator.add(aggregate.argument.as_ref().map(|path| path.value(row)).as_ref());
        }
        let after: usize = accumulators.iter().map(Accumulator::bytes).sum();
        self.bytes = self.bytes + grown + after - before;
        self.shrink();
    }

    /// Adds the groups of other rows.
    pub fn merge(&mut self, part: Groups) {
        if let Some(ceiling) = part.ceiling {
            self.lower_ceiling(ceiling);
        }
        for (key, values) in part.groups {
            if !self.wants(&key) {
                continue;
            }
            match self.groups.get_mut(&key) {
                Some(accumulators) => {
                    let before: usize = accumulators.iter().map(Accumulator::bytes).sum();
                    for (accumulator, value) in accumulators.iter_mut().zip(values) {
                        accumulator.merge(value);
                    }
                    let after: usize = accumulators.iter().map(Accumulator::bytes).sum();
                    self.bytes = self.bytes + after - before;
                }
                None => {
                    self.bytes += cost(&key, &values);
                    self.groups.insert(key, values);
                }
            }
            self.shrink();
        }
    }

    /// The collected groups, for another aggregator.
    #[must_use]
    pub fn into_groups(self) -> Groups {
        Groups {
            groups: self.groups,
            ceiling: self.ceiling,
        }
    }

    /// The results, and the key after which the next page begins; `None` after the last page.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Json>, Option<GroupKey>) {
        if self.query.group_by.is_empty() && self.groups.is_empty() {
            // Aggregates without groups have one result, also of no row.
            let values = aggregates(self.query).map(Accumulator::new).collect();
            self.groups.insert(GroupKey("[]".to_owned()), values);
        }
        let next = match (&self.ceiling, self.groups.keys().next_back()) {
            (Some(_), last) => last.cloned(),
            (None, _) => None,
        };
        let results = self.groups.iter().map(|(key, values)| result(self.query, key, values));
        (results.collect(), next)
    }

    fn wants(&self, key: &GroupKey) -> bool {
        self.after.as_ref().is_none_or(|after| key > after) && self.ceiling.as_ref().is_none_or(|ceiling| key < ceiling)
    }

    fn lower_ceiling(&mut self, ceiling: GroupKey) {
        if self.ceiling.as_ref().is_some_and(|lower| *lower <= ceiling) {
            return;
        }
        for (key, values) in self.groups.split_off(&ceiling) {
            self.bytes -= cost(&key, &values);
        }
        self.ceiling = Some(ceiling);
    }

    /// Drops the last groups while there are too many; one stays, so that there is progress.
    fn shrink(&mut self) {
        while self.groups.len() > 1 && (self.groups.len() > self.limit || self.bytes > MAX_GROUP_BYTES) {
            if let Some((key, values)) = self.groups.pop_last() {
                self.bytes -= cost(&key, &values);
                self.ceiling = Some(key);
            }
        }
    }
}

fn cost(key: &GroupKey, values: &[Accumulator]) -> usize {
    let strings: usize = values.iter().map(Accumulator::bytes).sum();
    key.0.len() + VALUE_BYTES * (1 + values.len()) + strings
}

/// The aggregates of the select list, in its order.
fn aggregates(query: &Query) -> impl Iterator<Item = &crate::Aggregate> {
    let columns = match &query.select {
        Select::Columns(columns) => columns.as_slice(),
        Select::All => &[],
    };
    columns.iter().filter_map(|column| match &column.output {
        Output::Aggregate(aggregate) => Some(aggregate),
        Output::Path(_) => None,
    })
}

/// The result of a group; what is undefined is left out.
fn result(query: &Query, key: &GroupKey, values: &[Accumulator]) -> Json {
    let keys: Vec<Vec<Json>> = serde_json::from_str::<Vec<Json>>(&key.0)
        .unwrap_or_default()
        .into_iter()
        .map(|value| match value {
            Json::Array(value) => value,
            _ => Vec::new(),
        })
        .collect();
    let mut object = Map::new();
    let mut values = values.iter();
    let columns = match &query.select {
        Select::Columns(columns) => columns.as_slice(),
        Select::All => &[],
    };
    for column in columns {
        let value = match &column.output {
            Output::Aggregate(_) => values.next().and_then(Accumulator::value),
            Output::Path(path) => {
                let index = query.group_by.iter().position(|key| key == path);
                index.and_then(|index| keys.get(index)?.first().cloned())
            }
        };
        if let Some(value) = value {
            object.insert(column.name.clone(), value);
        }
    }
    Json::Object(object)
}
