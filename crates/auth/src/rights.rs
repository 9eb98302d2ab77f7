//! The rights of shared access policies (Spec auth-and-limits §2).

use std::fmt;

use thiserror::Error;

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rights(u8);

const NAMES: [(u8, &str); 4] = [
    (1, "RegistryRead"),
    (2, "RegistryWrite"),
    (4, "ServiceConnect"),
    (8, "DeviceConnect"),
];

/// A text that contains a word other than a right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a right; rights are RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect")]
pub struct InvalidRights(pub String);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Read and list identities; registry statistics.
    pub const REGISTRY_READ: Self = Self(1);
    /// Create, change and delete identities; includes [`Self::REGISTRY_READ`].
    pub const REGISTRY_WRITE: Self = Self(3);
    /// Back-end endpoints: twins, methods, C2D, events, service statistics.
    pub const SERVICE_CONNECT: Self = Self(4);
    /// The endpoints of any device.
    pub const DEVICE_CONNECT: Self = Self(8);
    /// All rights.
    pub const ALL: Self = Self(15);

    /// The rights as a number, for storage.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The inverse of [`Self::bits`]; writing always includes reading. `None` for bits of a later version.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits > Self::ALL.0 {
            return None;
        }
        Some(Self(if bits & 2 == 0 { bits } else { bits | 1 }))
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `needed` are here.
    #[must_use]
    pub const fn contains(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// The rights of `needed` that are not here, for error texts: without [`Self::REGISTRY_READ`] where
    /// [`Self::REGISTRY_WRITE`], which includes it, is missing too.
    #[must_use]
    pub const fn missing(self, needed: Self) -> Self {
        let bits = needed.0 & !self.0;
        Self(if bits & 2 == 0 { bits } else { bits & !1 })
    }

    /// Reads `RegistryRead, ServiceConnect`: names in any case and order, separated by commas.
    ///
    /// # Errors
    /// [`InvalidRights`] contains the first unknown name, truncated to 64 characters.
    pub fn parse(text: &str) -> Result<Self, InvalidRights> {
        let mut rights = Self::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let found = NAMES
                .iter()
                .find(|(_, name)| name.eq_ignore_ascii_case(word))
                .and_then(|row| Self::from_bits(row.0));
            rights = rights.union(found.ok_or_else(|| InvalidRights(word.chars().take(64).collect()))?);
        }
        Ok(rights)
    }
}

impl fmt::Display for Rights {
    /// `RegistryRead, RegistryWrite`, as in a policy's JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (bit, name) in NAMES {
            if self.0 & bit != 0 {
                f.write_str(if first { "" } else { ", " })?;
                f.write_str(name)?;
                first = false;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_includes_reading() {
        assert!(Rights::REGISTRY_WRITE.contains(Rights::REGISTRY_READ));
        assert!(!Rights::REGISTRY_READ.contains(Rights::REGISTRY_WRITE));
        assert_eq!(Rights::from_bits(2), Some(Rights::REGISTRY_WRITE));
        assert_eq!(Rights::from_bits(16), None);
        assert_eq!(Rights::parse("registrywrite"), Ok(Rights::REGISTRY_WRITE));
    }

    #[test]
    fn only_missing_rights_are_named() {
        for (has, needed, missing) in [
            (Rights::REGISTRY_READ, Rights::REGISTRY_WRITE, "RegistryWrite"),
            (Rights::NONE, Rights::REGISTRY_WRITE, "RegistryWrite"),
            (Rights::NONE, Rights::REGISTRY_READ, "RegistryRead"),
            (Rights::SERVICE_CONNECT, Rights::ALL, "RegistryWrite, DeviceConnect"),
            (Rights::ALL, Rights::ALL, ""),
        ] {
            assert_eq!(has.missing(needed).to_string(), missing, "{has} for {needed}");
        }
    }

    #[test]
    fn every_set_survives_text_and_number() {
        for bits in 0..16 {
            let rights = Rights::from_bits(bits).unwrap();
            assert_eq!(Rights::parse(&rights.to_string()), Ok(rights));
            assert_eq!(Rights::from_bits(rights.bits()), Some(rights));
        }
        assert_eq!(
            Rights::ALL.to_string(),
            "RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect"
        );
        assert_eq!(Rights::parse("RegistryRead, Fly"), Err(InvalidRights("Fly".into())));
    }
}
