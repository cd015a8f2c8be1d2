//! A message with its five bytes of prefix, as gRPC sends it
//! (<https://grpc.github.io/grpc/core/md_doc__p_r_o_t_o_c_o_l-_h_t_t_p2.html>).

use bytes::Bytes;
use prost::Message;
use tonic::Status;

/// Length of the prefix: one byte for compression, four for the length of the message.
pub(crate) const PREFIX_BYTES: usize = 5;

/// A request message, encoded with its prefix. Two messages are equal if their bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedMessage(pub(crate) Bytes);

impl EncodedMessage {
    /// Encodes a message.
    ///
    /// # Panics
    /// If the message has 4 GiB or more: gRPC cannot express its length.
    #[must_use]
    pub fn new(message: &impl Message) -> Self {
        let length = message.encoded_len();
        let prefix = u32::try_from(length).expect("messages are shorter than 4 GiB");
        let mut encoded = Vec::with_capacity(PREFIX_BYTES + length);
        encoded.push(0);
        encoded.extend_from_slice(&prefix.to_be_bytes());
        message.encode_raw(&mut encoded);
        Self(encoded.into())
    }
}

/// Reads the length of the message from its prefix. `None` if the prefix is not complete, or says
/// that the message is compressed, or if the length does not fit into memory.
pub(crate) fn announced_length(body: &[u8]) -> Option<usize> {
    let [0, length @ ..] = body.first_chunk::<PREFIX_BYTES>()? else { return None };
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

/// Decodes a body that must consist of exactly one message. Fields of type `bytes` share the
/// memory of the body.
pub(crate) fn decode<A: Message + Default>(body: &Bytes) -> Result<A, Status> {
    let is_whole = announced_length(body).is_some_and(|it| body.len() == PREFIX_BYTES + it);
    if !is_whole {
        return Err(Status::internal("the response is not exactly one uncompressed message"));
    }
    A::decode(body.slice(PREFIX_BYTES..)).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_with_their_prefix() {
        let EncodedMessage(encoded) = EncodedMessage::new(&"a.example".to_owned());
        assert_eq!(&encoded[..7], [0, 0, 0, 0, 11, 10, 9]);
        assert_eq!(decode::<String>(&encoded).unwrap(), "a.example");
    }

    #[test]
    fn bodies_that_are_not_one_message_are_refused() {
        for body in [&b""[..], &[0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 9], &[1, 0, 0, 0, 0]]
        {
            assert!(decode::<String>(&Bytes::copy_from_slice(body)).is_err(), "{body:?}");
        }
        assert_eq!(decode::<String>(&Bytes::from_static(&[0; 5])).unwrap(), "");
    }
}
