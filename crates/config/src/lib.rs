//! Configuration keys that each crate declares beside their use, with meaning, default and range in one place.
//!
//! Why a macro of our own: the file, the environment, `--set`, the default file and docs/configuration.md follow from one
//! declaration, and a wrong value is answered in the words of the key (docs/decisions/0031).
//! Invariants: nothing here reads the environment or a file; a key that is not declared does not exist.
//! Not here: which keys there are (the crates), what no section can check alone (the binary).
#![warn(missing_docs)]

mod load;
pub mod page;
mod section;
mod value;

pub use load::{Loaded, Problems, Sources, load};
pub use section::{Invalid, Key, Section, Tree, prose};
pub use value::{Choice, Scalar, Setting, Value};
