//! The bounds of a query. They are checked while the text is parsed, before anything is evaluated.

/// Characters of a query (Spec query-and-routing §3.5).
pub const MAX_QUERY_CHARACTERS: usize = 8192;

/// Levels of parentheses, calls, `NOT` and signs inside each other (Spec query-and-routing §16).
pub const MAX_NESTING: usize = 64;

/// Constants, paths, calls and columns of a query together (Spec query-and-routing §16).
pub const MAX_TERMS: usize = 1000;
