//! The rules about who reaches the hub, and for how long a credential that was good stays so.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_model::{IpRange, IpRule};

use super::{Config, Severity, Weakness};
use crate::config::Resumption;

/// Load balancers have few addresses; a wider range holds clients too.
const MIN_PROXY_PREFIX_V4: u8 = 16;
const MIN_PROXY_PREFIX_V6: u8 = 48;
/// The audience of Azure IoT Hub, which every hub accepts that leaves `auth.oidc.audiences` as it is.
const SHARED_AUDIENCE: &str = "https://iothubs.azure.net";
/// More than clocks differ by that are set by the network.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// A key that the issuer has withdrawn should not count for longer.
const MAX_KEY_AGE: Duration = Duration::from_secs(24 * 3600);
/// Keys of tickets open recorded traffic of TLS 1.2.
const MAX_TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3600);

pub(super) fn weaknesses(config: &Config) -> Vec<Weakness> {
    let mut found = Vec::new();
    addresses(config, &mut found);
    load_balancers(config, &mut found);
    bearer_tokens(config, &mut found);
    resumption(config, &mut found);
    found
}

fn addresses(config: &Config, found: &mut Vec<Weakness>) {
    let rules = &config.net.ip_rules;
    let mut add = |severity, reason: String, set: &str| {
        found.push(Weakness::new(severity, "net.ip_rules", reason, set));
    };
    if rules.is_empty() {
        return add(
            Severity::Low,
            "every address that reaches the hub may try credentials".to_owned(),
            "the networks of devices and back ends, and reject for all others; or a firewall that does the same",
        );
    }
    if let Some((earlier, never)) = never_reached(rules) {
        add(
            Severity::Medium,
            format!("\"{never}\" decides nothing: \"{earlier}\" comes before it and holds all its addresses"),
            "the rules in another order, narrow ranges first",
        );
    }
    let listen = &config.listen;
    let takes_v6 = [&listen.mqtts, &listen.amqps, &listen.https]
        .into_iter()
        .flatten()
        .any(|address| address.is_ipv6());
    for (everything, is_taken) in [("0.0.0.0/0", true), ("::/0", takes_v6)] {
        let Ok(range) = everything.parse::<IpRange>() else {
            continue;
        };
        let accepts = |rule: &IpRule| rule.accepts && rule.range.first().is_ipv4() == range.first().is_ipv4();
        let is_closed = rules.iter().any(|rule| rule.range.covers(&range));
        if is_taken && !is_closed && (rules.iter().any(accepts) || everything == "::/0") {
            add(
                Severity::High,
                format!("addresses of {everything} that no rule names are accepted: the accept rules keep none out"),
                "\"reject 0.0.0.0/0\" and \"reject ::/0\" as the last rules",
            );
        }
    }
}

/// A rule that an earlier one makes useless, behind that one.
fn never_reached(rules: &[IpRule]) -> Option<(&IpRule, &IpRule)> {
    rules.iter().enumerate().find_map(|(at, rule)| {
        let earlier = rules
            .get(..at)?
            .iter()
            .find(|earlier| earlier.range.covers(&rule.range))?;
        (earlier.accepts != rule.accepts).then_some((earlier, rule))
    })
}

fn load_balancers(config: &Config, found: &mut Vec<Weakness>) {
    for range in &config.net.proxies {
        let least = match range.first() {
            IpAddr::V4(_) => MIN_PROXY_PREFIX_V4,
            IpAddr::V6(_) => MIN_PROXY_PREFIX_V6,
        };
        let severity = match range.prefix() {
            0 => Severity::High,
            prefix if prefix < least => Severity::Medium,
            _ => continue,
        };
        found.push(Weakness::new(
            severity,
            "net.proxies",
            format!("a client in {range} may name any address as its own: to net.ip_rules, the audit log and the delays for guessing"),
            "the addresses of the load balancers alone",
        ));
    }
}

fn bearer_tokens(config: &Config, found: &mut Vec<Weakness>) {
    let oidc = &config.oidc;
    let mut add = |severity, setting: &str, reason: &str, set: &str| {
        found.push(Weakness::new(severity, setting, reason, set));
    };
    if !oidc.is_on() {
        return add(
            Severity::Low,
            "auth.oidc.issuer",
            "back ends and people share keys that do not end, and the audit log knows only the policy",
            "your OpenID Connect issuer; then auth.service.shared_policies = false",
        );
    }
    if oidc.audiences.iter().any(|audience| audience == SHARED_AUDIENCE) {
        add(
            Severity::Medium,
            "auth.oidc.audiences",
            "https://iothubs.azure.net is the audience of every hub: a token for another hub of this issuer opens this one",
            "an audience of this hub's own",
        );
    }
    if oidc.clock_skew.get() > MAX_CLOCK_SKEW {
        add(
            Severity::Medium,
            "auth.oidc.clock_skew",
            "a token works for that long after it has ended, and a connection stays for as long",
            "\"5m\", and clocks that are set by the network",
        );
    }
    if oidc.refresh_interval.get() > MAX_KEY_AGE {
        add(
            Severity::Medium,
            "auth.oidc.refresh_interval",
            "a key that the issuer has withdrawn counts for that long",
            "\"1h\"",
        );
    }
    if config.service_auth.shared_policies {
        add(
            Severity::Low,
            "auth.service.shared_policies",
            "keys of policies, which do not end, open the hub beside the issuer's tokens",
            "false, once no back end uses them (docs/runbook.md, \"Switching shared keys off\")",
        );
    }
}

fn resumption(config: &Config, found: &mut Vec<Weakness>) {
    if config.tls.resumption == Resumption::Off {
        found.push(Weakness::new(
            Severity::Low,
            "tls.resumption",
            "devices that connect again cost up to five times the CPU, in a storm all at once",
            "\"tickets\"",
        ));
    } else if config.tls.ticket_lifetime.get() > MAX_TICKET_LIFETIME {
        found.push(Weakness::new(
            Severity::Medium,
            "tls.ticket_lifetime",
            "a device does not prove its key again for that long, and the memory of a node opens recorded TLS 1.2 traffic of twice as long",
            "\"6h\"",
        ));
    }
}
