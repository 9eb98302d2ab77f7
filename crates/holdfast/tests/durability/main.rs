//! Does a hub keep what it has acknowledged? Real processes, killed under load, on a disk that forgets.
//!
//! Why: everything else depends on this promise. A fleet publishes at QoS 1 and writes down every PUBACK; the
//! hub is killed again and again, at moments drawn from a seed; then all partitions are read from their beginnings and
//! compared with the ledger: nothing lost, nothing doubled but what a client sent again, nothing out of order.
//! SIGKILL alone does not lose the page cache, so the same is done on a disk that loses what was not synced
//! (`tests/durability/unsynced.c`), and on one that lies about syncs, where losses must be found: a test that cannot fail
//! proves nothing.
//! Each scenario prints one line of figures. A failure prints its seed and the hub's last words; `HOLDFAST_SEED=…` draws
//! the same moments again (threads and sockets are the machine's own), `HOLDFAST_ROUNDS=…` runs longer.
//! Not here: the same in simulation (`consensus`), file formats (`storage`), what readers and devices see otherwise.
#![expect(clippy::disallowed_methods, reason = "the environment selects the run to replay")]

mod damage;
mod hub;
mod kills;
mod load;
mod loss;
mod read_back;
mod registry;
mod rest;
mod retention;
mod scenario;
mod space;
mod unsynced;
