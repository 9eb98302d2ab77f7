//! File upload: slots of devices, and notifications for back ends (docs/decisions/0045).
//!
//! A device begins an upload, which opens a slot, writes the file straight to storage, and reports the end, which closes the slot
//! and leaves a notification. Why device state: a slot bounds what a device may write, also after its owner's node has died, and a
//! notification that the device was promised must survive every node.
//! Not here: storage and its signatures (`gateway` asks the composition root's), AMQP (`service-api`), the webhook's HTTP.

pub(crate) mod api;
pub(crate) mod codec;
pub(crate) mod config;
pub(crate) mod due;
pub(crate) mod source;
pub(crate) mod state;

use holdfast_model::{GenerationId, IdentityId, UnixMillis};

/// Who hears of an uploaded file; each hears of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UploadReader {
    /// Receivers at `/messages/serviceBound/filenotifications`, of which one gets each notification.
    BackEnd,
    /// The webhook of the configuration.
    Webhook,
}

impl UploadReader {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::BackEnd => 1,
            Self::Webhook => 2,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::BackEnd),
            2 => Some(Self::Webhook),
            _ => None,
        }
    }

    /// Its bit in stored and exchanged sets.
    pub(crate) const fn bit(self) -> u32 {
        self.number()
    }
}

/// A file that a device has uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadNotification {
    /// The device.
    pub identity: IdentityId,
    /// The generation of the device.
    pub generation: GenerationId,
    pub(crate) number: u64,
    /// The same as in the hub's log and in the answer that the device has got.
    pub correlation_id: String,
    /// The blob's name, the device's id included.
    pub blob_name: String,
    /// Where it is, without a signature.
    pub blob_uri: String,
    /// Its bytes.
    pub size: u64,
    /// When it was written last.
    pub modified: UnixMillis,
    /// When the device has reported it.
    pub at: UnixMillis,
    /// How often it was given back.
    pub deliveries: u32,
}
