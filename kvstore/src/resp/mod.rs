//! The Redis protocol: commands in ([`request`]), answers out ([`reply`]), and the numbers in both
//! ([`double`], [`extended`]). No IO.

pub mod double;
pub mod extended;
pub mod reply;
pub mod request;

use std::io::Write;

/// A number as Redis reads it: no sign but a minus, no leading zeros, no spaces.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', digits) => (true, digits),
        _ => (false, text),
    };
    if digits == b"0" {
        return (!negative).then_some(0);
    }
    if !matches!(digits.first()?, b'1'..=b'9') {
        return None;
    }
    // Counted below zero, where there is room for the smallest number.
    let mut value = 0i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// The same for numbers without a sign, over all 64 bits.
pub fn unsigned(text: &[u8]) -> Option<u64> {
    let all_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let plain = all_digits && (text == b"0" || text[0] != b'0');
    if plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

pub fn put_integer(out: &mut Vec<u8>, value: i64) {
    write!(out, "{value}").expect("writing to memory does not fail");
}
