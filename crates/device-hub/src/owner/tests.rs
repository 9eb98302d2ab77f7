//! The owner's table by itself.
