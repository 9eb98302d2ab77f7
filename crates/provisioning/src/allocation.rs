//! The choice of a hub (Spec provisioning §8.1).
//!
//! Invariants: pure; a device keeps its hub when others are added or removed, as far as weights allow (rendezvous hashing).

use holdfast_registry::AllocationPolicy;
use sha2::{Digest as _, Sha256};

/// A hub that devices can be assigned to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LinkedHub {
    /// Its host name.
    pub(crate) host: String,
    /// Its share of the devices, relative to the others; 0: none.
    pub(crate) weight: u32,
}

/// The hub of a registration id among `hubs`.
///
/// `wanted`: the hubs that the enrollment names; empty: any.
///
/// # Errors
/// For people: why there is none.
pub(crate) fn allocate<'a>(
    policy: AllocationPolicy,
    hubs: &'a [LinkedHub],
    wanted: &[String],
    registration_id: &str,
) -> Result<&'a LinkedHub, String> {
    let linked = |name: &String| hubs.iter().find(|hub| hub.host.eq_ignore_ascii_case(name));
    if policy == AllocationPolicy::Static {
        let Some(name) = wanted.first() else {
            return Err("the enrollment allocates statically and names no hub in iotHubs".to_owned());
        };
        return linked(name).ok_or_else(|| format!("the hub {name} is not linked to the provisioning service"));
    }
    let candidates: Vec<&LinkedHub> = match wanted.is_empty() {
        true => hubs.iter().collect(),
        false => wanted.iter().filter_map(linked).collect(),
    };
    // Without measured latencies, every hub is as near as the others, and a tie is decided by the hash.
    let best = candidates
        .into_iter()
        .filter(|hub| hub.weight > 0)
        .map(|hub| (score(hub, registration_id), hub))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, hub)| hub).ok_or_else(|| match wanted.is_empty() {
        true => "no hub is linked to the provisioning service".to_owned(),
        false => format!(
            "none of the enrollment's hubs is linked to the provisioning service: {}",
            wanted.join(", ")
        ),
    })
}

/// The score of a hub for a registration id: the greatest one wins, as often as the hub's share of all weights.
fn score(hub: &LinkedHub, registration_id: &str) -> f64 {
    let mut digest = Sha256::new();
    digest.update(hub.host.to_ascii_lowercase());
    digest.update([0]);
    digest.update(registration_id.to_ascii_lowercase());
    let digest = digest.finalize();
    let bits = digest
        .iter()
        .take(7)
        .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte))
        >> 3;
    // 53 bits, which a float holds exactly; above 0 and below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    let uniform = (bits as f64 + 0.5) / (1_u64 << 53) as f64;
    f64::from(hub.weight) / -uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hubs(weights: &[u32]) -> Vec<LinkedHub> {
        let hub = |(at, weight): (usize, &u32)| LinkedHub {
            host: format!("hub{at}.example.com"),
            weight: *weight,
        };
        weights.iter().enumerate().map(hub).collect()
    }

    fn counts(hubs: &[LinkedHub], devices: usize) -> Vec<usize> {
        let mut counts = vec![0; hubs.len()];
        for device in 0..devices {
            let hub = allocate(AllocationPolicy::Hashed, hubs, &[], &format!("dev-{device}")).unwrap();
            counts[hubs.iter().position(|other| other == hub).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn devices_are_spread_by_weight() {
        for (weights, shares) in [(&[1, 1, 1][..], [1.0 / 3.0; 3]), (&[1, 2, 5], [0.125, 0.25, 0.625])] {
            for (count, share) in counts(&hubs(weights), 30_000).into_iter().zip(shares) {
                let found = count as f64 / 30_000.0;
                assert!((found - share).abs() < 0.01, "{found} instead of {share}");
            }
        }
        assert_eq!(counts(&hubs(&[0, 1]), 100), [0, 100]);
    }

    #[test]
    fn a_new_hub_takes_its_share_and_moves_no_other_device() {
        let (before, after) = (hubs(&[1, 1]), hubs(&[1, 1, 1]));
        for device in 0..1000 {
            let id = format!("dev-{device}");
            let old = allocate(AllocationPolicy::Hashed, &before, &[], &id).unwrap();
            let new = allocate(AllocationPolicy::Hashed, &after, &[], &id.to_uppercase()).unwrap();
            assert!(new == old || new.host == "hub2.example.com");
        }
    }

    #[test]
    fn named_hubs_limit_the_choice_and_unknown_ones_are_explained() {
        let hubs = hubs(&[1, 1]);
        let wanted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let only = wanted(&["HUB1.example.com"]);
        for policy in AllocationPolicy::ALL {
            assert_eq!(allocate(policy, &hubs, &only, "d").unwrap().host, "hub1.example.com");
            let text = allocate(policy, &hubs, &wanted(&["other"]), "d").unwrap_err();
            assert!(text.contains("other"), "{text}");
        }
        assert!(allocate(AllocationPolicy::Static, &hubs, &[], "d").is_err());
        assert!(allocate(AllocationPolicy::Hashed, &[], &[], "d").is_err());
    }
}
