//! The table of spans and of their attributes.
//!
//! Names and attributes follow the OpenTelemetry semantic conventions 1.37 for messaging and rpc, as far as these have a word; the hub's
//! own attributes begin with `holdfast.`. Invariant: docs/runbook.md has a row for each span; a test compares them.

/// The convention that attributes follow.
pub(crate) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The role of a span, by its number in OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Role {
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
}

macro_rules! spans {
    ($($(#[doc = $doc:literal])+ $Variant:ident = $name:literal, $role:ident, [$($key:literal = $value:literal),*];)+) => {
        /// The spans that the hub makes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum SpanName {
            $($(#[doc = $doc])+ $Variant,)+
        }

        impl SpanName {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$Variant),+];

            /// The name in a trace.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$Variant => $name,)+ }
            }

            pub(crate) const fn role(self) -> Role {
                match self { $(Self::$Variant => Role::$role,)+ }
            }

            /// Attributes that each span of this name has.
            pub(crate) const fn fixed(self) -> &'static [(&'static str, &'static str)] {
                match self { $(Self::$Variant => &[$(($key, $value)),*],)+ }
            }
        }
    };
}

spans! {
    /// A client connects: from its request, or the beginning of its TLS handshake, until its session has begun or was refused.
    Connect = "connect", Server, ["messaging.system" = "holdfast"];
    /// The TLS handshake of the connection.
    TlsHandshake = "tls handshake", Internal, [];
    /// The check of the credential by the node's own replica of the registry.
    Authenticate = "authenticate", Internal, [];
    /// The gateway has the owner of the partition begin the session, with all waits and repetitions.
    AttachSession = "attach session", Client, ["rpc.system" = "holdfast", "rpc.service" = "Session", "rpc.method" = "attach"];
    /// The owner of the partition takes the session into its table.
    BeginSession = "begin session", Server, ["rpc.system" = "holdfast", "rpc.service" = "Session", "rpc.method" = "attach"];
    /// A back end calls a method of a device: from the request to the answer.
    InvokeMethod = "invoke method", Server, ["messaging.system" = "holdfast"];
    /// The calling node has the owner of the partition deliver something to the device's session.
    SendDelivery = "send delivery", Client, ["rpc.system" = "holdfast", "rpc.service" = "Session", "rpc.method" = "send"];
    /// The owner keeps a delivery until the device's session has taken it.
    QueueDelivery = "queue delivery", Server, ["rpc.system" = "holdfast", "rpc.service" = "Session", "rpc.method" = "send"];
    /// The device has the method: from its sending to its answer, or to the end of the connection.
    RunMethod = "run method", Client, ["messaging.system" = "holdfast", "messaging.operation.name" = "invoke"];
    /// A back end sends a message to a device: from the request until a quorum has stored it.
    SendMessage = "send cloud-to-device message", Server,
        ["messaging.system" = "holdfast", "messaging.operation.name" = "send", "messaging.operation.type" = "send"];
    /// The owner of the partition puts the message into the device's queue, by one entry of the log.
    EnqueueMessage = "enqueue cloud-to-device message", Server,
        ["rpc.system" = "holdfast", "rpc.service" = "Session", "rpc.method" = "enqueue"];
    /// The owner hands the message to the device's session: until the device has settled it, or did not.
    DeliverMessage = "deliver cloud-to-device message", Producer,
        ["messaging.system" = "holdfast", "messaging.operation.name" = "deliver", "messaging.operation.type" = "send"];
    /// The device has the message: from its sending by the gateway to its settlement.
    SettleMessage = "settle cloud-to-device message", Client,
        ["messaging.system" = "holdfast", "messaging.operation.name" = "settle", "messaging.operation.type" = "settle"];
    /// A batch of telemetry: from its first message at the gateway until its messages are acknowledged.
    Telemetry = "receive telemetry", Server,
        ["messaging.system" = "holdfast", "messaging.operation.name" = "send", "messaging.operation.type" = "send"];
    /// The gateway has the owner of the partition append the batch.
    AppendBatch = "append batch", Client, ["rpc.system" = "holdfast", "rpc.service" = "Partition", "rpc.method" = "append"];
    /// The owner appends the batch to the log: until a quorum has synced it.
    CommitBatch = "commit batch", Server, ["rpc.system" = "holdfast", "rpc.service" = "Partition", "rpc.method" = "append"];
}

macro_rules! attributes {
    ($($(#[doc = $doc:literal])+ $Variant:ident = $name:literal;)+) => {
        /// The attributes of spans whose values differ.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Attribute {
            $($(#[doc = $doc])+ $Variant,)+
        }

        impl Attribute {
            /// The name in a trace.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$Variant => $name,)+ }
            }
        }
    };
}

attributes! {
    /// `device` or `device/module`.
    Identity = "messaging.client.id";
    /// The protocol of a connection: mqtt, mqtt-ws, amqp, amqp-ws, https.
    Protocol = "network.protocol.name";
    /// The client's address.
    ClientAddress = "client.address";
    /// The client's port.
    ClientPort = "client.port";
    /// The word of the cause, where something failed.
    ErrorType = "error.type";
    /// The partition.
    Partition = "messaging.destination.partition.id";
    /// Messages of a batch.
    BatchMessages = "messaging.batch.message_count";
    /// Bytes of a body.
    BodyBytes = "messaging.message.body.size";
    /// Bytes of a batch.
    BatchBytes = "holdfast.batch.bytes";
    /// The sender's id of a message.
    MessageId = "messaging.message.id";
    /// The number of a message in its device's queue.
    Sequence = "holdfast.message.sequence";
    /// The name of a method.
    Method = "holdfast.method.name";
    /// The device's status of a method.
    MethodStatus = "holdfast.method.status";
    /// How a delivery or a message ended.
    Settlement = "holdfast.settlement";
    /// The id of the node that is called.
    Peer = "holdfast.peer.node";
    /// The kind of a credential: token, certificate.
    Credential = "holdfast.credential";
    /// The version of TLS.
    TlsVersion = "tls.protocol.version";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runbook_explains_each_span() {
        let page = include_str!("../../../docs/runbook.md");
        let (_, section) = page.split_once("\n## Traces\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let explained: Vec<&str> = rows.map(|(name, _)| name).collect();
        let names: Vec<&str> = SpanName::ALL.iter().map(|name| name.as_str()).collect();
        let missing: Vec<_> = names.iter().filter(|name| !explained.contains(name)).collect();
        let unknown: Vec<_> = explained.iter().filter(|name| !names.contains(name)).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "no row: {missing:?}; no such span: {unknown:?}"
        );
    }
}
