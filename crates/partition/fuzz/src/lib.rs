//! The module under test alone, by symbolic link: the crate around it would bring RocksDB, which takes a quarter of an
//! hour to compile with the sanitizers' flags and is not the code under test.

pub mod record;
