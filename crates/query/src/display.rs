//! A query as text.
//!
//! Invariant: the text parses to the same query, and is nested no deeper than the text that the query was read from.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::{ArithmeticOperator, CompareOperator, Constant, Expr, Output, Path, Query, Root, Segment, Select};

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT ")?;
        if let Some(top) = self.top {
            write!(f, "TOP {top} ")?;
        }
        match &self.select {
            Select::All => f.write_char('*')?,
            Select::Columns(columns) => list(f, columns, |f, column| {
                match &column.output {
                    Output::Path(path) => write!(f, "{path}")?,
                    Output::Aggregate(aggregate) => {
                        write!(f, "{}(", aggregate.function.name())?;
                        if let Some(path) = &aggregate.argument {
                            write!(f, "{path}")?;
                        }
                        f.write_char(')')?;
                    }
                }
                write!(f, " AS [[{}]]", column.name)
            })?,
        }
        write!(f, " FROM {}", self.collection)?;
        if let Some(condition) = &self.condition {
            write!(f, " WHERE {condition}")?;
        }
        if !self.group_by.is_empty() {
            f.write_str(" GROUP BY ")?;
            list(f, &self.group_by, |f, path| write!(f, "{path}"))?;
        }
        Ok(())
    }
}

fn list<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    mut item: impl FnMut(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, each) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        item(f, each)?;
    }
    Ok(())
}

impl Display for Path {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.root {
            Root::Field(field) => f.write_str(field.name())?,
            Root::Unknown(name) => write!(f, "[[{name}]]")?,
        }
        for segment in &self.rest {
            match segment {
                Segment::Key(key) if is_plain(key) => write!(f, ".{key}")?,
                Segment::Key(key) => write!(f, ".[[{key}]]")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

fn is_plain(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric())
}

impl Display for Constant {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Constant::Undefined => f.write_str("undefined"),
            Constant::Null => f.write_str("null"),
            Constant::Bool(value) => write!(f, "{value}"),
            Constant::Number(number) if *number != 0.0 && !(1e-5..1e15).contains(&number.abs()) => {
                write!(f, "{number:e}")
            }
            Constant::Number(number) => write!(f, "{number}"),
            Constant::String(text) => {
                f.write_char('\'')?;
                for c in text.chars() {
                    if c == '\'' || c == '\\' {
                        f.write_char('\\')?;
                    }
                    f.write_char(c)?;
                }
                f.write_char('\'')
            }
        }
    }
}

impl CompareOperator {
    fn text(self) -> &'static str {
        match self {
            CompareOperator::Equal => "=",
            CompareOperator::NotEqual => "!=",
            CompareOperator::Less => "<",
            CompareOperator::LessOrEqual => "<=",
            CompareOperator::Greater => ">",
            CompareOperator::GreaterOrEqual => ">=",
        }
    }
}

impl ArithmeticOperator {
    fn text(self) -> &'static str {
        match self {
            ArithmeticOperator::Add => "+",
            ArithmeticOperator::Subtract => "-",
            ArithmeticOperator::Multiply => "*",
            ArithmeticOperator::Divide => "/",
            ArithmeticOperator::Remainder => "%",
        }
    }
}

/// The levels of the grammar, loosest first.
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARE: u8 = 4;
const ADD: u8 = 5;
const MULTIPLY: u8 = 6;
const UNARY: u8 = 7;
const PRIMARY: u8 = 8;

impl Expr {
    fn level(&self) -> u8 {
        match self {
            Expr::Or(_) => 1,
            Expr::And(_) => AND,
            Expr::Not(_) => NOT,
            Expr::Compare(..) | Expr::In { .. } => COMPARE,
            Expr::Arithmetic(_, rest) => match rest.first() {
                Some((ArithmeticOperator::Add | ArithmeticOperator::Subtract, _)) => ADD,
                _ => MULTIPLY,
            },
            Expr::Negate(_) => UNARY,
            Expr::Constant(Constant::Number(number)) if number.is_sign_negative() => UNARY,
            Expr::Constant(_) | Expr::Path(_) | Expr::Array(_) | Expr::Call(..) => PRIMARY,
        }
    }

    /// In parentheses where the grammar takes only `level` or tighter.
    fn at(&self, level: u8, f: &mut Formatter<'_>) -> fmt::Result {
        if self.level() < level {
            write!(f, "({self})")
        } else {
            write!(f, "{self}")
        }
    }

    fn chain(list: &[Expr], word: &str, level: u8, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, inner) in list.iter().enumerate() {
            if index > 0 {
                write!(f, " {word} ")?;
            }
            inner.at(level, f)?;
        }
        Ok(())
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Constant(constant) => write!(f, "{constant}"),
            Expr::Path(path) => write!(f, "{path}"),
            Expr::Array(constants) => {
                f.write_char('[')?;
                list(f, constants, |f, constant| write!(f, "{constant}"))?;
                f.write_char(']')
            }
            Expr::Or(inner) => Expr::chain(inner, "OR", AND, f),
            Expr::And(inner) => Expr::chain(inner, "AND", NOT, f),
            Expr::Not(inner) => {
                f.write_str("NOT ")?;
                inner.at(NOT, f)
            }
            Expr::Negate(inner) => {
                // A sign before a number is the number's.
                if matches!(**inner, Expr::Constant(Constant::Number(number)) if number.is_sign_positive()) {
                    return write!(f, "-({inner})");
                }
                f.write_str("- ")?;
                inner.at(UNARY, f)
            }
            Expr::Compare(operator, left, right) => {
                left.at(ADD, f)?;
                write!(f, " {} ", operator.text())?;
                right.at(ADD, f)
            }
            Expr::Arithmetic(first, rest) => {
                let operand = self.level() + 1;
                first.at(operand, f)?;
                for (operator, inner) in rest {
                    write!(f, " {} ", operator.text())?;
                    inner.at(operand, f)?;
                }
                Ok(())
            }
            Expr::In {
                value,
                list: constants,
                negated,
            } => {
                value.at(ADD, f)?;
                f.write_str(if *negated { " NIN [" } else { " IN [" })?;
                list(f, constants, |f, constant| write!(f, "{constant}"))?;
                f.write_char(']')
            }
            Expr::Call(function, arguments) => {
                write!(f, "{}(", function.name())?;
                list(f, arguments, |f, argument| write!(f, "{argument}"))?;
                f.write_char(')')
            }
        }
    }
}
