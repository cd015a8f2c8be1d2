//! Base64 in Matrix keys, signatures and hashes: in the standard or the URL-safe alphabet, with or
//! without padding. As in the readers of Python and Go, unused bits of the last character may have any
//! value, and whitespace is ignored.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes a text. `None` if it is not base64.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let standard = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let standard: Vec<u8> = standard.map(to_standard).collect();
    LENIENT.decode(standard).ok()
}

/// Converts a character of the URL-safe alphabet to the standard one.
fn to_standard(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn both_alphabets_any_padding_any_trailing_bits() {
        for text in [
            "-_8",
            "+/8",
            "-/8",
            "+_8=",
            "-_8=",
            "+/9",
            "+/+",
            "-__",
            "+/8\n",
            " +/ 8\r\n",
            "+/8==",
        ] {
            let is_odd_padding = text.ends_with("==");
            let expected = (!is_odd_padding).then(|| vec![0xfb, 0xff]);
            assert_eq!(decode(text), expected, "{text:?}");
        }
        assert_eq!(decode(""), Some(Vec::new()));
        for text in ["A", "AAAAA", "A!AA", "=", "A=AA", "é"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
