//! Device front ends.
