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
    /// The value at the path is on this side of the constant: `<`, `<=`, `>` or `>=`. It has the constant's type.
    Compares(&'a Path, CompareOperator, &'a Constant),
}

impl<'a> Lookup<'a> {
    /// Whose value it is about.
    #[must_use]
    pub fn path(&self) -> &'a Path {
        match self {
            Self::Equals(path, _) | Self::StartsWith(path, _) | Self::Compares(path, ..) => path,
        }
    }
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

fn compares<'a>(path: &'a Path, operator: CompareOperator, constant: &'a Constant) -> Option<Lookup<'a>> {
    use CompareOperator as Op;
    match operator {
        Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual => {
            Some(Lookup::Compares(path, operator, constant))
        }
        Op::Equal | Op::NotEqual => None,
    }
}

/// The operator with its sides exchanged.
fn mirrored(operator: CompareOperator) -> CompareOperator {
    use CompareOperator as Op;
    match operator {
        Op::Less => Op::Greater,
        Op::LessOrEqual => Op::GreaterOrEqual,
        Op::Greater => Op::Less,
        Op::GreaterOrEqual => Op::LessOrEqual,
        Op::Equal | Op::NotEqual => operator,
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
        Expr::Compare(operator, left, right) => match (&**left, &**right) {
            (Expr::Path(path), Expr::Constant(constant)) => compares(path, *operator, constant),
            (Expr::Constant(constant), Expr::Path(path)) => compares(path, mirrored(*operator), constant),
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
