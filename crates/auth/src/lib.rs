//! Shared access signatures, policies and rights. Pure.
