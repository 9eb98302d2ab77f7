//! RocksDB, group commit, sealing of secrets.
