//! A device or module as queries see it (Spec query-and-routing §2, rest §3).
//!
//! Invariant: no secret is in it.

use bytes::Bytes;
use holdfast_model::{UnixMillis, round_trip};
use holdfast_query::{Field, Path, Root, Row, Segment, Value};
use holdfast_registry::{IdentitySummary, Status, Thumbprint};
use serde_json::{Map, Value as Json, json};

use super::plan::{TwinDepth, TwinReads};
use crate::ConnectionState;
use crate::twins::document::{Twin, etag};
use crate::twins::stored::{self, UnreadableTwin};

/// The time of what has never happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The parts of a twin that a query reads.
#[derive(Debug, Clone)]
pub(super) struct TwinParts {
    pub(super) depth: TwinDepth,
    version: u64,
    tags: Json,
    properties: Json,
}

impl TwinParts {
    /// The parts of a stored twin.
    pub(super) fn read(value: Bytes, reads: &TwinReads) -> Result<Self, UnreadableTwin> {
        if reads.depth == TwinDepth::Whole {
            return Ok(Self::of(&Twin::decode(&value)?));
        }
        let values = stored::read_values(value, &reads.values)?;
        Ok(Self {
            depth: reads.depth,
            version: values.version,
            tags: Json::Object(values.tags),
            properties: match reads.depth >= TwinDepth::Values {
                true => json!({"desired": values.desired, "reported": values.reported}),
                false => Json::Null,
            },
        })
    }

    /// What a path below tags or properties leads to.
    pub(super) fn at<'a>(&'a self, path: &Path) -> Value<'a> {
        match path.root {
            Root::Field(Field::Tags) => Value::at(&self.tags, &path.rest),
            Root::Field(Field::Properties) => Value::at(&self.properties, &path.rest),
            _ => Value::Undefined,
        }
    }

    pub(super) fn of(twin: &Twin) -> Self {
        Self {
            depth: TwinDepth::Whole,
            version: twin.version,
            tags: Json::Object(twin.tags().clone()),
            properties: twin.properties(),
        }
    }
}

/// An identity with what its owner knows of it. Parts that the query does not read are left out.
#[derive(Debug)]
pub(super) struct DeviceRow {
    pub(super) identity: IdentitySummary,
    pub(super) connection: ConnectionState,
    pub(super) twin: Option<TwinParts>,
}

impl DeviceRow {
    /// A row of which only the identity is read.
    pub(super) fn of_identity(identity: IdentitySummary) -> Self {
        let connection = ConnectionState {
            is_connected: false,
            updated: None,
            last_activity: None,
            cloud_messages: 0,
        };
        Self {
            identity,
            connection,
            twin: None,
        }
    }

    fn thumbprints(&self) -> Json {
        let prints = self.identity.thumbprints.as_ref();
        let secondary = prints.and_then(|prints| prints.secondary.as_ref());
        json!({
            "primaryThumbprint": prints.map(|prints| prints.primary.as_str()),
            "secondaryThumbprint": secondary.map(Thumbprint::as_str),
        })
    }

    /// An edge device without a parent has an empty list; other devices without a parent have none (Spec rest §2.1).
    fn parent_scopes(&self) -> Option<Json> {
        let parent = &self.identity.parent_scope;
        (self.identity.iot_edge || parent.is_some()).then(|| json!(parent.iter().collect::<Vec<_>>()))
    }

    fn is_device(&self) -> bool {
        self.identity.id.module.is_none()
    }
}

fn time(time: Option<UnixMillis>) -> String {
    time.and_then(|time| round_trip(i64::try_from(time.0).ok()?))
        .unwrap_or_else(|| NEVER.to_owned())
}

/// A part of a value that was made for this call.
fn made(json: Json, rest: &[Segment]) -> Value<'static> {
    Value::at(&json, rest).into_owned()
}

impl Row for DeviceRow {
    fn value<'a>(&'a self, field: Field, rest: &[Segment]) -> Value<'a> {
        let identity = &self.identity;
        let twin = self.twin.as_ref();
        let text = |text: &'a str| match rest {
            [] => Value::str(text),
            _ => Value::Undefined,
        };
        let at = |moment| made(Json::String(time(moment)), rest);
        match field {
            Field::DeviceId => text(identity.id.device.as_str()),
            Field::ModuleId => match &identity.id.module {
                Some(module) => text(module.as_str()),
                None => Value::Undefined,
            },
            Field::Etag => twin.map_or(Value::Undefined, |twin| made(Json::String(etag(twin.version)), rest)),
            Field::DeviceEtag => text(&identity.etag.0),
            Field::GenerationId => text(&identity.generation.0),
            Field::Status => text(match identity.status {
                Status::Enabled => "enabled",
                Status::Disabled => "disabled",
            }),
            Field::StatusReason => identity.status_reason.as_deref().map_or(Value::Undefined, text),
            Field::StatusUpdateTime => at(identity.status_updated),
            Field::ConnectionState => text(match self.connection.is_connected {
                true => "Connected",
                false => "Disconnected",
            }),
            Field::ConnectionStateUpdatedTime => at(self.connection.updated),
            Field::LastActivityTime => at(self.connection.last_activity),
            Field::CloudToDeviceMessageCount => made(json!(self.connection.cloud_messages), rest),
            Field::AuthenticationType => text(identity.authentication_type),
            Field::X509Thumbprint => made(self.thumbprints(), rest),
            Field::ModelId => text(""),
            Field::Version => twin.map_or(Value::Undefined, |twin| made(json!(twin.version), rest)),
            Field::Tags => twin.map_or(Value::Undefined, |twin| Value::at(&twin.tags, rest)),
            Field::Properties => twin.map_or(Value::Undefined, |twin| Value::at(&twin.properties, rest)),
            Field::Capabilities if self.is_device() => made(json!({"iotEdge": identity.iot_edge}), rest),
            Field::DeviceScope => identity.device_scope.as_deref().map_or(Value::Undefined, text),
            Field::ParentScopes => self
                .parent_scopes()
                .map_or(Value::Undefined, |scopes| made(scopes, rest)),
            Field::Capabilities | Field::Configurations => Value::Undefined,
        }
    }

    fn document(&self) -> Json {
        let mut document = Map::new();
        for field in DOCUMENT {
            if let Some(value) = self.value(*field, &[]).to_json() {
                document.insert(field.name().to_owned(), value);
            }
        }
        Json::Object(document)
    }
}

/// The properties of a twin's document, in its order (Spec rest §3).
const DOCUMENT: &[Field] = &[
    Field::DeviceId,
    Field::ModuleId,
    Field::Etag,
    Field::DeviceEtag,
    Field::Status,
    Field::StatusReason,
    Field::StatusUpdateTime,
    Field::ConnectionState,
    Field::LastActivityTime,
    Field::CloudToDeviceMessageCount,
    Field::AuthenticationType,
    Field::X509Thumbprint,
    Field::ModelId,
    Field::Version,
    Field::Tags,
    Field::Properties,
    Field::Capabilities,
    Field::DeviceScope,
    Field::ParentScopes,
];
