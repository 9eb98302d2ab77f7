//! Control's part of section `[cluster]`.

use holdfast_model::HumanDuration;

holdfast_config::section! {
    /// How members, placements and leaders are kept as the registry wants them.
    pub struct ControlConfig = "cluster" {
        /// How often members, placements and leaders are checked without a change.
        pub tick: HumanDuration = HumanDuration::secs(1),
            in HumanDuration::millis(500)..=HumanDuration::secs(60) => "must be 500ms to 60s";
        /// How long a node must have been up before the leaderships that it prefers move back to it.
        pub leader_return_delay was "settle": HumanDuration = HumanDuration::secs(5),
            in ..=HumanDuration::secs(3_600) => "must be at most 1h";
        /// How long a voter of the registry may be down before another core node, if there is one, votes in its place. It
        /// stays a member.
        pub voter_grace was "voter_patience": HumanDuration = HumanDuration::secs(600),
            in HumanDuration::secs(10)..=HumanDuration::secs(7 * 86_400) => "must be 10s to 7d";
        /// How many entries a replica may be behind and still count as caught up.
        pub max_lag: u64 = 256, in 1..=100_000 => "must be 1 to 100000 entries";
        /// Raise the hub's feature level as soon as all members support a higher one. `false`: only
        /// `holdfast cluster feature-level --raise` does, and until then every node can be set back to the version before the
        /// upgrade. The value of the registry's leader counts: set it on all nodes.
        pub raise_feature_level: bool = true;
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_short_tick_is_not() {
        let config = ControlConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let short = ControlConfig {
            tick: HumanDuration::millis(10),
            ..config
        };
        assert_eq!(short.validate().unwrap_err().key, "tick");
    }
}
