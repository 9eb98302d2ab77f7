//! Section `[device_hub]` of the configuration.

use std::time::Duration;

use holdfast_model::{ByteSize, HumanDuration};

use crate::queries;
use crate::throttles::config::ThrottlesConfig;
use crate::uploads::config::UploadConfig;

holdfast_config::section! {
    /// Twins of devices and modules.
    pub struct TwinsConfig = "twins" {
        /// How many earlier versions of tags and desired properties are kept of each twin, for `holdfast twin history`; 0: none.
        /// The same on all nodes.
        pub history_versions: u32 = 10, in 0..=1000 => "must be at most 1000";
        /// Whether a device that subscribes to changes of its desired properties gets all of them at once, unless it has just
        /// read them. Azure IoT Hub sends only what changes from then on.
        pub resend_desired_on_subscribe: bool = false;
        /// Paths of tags and properties by which queries find twins without reading all of them, such as
        /// "tags.site" or "properties.reported.fw"; at most 16, the same on all nodes. A new one is built in the background.
        pub indexes: Vec<String> = Vec::new();
    }
    check |twins| {
        queries::problem(&twins.indexes).is_none() => indexes, queries::problem(&twins.indexes).unwrap_or_default();
    }
}

/// What a revocation list whose time has ended means for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiredCrl {
    /// It revokes what it names, as before.
    Use,
    /// Devices below its CA are refused.
    Refuse,
}

impl holdfast_config::Choice for ExpiredCrl {
    const NAMES: &'static [(&'static str, Self)] = &[("use", Self::Use), ("refuse", Self::Refuse)];
}

holdfast_config::section! {
    /// Messages and sessions between devices and the log, and the audit of refusals.
    pub struct DeviceHubConfig = "device_hub" {
        /// Bytes of messages of one core that may wait for their commit before connections stop being read; beyond it each
        /// partition may hold one batch.
        pub max_unacknowledged: ByteSize = ByteSize::mib(64), in ByteSize(1).. => "must be greater than 0";
        /// Bytes after which a batch is closed before its round ends; one batch is one entry of the log.
        pub max_batch: ByteSize = ByteSize::mib(1), in ByteSize(1).. => "must be greater than 0";
        /// Identities whose last refusals are remembered for `holdfast device diagnose`.
        pub max_refusal_identities: usize = 4096;
        /// Audit records of refusals that are written per second; more are counted, not written.
        pub max_audit_refusals_per_second: u32 = 100;
        /// Connections of a node that may wait for the registry's lease, for the owner of their partition or for the end of
        /// an older session; further ones are asked to retry later. At most 15360: the renewals of the other sessions share the same
        /// queue.
        pub max_waiting_connects: usize = 10_000;
        /// Sessions closed per second when the node drains, stops, or has been cut off for registry.session_grace; more when
        /// it stops and ops.drain_timeout would not be enough for all.
        pub drain_rate: u32 = 1000, in 1.. => "must be greater than 0";
        /// How long a session stays after its certificate, or the first of its issuers to end, has ended. New connections are
        /// refused from the end on.
        pub certificate_grace: HumanDuration = HumanDuration::secs(300), in ..=HumanDuration::secs(86_400) => "must be at most 1 day";
        /// What a CRL means whose time has ended (`nextUpdate`): with `use` it revokes what it names, as before, and the log and
        /// `holdfast_crls_ended` warn; with `refuse`, devices below its CA cannot connect until there is a current one.
        pub expired_crl: ExpiredCrl = ExpiredCrl::Use;
        /// How often the activity of a connected device is recorded, for its lastActivityTime; a message that comes earlier
        /// costs nothing. The begin and the end of a connection are always recorded.
        pub activity_interval: HumanDuration = HumanDuration::secs(300);
        /// Whether a change of a twin is an event in the stream that readers see; the same on all nodes.
        pub twin_change_events: bool = false;
        /// Whether the creation and the deletion of an identity are events in the stream that readers see; the same on all nodes.
        pub lifecycle_events: bool = false;
        /// Whether the begin and the end of a connection are events in the stream that readers see; the same on all nodes. The
        /// state is compared twice a second: what lies in between is no event.
        pub connection_state_events: bool = false;
        /// How often the owner of a partition removes the stored state of identities that were deleted; also when it begins
        /// to own the partition.
        pub reconcile_interval: HumanDuration = HumanDuration::secs(3600), in HumanDuration::secs(1).. => "must be at least 1 s";
        /// How often the matches of each saved query are counted, for the gauge `holdfast_saved_query_matches`; 0s: never. One node
        /// counts, one query at a time, and rests between two as long as the first has taken.
        pub saved_query_interval: HumanDuration = HumanDuration::secs(60);
        /// How long a cloud-to-device message waits for its device when its sender has set no expiry.
        pub c2d_ttl: HumanDuration = HumanDuration::secs(3600), in HumanDuration::secs(60)..=HumanDuration::secs(172_800) => "must be 60 s to 2 days";
        /// Deliveries of a cloud-to-device message after which it becomes a dead letter if the device has not completed it.
        pub c2d_max_deliveries: u32 = 10, in 1..=100 => "must be 1 to 100";
    }
    fixed {
        /// Bytes of deliveries that front ends of this node may hold until devices have settled them; more are not taken
        /// from owners.
        pub max_downlink_bytes: usize = 64 * 1024 * 1024;
        /// How long sessions stay without the registry's lease, and how long an owner keeps those of a gateway that is
        /// silent: `registry.session_grace`.
        pub session_grace: Duration = Duration::from_secs(30);
        /// Whether tokens of shared access policies open anything: `auth.service.shared_policies`.
        pub shared_policies: bool = true;
        /// Section `[twins]`.
        pub twins: TwinsConfig = TwinsConfig::default();
        /// Section `[throttles]`.
        pub throttles: ThrottlesConfig = ThrottlesConfig::default();
        /// Section `[upload]`.
        pub uploads: UploadConfig = UploadConfig::default();
    }
}
