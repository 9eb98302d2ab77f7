//! Names of devices and modules, and the tags that tell two states of one identity apart.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::MAX_ID_CHARS;

/// Why a text is no device or module id (Spec auth-and-limits §9.2, rest §2.1).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidId {
    /// The text is empty.
    #[error("the id is empty")]
    Empty,
    /// The text has more characters than an id may have.
    #[error("the id has {0} characters; the limit is {MAX_ID_CHARS}")]
    TooLong(usize),
    /// The text has a character outside the allowed set.
    #[error("the id contains {0:?}; allowed are ASCII letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '")]
    Character(char),
    /// The text is `.` or `..`, which no URL path can carry.
    #[error("the id must not be . or ..")]
    Dots,
}

fn check_id(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > MAX_ID_CHARS {
        return Err(InvalidId::TooLong(text.chars().count()));
    }
    if let Some(bad) = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"-:.+%_#*?!(),=@;$'".contains(*c))
    {
        return Err(InvalidId::Character(bad));
    }
    if text == "." || text == ".." {
        return Err(InvalidId::Dots);
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and characters.
            ///
            /// # Errors
            /// [`InvalidId`] names the first rule that the text breaks.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check_id(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The id as text, case-sensitive, never percent-encoded.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

id! {
    /// A device's name: 1–128 ASCII characters, case-sensitive (Spec rest §2.1).
    DeviceId
}
id! {
    /// A module's name within its device: same rules as [`DeviceId`].
    ModuleId
}

/// A device, or a module of a device: each connects, authenticates and sends on its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityId {
    /// The device, or the module's device.
    pub device: DeviceId,
    /// The module; `None` for the device itself.
    pub module: Option<ModuleId>,
}

impl IdentityId {
    /// The device itself.
    #[must_use]
    pub fn device(device: DeviceId) -> Self {
        Self { device, module: None }
    }

    /// A module of the device.
    #[must_use]
    pub fn module(device: DeviceId, module: ModuleId) -> Self {
        Self {
            device,
            module: Some(module),
        }
    }
}

impl fmt::Display for IdentityId {
    /// `device` or `device/module`, as in an MQTT client id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.device.as_str())?;
        match &self.module {
            Some(module) => write!(f, "/{module}"),
            None => Ok(()),
        }
    }
}

/// Distinguishes re-creations of one device id: a decimal text, new on each of them (Spec rest §2.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GenerationId(pub Arc<str>);

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An entity tag as written in a JSON body: opaque, without quotes (Spec rest §1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag(pub String);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_legal_character_is_accepted_and_kept() {
        let all = "azAZ09-:.+%_#*?!(),=@;$'";
        assert_eq!(DeviceId::parse(all).unwrap().as_str(), all);
    }

    #[test]
    fn every_other_ascii_character_is_refused_by_name() {
        for byte in 0..=127u8 {
            let c = char::from(byte);
            let text = format!("a{c}");
            let legal = c.is_ascii_alphanumeric() || "-:.+%_#*?!(),=@;$'".contains(c);
            assert_eq!(
                DeviceId::parse(&text),
                if legal {
                    Ok(DeviceId(Arc::from(&*text)))
                } else {
                    Err(InvalidId::Character(c))
                }
            );
        }
        assert_eq!(ModuleId::parse("a/b"), Err(InvalidId::Character('/')));
        assert_eq!(ModuleId::parse("größe"), Err(InvalidId::Character('ö')));
    }

    #[test]
    fn length_is_bounded_on_both_sides() {
        assert_eq!(DeviceId::parse(""), Err(InvalidId::Empty));
        assert!(DeviceId::parse(&"a".repeat(MAX_ID_CHARS)).is_ok());
        assert_eq!(
            DeviceId::parse(&"a".repeat(MAX_ID_CHARS + 1)),
            Err(InvalidId::TooLong(MAX_ID_CHARS + 1))
        );
        assert_eq!(
            InvalidId::TooLong(129).to_string(),
            "the id has 129 characters; the limit is 128"
        );
    }

    #[test]
    fn dot_segments_are_refused_and_other_dots_are_not() {
        assert_eq!(DeviceId::parse("."), Err(InvalidId::Dots));
        assert_eq!(DeviceId::parse(".."), Err(InvalidId::Dots));
        assert!(DeviceId::parse("...").is_ok());
    }

    #[test]
    fn an_identity_prints_as_its_mqtt_client_id() {
        let device = DeviceId::parse("dev-1").unwrap();
        assert_eq!(IdentityId::device(device.clone()).to_string(), "dev-1");
        assert_eq!(
            IdentityId::module(device, ModuleId::parse("m").unwrap()).to_string(),
            "dev-1/m"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Ok(id) = DeviceId::parse(&text) {
                prop_assert_eq!(id.as_str(), text);
            }
        }
    }
}
