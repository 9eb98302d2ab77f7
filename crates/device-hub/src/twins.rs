//! Device and module twins: documents with versions, changed by back ends and devices (docs/decisions/0035).
//!
//! Pure: [`document`], [`property`], [`patch`], [`limits`], [`stored`], [`history`], [`decide`]. The owner of the identity's
//! partition decides and stores ([`serve`]); any node asks it ([`ask`]); changes of desired properties go down to the device
//! in the order of their versions ([`notify`]).

pub(crate) mod ask;
pub(crate) mod decide;
pub(crate) mod document;
pub(crate) mod history;
pub(crate) mod limits;
pub(crate) mod notify;
pub(crate) mod patch;
mod property;
mod serve;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
