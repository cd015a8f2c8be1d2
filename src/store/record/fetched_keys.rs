//! The signing keys of a server, as a gateway fetched them.

use crate::store::codec::{Decoder, Encoder, Malformed};

/// The signing keys of a server, as a gateway fetched them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedKeys {
    /// The time of the fetch, in milliseconds since 1970; 0 if it is unknown.
    pub fetched_ts: u64,
    /// The server's response to `/_matrix/key/v2/server`, byte for byte.
    pub answer: Vec<u8>,
}

impl FetchedKeys {
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let mut writer = Encoder::default();
        writer.number(self.fetched_ts);
        writer.raw(&self.answer);
        writer.finish()
    }

    pub(in crate::store) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Decoder(bytes);
        let fetched_ts = reader.number()?;
        Ok(Self { fetched_ts, answer: reader.0.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::FetchedKeys;

    #[test]
    fn server_keys_round_trip() {
        for fetched_ts in [0, 1_700_000_000_123, u64::MAX] {
            let keys = FetchedKeys { fetched_ts, answer: b"{}".to_vec() };
            assert_eq!(FetchedKeys::decode(&keys.encode()), Ok(keys));
        }
        assert!(FetchedKeys::decode(&[0x80]).is_err());
    }
}
