//! Ranges of IP addresses, and ordered rules over them (Spec auth-and-limits §7).
//!
//! Invariant: an IPv4 address inside an IPv6 one (`::ffff:a.b.c.d`) is that IPv4 address, so that the kind of socket that took a
//! connection does not matter.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// A text is no range, or no rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidIpRange {
    /// Not an address with or without a prefix length.
    #[error("{0:?} is no range of addresses; write an address, or one with a prefix length, such as \"10.1.0.0/16\"")]
    Range(String),
    /// Bits behind the prefix are set, so that a reader could take it for another range.
    #[error("{0} has bits behind its prefix; the range that begins there is {1}")]
    Bits(String, IpRange),
    /// Neither accept nor reject.
    #[error("{0:?} is no rule; write accept or reject, and a range, such as \"accept 10.1.0.0/16\"")]
    Rule(String),
}

/// Addresses that share a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    first: IpAddr,
    prefix: u8,
}

impl IpRange {
    /// How many leading bits its addresses share.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Its first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Whether it holds every address of `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.first)
    }

    /// Whether `address` is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                (first.to_bits() ^ address.to_bits()) & mask_v4(self.prefix) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                (first.to_bits() ^ address.to_bits()) & mask_v6(self.prefix) == 0
            }
            _ => false,
        }
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for IpRange {
    type Err = InvalidIpRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIpRange::Range(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            // No sign and no leading zero, which `parse` would take.
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().map_err(|_| invalid())?
            }
            Some(_) => return Err(invalid()),
            None => bits,
        };
        if prefix > bits {
            return Err(invalid());
        }
        // A range of mapped addresses would match nothing, since addresses are compared in their own kind.
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(invalid());
        }
        let first = match address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & mask_v4(prefix)).into()),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask_v6(prefix))),
        };
        let range = Self { first, prefix };
        if first == address {
            Ok(range)
        } else {
            Err(InvalidIpRange::Bits(text.to_owned(), range))
        }
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// One rule of an ordered list: what happens to the addresses of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRule {
    /// Whether they are accepted.
    pub accepts: bool,
    /// The addresses.
    pub range: IpRange,
}

impl IpRule {
    /// Whether `rules` accept `address`: the first one whose range contains it decides, and without one it is accepted.
    #[must_use]
    pub fn all_accept(rules: &[Self], address: IpAddr) -> bool {
        let first = rules.iter().find(|rule| rule.range.contains(address));
        first.is_none_or(|rule| rule.accepts)
    }
}

impl FromStr for IpRule {
    type Err = InvalidIpRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIpRange::Rule(text.to_owned());
        let (action, range) = text.trim().split_once(' ').ok_or_else(invalid)?;
        let accepts = match action {
            "accept" => true,
            "reject" => false,
            _ => return Err(invalid()),
        };
        Ok(Self {
            accepts,
            range: range.trim().parse()?,
        })
    }
}

impl fmt::Display for IpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = if self.accepts { "accept" } else { "reject" };
        write!(f, "{action} {}", self.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_contains_what_shares_its_prefix() {
        for (text, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            // The socket of both kinds shows an IPv4 address so.
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"),
            ("128.0.0.0/1", "128.0.0.0", "127.255.255.255"),
        ] {
            assert!(range(text).contains(ip(inside)), "{text} {inside}");
            assert!(!range(text).contains(ip(outside)), "{text} {outside}");
            assert_eq!(range(text).to_string().parse(), Ok(range(text)));
        }
    }

    #[test]
    fn a_range_covers_the_narrower_ones_inside_of_it() {
        for (wide, narrow, covers) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("::/0", "2001:db8::/32", true),
            ("::/0", "10.0.0.0/8", false),
            ("0.0.0.0/0", "::/0", false),
            ("10.0.0.0/8", "11.0.0.0/16", false),
        ] {
            assert_eq!(range(wide).covers(&range(narrow)), covers, "{wide} {narrow}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "::/129",
            "x",
            "10.0.0.0 /8",
            "010.0.0.0/8",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/0008",
        ] {
            assert!(
                matches!(text.parse::<IpRange>(), Err(InvalidIpRange::Range(_))),
                "{text}"
            );
        }
        let error = "10.1.2.3/8".parse::<IpRange>().unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_without_one_all_are_accepted() {
        let rules: Vec<IpRule> = [
            "reject 10.1.0.0/16",
            "accept 10.0.0.0/8",
            "reject 0.0.0.0/0",
            "reject ::/0",
        ]
        .map(|text| text.parse().unwrap())
        .into();
        for (address, is_accepted) in [
            ("10.1.1.1", false),
            ("10.2.1.1", true),
            ("9.9.9.9", false),
            ("::1", false),
        ] {
            assert_eq!(IpRule::all_accept(&rules, ip(address)), is_accepted, "{address}");
        }
        assert!(IpRule::all_accept(&rules[..2], ip("9.9.9.9")));
        assert!(IpRule::all_accept(&[], ip("9.9.9.9")));
        for text in [
            "",
            "accept",
            "allow 10.0.0.0/8",
            "Accept 10.0.0.0/8",
            "accept10.0.0.0/8",
        ] {
            assert!(matches!(text.parse::<IpRule>(), Err(InvalidIpRange::Rule(_))), "{text}");
        }
        assert_eq!(
            "accept  10.0.0.0/8".parse::<IpRule>().unwrap().to_string(),
            "accept 10.0.0.0/8"
        );
    }
}
