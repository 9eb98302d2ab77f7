//! Spawning, stop order and byte-bounded queues.
