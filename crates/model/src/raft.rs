//! The numbers that every replicated part of the hub speaks of: which node, which of its runs, which leadership and link.
//!
//! Why: all are `u64`, often side by side in one signature; as types they cannot be swapped.
//! Invariants: they are printed, stored and sent as plain decimal numbers, so that older data and logs read the same.
//! Not here: how a node gets its number (`cluster`), how a term ends (`consensus`).

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The plain number, as it is stored and sent.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl From<$name> for u64 {
            fn from(number: $name) -> Self {
                number.0
            }
        }
    };
}

number! {
    /// A node of the cluster; a number is never given to a second node.
    NodeId
}
number! {
    /// Counts the starts of a node, so that messages of an earlier process are recognised.
    Incarnation
}
number! {
    /// A gateway's name for a link to an owner; later links of an incarnation have greater ids.
    LinkId
}
number! {
    /// A gateway's name for one of its sessions; unique within an incarnation of the gateway.
    SessionKey
}
number! {
    /// A Raft term: at most one node of a group leads in it, and a later leadership has a higher one.
    Term
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_printed_and_read_as_a_plain_decimal() {
        assert_eq!(NodeId(17).to_string(), "17");
        assert_eq!(format!("{:>4}", Term(3)), "   3");
        assert_eq!("17".parse(), Ok(NodeId(17)));
        assert!("n17".parse::<NodeId>().is_err() && "-1".parse::<Term>().is_err());
    }

    #[test]
    fn conversions_keep_the_number() {
        assert_eq!(u64::from(NodeId::from(u64::MAX)), u64::MAX);
        assert_eq!(Term::from(7).get(), 7);
    }

    #[test]
    fn a_later_term_is_greater() {
        assert!(Term(2) < Term(10) && Term::default() == Term(0));
    }
}
