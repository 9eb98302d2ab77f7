//! The query language over devices and modules.
//!
//! Why: back ends select devices with a text that looks like SQL, and the same rules must hold on every node that evaluates
//! a part of the query.
//! Facts: Spec query-and-routing §2, §3, §8.4, §8.5. `docs/query.md` has the grammar as users see it, with a result for each
//! rule; a test of this crate runs that page.
//! Invariants: pure (no clock, no I/O, no randomness); no text panics or overflows the stack; a query is checked completely
//! when it is parsed, so that evaluation cannot fail; evaluation borrows from the row; an aggregate holds one page of groups.
//! Not here: the devices (a [`Row`] brings them), pages and their continuation, the answer on the wire.
//! Start at [`Query::parse`], then [`Query::selects`] and [`Query::project`], or [`Aggregator`] for aggregates.
#![warn(missing_docs)]

mod aggregate;
mod ast;
mod display;
mod error;
mod evaluate;
mod field;
mod function;
mod lexer;
mod limits;
mod lookup;
mod parser;
mod project;
mod row;
#[cfg(test)]
mod tests;
mod value;

pub use aggregate::{Aggregator, GroupKey, Groups, InvalidGroups};
pub use ast::{
    Aggregate, AggregateFunction, ArithmeticOperator, Collection, Column, CompareOperator, Constant, Expr, Output,
    Path, Query, Root, Segment, Select,
};
pub use error::{Position, QueryError, QueryErrorKind};
pub use field::{Field, FieldSet};
pub use function::Function;
pub use limits::{MAX_NESTING, MAX_QUERY_CHARACTERS, MAX_TERMS};
pub use lookup::Lookup;
pub use row::{DocumentRow, Row};
pub use value::Value;
