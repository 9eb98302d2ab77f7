//! The properties at the root of a device's or module's document (Spec query-and-routing §2).

macro_rules! fields {
    ($($name:ident = $text:literal,)*) => {
        /// A property at the root of a document.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Field {
            $(#[doc = concat!("`", $text, "`.")] $name,)*
        }

        impl Field {
            /// All of them, in the order of the document.
            pub const ALL: &'static [Field] = &[$(Field::$name),*];

            /// The name as the hub writes it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Field::$name => $text,)*
                }
            }
        }
    };
}

fields! {
    DeviceId = "deviceId",
    ModuleId = "moduleId",
    Etag = "etag",
    DeviceEtag = "deviceEtag",
    GenerationId = "generationId",
    Status = "status",
    StatusReason = "statusReason",
    StatusUpdateTime = "statusUpdateTime",
    ConnectionState = "connectionState",
    ConnectionStateUpdatedTime = "connectionStateUpdatedTime",
    LastActivityTime = "lastActivityTime",
    CloudToDeviceMessageCount = "cloudToDeviceMessageCount",
    AuthenticationType = "authenticationType",
    X509Thumbprint = "x509Thumbprint",
    ModelId = "modelId",
    Version = "version",
    Tags = "tags",
    Properties = "properties",
    Capabilities = "capabilities",
    DeviceScope = "deviceScope",
    ParentScopes = "parentScopes",
    Configurations = "configurations",
}

impl Field {
    /// The property of this name in any case; `id` is another name of `deviceId` (Spec query-and-routing §3.1).
    #[must_use]
    pub fn of_name(name: &str) -> Option<Field> {
        if name.eq_ignore_ascii_case("id") {
            return Some(Field::DeviceId);
        }
        Field::ALL
            .iter()
            .copied()
            .find(|field| field.name().eq_ignore_ascii_case(name))
    }
}

/// A set of root properties: what a query reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(u32);

impl FieldSet {
    /// No property.
    pub const NONE: FieldSet = FieldSet(0);

    /// Adds a property.
    pub fn insert(&mut self, field: Field) {
        self.0 |= 1 << field as u32;
    }

    /// Whether the property is in the set.
    #[must_use]
    pub fn contains(self, field: Field) -> bool {
        self.0 & (1 << field as u32) != 0
    }

    /// Whether one of the properties is in the set.
    #[must_use]
    pub fn contains_any(self, fields: &[Field]) -> bool {
        fields.iter().any(|field| self.contains(*field))
    }
}
