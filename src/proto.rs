//! The generated side of `proto/`. Stops at the door: only `rpc` and the command line's clients
//! may use it.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{self, BufferSettings, EncodeBuf},
};
use tonic_prost::ProstDecoder;

/// Package `backscroll.history.v1`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    reason = "generated; the documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("backscroll.history.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Protobuf in buffers of the right size from the start. tonic's own begins with 8 KiB and doubles:
/// an answer of a hundred events would be copied four times over before it is whole.
#[derive(Clone, Copy, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// Writes messages of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::default()
    }
}

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(message.encoded_len());
        message.encode(to).map_err(|_| Status::internal("a message does not fit its buffer"))
    }

    fn buffer_settings(&self) -> BufferSettings {
        // Of no more than the frame's head at first.
        BufferSettings::new(FRAME_HEAD_BYTES, YIELD_BYTES)
    }
}

/// What precedes a message: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;
/// Messages of a stream are collected into a buffer until it holds so much.
const YIELD_BYTES: usize = 32 * 1024;
