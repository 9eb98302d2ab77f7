//! The way down: from the owner of a partition to the sessions of its devices.
//!
//! `route` brings a delivery from any node to the owner; `queue` and `term` are the owner's state, `send` its calls; `receive`
//! and `report` are the gateway's side; `credit` and `delivery` are the types of both.

pub(crate) mod credit;
pub(crate) mod delivery;
pub(crate) mod queue;
pub(crate) mod receive;
pub(crate) mod report;
pub(crate) mod route;
pub(crate) mod send;
pub(crate) mod term;
