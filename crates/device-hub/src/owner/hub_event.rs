//! Events of the hub about an identity, in the form in which readers get them (Spec query-and-routing §14).
//!
//! Not here: when an event is due ([`super::lifecycle`], [`super::connection_log`], [`crate::twins`]).

use std::borrow::Cow;

use holdfast_model::property::application;
use holdfast_model::{
    IdentityId, MessageSource, ModuleId, Property, PropertyValue, SystemProperties, TelemetryMessage, UnixMillis,
    round_trip,
};
use smallvec::SmallVec;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct HubEvent {
    /// Not telemetry.
    pub(crate) source: MessageSource,
    pub(crate) identity: IdentityId,
    /// `opType`.
    pub(crate) operation: &'static str,
    /// When it happened.
    pub(crate) time: UnixMillis,
    /// JSON.
    pub(crate) body: Vec<u8>,
}

impl HubEvent {
    /// `iothub-message-schema`.
    fn schema(&self) -> &'static str {
        match self.source {
            MessageSource::TwinChange => "twinChangeNotification",
            MessageSource::DeviceLifecycle => "deviceLifecycleNotification",
            MessageSource::ConnectionState => "deviceConnectionStateNotification",
            MessageSource::Telemetry => "",
        }
    }

    /// The record; `correlation` names the event in the whole hub.
    pub(crate) fn message<'a>(&'a self, hub_name: &'a str, correlation: &'a str) -> TelemetryMessage<'a> {
        let time = round_trip(self.time.0.cast_signed()).unwrap_or_default();
        let mut properties: SmallVec<[Property<'a>; 4]> = SmallVec::new();
        let mut add = |name: &'static str, value: Cow<'a, str>| {
            properties.push(Property {
                name: Cow::Borrowed(name),
                value: PropertyValue::Text(value),
            });
        };
        add("hubName", hub_name.into());
        add("deviceId", self.identity.device.as_str().into());
        if let Some(module) = self.identity.module.as_ref().map(ModuleId::as_str) {
            add("moduleId", module.into());
        }
        add("operationTimestamp", time.into());
        add(application::MESSAGE_SCHEMA, self.schema().into());
        add("opType", self.operation.into());
        TelemetryMessage {
            payload: &self.body,
            system: SystemProperties {
                correlation_id: Some(correlation.into()),
                user_id: Some(hub_name.as_bytes().into()),
                content_type: Some("application/json".into()),
                content_encoding: Some("utf-8".into()),
                ..SystemProperties::default()
            },
            properties,
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    #[test]
    fn an_event_has_the_properties_of_the_specification() {
        let event = HubEvent {
            source: MessageSource::DeviceLifecycle,
            identity: IdentityId::module(DeviceId::parse("dev-1").unwrap(), ModuleId::parse("m1").unwrap()),
            operation: "createDeviceIdentity",
            time: UnixMillis(1_927_857_906_123),
            body: b"{}".to_vec(),
        };
        let message = event.message("hub1", "5f02");
        let shown: Vec<(&str, &PropertyValue<'_>)> = message
            .properties
            .iter()
            .map(|property| (&*property.name, &property.value))
            .collect();
        let text = |text: &'static str| PropertyValue::Text(text.into());
        assert_eq!(
            shown,
            [
                ("hubName", &text("hub1")),
                ("deviceId", &text("dev-1")),
                ("moduleId", &text("m1")),
                ("operationTimestamp", &text("2031-02-03T04:05:06.1230000Z")),
                ("iothub-message-schema", &text("deviceLifecycleNotification")),
                ("opType", &text("createDeviceIdentity")),
            ]
        );
        assert_eq!(message.system.user_id.as_deref(), Some(&b"hub1"[..]));
        assert_eq!(message.system.content_type.as_deref(), Some("application/json"));
    }
}
