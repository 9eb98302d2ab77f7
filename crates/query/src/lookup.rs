//! The parts that an index can answer of a condition.
//!
//! Invariant: every row that a query selects is found by each of its lookups, so that any one of them may replace the scan; the
//! condition is evaluated on what is found.

use crate::{CompareOperator, Constant, Expr, Function, Path, Query};

/// A part of the condition that every selected row satisfies.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup<'a> {
    /// The value at the path is one of these.
    Equals(&'a Path, Vec<&'a Constant>),
    /// The value at the path is a string that begins so.
    StartsWith(&'a Path, &'a str),
}

impl Query {
    /// The parts of the condition that an index can answer; none without a condition.
    #[must_use]
    pub fn lookups(&self) -> Vec<Lookup<'_>> {
        match &self.condition {
            Some(Expr::And(list)) => list.iter().filter_map(lookup).collect(),
            Some(single) => lookup(single).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

fn lookup(expr: &Expr) -> Option<Lookup<'_>> {
    match expr {
        Expr::Compare(CompareOperator::Equal, left, right) => match (&**left, &**right) {
            (Expr::Path(path), Expr::Constant(constant)) | (Expr::Constant(constant), Expr::Path(path)) => {
                Some(Lookup::Equals(path, vec![constant]))
            }
            _ => None,
        },
        Expr::In {
            value,
            list,
            negated: false,
        } => match &**value {
            Expr::Path(path) => Some(Lookup::Equals(path, list.iter().collect())),
            _ => None,
        },
        Expr::Call(Function::StartsWith, arguments) => match &arguments[..] {
            [Expr::Path(path), Expr::Constant(Constant::String(prefix))] => Some(Lookup::StartsWith(path, prefix)),
            _ => None,
        },
        Expr::Or(list) => {
            // `x = 1 OR x = 2` is `x IN [1, 2]`.
            let mut common: Option<(&Path, Vec<&Constant>)> = None;
            for inner in list {
                let Lookup::Equals(path, values) = lookup(inner)? else {
                    return None;
                };
                match &mut common {
                    Some((first, all)) if *first == path => all.extend(values),
                    Some(_) => return None,
                    None => common = Some((path, values)),
                }
            }
            common.map(|(path, values)| Lookup::Equals(path, values))
        }
        _ => None,
    }
}
