//! The functions of conditions (Spec query-and-routing §3.3, §8.5).
//!
//! Invariant: every function takes any values; a value of a wrong type makes the result undefined.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::{CompareOperator, Value};

macro_rules! functions {
    ($($name:ident = $text:literal ($least:literal ..= $most:expr), $takes:literal, $doc:literal;)*) => {
        /// A function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Function {
            $(#[doc = $doc] $name,)*
        }

        impl Function {
            /// All of them.
            pub const ALL: &'static [Function] = &[$(Function::$name),*];

            /// The name as documented.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Function::$name => $text,)* }
            }

            /// How many arguments it takes: the least, the most, and both in words.
            pub(crate) fn arity(self) -> (usize, usize, &'static str) {
                match self { $(Function::$name => ($least, $most, $takes),)* }
            }
        }
    };
}

functions! {
    Abs = "ABS" (1..=1), "one argument", "The number without its sign.";
    ArrayContains = "ARRAY_CONTAINS" (2..=2), "two arguments", "Whether an element of the array equals the value.";
    AsNumber = "AS_NUMBER" (1..=1), "one argument", "The number that a string is.";
    Ceiling = "CEILING" (1..=1), "one argument", "The next whole number above.";
    Concat = "CONCAT" (2..=usize::MAX), "two arguments or more", "The strings, one after the other.";
    Contains = "CONTAINS" (2..=2), "two arguments", "Whether the second string is a part of the first.";
    EndsWith = "ENDS_WITH" (2..=2), "two arguments", "Whether the first string ends with the second.";
    Exp = "EXP" (1..=1), "one argument", "e to the power of the number.";
    Floor = "FLOOR" (1..=1), "one argument", "The next whole number below.";
    IndexOf = "INDEX_OF" (2..=2), "two arguments", "Where the second string begins in the first, from 0; -1 if nowhere.";
    IsArray = "IS_ARRAY" (1..=1), "one argument", "Whether the value is an array.";
    IsBool = "IS_BOOL" (1..=1), "one argument", "Whether the value is a Boolean.";
    IsDefined = "IS_DEFINED" (1..=1), "one argument", "Whether there is a value; null is one.";
    IsNull = "IS_NULL" (1..=1), "one argument", "Whether the value is null.";
    IsNumber = "IS_NUMBER" (1..=1), "one argument", "Whether the value is a finite number.";
    IsObject = "IS_OBJECT" (1..=1), "one argument", "Whether the value is an object.";
    IsPrimitive = "IS_PRIMITIVE" (1..=1), "one argument", "Whether the value is a string, Boolean, number or null.";
    IsString = "IS_STRING" (1..=1), "one argument", "Whether the value is a string.";
    Length = "LENGTH" (1..=1), "one argument", "The length of the string in UTF-16 units.";
    Lower = "LOWER" (1..=1), "one argument", "The string in lower case.";
    Power = "POWER" (2..=2), "two arguments", "The first number to the power of the second.";
    Sign = "SIGN" (1..=1), "one argument", "-1, 0 or 1.";
    Sqrt = "SQRT" (1..=1), "one argument", "The square root.";
    Square = "SQUARE" (1..=1), "one argument", "The number times itself.";
    StartsWith = "STARTS_WITH" (2..=2), "two arguments", "Whether the first string begins with the second.";
    Substring = "SUBSTRING" (2..=3), "two or three arguments", "A part of the string: from where, and how long.";
    Upper = "UPPER" (1..=1), "one argument", "The string in upper case.";
}

/// Without underscores, in upper case: `STARTSWITH` and `starts_with` are one name.
fn folded(name: &str) -> String {
    name.chars()
        .filter(|c| *c != '_')
        .flat_map(char::to_uppercase)
        .collect()
}

impl Function {
    /// The function of this name, in any case, with or without underscores.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Function> {
        let name = folded(name);
        Function::ALL
            .iter()
            .copied()
            .find(|function| folded(function.name()) == name)
    }

    /// A function with a similar name, for a message.
    pub(crate) fn like(name: &str) -> Option<&'static str> {
        let name = folded(name);
        let distance = |function: &Function| edits(&name, &folded(function.name()));
        let best = Function::ALL.iter().min_by_key(|function| distance(function))?;
        (distance(best) <= 2).then(|| best.name())
    }

    /// Its value. `arguments` are as many as it takes.
    pub(crate) fn call<'a>(self, arguments: &[Value<'a>]) -> Value<'a> {
        self.test(arguments)
            .map(Value::Bool)
            .or_else(|| self.of_numbers(arguments))
            .or_else(|| self.of_strings(arguments))
            .unwrap_or(Value::Undefined)
    }

    /// The tests of a type, which have a result for undefined, too.
    fn test(self, arguments: &[Value<'_>]) -> Option<bool> {
        let value = arguments.first()?;
        Some(match self {
            Function::IsArray => matches!(value, Value::Compound(json) if json.is_array()),
            Function::IsObject => matches!(value, Value::Compound(json) if json.is_object()),
            Function::IsBool => matches!(value, Value::Bool(_)),
            Function::IsDefined => *value != Value::Undefined,
            Function::IsNull => *value == Value::Null,
            Function::IsNumber => matches!(value, Value::Number(number) if number.is_finite()),
            Function::IsPrimitive => {
                matches!(
                    value,
                    Value::String(_) | Value::Bool(_) | Value::Number(_) | Value::Null
                )
            }
            Function::IsString => matches!(value, Value::String(_)),
            Function::ArrayContains => {
                let Value::Compound(json) = value else { return None };
                let (Json::Array(list), Some(wanted)) = (json.as_ref(), arguments.get(1)) else {
                    return None;
                };
                // An undefined or compound value is no element of anything.
                list.iter()
                    .any(|element| Value::of(element).compare(CompareOperator::Equal, wanted) == Value::Bool(true))
            }
            _ => return None,
        })
    }

    fn of_numbers(self, arguments: &[Value<'_>]) -> Option<Value<'static>> {
        if let (Function::AsNumber, [Value::String(text)]) = (self, arguments) {
            return number_in(text).map(Value::number);
        }
        let number = |index: usize| match arguments.get(index) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        };
        let x = number(0)?;
        Some(Value::number(match self {
            Function::AsNumber => x,
            Function::Abs => x.abs(),
            Function::Ceiling => x.ceil(),
            Function::Exp => x.exp(),
            Function::Floor => x.floor(),
            Function::Power => x.powf(number(1)?),
            Function::Sign if x == 0.0 => 0.0,
            Function::Sign => x.signum(),
            Function::Sqrt => x.sqrt(),
            Function::Square => x * x,
            _ => return None,
        }))
    }

    fn of_strings<'a>(self, arguments: &[Value<'a>]) -> Option<Value<'a>> {
        let string = |index: usize| match arguments.get(index) {
            Some(Value::String(text)) => Some(text.as_ref()),
            _ => None,
        };
        let text = string(0)?;
        Some(match self {
            Function::Concat => {
                let mut joined = String::new();
                for index in 0..arguments.len() {
                    joined.push_str(string(index)?);
                }
                Value::String(Cow::Owned(joined))
            }
            Function::Contains => Value::Bool(text.contains(string(1)?)),
            Function::EndsWith => Value::Bool(text.ends_with(string(1)?)),
            Function::StartsWith => Value::Bool(text.starts_with(string(1)?)),
            Function::IndexOf => match text.find(string(1)?) {
                Some(bytes) => Value::Number(units(&text[..bytes])),
                None => Value::Number(-1.0),
            },
            Function::Length => Value::Number(units(text)),
            Function::Lower => Value::String(Cow::Owned(text.to_lowercase())),
            Function::Upper => Value::String(Cow::Owned(text.to_uppercase())),
            Function::Substring => Value::String(Cow::Owned(substring(text, arguments)?)),
            _ => return None,
        })
    }
}

/// Length in UTF-16 units.
fn units(text: &str) -> f64 {
    text.encode_utf16().count() as f64
}

/// From `start`, `length` units or up to the end; `None` out of range, and within a surrogate pair.
fn substring(text: &str, arguments: &[Value<'_>]) -> Option<String> {
    let whole = |index: usize| match arguments.get(index) {
        Some(Value::Number(number)) if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number) => {
            Some(*number as usize)
        }
        _ => None,
    };
    let text: Vec<u16> = text.encode_utf16().collect();
    let start = whole(1)?;
    let end = if arguments.len() == 3 {
        start + whole(2)?
    } else {
        text.len()
    };
    String::from_utf16(text.get(start..end)?).ok()
}

/// Sign, digits, thousands separators, fraction and exponent, spaces around.
fn number_in(text: &str) -> Option<f64> {
    let plain: String = text.trim().chars().filter(|c| *c != ',').collect();
    // `inf` and `nan` are numbers for the standard library.
    let digits = plain
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if digits { plain.parse().ok() } else { None }
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
