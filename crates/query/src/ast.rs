//! A query as data: names resolved, functions known, checked.
//!
//! Invariants: its depth is bounded by the parser, so that walks may recurse; chains of one precedence level are lists and not
//! towers; equal texts but for spaces, case of keywords and needless parentheses are equal queries.

use std::fmt;

use crate::{Field, FieldSet, Function};

/// What a query ranges over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// One document per device.
    Devices,
    /// One document per module.
    Modules,
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Collection::Devices => "devices",
            Collection::Modules => "devices.modules",
        })
    }
}

/// A parsed query. `Display` prints it in one canonical form, which parses to the same query.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// FROM.
    pub collection: Collection,
    /// The largest number of results over all pages.
    pub top: Option<u64>,
    /// SELECT.
    pub select: Select,
    /// WHERE.
    pub condition: Option<Expr>,
    /// GROUP BY; for aggregates beside plain columns without GROUP BY, these columns.
    pub group_by: Vec<Path>,
}

/// The select list.
#[derive(Clone, Debug, PartialEq)]
pub enum Select {
    /// `*`: whole documents.
    All,
    /// A new object per document or group.
    Columns(Vec<Column>),
}

/// One item of the select list.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its key in the result.
    pub name: String,
    /// Its value.
    pub output: Output,
}

/// The value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A part of the document.
    Path(Path),
    /// A value over the documents of a group.
    Aggregate(Aggregate),
}

/// An aggregate with its argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// The kind of value.
    pub function: AggregateFunction,
    /// Of which values; `None` for COUNT, which counts documents.
    pub argument: Option<Path>,
}

/// The aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// Number of documents.
    Count,
    /// Mean of the numbers.
    Avg,
    /// Sum of the numbers.
    Sum,
    /// The least number, or without numbers the least string.
    Min,
    /// The greatest string, or without strings the greatest number.
    Max,
}

impl AggregateFunction {
    pub(crate) const ALL: [AggregateFunction; 5] = [Self::Count, Self::Avg, Self::Sum, Self::Min, Self::Max];

    /// The name as documented.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "COUNT",
            Self::Avg => "AVG",
            Self::Sum => "SUM",
            Self::Min => "MIN",
            Self::Max => "MAX",
        }
    }
}

/// A place in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The property at the root.
    pub root: Root,
    /// From there.
    pub rest: Vec<Segment>,
}

/// The first segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A property that documents have.
    Field(Field),
    /// Any other name: always undefined.
    Unknown(String),
}

/// A step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Into an object.
    Key(String),
    /// Into an array, from 0.
    Index(usize),
}

impl Path {
    /// The key of a column that has no alias: the last name of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        let last = self.rest.iter().rev().find_map(|segment| match segment {
            Segment::Key(key) => Some(key.as_str()),
            Segment::Index(_) => None,
        });
        last.unwrap_or(match &self.root {
            Root::Field(field) => field.name(),
            Root::Unknown(name) => name,
        })
    }

    /// Whether the path is one root property and nothing below it.
    #[must_use]
    pub fn is(&self, field: Field) -> bool {
        self.root == Root::Field(field) && self.rest.is_empty()
    }
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// `undefined`.
    Undefined,
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A finite number.
    Number(f64),
    /// A string.
    String(String),
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOperator {
    /// `=`
    Equal,
    /// `!=`, `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArithmeticOperator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

/// A condition or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A literal.
    Constant(Constant),
    /// A part of the document.
    Path(Path),
    /// `[1, 'a']`: an argument of a function.
    Array(Vec<Constant>),
    /// `NOT x`
    Not(Box<Expr>),
    /// `-x`
    Negate(Box<Expr>),
    /// `a AND b AND …`, at least two.
    And(Vec<Expr>),
    /// `a OR b OR …`, at least two.
    Or(Vec<Expr>),
    /// `a = b` and the like.
    Compare(CompareOperator, Box<Expr>, Box<Expr>),
    /// `a + b - …` or `a * b / …`: operators of one level, from left to right.
    Arithmetic(Box<Expr>, Vec<(ArithmeticOperator, Expr)>),
    /// `a IN [..]`, `a NIN [..]`.
    In {
        /// The left side.
        value: Box<Expr>,
        /// The right side.
        list: Vec<Constant>,
        /// NIN.
        negated: bool,
    },
    /// A function with as many arguments as it takes.
    Call(Function, Vec<Expr>),
}

impl Expr {
    fn visit_paths<'a>(&'a self, visit: &mut impl FnMut(&'a Path)) {
        match self {
            Expr::Constant(_) | Expr::Array(_) => {}
            Expr::Path(path) => visit(path),
            Expr::Not(inner) | Expr::Negate(inner) => inner.visit_paths(visit),
            Expr::And(list) | Expr::Or(list) | Expr::Call(_, list) => {
                for inner in list {
                    inner.visit_paths(visit);
                }
            }
            Expr::Compare(_, left, right) => {
                left.visit_paths(visit);
                right.visit_paths(visit);
            }
            Expr::Arithmetic(first, rest) => {
                first.visit_paths(visit);
                for (_, inner) in rest {
                    inner.visit_paths(visit);
                }
            }
            Expr::In { value, .. } => value.visit_paths(visit),
        }
    }
}

fn fields<'a>(paths: impl IntoIterator<Item = &'a Path>) -> FieldSet {
    let mut fields = FieldSet::NONE;
    for path in paths {
        if let Root::Field(field) = path.root {
            fields.insert(field);
        }
    }
    fields
}

impl Query {
    /// Whether a result stands for a group of documents and not for one.
    #[must_use]
    pub fn is_aggregate(&self) -> bool {
        let Select::Columns(columns) = &self.select else {
            return false;
        };
        !self.group_by.is_empty()
            || columns
                .iter()
                .any(|column| matches!(column.output, Output::Aggregate(_)))
    }

    /// The paths that the condition reads.
    #[must_use]
    pub fn condition_paths(&self) -> Vec<&Path> {
        let mut paths = Vec::new();
        if let Some(condition) = &self.condition {
            condition.visit_paths(&mut |path| paths.push(path));
        }
        paths
    }

    /// The paths that a result is made of; none for `SELECT *`, which is made of everything.
    #[must_use]
    pub fn output_paths(&self) -> Vec<&Path> {
        let columns = match &self.select {
            Select::All => &[],
            Select::Columns(columns) => columns.as_slice(),
        };
        let columns = columns.iter().filter_map(|column| match &column.output {
            Output::Path(path) => Some(path),
            Output::Aggregate(aggregate) => aggregate.argument.as_ref(),
        });
        columns.chain(&self.group_by).collect()
    }

    /// The root properties that the condition reads.
    #[must_use]
    pub fn condition_fields(&self) -> FieldSet {
        fields(self.condition_paths())
    }

    /// The root properties that a result is made of: all of them for `SELECT *`.
    #[must_use]
    pub fn output_fields(&self) -> FieldSet {
        let mut fields = fields(self.output_paths());
        if self.select == Select::All {
            Field::ALL.iter().for_each(|field| fields.insert(*field));
        }
        fields
    }
}
