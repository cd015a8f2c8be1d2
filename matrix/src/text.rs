//! Writing strings as canonical JSON.

/// Writes a string in quotes. Only characters that JSON requires to be escaped are escaped, in the
/// shortest form.
pub fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for piece in text.split_inclusive(is_escaped) {
        // Only the last character of a piece may need an escape.
        let plain = piece.strip_suffix(is_escaped).unwrap_or(piece);
        out.push_str(plain);
        if plain.len() < piece.len() {
            piece.chars().next_back().into_iter().for_each(|symbol| write_escape(out, symbol));
        }
    }
    out.push('"');
}

fn write_escape(out: &mut String, symbol: char) {
    match symbol {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{8}' => out.push_str("\\b"),
        '\t' => out.push_str("\\t"),
        '\n' => out.push_str("\\n"),
        '\u{c}' => out.push_str("\\f"),
        '\r' => out.push_str("\\r"),
        _ => out.push_str(&format!("\\u{:04x}", u32::from(symbol))),
    }
}

fn is_escaped(symbol: char) -> bool {
    matches!(symbol, '"' | '\\' | '\0'..='\u{1f}')
}

#[cfg(test)]
mod tests {
    use super::write_string;

    #[test]
    fn nothing_is_escaped_that_need_not_be() {
        let mut out = String::new();
        write_string(&mut out, "a\"\\/\u{8}\t\n\u{c}\r\u{1}\u{7f}é\u{1f600}");
        assert_eq!(out, "\"a\\\"\\\\/\\b\\t\\n\\f\\r\\u0001\u{7f}é\u{1f600}\"");
    }
}
