//! The AMQP 1.0 type system: reading values lazily from a slice, writing them to a buffer.
//!
//! Invariants: a read never goes past the slice of what encloses it; nothing is allocated; lists, maps and arrays are
//! slices that are walked on demand; only [`validate`] checks every part, at most as deep as
//! [`crate::limits::MAX_NESTING`].
//! Not here: performatives (`performative`) and message sections (`message`), which are described lists of these.

mod read;
mod value;
mod write;

pub use read::{Array, List, Map, Reader, validate};
pub use value::{Raw, Value};
pub(crate) use write::descriptor;
pub use write::{
    MapWriter, array_of_strings, array_of_symbols, put_binary, put_bool, put_described_list, put_double, put_int,
    put_long, put_null, put_str, put_symbol, put_timestamp, put_ubyte, put_uint, put_ulong, put_ushort, put_uuid,
};
