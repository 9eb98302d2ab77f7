//! The marker at the head of every payload identifies the message, so that a reader can verify it without other state.
//!
//! Layout, big endian, [`MARKER_BYTES`] in all: magic `SWM1` · run u64 · device u32 · epoch u32 · number u64 · sent u64.
//! The *epoch* counts a device's connections within the run. A message that is sent again after a reconnect carries the
//! new epoch, so a reader can tell a client's resend (legal, at least once) from a duplicate made by the hub (illegal).
//! The rest of the payload is [`FILLER`], so that a damaged body is detected.

/// Bytes of a marker; payloads shorter than this carry none and cannot be verified.
pub const MARKER_BYTES: usize = 36;
/// Every payload byte after the marker.
pub const FILLER: u8 = 0x5a;

const MAGIC: [u8; 4] = *b"SWM1";
/// Offset of the part that differs from message to message.
const VARIABLE_FROM: usize = 12;

/// Identifies a message: its run, sender, connection and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageMarker {
    /// A random number of the generator's run; events of other runs are ignored.
    pub run: u64,
    /// The device's number in the fleet.
    pub device: u32,
    /// Which connection of the device within the run, from 0.
    pub epoch: u32,
    /// Which message of the device, from 0, without gaps.
    pub number: u64,
    /// When it was handed to the socket, microseconds since 1970.
    pub sent_us: u64,
}

impl MessageMarker {
    /// Writes the whole marker at the head of `payload`.
    ///
    /// # Panics
    /// When `payload` is shorter than [`MARKER_BYTES`].
    pub fn write(&self, payload: &mut [u8]) {
        payload[..4].copy_from_slice(&MAGIC);
        payload[4..12].copy_from_slice(&self.run.to_be_bytes());
        self.patch(payload);
    }

    /// Rewrites what differs from message to message; magic and run must be there already.
    ///
    /// # Panics
    /// As [`MessageMarker::write`].
    pub fn patch(&self, payload: &mut [u8]) {
        let variable = &mut payload[VARIABLE_FROM..MARKER_BYTES];
        variable[..4].copy_from_slice(&self.device.to_be_bytes());
        variable[4..8].copy_from_slice(&self.epoch.to_be_bytes());
        variable[8..16].copy_from_slice(&self.number.to_be_bytes());
        variable[16..24].copy_from_slice(&self.sent_us.to_be_bytes());
    }

    /// Reads the marker of `payload`; `None` when it has none.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (head, _) = payload.split_at_checked(MARKER_BYTES)?;
        if head[..4] != MAGIC {
            return None;
        }
        let four = |at: usize| head[at..at + 4].try_into().map(u32::from_be_bytes).ok();
        let eight = |at: usize| head[at..at + 8].try_into().map(u64::from_be_bytes).ok();
        Some(Self {
            run: eight(4)?,
            device: four(12)?,
            epoch: four(16)?,
            number: eight(20)?,
            sent_us: eight(28)?,
        })
    }
}

/// Whether what follows the marker is as it was sent.
#[must_use]
pub fn filler_is_intact(payload: &[u8]) -> bool {
    payload
        .get(MARKER_BYTES..)
        .is_some_and(|rest| rest.iter().all(|byte| *byte == FILLER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_reads_back_as_written_and_foreign_payloads_have_none() {
        let marker = MessageMarker {
            run: 7,
            device: 1 << 20,
            epoch: 3,
            number: u64::MAX - 1,
            sent_us: 99,
        };
        let mut payload = vec![FILLER; 64];
        marker.write(&mut payload);
        assert_eq!(MessageMarker::read(&payload), Some(marker));
        assert!(filler_is_intact(&payload));
        payload[63] = 0;
        assert!(!filler_is_intact(&payload));
        assert_eq!(MessageMarker::read(&payload[..MARKER_BYTES - 1]), None);
        assert_eq!(MessageMarker::read(&[b'{'; 64]), None);
    }
}
