//! A secret token that a client and a server share.

use std::{fmt, path::PathBuf, sync::Arc};

use anyhow::ensure;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::Watched;

/// Shortest token: shorter ones can be guessed.
const MIN_BYTES: usize = 16;
/// Longest token that is sent in a header.
const MAX_BYTES: usize = 4_096;

/// A secret token. It is never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Reads a token from a file. White space around it is ignored.
    ///
    /// # Errors
    /// When the file cannot be read, or the token is too short, too long, or cannot be sent in a header.
    pub fn watched(path: PathBuf) -> anyhow::Result<Arc<Watched<Self>>> {
        Watched::open(vec![path.clone()], move |files| {
            let text = files.concat();
            let text = text.trim_ascii();
            let name = path.display();
            ensure!(
                (MIN_BYTES..=MAX_BYTES).contains(&text.len()),
                "{name}: a token must have {MIN_BYTES} to {MAX_BYTES} bytes"
            );
            ensure!(
                text.iter().all(u8::is_ascii_graphic),
                "{name}: a token must consist of visible ASCII characters, without spaces"
            );
            Ok(Self(String::from_utf8(text.to_vec())?))
        })
    }

    /// The value of the `authorization` header.
    #[must_use]
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether an `authorization` header has this token. Takes the same time whichever byte differs.
    #[must_use]
    pub fn is_shown(&self, header: &[u8]) -> bool {
        let expected = Sha256::digest(self.header().as_bytes());
        Sha256::digest(header).ct_eq(&expected).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> anyhow::Result<Arc<Token>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("token");
        std::fs::write(&path, content)?;
        Ok(Token::watched(path)?.get())
    }

    #[test]
    fn only_the_same_token_is_accepted() {
        let token = read("0123456789abcdef\n").unwrap();
        assert!(token.is_shown(b"Bearer 0123456789abcdef"));
        for other in [
            "",
            "Bearer ",
            "0123456789abcdef",
            "bearer 0123456789abcdef",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef ",
            "Bearer 1123456789abcdef",
        ] {
            assert!(!token.is_shown(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn invalid_tokens_are_refused() {
        for bad in ["", "\n", "short", "0123456789abcdef 0123456789abcdef", "0123456789abcdé€"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(read(&"a".repeat(4_097)).is_err());
    }
}
