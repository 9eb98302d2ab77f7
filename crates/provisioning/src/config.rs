//! Section `[provisioning]` of the configuration.

use std::path::PathBuf;

use holdfast_model::HumanDuration;

holdfast_config::section! {
    /// The provisioning service, on the ports of the hub (docs/provisioning.md). The same on all nodes.
    pub struct ProvisioningConfig = "provisioning" {
        /// Whether the hub has one. The first start with `true` gives it an id scope, which stays. In a cluster, every node must have
        /// this version first.
        pub enabled: bool = false;
        /// The host name under which devices reach it, for documents and `connection.json`; it needs to be one of the names that
        /// the hub's certificate has. Default: `hub.host`.
        pub device_host: String = String::new();
        /// How many requests of devices a node works on at once; further ones are answered with 429.
        pub max_requests: usize = 256, in 1..=100_000 => "must be between 1 and 100000";
        /// The hosts of webhooks that enrollments may name for custom allocation, with :PORT or without; "*": all. They are called with
        /// https; one that is written as `http://HOST:PORT` with http. Empty: none.
        pub webhook_hosts: Vec<String> = Vec::new();
        /// How long one call of a webhook may take; after an answer of 500 or more, or none, it is called once more.
        pub webhook_timeout: HumanDuration = HumanDuration::secs(5),
            in HumanDuration::millis(100)..=HumanDuration::secs(30) => "must be 100 ms to 30 s";
        /// For enrollments with geoLatency: the hubs that are near to the devices of this node, the nearest first; may differ between
        /// nodes. The first one that takes devices is chosen. Empty: each node measures the linked hubs, and is itself the nearest.
        pub nearest_hubs: Vec<String> = Vec::new();
        /// The CA of the certificates of webhooks and linked hubs, PEM. Default: the system's list.
        pub ca_file: Option<PathBuf> = None;
        /// How long the hub waits for the signer of an issuing CA whose key is elsewhere (`holdfast provisioning ca create --signer`).
        pub signer_timeout: HumanDuration = HumanDuration::secs(5), in HumanDuration::millis(100)..=HumanDuration::secs(60) => "must be between 100 ms and 1 min";
        /// CAs of the signers' certificates, PEM. Default: those of the system.
        pub signer_ca_file: Option<PathBuf> = None;
    }
}
