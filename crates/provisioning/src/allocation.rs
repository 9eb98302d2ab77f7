//! The choice of a hub (Spec provisioning §8.1).
//!
//! Invariants: pure; a device keeps its hub when others are added or removed, as far as weights allow (rendezvous hashing).

use std::sync::Arc;

use holdfast_auth::HubNames;
use holdfast_registry::{AllocationPolicy, EnrollmentContent, LinkedHub};
use sha2::{Digest as _, Sha256};

/// A hub that devices can be assigned to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    /// Its host name.
    pub(crate) host: String,
    /// Its share of the devices, relative to the others; 0: none.
    pub(crate) weight: u32,
    /// Only enrollments that name it assign devices to it.
    pub(crate) named_only: bool,
    /// No device is assigned to it.
    pub(crate) is_disabled: bool,
    /// How it is reached; `None`: it is this one.
    pub(crate) link: Option<Arc<LinkedHub>>,
}

/// The hubs that devices can be assigned to, this one among them.
pub(crate) struct Hubs {
    /// All names of this hub.
    own_names: HubNames,
    linked: Vec<Candidate>,
}

impl Hubs {
    /// This hub, and those that are linked. A link of this hub says its share.
    pub(crate) fn new(own_names: HubNames, links: &[Arc<LinkedHub>]) -> Self {
        let mut hubs = Self {
            linked: Vec::with_capacity(links.len() + 1),
            own_names,
        };
        let own = hubs.own_name().to_owned();
        let mut this = Candidate {
            host: own,
            weight: 1,
            named_only: false,
            is_disabled: false,
            link: None,
        };
        for link in links {
            let content = &link.content;
            let is_own = hubs.own_names.contains(&content.host_name);
            let candidate = Candidate {
                host: if is_own {
                    this.host.clone()
                } else {
                    content.host_name.clone()
                },
                weight: content.weight,
                named_only: !content.applies_allocation,
                is_disabled: content.is_disabled,
                link: (!is_own).then(|| Arc::clone(link)),
            };
            match is_own {
                true => this = candidate,
                false => hubs.linked.push(candidate),
            }
        }
        hubs.linked.push(this);
        hubs
    }

    /// The name under which this hub is linked.
    pub(crate) fn own_name(&self) -> &str {
        self.own_names.primary().unwrap_or_default()
    }

    /// Whether a host name is one of this hub.
    pub(crate) fn is_own(&self, name: &str) -> bool {
        self.own_names.contains(name)
    }

    /// The host names of the hubs that an enrollment may use, for a webhook.
    pub(crate) fn names(&self, content: &EnrollmentContent) -> Vec<&str> {
        let wanted = |hub: &&Candidate| {
            content.iot_hubs.is_empty() || content.iot_hubs.iter().any(|name| self.is_named(hub, name))
        };
        let usable = self.linked.iter().filter(|hub| !hub.is_disabled).filter(wanted);
        usable.map(|hub| hub.host.as_str()).collect()
    }

    /// A hub by its name; this one is found by any of its names.
    pub(crate) fn find(&self, name: &str) -> Option<&Candidate> {
        self.linked.iter().find(|hub| self.is_named(hub, name))
    }

    fn is_named(&self, hub: &Candidate, name: &str) -> bool {
        match hub.link {
            None => self.is_own(name),
            Some(_) => hub.host.eq_ignore_ascii_case(name),
        }
    }

    /// The hub that an enrollment gives a device, unless a webhook chooses it.
    ///
    /// `nearest`: with geoLatency, the hubs that are near, the nearest first. Hubs of which `is_out` says so are left out, as long as
    /// there are others.
    ///
    /// # Errors
    /// For people: why there is none.
    pub(crate) fn allocate(
        &self,
        content: &EnrollmentContent,
        registration_id: &str,
        nearest: &[String],
        is_out: impl Fn(&str) -> bool,
    ) -> Result<&Candidate, String> {
        let mut wanted: Vec<&String> = content.iot_hubs.iter().collect();
        let mut policy = content.allocation.unwrap_or(AllocationPolicy::Hashed);
        if let Some(only) = &content.iot_hub_host_name
            && wanted.is_empty()
        {
            wanted.push(only);
            policy = AllocationPolicy::Static;
        }
        if policy == AllocationPolicy::Static {
            let Some(name) = wanted.first() else {
                return Err("the enrollment allocates statically and names no hub in iotHubs".to_owned());
            };
            return match self.find(name) {
                Some(hub) if hub.is_disabled => Err(format!("the hub {name} is taken out of service")),
                Some(hub) => Ok(hub),
                None => Err(format!("the hub {name} is not linked to the provisioning service")),
            };
        }
        let mut candidates: Vec<&Candidate> = match wanted.is_empty() {
            true => self.linked.iter().filter(|hub| !hub.named_only).collect(),
            false => wanted.iter().filter_map(|name| self.find(name)).collect(),
        };
        candidates.retain(|hub| hub.weight > 0 && !hub.is_disabled);
        if candidates.iter().any(|hub| !is_out(&hub.host)) {
            candidates.retain(|hub| !is_out(&hub.host));
        }
        if policy == AllocationPolicy::GeoLatency {
            let near = nearest
                .iter()
                .find_map(|name| candidates.iter().find(|hub| self.is_named(hub, name)));
            if let Some(near) = near {
                return Ok(near);
            }
        }
        let best = candidates
            .into_iter()
            .map(|hub| (score(hub, registration_id), hub))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, hub)| hub).ok_or_else(|| match wanted.is_empty() {
            true => "no linked hub takes devices".to_owned(),
            false => format!(
                "none of the enrollment's hubs is linked to the provisioning service and takes devices: {}",
                content.iot_hubs.join(", ")
            ),
        })
    }
}

/// The score of a hub for a registration id: the greatest one wins, as often as the hub's share of all weights.
fn score(hub: &Candidate, registration_id: &str) -> f64 {
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
    use holdfast_model::UnixMillis;
    use holdfast_registry::{HubLogin, LinkedHubContent};

    use super::*;

    fn link(host: &str, weight: u32) -> Arc<LinkedHub> {
        Arc::new(LinkedHub {
            etag: String::new(),
            created: UnixMillis(0),
            updated: UnixMillis(0),
            content: LinkedHubContent {
                host_name: host.to_owned(),
                login: Some(HubLogin {
                    policy: "p".to_owned(),
                    key: None,
                }),
                weight,
                applies_allocation: true,
                is_disabled: false,
                endpoint: None,
                ca_certificate: None,
                location: None,
            },
        })
    }

    /// The own hub, hub0, and others, with these weights.
    fn hubs(weights: &[u32]) -> Hubs {
        let links: Vec<_> = (0..)
            .zip(weights)
            .map(|(at, weight)| link(&format!("hub{at}.example.com"), *weight))
            .collect();
        Hubs::new(HubNames::new(["hub0.example.com", "alias"]), &links)
    }

    fn content(policy: AllocationPolicy, wanted: &[&str]) -> EnrollmentContent {
        EnrollmentContent {
            allocation: Some(policy),
            iot_hubs: wanted.iter().map(|name| (*name).to_owned()).collect(),
            ..EnrollmentContent::default()
        }
    }

    fn host(hubs: &Hubs, content: &EnrollmentContent, id: &str, out: &str) -> Result<String, String> {
        let chosen = hubs.allocate(content, id, &[], |host| host == out);
        chosen.map(|hub| hub.host.clone())
    }

    const NONE_OUT: &str = "";

    fn shares(hubs: &Hubs, devices: u32) -> Vec<f64> {
        let hashed = content(AllocationPolicy::Hashed, &[]);
        let mut counts = vec![0_u32; 3];
        for device in 0..devices {
            let host = host(hubs, &hashed, &format!("dev-{device}"), NONE_OUT).unwrap();
            let at: usize = host[3..4].parse().unwrap();
            counts[at] += 1;
        }
        counts
            .into_iter()
            .map(|count| f64::from(count) / f64::from(devices))
            .collect()
    }

    #[test]
    fn devices_are_spread_by_weight() {
        for (weights, wanted) in [
            ([1, 1, 1], [1.0 / 3.0; 3]),
            ([1, 2, 5], [0.125, 0.25, 0.625]),
            ([0, 1, 0], [0.0, 1.0, 0.0]),
        ] {
            for (found, share) in shares(&hubs(&weights), 30_000).into_iter().zip(wanted) {
                assert!((found - share).abs() < 0.01, "{found} instead of {share}");
            }
        }
        // The own hub has the weight 1 unless a link says another.
        let hubs = Hubs::new(HubNames::new(["hub0.example.com"]), &[link("hub1.example.com", 3)]);
        assert!((shares(&hubs, 30_000)[0] - 0.25).abs() < 0.01);
    }

    #[test]
    fn a_new_hub_takes_its_share_and_moves_no_other_device() {
        let (before, after) = (hubs(&[1, 1]), hubs(&[1, 1, 1]));
        let hashed = content(AllocationPolicy::Hashed, &[]);
        for device in 0..1000 {
            let id = format!("dev-{device}");
            let old = host(&before, &hashed, &id, NONE_OUT).unwrap();
            let new = host(&after, &hashed, &id.to_uppercase(), NONE_OUT).unwrap();
            assert!(new == old || new == "hub2.example.com");
        }
    }

    #[test]
    fn named_hubs_limit_the_choice_and_unknown_ones_are_explained() {
        let hubs = hubs(&[1, 1]);
        for policy in [
            AllocationPolicy::Hashed,
            AllocationPolicy::GeoLatency,
            AllocationPolicy::Static,
        ] {
            let only = content(policy, &["HUB1.example.com"]);
            assert_eq!(host(&hubs, &only, "d", NONE_OUT).unwrap(), "hub1.example.com");
            let own = content(policy, &["ALIAS"]);
            assert_eq!(host(&hubs, &own, "d", NONE_OUT).unwrap(), "hub0.example.com");
            let text = host(&hubs, &content(policy, &["other"]), "d", NONE_OUT).unwrap_err();
            assert!(text.contains("other"), "{text}");
        }
        assert!(host(&hubs, &content(AllocationPolicy::Static, &[]), "d", NONE_OUT).is_err());
    }

    #[test]
    fn a_hub_out_of_service_is_left_out_while_there_are_others() {
        let hubs = hubs(&[1, 1]);
        let hashed = content(AllocationPolicy::Hashed, &[]);
        for device in 0..50 {
            let id = format!("dev-{device}");
            assert_eq!(
                host(&hubs, &hashed, &id, "hub1.example.com").unwrap(),
                "hub0.example.com"
            );
        }
        let only = content(AllocationPolicy::Hashed, &["hub1.example.com"]);
        assert_eq!(host(&hubs, &only, "d", "hub1.example.com").unwrap(), "hub1.example.com");
    }

    #[test]
    fn the_nearest_hub_in_service_is_taken() {
        let hubs = hubs(&[1, 1, 1]);
        let geo = content(AllocationPolicy::GeoLatency, &[]);
        let nearest = ["unknown", "HUB2.example.com", "hub1.example.com"].map(str::to_owned);
        let chosen = |out: &str| {
            hubs.allocate(&geo, "d", &nearest, |host| host == out)
                .unwrap()
                .host
                .clone()
        };
        assert_eq!(chosen(NONE_OUT), "hub2.example.com");
        assert_eq!(chosen("hub2.example.com"), "hub1.example.com");
    }
}
