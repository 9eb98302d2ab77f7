//! The events of a connection in a live trace (`holdfast trace`): its packets, its deliveries, and its end.
//!
//! Invariant: nothing is formatted unless something is traced on this node; passwords are no part of an event.

use holdfast_device_hub::{ReceivedDelivery, TraceKind};
use holdfast_model::redact;
use holdfast_mqtt::Packet;

use super::connection::{Connection, State};
use super::explain::shown;

impl Connection {
    /// Records an event of the connection's identity.
    pub(super) fn trace(&self, state: &State, kind: TraceKind, text: &dyn Fn() -> String, payload: Option<&[u8]>) {
        let hub = self.front.core.hub();
        if !hub.is_tracing() {
            return;
        }
        if let Some(identity) = state.machine.identity() {
            let text = || redact(&text()).into_owned();
            hub.trace(&identity.to_string(), kind, &text, payload);
        }
    }

    /// A packet of the client, before it is handled.
    pub(super) fn trace_packet(&self, state: &State, packet: &Packet<'_>) {
        let payload = match packet {
            Packet::Publish(publish) => Some(publish.payload),
            _ => None,
        };
        self.trace(state, TraceKind::Received, &|| describe(packet), payload);
    }

    /// A delivery, before it is handed to the client.
    pub(super) fn trace_delivery(&self, state: &State, delivery: &ReceivedDelivery) {
        let text = || format!("delivery of {:?}, {} bytes", delivery.kind, delivery.body.len());
        self.trace(state, TraceKind::Sent, &text, Some(&delivery.body));
    }
}

fn describe(packet: &Packet<'_>) -> String {
    let name = packet.packet_type().name();
    match packet {
        Packet::Publish(publish) => format!(
            "{name} to \"{}\", {:?}{}{}, {} bytes",
            shown(publish.topic),
            publish.qos,
            publish.packet_id.map(|id| format!(", id {id}")).unwrap_or_default(),
            if publish.dup { ", repeated" } else { "" },
            publish.payload.len()
        ),
        Packet::Subscribe(subscribe) => {
            let filters: Vec<String> = subscribe
                .filters
                .iter()
                .map(|item| format!("\"{}\"", shown(item.filter)))
                .collect();
            format!("{name} to {}", filters.join(", "))
        }
        _ => name.to_owned(),
    }
}
