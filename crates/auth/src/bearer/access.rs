//! Roles and the actions that they open (Spec auth-and-limits §5). Actions have the names of Azure, without the prefix
//! `Microsoft.Devices/IotHubs/`; those of our own API follow them.

use thiserror::Error;

/// An action on the hub's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(&'static str);

impl Action {
    /// Get and list devices and modules.
    pub const DEVICES_READ: Self = Self("devices/read");
    /// Create and update them.
    pub const DEVICES_WRITE: Self = Self("devices/write");
    /// Delete them.
    pub const DEVICES_DELETE: Self = Self("devices/delete");
    /// Read twins, and query.
    pub const TWINS_READ: Self = Self("twins/read");
    /// Change twins.
    pub const TWINS_WRITE: Self = Self("twins/write");
    /// Get and list jobs.
    pub const JOBS_READ: Self = Self("jobs/read");
    /// Create jobs.
    pub const JOBS_WRITE: Self = Self("jobs/write");
    /// Cancel and delete jobs.
    pub const JOBS_DELETE: Self = Self("jobs/delete");
    /// Send a message to a device.
    pub const MESSAGES_SEND: Self = Self("cloudToDeviceMessages/send/action");
    /// Receive feedback, and settle it.
    pub const MESSAGES_FEEDBACK: Self = Self("cloudToDeviceMessages/feedback/action");
    /// Receive notifications about uploaded files, and settle them.
    pub const FILE_NOTIFICATIONS: Self = Self("fileUpload/notifications/action");
    /// Purge the queue of a device.
    pub const MESSAGES_PURGE: Self = Self("cloudToDeviceMessages/queue/purge/action");
    /// Look at the queue of a device; ours.
    pub const MESSAGES_READ: Self = Self("cloudToDeviceMessages/queue/read");
    /// Put dead letters back; ours.
    pub const MESSAGES_REQUEUE: Self = Self("cloudToDeviceMessages/queue/requeue/action");
    /// Call a method of a device.
    pub const METHODS_INVOKE: Self = Self("directMethods/invoke/action");
    /// Read statistics.
    pub const STATISTICS_READ: Self = Self("statistics/read");
    /// Read configurations.
    pub const CONFIGURATIONS_READ: Self = Self("configurations/read");
    /// Create, update and apply configurations.
    pub const CONFIGURATIONS_WRITE: Self = Self("configurations/write");
    /// Read telemetry at the built-in endpoint; ours, since the original's takes no bearer tokens.
    pub const EVENTS_READ: Self = Self("events/read");
    /// Read the hub's settings, members and certificates, and names and rights of policies; ours.
    pub const ADMINISTRATION_READ: Self = Self("administration/read");
    /// Read the keys of policies; ours.
    pub const POLICIES_LIST_KEYS: Self = Self("administration/policies/listKeys/action");
    /// Everything else of the hub's own API; ours.
    pub const ADMINISTRATION_WRITE: Self = Self("administration/write");

    /// As in a role's definition, without the prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// A role of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// IoT Hub Data Contributor: every action.
    DataContributor,
    /// IoT Hub Data Reader: every action that reads, and notifications about uploaded files.
    DataReader,
    /// IoT Hub Registry Contributor: actions on devices and modules.
    RegistryContributor,
    /// IoT Hub Twin Contributor: actions on twins.
    TwinContributor,
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no role; roles are IoT Hub Data Contributor, IoT Hub Data Reader, IoT Hub Registry Contributor, \
     IoT Hub Twin Contributor"
)]
pub struct InvalidRole(pub String);

impl Role {
    /// All of them, with the names that Azure gives them.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::DataContributor, "IoT Hub Data Contributor"),
        (Self::DataReader, "IoT Hub Data Reader"),
        (Self::RegistryContributor, "IoT Hub Registry Contributor"),
        (Self::TwinContributor, "IoT Hub Twin Contributor"),
    ];

    /// Reads a name of [`Self::ALL`].
    ///
    /// # Errors
    /// [`InvalidRole`] has the text.
    pub fn parse(text: &str) -> Result<Self, InvalidRole> {
        let found = Self::ALL.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(role, _)| role).ok_or_else(|| InvalidRole(text.to_owned()))
    }

    fn allows(self, action: Action) -> bool {
        match self {
            Self::DataContributor => true,
            Self::DataReader => action.0.ends_with("/read") || action == Action::FILE_NOTIFICATIONS,
            Self::RegistryContributor => action.0.starts_with("devices/"),
            Self::TwinContributor => action.0.starts_with("twins/"),
        }
    }
}

/// A set of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles(u8);

impl Roles {
    /// None at all: opens nothing.
    pub const NONE: Self = Self(0);

    /// With one more.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | (1 << role as u8))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of them opens `action`.
    #[must_use]
    pub fn allow(self, action: Action) -> bool {
        let held = Role::ALL
            .into_iter()
            .filter(|(role, _)| self.0 & (1 << *role as u8) != 0);
        held.into_iter().any(|(role, _)| role.allows(action))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        roles.into_iter().fold(Self::NONE, Self::with)
    }
}
