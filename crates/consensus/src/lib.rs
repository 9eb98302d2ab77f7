//! openraft types, log store and group host.
