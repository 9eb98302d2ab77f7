//! One configuration key: a path, a meaning, and how its value is read and written.
//!
//! Why: the file, the environment, `--set`, `config default` and the reference page all follow from the one table in
//! [`super::keys`], so that none of them can forget a key.
//! Not here: which keys there are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_model::{ByteSize, HumanDuration};
use holdfast_registry::NodeRole;

use super::{Config, LogFormat};

/// A value as it was written, before its key interprets it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Value>),
    /// Something that no key takes: a float, a date, a table; holds its TOML name.
    Other(&'static str),
    /// Text from the environment or a flag, where nothing is quoted.
    Bare(String),
}

impl Value {
    fn wanted(&self, what: &str) -> String {
        let found = match self {
            Self::Text(text) | Self::Bare(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(truth) => truth.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(name) => (*name).to_owned(),
        };
        format!("wants {what}, found {found}")
    }
}

/// A type that a key can have.
pub(crate) trait Setting: Sized {
    /// Its name on the reference page.
    const KIND: &'static str;
    /// Reads it from what was written.
    fn read(value: &Value) -> Result<Self, String>;
    /// Writes it as TOML; `None` when there is no value to write.
    fn write(&self) -> Option<String>;
}

type Set = Box<dyn Fn(&mut Config, &Value) -> Result<(), String>>;
type Show = Box<dyn Fn(&mut Config) -> Option<String>>;

/// One configuration key.
pub(crate) struct Key {
    /// `section.name`.
    pub(crate) path: &'static str,
    /// Its effect, in a sentence or two.
    pub(crate) doc: &'static str,
    /// The kind of value that it takes.
    pub(crate) kind: &'static str,
    set: Set,
    show: Show,
}

impl Key {
    /// A key whose field has the value's own type.
    pub(crate) fn new<T: Setting + 'static>(
        path: &'static str,
        doc: &'static str,
        field: fn(&mut Config) -> &mut T,
    ) -> Self {
        Self {
            path,
            doc,
            kind: T::KIND,
            set: Box::new(move |config, value| {
                *field(config) = T::read(value)?;
                Ok(())
            }),
            show: Box::new(move |config| field(config).write()),
        }
    }

    /// A key whose field is a number of bytes.
    pub(crate) fn bytes<T: TryFrom<u64> + TryInto<u64> + Copy + 'static>(
        path: &'static str,
        doc: &'static str,
        field: fn(&mut Config) -> &mut T,
    ) -> Self {
        Self {
            path,
            doc,
            kind: ByteSize::KIND,
            set: Box::new(move |config, value| {
                let size = ByteSize::read(value)?;
                *field(config) = T::try_from(size.bytes()).map_err(|_| format!("{size} is too much"))?;
                Ok(())
            }),
            show: Box::new(move |config| {
                (*field(config))
                    .try_into()
                    .ok()
                    .and_then(|bytes| ByteSize(bytes).write())
            }),
        }
    }

    /// Sets the key in `config`.
    ///
    /// # Errors
    /// A sentence about what is wrong with the value.
    pub(crate) fn set(&self, config: &mut Config, value: &Value) -> Result<(), String> {
        (self.set)(config, value)
    }

    /// The value in `config` as TOML.
    pub(crate) fn show(&self, config: &Config) -> Option<String> {
        (self.show)(&mut config.clone())
    }

    /// The part of the path before the last dot.
    pub(crate) fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The part of the path after the last dot.
    pub(crate) fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// `HOLDFAST_` and the path in capitals, dots as underscores.
    pub(crate) fn variable(&self) -> String {
        format!("HOLDFAST_{}", self.path.replace('.', "_").to_ascii_uppercase())
    }
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

macro_rules! whole_number {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            const KIND: &'static str = "integer";

            fn read(value: &Value) -> Result<Self, String> {
                let parsed = match value {
                    Value::Integer(number) => <$number>::try_from(*number).ok(),
                    Value::Bare(text) => text.parse().ok(),
                    _ => None,
                };
                parsed.ok_or_else(|| value.wanted(&format!("a whole number from 0 to {}", <$number>::MAX)))
            }

            fn write(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
whole_number!(u8, u16, u32, u64, usize);

impl Setting for bool {
    const KIND: &'static str = "boolean";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(truth) => Ok(*truth),
            Value::Bare(text) if text == "true" => Ok(true),
            Value::Bare(text) if text == "false" => Ok(false),
            other => Err(other.wanted("true or false")),
        }
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for String {
    const KIND: &'static str = "text";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Bare(text) => Ok(text.clone()),
            other => Err(other.wanted("text in quotes")),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quote(self))
    }
}

impl Setting for PathBuf {
    const KIND: &'static str = "path";

    fn read(value: &Value) -> Result<Self, String> {
        match String::read(value)? {
            text if text.is_empty() => Err("wants a path, found nothing".to_owned()),
            text => Ok(Self::from(text)),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.to_string_lossy()))
    }
}

impl Setting for SocketAddr {
    const KIND: &'static str = "address";

    fn read(value: &Value) -> Result<Self, String> {
        let text = String::read(value)?;
        text.parse()
            .map_err(|_| format!("{text:?} is no address; write an IP and a port, such as \"0.0.0.0:8883\""))
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl Setting for HumanDuration {
    const KIND: &'static str = "duration";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Bare(text) => text.parse().map_err(|error| format!("{error}")),
            other => Err(other.wanted("a duration such as \"10s\"")),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl Setting for Duration {
    const KIND: &'static str = HumanDuration::KIND;

    fn read(value: &Value) -> Result<Self, String> {
        HumanDuration::read(value).map(HumanDuration::get)
    }

    fn write(&self) -> Option<String> {
        HumanDuration(*self).write()
    }
}

impl Setting for ByteSize {
    const KIND: &'static str = "size";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Bare(text) => text.parse().map_err(|error| format!("{error}")),
            other => Err(other.wanted("a size such as \"64KiB\"")),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

/// A type with a few values, each of which has a name.
trait Choice: Copy + PartialEq + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

impl Choice for NodeRole {
    const NAMES: &'static [(&'static str, Self)] = &[("core", Self::Core), ("gateway", Self::Gateway)];
}

impl Choice for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl<T: Choice> Setting for T {
    const KIND: &'static str = "text";

    fn read(value: &Value) -> Result<Self, String> {
        let text = String::read(value)?;
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> = Self::NAMES.iter().map(|(name, _)| quote(name)).collect();
            value.wanted(&names.join(" or "))
        })
    }

    fn write(&self) -> Option<String> {
        let found = Self::NAMES.iter().find(|(_, choice)| choice == self);
        found.map(|(name, _)| quote(name))
    }
}

impl<T: Setting> Setting for Option<T> {
    const KIND: &'static str = T::KIND;

    fn read(value: &Value) -> Result<Self, String> {
        T::read(value).map(Some)
    }

    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }
}

/// Lists have their own kinds, so that the page can name what is in them.
pub(crate) trait Listed: Setting {
    /// The name of a list of it on the reference page.
    const KINDS: &'static str;
}

impl Listed for String {
    const KINDS: &'static str = "list of texts";
}

impl Listed for SocketAddr {
    const KINDS: &'static str = "list of addresses";
}

impl<T: Listed> Setting for Vec<T> {
    const KIND: &'static str = T::KINDS;

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::List(items) => items.iter().map(T::read).collect(),
            Value::Bare(text) if text.is_empty() => Ok(Self::new()),
            Value::Bare(text) => text
                .split(',')
                .map(|part| T::read(&Value::Bare(part.trim().to_owned())))
                .collect(),
            other => Err(other.wanted("a list in square brackets")),
        }
    }

    fn write(&self) -> Option<String> {
        let items: Option<Vec<String>> = self.iter().map(T::write).collect();
        items.map(|items| format!("[{}]", items.join(", ")))
    }
}
