//! The document of a twin: the identity's fields, and the twin's own (Spec rest §3).

use holdfast_device_hub::{ConnectionState, Twin};
use holdfast_registry::{Authentication, Identity, Thumbprint};
use serde_json::{Map, Value, json};

use super::document::{connection_state, status_name};
use super::timestamps;

/// The document; `status`: the identity that has the status, the device of a module. It contains no secret.
pub(super) fn show(identity: &Identity, status: &Identity, connection: ConnectionState, twin: &Twin) -> Value {
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| document.insert(name.to_owned(), value);
    put("deviceId", json!(identity.id.device.as_str()));
    if let Some(module) = &identity.id.module {
        put("moduleId", json!(module.as_str()));
    }
    put("etag", json!(twin.etag()));
    put("deviceEtag", json!(identity.etag.0));
    put("status", json!(status_name(status.status)));
    if let Some(reason) = &status.status_reason {
        put("statusReason", json!(reason));
    }
    put("statusUpdateTime", json!(timestamps::iso(status.status_updated)));
    put("connectionState", json!(connection_state(connection.is_connected)));
    put("lastActivityTime", json!(timestamps::iso(connection.last_activity)));
    put("cloudToDeviceMessageCount", json!(connection.cloud_messages));
    put("authenticationType", json!(identity.authentication.type_name()));
    let (primary, secondary) = match &identity.authentication {
        Authentication::SelfSigned(prints) => (
            Some(prints.primary.as_str()),
            prints.secondary.as_ref().map(Thumbprint::as_str),
        ),
        _ => (None, None),
    };
    put(
        "x509Thumbprint",
        json!({"primaryThumbprint": primary, "secondaryThumbprint": secondary}),
    );
    put("modelId", json!(""));
    put("version", json!(twin.version));
    put("tags", Value::Object(twin.tags().clone()));
    put("properties", twin.properties());
    if identity.id.module.is_none() {
        put("capabilities", json!({"iotEdge": identity.iot_edge}));
        if let Some(scope) = &identity.device_scope {
            put("deviceScope", json!(scope));
        }
        if identity.iot_edge || identity.parent_scope.is_some() {
            put("parentScopes", json!(identity.parent_scope.iter().collect::<Vec<_>>()));
        }
    }
    Value::Object(document)
}
