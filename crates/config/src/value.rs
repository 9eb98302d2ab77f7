//! Values as they are written, and the types that read them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_model::{ByteSize, HumanDuration, IpRange, IpRule, Rate, Ratio};

/// A value as it was written, before its key interprets it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML float.
    Float(f64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Value>),
    /// Something that no key takes: a date, a table; holds its TOML name.
    Other(&'static str),
    /// Text from the environment or a flag, where nothing is quoted.
    Bare(String),
}

impl Value {
    fn wanted(&self, what: &str) -> String {
        let found = match self {
            Self::Text(text) | Self::Bare(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Boolean(truth) => truth.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(name) => (*name).to_owned(),
        };
        format!("must be {what}, found {found}")
    }

    fn text(&self, what: &str) -> Result<&str, String> {
        match self {
            Self::Text(text) | Self::Bare(text) => Ok(text),
            _ => Err(self.wanted(what)),
        }
    }
}

/// The value of a key, whatever its type.
pub trait Setting {
    /// The name of its type in the manual.
    fn kind(&self) -> &'static str;
    /// Sets it.
    ///
    /// # Errors
    /// A sentence about the fault of `value`.
    fn read(&mut self, value: &Value) -> Result<(), String>;
    /// The value as TOML; `None` when it is not set.
    fn write(&self) -> Option<String>;
}

/// A type that one value can have.
pub trait Scalar: Sized {
    /// The name of the type in the manual.
    const KIND: &'static str;
    /// The name of a list of it.
    const LIST: &'static str = "list";
    /// Interprets what was written.
    ///
    /// # Errors
    /// A sentence about the fault of `value`.
    fn parse(value: &Value) -> Result<Self, String>;
    /// The value as TOML.
    fn show(&self) -> String;
}

impl<T: Scalar> Setting for T {
    fn kind(&self) -> &'static str {
        T::KIND
    }

    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self = T::parse(value)?;
        Ok(())
    }

    fn write(&self) -> Option<String> {
        Some(self.show())
    }
}

impl<T: Scalar> Setting for Option<T> {
    fn kind(&self) -> &'static str {
        T::KIND
    }

    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self = Some(T::parse(value)?);
        Ok(())
    }

    fn write(&self) -> Option<String> {
        self.as_ref().map(T::show)
    }
}

impl<T: Scalar> Setting for Vec<T> {
    fn kind(&self) -> &'static str {
        T::LIST
    }

    fn read(&mut self, value: &Value) -> Result<(), String> {
        let items: Vec<Value> = match value {
            Value::List(items) => items.clone(),
            Value::Bare(text) if text.is_empty() => Vec::new(),
            Value::Bare(text) => match quoted_list(text) {
                Some(items) => items,
                None => text
                    .split(',')
                    .map(|item| Value::Bare(item.trim().to_owned()))
                    .collect(),
            },
            other => return Err(other.wanted("a list in square brackets")),
        };
        *self = items.iter().map(T::parse).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn write(&self) -> Option<String> {
        let items: Vec<String> = self.iter().map(T::show).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// The items of a list that is written on a flag as in a file: in brackets, each in quotes. Other text in brackets is an address.
fn quoted_list(text: &str) -> Option<Vec<Value>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let item = |item: &str| {
        let item = item.trim();
        let within = |quote: char| item.strip_prefix(quote)?.strip_suffix(quote);
        let item = within('"').or_else(|| within('\''))?;
        Some(Value::Bare(item.to_owned()))
    };
    inner.split(',').map(item).collect()
}

macro_rules! whole_number {
    ($($number:ty),*) => {$(
        impl Scalar for $number {
            const KIND: &'static str = "integer";

            fn parse(value: &Value) -> Result<Self, String> {
                let parsed = match value {
                    Value::Integer(number) => <$number>::try_from(*number).ok(),
                    Value::Bare(text) => text.parse().ok(),
                    _ => None,
                };
                parsed.ok_or_else(|| value.wanted(&format!("a whole number from 0 to {}", <$number>::MAX)))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
whole_number!(u8, u16, u32, u64, usize);

impl Scalar for bool {
    const KIND: &'static str = "boolean";

    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(truth) => Ok(*truth),
            Value::Bare(text) if text == "true" => Ok(true),
            Value::Bare(text) if text == "false" => Ok(false),
            other => Err(other.wanted("true or false")),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Scalar for Ratio {
    const KIND: &'static str = "ratio";

    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = match value {
            Value::Integer(0) => Some(Self::ZERO),
            Value::Integer(1) => Some(Self::ONE),
            Value::Float(number) => Self::new(*number),
            Value::Bare(text) => text.parse().ok(),
            _ => None,
        };
        parsed.ok_or_else(|| value.wanted("a number from 0 to 1"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Types that are written as text: the description of the expected value, parsing, and display.
macro_rules! written_as_text {
    ($($Type:ty, $kind:literal, $list:literal, $wanted:literal, $parse:expr, $show:expr;)*) => {$(
        impl Scalar for $Type {
            const KIND: &'static str = $kind;
            const LIST: &'static str = $list;

            fn parse(value: &Value) -> Result<Self, String> {
                let parse: fn(&str) -> Result<Self, String> = $parse;
                parse(value.text($wanted)?)
            }

            fn show(&self) -> String {
                let show: fn(&Self) -> String = $show;
                quote(&show(self))
            }
        }
    )*};
}

fn parsed<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

written_as_text! {
    String, "text", "list of texts", "text in quotes", parsed, String::clone;
    PathBuf, "path", "list of paths", "text in quotes", |text| match text {
        "" => Err("must be a path, found nothing".to_owned()),
        text => Ok(text.into()),
    }, |path| path.to_string_lossy().into_owned();
    SocketAddr, "address", "list of addresses", "text in quotes", |text| text
        .parse()
        .map_err(|_| format!("{text:?} is no address; write an IP and a port, such as \"0.0.0.0:8883\"")), Self::to_string;
    HumanDuration, "duration", "list of durations", "a duration such as \"10s\"", parsed, Self::to_string;
    Duration, "duration", "list of durations", "a duration such as \"10s\"",
        |text| parsed::<HumanDuration>(text).map(HumanDuration::get), |span| HumanDuration(*span).to_string();
    ByteSize, "size", "list of sizes", "a size such as \"64KiB\"", parsed, Self::to_string;
    IpRange, "range", "list of ranges", "text in quotes", parsed, Self::to_string;
    IpRule, "rule", "list of rules", "text in quotes", parsed, Self::to_string;
    Rate, "rate", "list of rates", "a rate such as \"100/min\"", parsed, Self::to_string;
}

/// A type with a few values, each of which has a name.
pub trait Choice: Copy + PartialEq + 'static {
    /// The names.
    const NAMES: &'static [(&'static str, Self)];
}

impl<T: Choice> Scalar for T {
    const KIND: &'static str = "text";

    fn parse(value: &Value) -> Result<Self, String> {
        let text = value.text("text in quotes")?;
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> = Self::NAMES.iter().map(|(name, _)| quote(name)).collect();
            value.wanted(&names.join(" or "))
        })
    }

    fn show(&self) -> String {
        let found = Self::NAMES.iter().find(|(_, choice)| choice == self);
        found.map_or_else(String::new, |(name, _)| quote(name))
    }
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_on_flags_may_be_written_as_in_a_file() {
        for (text, items) in [
            ("", &[][..]),
            ("[]", &[]),
            ("*", &["*"]),
            (r#"["*"]"#, &["*"]),
            (r#"["a.example.com", 'b:8443']"#, &["a.example.com", "b:8443"]),
            ("a.example.com, b:8443", &["a.example.com", "b:8443"]),
            ("[::1]", &["[::1]"]),
            (r#"["a"b]"#, &[r#"["a"b]"#]),
        ] {
            let mut list: Vec<String> = vec!["before".to_owned()];
            list.read(&Value::Bare(text.to_owned())).unwrap();
            assert_eq!(list, items, "{text}");
        }
    }
}
