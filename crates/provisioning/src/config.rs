//! Section `[provisioning]` of the configuration.

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
    }
}
