//! gRPC codecs: frames as raw bytes, and the two hello messages as protobuf.
//!
//! Why not protobuf for frames: the segments of a frame are copied once, into the buffer that TLS encrypts from, and are
//! received as one shared buffer of which bodies are slices.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::peer::protocol::frame::{Batch, Part};

/// Sends each [`Batch`] as one frame; receives the bytes of frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Frames;

impl Codec for Frames {
    type Encode = Batch;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

/// Each frame is sent at once: joining frames would save nothing, since the scheduler fills them.
fn settings() -> BufferSettings {
    BufferSettings::new(4 << 10, 1)
}

impl Encoder for Frames {
    type Item = Batch;
    type Error = Status;

    fn encode(&mut self, batch: Batch, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(batch.iter().map(Part::len).sum());
        for part in batch {
            out.put_slice(part.head.as_slice());
            for segment in part.piece {
                out.put_slice(&segment);
            }
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

impl Decoder for Frames {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = bytes.remaining();
        Ok(Some(bytes.copy_to_bytes(len)))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

/// Protobuf messages.
#[derive(Debug)]
pub(crate) struct Messages<Out, In>(PhantomData<fn(Out) -> In>);

impl<Out, In> Default for Messages<Out, In> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Out: Message + 'static, In: Message + Default + 'static> Codec for Messages<Out, In> {
    type Encode = Out;
    type Decode = In;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<Out: Message, In> Encoder for Messages<Out, In> {
    type Item = Out;
    type Error = Status;

    fn encode(&mut self, message: Out, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<Out, In: Message + Default> Decoder for Messages<Out, In> {
    type Item = In;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<In>, Status> {
        In::decode(bytes)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("a hello cannot be decoded: {error}")))
    }
}
