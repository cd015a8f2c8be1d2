//! The `Authorization: X-Matrix …` header, by the grammar of RFC 9110 §11.4: the scheme in any
//! case, one space or more, parameters between commas, names in any case, values as tokens or
//! quoted strings with `\` escapes. A comma inside quotes is content.
//!
//! Beyond the grammar, an unquoted value may hold any visible character but `"`, `\` and `,`:
//! old servers leave `:` unquoted. Unknown parameters are ignored, repeated ones are refused.

use std::{iter::Peekable, str::Chars};

use backscroll_matrix::Signature;

use crate::server_name::{ServerName, ServerNameError};

/// Longest header that is parsed, in bytes. A usual one has about 300.
pub(crate) const MAX_HEADER_BYTES: usize = 8 * 1024;

/// The parameters of one header. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) origin: ServerName,
    /// The text of the parameter. It is only compared with our own name.
    pub(crate) destination: Option<String>,
    pub(crate) key_id: String,
    pub(crate) signature: Signature,
}

/// Why a header cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    #[error("it is not a list of parameters")]
    Syntax,
    #[error("a parameter is given twice")]
    Repeated,
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`origin` is not a server name: {0}")]
    Origin(ServerNameError),
    #[error("`sig` is not an ed25519 signature in base64")]
    Signature,
}

/// Parses one `Authorization` header. `None` if it has another scheme.
pub(crate) fn parse(header: &[u8]) -> Option<Result<Credentials, Malformed>> {
    const SCHEME: &[u8] = b"X-Matrix";
    let end = header.iter().position(|byte| *byte == b' ').unwrap_or(header.len());
    let (scheme, params) = header.split_at_checked(end)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    if header.len() > MAX_HEADER_BYTES {
        return Some(Err(Malformed::TooLong));
    }
    // All known parameters are ASCII, and unknown ones are ignored.
    Some(params_of(&String::from_utf8_lossy(params)).and_then(credentials))
}

fn credentials(params: Vec<(String, String)>) -> Result<Credentials, Malformed> {
    let (mut origin, mut destination, mut key_id) = (None, None, None);
    // The specification lists `signature`. Its examples and all servers use `sig`.
    let (mut sig, mut signature) = (None, None);
    for (name, value) in params {
        let slot = match name.as_str() {
            "origin" => &mut origin,
            "destination" => &mut destination,
            "key" => &mut key_id,
            "sig" => &mut sig,
            "signature" => &mut signature,
            _ => continue,
        };
        *slot = Some(value);
    }
    if sig.is_some() && signature.is_some() {
        return Err(Malformed::Repeated);
    }
    let origin = origin.ok_or(Malformed::Missing("origin"))?;
    let signature = sig.or(signature).ok_or(Malformed::Missing("sig"))?;
    Ok(Credentials {
        origin: origin.parse().map_err(Malformed::Origin)?,
        destination,
        key_id: key_id.ok_or(Malformed::Missing("key"))?,
        signature: backscroll_matrix::signature(&signature).ok_or(Malformed::Signature)?,
    })
}

/// Parses the parameters, in order, with names in lower case. Empty list elements are ignored
/// (RFC 9110 §5.6.1).
fn params_of(text: &str) -> Result<Vec<(String, String)>, Malformed> {
    let mut params = Vec::<(String, String)>::new();
    let mut rest = text.chars().peekable();
    loop {
        skip_blanks(&mut rest);
        match rest.peek() {
            None => return Ok(params),
            Some(',') => {
                rest.next();
                continue;
            }
            Some(_) => {}
        }
        let name = take_while(&mut rest, is_token_char).to_ascii_lowercase();
        skip_blanks(&mut rest);
        if name.is_empty() || rest.next() != Some('=') {
            return Err(Malformed::Syntax);
        }
        skip_blanks(&mut rest);
        let value = if rest.next_if_eq(&'"').is_some() {
            quoted(&mut rest)?
        } else {
            Some(take_while(&mut rest, is_bare_char))
                .filter(|bare| !bare.is_empty())
                .ok_or(Malformed::Syntax)?
        };
        skip_blanks(&mut rest);
        if !matches!(rest.peek(), None | Some(',')) {
            return Err(Malformed::Syntax);
        }
        if params.iter().any(|(known, _)| *known == name) {
            return Err(Malformed::Repeated);
        }
        params.push((name, value));
    }
}

/// Parses the rest of a quoted string, after its opening quote.
fn quoted(rest: &mut Peekable<Chars<'_>>) -> Result<String, Malformed> {
    let mut value = String::new();
    loop {
        match rest.next().ok_or(Malformed::Syntax)? {
            '"' => return Ok(value),
            '\\' => value.push(rest.next().ok_or(Malformed::Syntax)?),
            other => value.push(other),
        }
    }
}

fn take_while(rest: &mut Peekable<Chars<'_>>, wanted: fn(char) -> bool) -> String {
    let mut taken = String::new();
    while let Some(next) = rest.next_if(|next| wanted(*next)) {
        taken.push(next);
    }
    taken
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|next| matches!(next, ' ' | '\t')).is_some() {}
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn is_bare_char(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '"' | '\\' | ',')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIG: &str =
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn read(header: &str) -> Option<Result<Credentials, Malformed>> {
        parse(header.replace("SIG", SIG).as_bytes())
    }

    fn expected(destination: Option<&str>) -> Credentials {
        Credentials {
            origin: "a.example:8448".parse().unwrap(),
            destination: destination.map(str::to_owned),
            key_id: "ed25519:1".to_owned(),
            signature: Signature::from_bytes(&[0; 64]),
        }
    }

    #[test]
    fn every_spelling_of_the_same_header() {
        for header in [
            r#"X-Matrix origin="a.example:8448",destination="b",key="ed25519:1",sig="SIG""#,
            r#"x-mATRIX    ORIGIN="a.example:8448",Destination="b",KEY="ed25519:1",sIg="SIG""#,
            r"X-Matrix origin=a.example:8448,destination=b,key=ed25519:1,sig=SIG",
            r"X-Matrix origin=a.example:8448,destination=b,key=ed25519:1,sig=SIG==",
            r#"X-Matrix origin="a.example:8448",destination="b",key="ed25519:1",signature="SIG""#,
            r#"X-Matrix , origin = "a.example:8448" ,,destination	=	"b", key="ed25519:1", sig="SIG" ,"#,
            r#"X-Matrix sig="SIG",key="ed\25519:1",destination="\b",origin="\a.example:8448""#,
            r#"X-Matrix x="1,origin=evil\",",origin="a.example:8448",destination="b",key="ed25519:1",sig="SIG""#,
            "X-Matrix é=1,origin=a.example:8448,destination=b,key=ed25519:1,sig=SIG",
            "X-Matrix x=\"é\",origin=a.example:8448,destination=b,key=ed25519:1,sig=SIG",
        ] {
            let well_formed = !header.starts_with("X-Matrix é");
            let wanted = if well_formed { Ok(expected(Some("b"))) } else { Err(Malformed::Syntax) };
            assert_eq!(read(header), Some(wanted), "{header}");
        }
        let header = r#"X-Matrix origin="a.example:8448",key="ed25519:1",sig="SIG""#;
        assert_eq!(read(header), Some(Ok(expected(None))));
    }

    #[test]
    fn headers_of_other_schemes_are_ignored() {
        for header in ["", "Bearer x", "X-Matrix2 origin=a", "X-Matri", "X-Matrix\torigin=a"] {
            assert_eq!(read(header), None, "{header}");
        }
    }

    #[test]
    fn malformed_headers() {
        use Malformed::{Missing, Origin, Repeated, Signature, Syntax, TooLong};
        let no_name = Origin(ServerNameError::Host);
        for (header, fault) in [
            ("X-Matrix", Missing("origin")),
            ("X-Matrix ", Missing("origin")),
            ("X-Matrix dG9rZW42OA=", Syntax),
            ("X-Matrix dG9rZW42OA==", Missing("origin")),
            ("X-Matrix origin", Syntax),
            ("X-Matrix =a", Syntax),
            ("X-Matrix origin=\"a", Syntax),
            ("X-Matrix origin=\"a\\", Syntax),
            ("X-Matrix origin=\"a\"b", Syntax),
            ("X-Matrix origin=a key=b", Syntax),
            ("X-Matrix origin=a;key=b", Missing("sig")),
            ("X-Matrix origin=a,origin=a", Repeated),
            ("X-Matrix origin=a,ORIGIN=b", Repeated),
            ("X-Matrix x=1,x=1,origin=a,key=k,sig=SIG", Repeated),
            ("X-Matrix origin=a,key=k,sig=SIG,signature=SIG", Repeated),
            ("X-Matrix key=k,sig=SIG", Missing("origin")),
            ("X-Matrix origin=a,sig=SIG", Missing("key")),
            ("X-Matrix origin=a,key=k", Missing("sig")),
            ("X-Matrix origin=,key=k,sig=SIG", Syntax),
            ("X-Matrix origin=\"\",key=k,sig=SIG", Origin(ServerNameError::Length)),
            ("X-Matrix origin=a_b,key=k,sig=SIG", no_name),
            ("X-Matrix origin=a:0,key=k,sig=SIG", Origin(ServerNameError::Port)),
            ("X-Matrix origin=\"a b\",key=k,sig=SIG", no_name),
            ("X-Matrix origin=é,key=k,sig=SIG", Syntax),
            ("X-Matrix origin=a,key=k,sig=\"\"", Signature),
            ("X-Matrix origin=a,key=k,sig=AAAA", Signature),
            ("X-Matrix origin=a,key=k,sig=SIGA", Signature),
            ("X-Matrix origin=a,key=k,sig=\"-_\"", Signature),
        ] {
            assert_eq!(read(header), Some(Err(fault)), "{header}");
        }
        let long = format!("X-Matrix x=\"{}\"", "a".repeat(MAX_HEADER_BYTES));
        assert_eq!(read(&long), Some(Err(TooLong)));
    }
}
