//! Section `[events]` of the configuration.

use std::time::Duration;

use holdfast_model::ByteSize;

holdfast_config::section! {
    /// The Event-Hubs-compatible endpoint.
    pub struct EventsConfig = "events" {
        /// Bytes of events that wait to be written to one connection; a reader that is slower is served from the log later.
        pub output: ByteSize = ByteSize::kib(128), in ByteSize(1).. => "must be greater than 0";
        /// AMQP connections of one core that have not authenticated yet; past it the longest waiting one is closed, silent ones first while they are half of them.
        pub max_unauthenticated: usize = 10_000, in 1.. => "must be greater than 0";
        /// How long an AMQP connection may stay open without any authenticated identity.
        pub unauthenticated_timeout: Duration = Duration::from_secs(60);
        /// How long the registry's leader may take to confirm a refusal before the client is asked to retry later.
        pub confirm_timeout: Duration = Duration::from_secs(10);
        /// Whether links under messages/events are redirected to the hub's name, as Azure does, instead of being served.
        pub redirect: bool = true;
        /// The port that redirected readers are sent to.
        pub redirect_port: u16 = 5671;
    }
}
