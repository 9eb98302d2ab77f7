//! The value of a condition for a row (Spec query-and-routing §3.2, §8.4).

use crate::{ArithmeticOperator, CompareOperator, Constant, Expr, Path, Query, Root, Row, Value};

impl Query {
    /// Whether the condition is true for the row; without a condition it is.
    #[must_use]
    pub fn selects<R: Row>(&self, row: &R) -> bool {
        match &self.condition {
            Some(condition) => condition.value(row) == Value::Bool(true),
            None => true,
        }
    }
}

impl Path {
    /// What the path leads to.
    #[must_use]
    pub fn value<'a, R: Row>(&self, row: &'a R) -> Value<'a> {
        match self.root {
            Root::Field(field) => row.value(field, &self.rest),
            Root::Unknown(_) => Value::Undefined,
        }
    }
}

impl Expr {
    /// The value for a row.
    #[must_use]
    pub fn value<'a, R: Row>(&'a self, row: &'a R) -> Value<'a> {
        match self {
            Expr::Constant(constant) => constant.into(),
            Expr::Path(path) => path.value(row),
            Expr::Array(list) => array(list),
            Expr::Not(inner) => match inner.value(row) {
                Value::Bool(value) => Value::Bool(!value),
                Value::Null => Value::Bool(true),
                _ => Value::Undefined,
            },
            Expr::Negate(inner) => match inner.value(row) {
                Value::Number(number) => Value::Number(-number),
                _ => Value::Undefined,
            },
            Expr::And(list) => all(list, row),
            Expr::Or(list) => any(list, row),
            Expr::Compare(operator, left, right) => left.value(row).compare(*operator, &right.value(row)),
            Expr::Arithmetic(first, rest) => {
                let mut value = first.value(row);
                for (operator, operand) in rest {
                    value = arithmetic(*operator, &value, &operand.value(row));
                }
                value
            }
            Expr::In { value, list, negated } => {
                let value = value.value(row);
                if matches!(value, Value::Undefined | Value::Compound(_)) {
                    return Value::Undefined;
                }
                let found = list
                    .iter()
                    .any(|constant| value.compare(CompareOperator::Equal, &constant.into()) == Value::Bool(true));
                Value::Bool(found != *negated)
            }
            Expr::Call(function, arguments) => {
                let values: Vec<Value<'a>> = arguments.iter().map(|argument| argument.value(row)).collect();
                function.call(&values)
            }
        }
    }
}

/// A list of the query; undefined elements are left out.
fn array(list: &[Constant]) -> Value<'static> {
    let list = list.iter().filter_map(|constant| Value::from(constant).to_json());
    Value::Compound(std::borrow::Cow::Owned(serde_json::Value::Array(list.collect())))
}

/// False if one is; else undefined if one is; else null if one is; else true. What is no Boolean counts as undefined.
fn all<'a, R: Row>(list: &'a [Expr], row: &'a R) -> Value<'static> {
    let mut result = Value::Bool(true);
    for inner in list {
        match inner.value(row) {
            Value::Bool(true) => {}
            Value::Bool(false) => return Value::Bool(false),
            Value::Null if result == Value::Bool(true) => result = Value::Null,
            Value::Null => {}
            _ => result = Value::Undefined,
        }
    }
    result
}

/// True if one is; else undefined if one is; else null if all are; else false. What is no Boolean counts as undefined.
fn any<'a, R: Row>(list: &'a [Expr], row: &'a R) -> Value<'static> {
    let mut result = Value::Null;
    for inner in list {
        match inner.value(row) {
            Value::Bool(true) => return Value::Bool(true),
            Value::Bool(false) if result == Value::Null => result = Value::Bool(false),
            Value::Bool(false) | Value::Null => {}
            _ => result = Value::Undefined,
        }
    }
    result
}

/// Of two numbers; a null beside a number counts as 0.
fn arithmetic(operator: ArithmeticOperator, left: &Value<'_>, right: &Value<'_>) -> Value<'static> {
    let (x, y) = match (left, right) {
        (Value::Number(x), Value::Number(y)) => (*x, *y),
        (Value::Null, Value::Number(y)) => (0.0, *y),
        (Value::Number(x), Value::Null) => (*x, 0.0),
        (Value::Null, Value::Null) => return Value::Null,
        _ => return Value::Undefined,
    };
    Value::number(match operator {
        ArithmeticOperator::Add => x + y,
        ArithmeticOperator::Subtract => x - y,
        ArithmeticOperator::Multiply => x * y,
        ArithmeticOperator::Divide => x / y,
        ArithmeticOperator::Remainder => x % y,
    })
}
