//! Subscription filters of devices and modules.

use holdfast_model::IdentityId;

use super::own;
use crate::subscriptions::{Channel, ChannelSet};
use crate::violation::Violation;

/// Where the hub's own topics begin, by channel.
const ROOTS: [(&str, Channel); 5] = [
    ("$iothub/twin/res", Channel::TwinRes),
    ("$iothub/twin/PATCH/properties/desired", Channel::Desired),
    ("$iothub/methods/POST", Channel::Methods),
    ("$iothub/credentials/res", Channel::Credentials),
    // So the original's documentation has it (Spec provisioning §11.5).
    ("$iothub/credential/res", Channel::Credentials),
];

/// The channels that a filter opens for this identity (Spec §4.1).
///
/// A filter for one method or one input opens the whole channel: the client ignores messages that it did not
/// subscribe to, and the stored set stays a bitmask. A module's whole subtree opens its inputs alone: the clients that subscribe to it
/// have no cloud-to-device messages.
///
/// # Errors
/// [`Violation::ForeignFilter`] for everything else: other identities, everything (`#`), unknown topics.
pub fn channels(identity: &IdentityId, filter: &str) -> Result<ChannelSet, Violation> {
    if let Some(rest) = own(identity, filter) {
        return match &identity.module {
            None => own_device(rest),
            Some(_) => own_module(rest),
        }
        .ok_or(Violation::ForeignFilter);
    }
    // The embedded C SDK writes a plus for its own id.
    if identity.module.is_none()
        && let Some(rest) = filter.strip_prefix("devices/+")
    {
        return own_device(rest).ok_or(Violation::ForeignFilter);
    }
    let covered: ChannelSet = ROOTS
        .into_iter()
        .filter(|(root, _)| covers(filter, root))
        .map(|(_, channel)| channel)
        .collect();
    if !covered.is_empty() {
        return Ok(covered);
    }
    one_method(filter).ok_or(Violation::ForeignFilter)
}

fn own_device(rest: &str) -> Option<ChannelSet> {
    is_devicebound(rest).then(|| ChannelSet::only(Channel::C2d))
}

fn own_module(rest: &str) -> Option<ChannelSet> {
    if is_devicebound(rest) {
        return Some(ChannelSet::only(Channel::C2d));
    }
    // C and C# subscribe to the module's whole subtree.
    let is_known = matches!(rest, "/#" | "/inputs/#") || rest.strip_prefix("/inputs/").is_some_and(is_name_and_all);
    is_known.then(|| ChannelSet::only(Channel::Inputs))
}

fn is_devicebound(rest: &str) -> bool {
    match rest.strip_prefix("/messages/devicebound") {
        Some(end) => matches!(end, "/#" | "/+" | "/" | ""),
        None => false,
    }
}

/// Whether `filter` is `{root, or an ancestor of it}/#`.
fn covers(filter: &str, root: &str) -> bool {
    match filter
        .strip_suffix("/#")
        .and_then(|ancestor| root.strip_prefix(ancestor))
    {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// `$iothub/methods/POST/{name}/#`.
fn one_method(filter: &str) -> Option<ChannelSet> {
    let rest = filter.strip_prefix("$iothub/methods/POST/")?;
    is_name_and_all(rest).then(|| ChannelSet::only(Channel::Methods))
}

/// `{name}/#`, or `+/#` for all names.
fn is_name_and_all(rest: &str) -> bool {
    match rest.strip_suffix("/#") {
        Some(name) => name == "+" || (!name.is_empty() && !name.contains(['/', '+', '#'])),
        None => false,
    }
}
