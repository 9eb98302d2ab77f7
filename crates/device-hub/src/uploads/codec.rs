//! Notifications, as they go between nodes.

use holdfast_cluster::transport::CallError;
use holdfast_model::{GenerationId, UnixMillis};
use holdfast_proto::cluster::v1 as proto;

use super::UploadNotification;
use crate::rpc::codec::{check_text, decode_identity};

pub(crate) fn encode_notification(notification: &UploadNotification) -> proto::UploadRecord {
    proto::UploadRecord {
        device: notification.identity.device.as_str().to_owned(),
        generation: notification.generation.0.to_string(),
        number: notification.number,
        correlation_id: notification.correlation_id.clone(),
        blob_name: notification.blob_name.clone(),
        blob_uri: notification.blob_uri.clone(),
        size: notification.size,
        modified_ms: notification.modified.0,
        at_ms: notification.at.0,
        deliveries: notification.deliveries,
    }
}

pub(crate) fn decode_notification(record: proto::UploadRecord) -> Result<UploadNotification, CallError> {
    Ok(UploadNotification {
        identity: decode_identity(&record.device, "")?,
        generation: GenerationId(check_text(&record.generation)?.into()),
        number: record.number,
        correlation_id: record.correlation_id,
        blob_name: record.blob_name,
        blob_uri: record.blob_uri,
        size: record.size,
        modified: UnixMillis(record.modified_ms),
        at: UnixMillis(record.at_ms),
        deliveries: record.deliveries,
    })
}
