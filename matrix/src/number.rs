//! JSON numbers, also those that only room versions 1 to 5 allow. They are written as Python writes
//! them, since homeservers in Python hashed and signed them.

use ruma::Int;

/// The most digits of an integer. Python refuses longer ones, so no event in the federation has one.
const MAX_DIGITS: usize = 4_300;

/// A number that no float can hold, such as `1e400`, or an integer of more than 4,300 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a number overflows")]
pub struct Overflow;

/// A number that was read from JSON.
#[derive(Debug, PartialEq, Eq)]
pub enum Number {
    /// An integer within ±(2^53 − 1), which every room version allows.
    Plain(Int),
    /// Any other number, as the text that Python writes for it.
    Odd(String),
}

impl Number {
    /// Reads a number from its JSON text. The caller has checked the grammar of the text.
    ///
    /// # Errors
    /// Python cannot hold the number either.
    pub fn read(text: &str) -> Result<Self, Overflow> {
        if text.contains(['.', 'e', 'E']) {
            let value: f64 = text.parse().map_err(|_| Overflow)?;
            return if value.is_finite() { Ok(Self::Odd(repr(value))) } else { Err(Overflow) };
        }
        if text.trim_start_matches('-').len() > MAX_DIGITS {
            return Err(Overflow);
        }
        // As in Python, the integer `-0` is 0, but the float `-0.0` is not 0.0.
        let plain = text.parse::<i64>().ok().and_then(|it| Int::try_from(it).ok());
        Ok(plain.map_or_else(|| Self::Odd(text.to_owned()), Self::Plain))
    }
}

/// Writes the shortest digits that read back as `value`, in the layout of Python's `repr`.
fn repr(value: f64) -> String {
    let shortest = shortest(value);
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let mark = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{mantissa}e{mark}{:02}", exponent.unsigned_abs());
    }
    let digits = mantissa.replace('.', "");
    let places = usize::try_from(exponent.unsigned_abs()).unwrap_or(0);
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(places - 1));
    }
    match digits.split_at_checked(places + 1) {
        Some((whole, fraction)) if !fraction.is_empty() => format!("{sign}{whole}.{fraction}"),
        _ => format!("{sign}{digits:0<width$}.0", width = places + 1),
    }
}

/// Writes the shortest digits that read back as `value`, and of these the nearest. Half-way between
/// two, Rust chooses the upper one and Python the even one. Rust rounds to a given number of digits
/// like Python, so that is used where it gives the same value.
fn shortest(value: f64) -> String {
    let shortest = format!("{value:e}");
    let mantissa = shortest.split('e').next().unwrap_or_default();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let even = format!("{value:.*e}", digits.saturating_sub(1));
    let is_same = even.parse::<f64>().is_ok_and(|it| it.to_bits() == value.to_bits());
    if is_same { even } else { shortest }
}

#[cfg(test)]
mod tests {
    use ruma::int;

    use super::{Number, Overflow};

    fn odd(text: &str) -> String {
        match Number::read(text) {
            Ok(Number::Odd(canonical)) => canonical,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        // On the right: what `python3 -c 'import json; print(json.dumps(json.loads(...)))'` prints.
        for (text, python) in [
            ("1.5", "1.5"),
            ("-0.25", "-0.25"),
            ("0.0", "0.0"),
            ("-0.0", "-0.0"),
            ("0e1", "0.0"),
            ("-0E+5", "-0.0"),
            ("1e22", "1e+22"),
            ("1E22", "1e+22"),
            ("1e-7", "1e-07"),
            ("1e10", "10000000000.0"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("123456789012345.6", "123456789012345.6"),
            ("1234567890123456.7", "1234567890123456.8"),
            ("12345678901234567.0", "1.2345678901234568e+16"),
            ("9007199254740993.0", "9007199254740992.0"),
            ("0.0001", "0.0001"),
            ("0.00012345", "0.00012345"),
            ("0.00001", "1e-05"),
            ("1.5e-5", "1.5e-05"),
            ("0.1", "0.1"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("100.0", "100.0"),
            ("100.50", "100.5"),
            ("3.0", "3.0"),
            ("1e100", "1e+100"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("5e-324", "5e-324"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
            ("1e-400", "0.0"),
            ("5e-5", "5e-05"),
            ("9.5367431640625e-07", "9.5367431640625e-07"),
            ("1e23", "1e+23"),
            ("2e-3", "0.002"),
            // Half-way between two shortest forms.
            ("-2096414748820614.25", "-2096414748820614.2"),
            ("5.6843418860808015e-14", "5.684341886080802e-14"),
            ("4503599627370498.75", "4503599627370499.0"),
        ] {
            assert_eq!(odd(text), python, "{text}");
        }
    }

    #[test]
    fn integers_are_kept_in_full() {
        assert_eq!(Number::read("0"), Ok(Number::Plain(int!(0))));
        assert_eq!(Number::read("-0"), Ok(Number::Plain(int!(0))));
        assert_eq!(Number::read("9007199254740991"), Ok(Number::Plain(ruma::Int::MAX)));
        for text in ["9007199254740992", "-9007199254740992", "123456789012345678901234567890"] {
            assert_eq!(odd(text), text);
        }
    }

    #[test]
    fn what_no_homeserver_can_hold_is_refused() {
        assert_eq!(Number::read("1e400"), Err(Overflow));
        assert_eq!(Number::read("-1e400"), Err(Overflow));
        assert_eq!(Number::read(&"9".repeat(4_301)), Err(Overflow));
        assert_eq!(odd(&"9".repeat(4_300)).len(), 4_300);
    }
}
