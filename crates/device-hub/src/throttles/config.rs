//! Section `[throttles]` of the configuration.

use holdfast_model::{ByteSize, HumanDuration, Rate};

use super::class::ThrottleClass;
use super::profile::Profile;

holdfast_config::section! {
    /// Rates that clients may not exceed, as the tiers of Azure IoT Hub have them (docs/decisions/0042-throttles.md). A rate is
    /// written "100/min", "12/s" or "unlimited", and counts for the whole hub; the same on all nodes.
    pub struct ThrottlesConfig = "throttles" {
        /// The rates of a tier: "F1", "S1", "S2", "S3", or "unlimited". Each can be replaced below.
        pub profile: Profile = Profile::Unlimited;
        /// Units of the tier: 1 to 200, of S3 to 10.
        pub units: u16 = 1;
        /// Reads and writes of the identity registry; a bulk call counts each identity. Default: the profile's.
        pub registry_operations: Option<Rate> = None;
        /// New connections of devices, counted once their credential is right. Default: the profile's.
        pub connects: Option<Rate> = None;
        /// Messages of devices. Default: the profile's.
        pub d2c_sends: Option<Rate> = None;
        /// Pages of queries. Default: the profile's.
        pub queries: Option<Rate> = None;
        /// Messages to devices. Default: the profile's.
        pub c2d_sends: Option<Rate> = None;
        /// Method calls, in begun blocks of 4 KiB of their payload. Default: the profile's.
        pub methods: Option<Rate> = None;
        /// Reads of twins, by devices and back ends. Default: the profile's.
        pub twin_reads: Option<Rate> = None;
        /// Writes of twins, by devices and back ends. Default: the profile's.
        pub twin_updates: Option<Rate> = None;
        /// Tokens that back ends put to `$cbs` over AMQP; those of devices count as connections. Beyond the rate they are refused at
        /// once. Default: the profile's.
        pub amqp_tokens: Option<Rate> = None;
        /// Requests to `$management` of the built-in events endpoint. Beyond the rate they are refused at once. Default: the profile's.
        pub amqp_management: Option<Rate> = None;
        /// Requests of devices over HTTPS for the next message to them. Default: the profile's.
        pub c2d_receives: Option<Rate> = None;
        /// File uploads that devices begin. Default: the profile's.
        pub upload_initiations: Option<Rate> = None;
        /// Messages of a day, from 00:00 UTC on, in begun blocks of the meter; 0: any number. Beyond it the hub answers 403002. Messages
        /// of devices and to them, method calls and their answers, reads, writes and changes of twins, pages of queries, and the begins
        /// and ends of file uploads count.
        /// Default: the profile's.
        pub daily_messages: Option<u64> = None;
        /// The block in which they count. Default: the profile's, 512 B with F1 and 4 KiB otherwise.
        pub message_meter: Option<ByteSize> = None;
        /// Messages of one device or module.
        pub device_d2c_sends: Option<Rate> = None;
        /// Requests of one device or module about its twin.
        pub device_twin_requests: Option<Rate> = None;
        /// How long a request may wait for its turn before it is refused; 0s: it is refused at once.
        pub max_wait: HumanDuration = HumanDuration::secs(10), in ..=HumanDuration::secs(20) => "must be at most 20 s";
        /// Requests of one kind that may wait on one node.
        pub max_waiting: usize = 10_000;
    }
    check |throttles| {
        throttles.units >= 1 && throttles.units <= throttles.profile.max_units()
            => units, format!("must be 1 to {} with this profile", throttles.profile.max_units());
        throttles.message_meter.is_none_or(|meter| (1..=1 << 20).contains(&meter.bytes()))
            => message_meter, "must be 1 B to 1 MiB";
    }
}

impl ThrottlesConfig {
    /// The rate of `class` for the whole hub.
    pub(crate) fn rate(&self, class: ThrottleClass) -> Rate {
        let configured = match class {
            ThrottleClass::RegistryOperations => self.registry_operations,
            ThrottleClass::Connects => self.connects,
            ThrottleClass::TelemetrySends => self.d2c_sends,
            ThrottleClass::Queries => self.queries,
            ThrottleClass::CloudSends => self.c2d_sends,
            ThrottleClass::Methods => self.methods,
            ThrottleClass::TwinReads => self.twin_reads,
            ThrottleClass::TwinUpdates => self.twin_updates,
            ThrottleClass::AmqpTokens => self.amqp_tokens,
            ThrottleClass::AmqpManagement => self.amqp_management,
            ThrottleClass::CloudReceives => self.c2d_receives,
            ThrottleClass::UploadInitiations => self.upload_initiations,
        };
        configured.unwrap_or_else(|| self.profile.rate(class, self.units))
    }

    /// Messages of a day, and the bytes of a block in which they count; `None`: any number.
    pub(crate) fn quota(&self) -> Option<(u64, u64)> {
        let limit = self
            .daily_messages
            .or_else(|| self.profile.daily_messages(self.units))?;
        let meter = self.message_meter.unwrap_or_else(|| self.profile.meter());
        (limit > 0).then_some((limit, meter.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    #[test]
    fn a_key_replaces_the_rate_of_the_profile() {
        let config = ThrottlesConfig {
            profile: Profile::S1,
            queries: Some(Rate::PerSecond(7)),
            twin_reads: Some(Rate::Unlimited),
            ..ThrottlesConfig::default()
        };
        assert_eq!(config.rate(ThrottleClass::Queries), Rate::PerSecond(7));
        assert_eq!(config.rate(ThrottleClass::TwinReads), Rate::Unlimited);
        assert_eq!(config.rate(ThrottleClass::TwinUpdates), Rate::PerSecond(50));
        let none = ThrottlesConfig::default();
        assert!(
            ThrottleClass::ALL
                .iter()
                .all(|class| none.rate(*class) == Rate::Unlimited)
        );
    }

    #[test]
    fn the_quota_is_the_profiles_unless_a_key_replaces_it() {
        let config = |profile, units, daily_messages| ThrottlesConfig {
            profile,
            units,
            daily_messages,
            ..ThrottlesConfig::default()
        };
        for (profile, units, key, quota) in [
            (Profile::Unlimited, 1, None, None),
            (Profile::Unlimited, 1, Some(10), Some((10, 4096))),
            (Profile::F1, 1, None, Some((8_000, 512))),
            (Profile::S1, 3, None, Some((1_200_000, 4096))),
            (Profile::S2, 2, None, Some((12_000_000, 4096))),
            (Profile::S3, 10, None, Some((3_000_000_000, 4096))),
            (Profile::S1, 1, Some(0), None),
        ] {
            assert_eq!(
                config(profile, units, key).quota(),
                quota,
                "{profile:?} {units} {key:?}"
            );
        }
        let metered = ThrottlesConfig {
            message_meter: Some(ByteSize(512)),
            ..config(Profile::S1, 1, None)
        };
        assert_eq!(metered.quota(), Some((400_000, 512)));
    }

    #[test]
    fn a_tier_has_a_largest_number_of_units() {
        for (profile, units, works) in [
            (Profile::S3, 10, true),
            (Profile::S3, 11, false),
            (Profile::S1, 200, true),
            (Profile::F1, 2, false),
            (Profile::S1, 0, false),
        ] {
            let config = ThrottlesConfig {
                profile,
                units,
                ..ThrottlesConfig::default()
            };
            assert_eq!(config.validate().is_ok(), works, "{profile:?} {units}");
        }
    }
}
