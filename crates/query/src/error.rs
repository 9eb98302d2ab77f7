//! Why a text is not a query, and where.
//!
//! Invariant: an error repeats at most [`MAX_QUOTED`] characters of the text, so that an answer stays small.

use std::fmt;

use crate::limits::{MAX_NESTING, MAX_QUERY_CHARACTERS, MAX_TERMS};

/// Characters of the query that an error repeats.
const MAX_QUOTED: usize = 40;

/// A place in the text, in characters, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

impl Position {
    /// The first character.
    pub const START: Position = Position { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A query that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {kind}")]
pub struct QueryError {
    /// Where the first defect begins.
    pub position: Position,
    /// The defect.
    pub kind: QueryErrorKind,
}

impl QueryError {
    pub(crate) fn new(position: Position, kind: QueryErrorKind) -> Self {
        Self { position, kind }
    }
}

/// The defects of a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryErrorKind {
    /// The text has more than [`MAX_QUERY_CHARACTERS`].
    #[error("the query has more than {MAX_QUERY_CHARACTERS} characters")]
    TooLong,
    /// More than [`MAX_NESTING`] levels.
    #[error("more than {MAX_NESTING} levels of parentheses, calls, NOT and signs")]
    TooDeep,
    /// More than [`MAX_TERMS`] leaves.
    #[error("the query has more than {MAX_TERMS} constants, paths and calls")]
    TooManyTerms,
    /// Another token than the grammar allows here.
    #[error("{found} where {expected} is expected")]
    Unexpected {
        /// The token, shortened.
        found: String,
        /// The tokens that the grammar allows.
        expected: &'static str,
    },
    /// A character that begins no token.
    #[error("the character {0:?} has no meaning here")]
    Character(char),
    /// A string without its closing quote.
    #[error("the string has no closing quote")]
    OpenString,
    /// An escaped name without `]]`.
    #[error("the name has no closing ]]")]
    OpenName,
    /// An empty escaped name.
    #[error("the name between [[ and ]] is empty")]
    EmptyName,
    /// An escape other than `\'`, `\"`, `\\` and `\uXXXX`.
    #[error("a string knows the escapes \\' \\\" \\\\ and \\uXXXX only")]
    Escape,
    /// Not a number, or one that a 64-bit float does not hold.
    #[error("{0} is not a number that the hub can hold")]
    Number(String),
    /// Words of SQL that the language does not have.
    #[error("{0} is not part of the query language")]
    NotInLanguage(String),
    /// A collection other than the three.
    #[error("there is no collection {0}; there are devices, devices.modules and devices.jobs")]
    Collection(String),
    /// Jobs are not implemented.
    #[error("devices.jobs cannot be queried: this version of Holdfast has no jobs")]
    Jobs,
    /// A function that does not exist.
    #[error("there is no function {name}{}", hint.map(|hint| format!("; did you mean {hint}?")).unwrap_or_default())]
    UnknownFunction {
        /// As written.
        name: String,
        /// One with a similar name.
        hint: Option<&'static str>,
    },
    /// A function with too few or too many arguments.
    #[error("{function} takes {takes}, not {found}")]
    Arguments {
        /// The function.
        function: &'static str,
        /// How many it takes, in words.
        takes: &'static str,
        /// How many there are.
        found: usize,
    },
    /// An aggregate outside of the select list.
    #[error("{0} is an aggregate, which may stand only between SELECT and FROM")]
    MisplacedAggregate(&'static str),
    /// A function in the select list.
    #[error("{0} is a function, which may stand only after WHERE; SELECT takes paths and aggregates")]
    MisplacedFunction(&'static str),
    /// A column that is neither an aggregate nor a group key.
    #[error("{0} must be in GROUP BY, or inside of an aggregate")]
    NotGrouped(String),
    /// `SELECT *` with GROUP BY.
    #[error("SELECT * has no groups: name the columns")]
    StarWithGroups,
    /// Two columns of the same name.
    #[error("two columns are named {0}: give one another name with AS")]
    DuplicateColumn(String),
}

/// A part of the query for a message, shortened.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("\"{}…\"", &text[..end]),
        None => format!("\"{text}\""),
    }
}
