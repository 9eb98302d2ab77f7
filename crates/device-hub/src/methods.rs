//! Direct methods: calls of devices, each with one answer.
//!
//! A call goes down like any delivery ([`crate::downlink`]). The answer comes back from the gateway straight to the node
//! that waits, whose id is part of the call's: the owner of the partition keeps nothing.
//! Start at [`call`].

pub(crate) mod call;
pub(crate) mod pending;
