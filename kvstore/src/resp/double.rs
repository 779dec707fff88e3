//! Doubles as Redis reads and writes them, which is as C does: `strtod` and `%.17g`.

use super::extended::Extended;

/// The start of a text that C takes for a number.
pub struct Scan {
    pub is_negative: bool,
    pub shape: Shape,
    /// Bytes taken.
    pub end: usize,
}

pub enum Shape {
    Infinite,
    NotANumber,
    /// The number is `digits * 10^scale`, or `digits * 2^scale` with hexadecimal digits; the digits are
    /// values, not characters.
    Decimal {
        digits: Vec<u8>,
        scale: i64,
    },
    Hexadecimal {
        digits: Vec<u8>,
        scale: i64,
    },
}

/// `None` if the text starts with no number.
pub fn scan(text: &[u8]) -> Option<Scan> {
    let space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let blanks = text.iter().take_while(|byte| space(byte)).count();
    let is_negative = text.get(blanks) == Some(&b'-');
    let start = blanks + usize::from(is_negative || text.get(blanks) == Some(&b'+'));
    let rest = &text[start..];
    let starts = |word: &str| {
        rest.get(..word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
    };
    let found = |shape: Shape, bytes: usize| Scan { is_negative, shape, end: start + bytes };
    if starts("infinity") {
        return Some(found(Shape::Infinite, 8));
    }
    if starts("inf") {
        return Some(found(Shape::Infinite, 3));
    }
    if starts("nan") {
        return Some(found(Shape::NotANumber, 3));
    }
    if starts("0x")
        && let Some((digits, fraction, bytes)) = digits(&rest[2..], 16)
    {
        let (exponent, more) = exponent(&rest[2 + bytes..], b'p');
        let scale = exponent.saturating_sub(4 * fraction as i64);
        return Some(found(Shape::Hexadecimal { digits, scale }, 2 + bytes + more));
    }
    let (digits, fraction, bytes) = digits(rest, 10)?;
    let (exponent, more) = exponent(&rest[bytes..], b'e');
    let scale = exponent.saturating_sub(fraction as i64);
    Some(found(Shape::Decimal { digits, scale }, bytes + more))
}

/// Digits with at most one point among them: their values, how many follow the point, bytes taken.
fn digits(text: &[u8], radix: u32) -> Option<(Vec<u8>, usize, usize)> {
    let mut values = Vec::new();
    let (mut point, mut bytes) = (None, 0);
    for byte in text {
        match (*byte as char).to_digit(radix) {
            Some(value) => values.push(value as u8),
            None if *byte == b'.' && point.is_none() => point = Some(values.len()),
            None => break,
        }
        bytes += 1;
    }
    let fraction = point.map_or(0, |point| values.len() - point);
    (!values.is_empty()).then_some((values, fraction, bytes))
}

/// An exponent after its letter, if there is a whole one, and bytes taken.
fn exponent(text: &[u8], letter: u8) -> (i64, usize) {
    let Some((first, rest)) = text.split_first() else { return (0, 0) };
    if !first.eq_ignore_ascii_case(&letter) {
        return (0, 0);
    }
    let is_negative = rest.first() == Some(&b'-');
    let sign = usize::from(is_negative || rest.first() == Some(&b'+'));
    let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit());
    let (mut value, mut count) = (0i64, 0);
    for digit in digits {
        value = value.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
        count += 1;
    }
    match count {
        0 => (0, 0),
        _ => (if is_negative { -value } else { value }, 1 + sign + count),
    }
}

impl Scan {
    fn value(&self) -> f64 {
        let size = match &self.shape {
            Shape::Infinite => f64::INFINITY,
            Shape::NotANumber => f64::NAN,
            Shape::Decimal { digits, scale } => {
                let digits: String = digits.iter().map(|digit| (b'0' + digit) as char).collect();
                format!("{digits}e{scale}").parse().expect("digits and an exponent")
            }
            Shape::Hexadecimal { digits, scale } => Extended::hexadecimal(digits, *scale).to_f64(),
        };
        if self.is_negative { -size } else { size }
    }

    /// Whether the number itself is zero, and not only too small.
    fn is_zero(&self) -> bool {
        match &self.shape {
            Shape::Infinite | Shape::NotANumber => false,
            Shape::Decimal { digits, .. } | Shape::Hexadecimal { digits, .. } => {
                digits.iter().all(|digit| *digit == 0)
            }
        }
    }
}

/// The whole text as a double; `None` if it is none, not a number, too large or too small.
pub fn parse(text: &[u8]) -> Option<f64> {
    let is_blank = text.first().is_some_and(|byte| byte.is_ascii_whitespace() || *byte == 0x0b);
    let scan = scan(text).filter(|scan| scan.end == text.len() && !is_blank)?;
    let value = scan.value();
    let overflows = value.is_infinite() && !matches!(scan.shape, Shape::Infinite);
    let underflows = value == 0.0 && !scan.is_zero();
    (!value.is_nan() && !overflows && !underflows).then_some(value)
}

/// The bound of a range of scores, where Redis is less strict: blanks before it and nothing at all are
/// taken, and numbers too large are infinite.
pub fn parse_bound(text: &[u8]) -> Option<f64> {
    let (value, end) = scan(text).map_or((0.0, 0), |scan| (scan.value(), scan.end));
    let is_whole = text.get(end).is_none_or(|byte| *byte == 0);
    (is_whole && !value.is_nan()).then_some(value)
}

/// As `%.17g`: seventeen digits, without zeros at the end.
pub fn text(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("an exponent");
    let exponent: i32 = exponent.parse().expect("a small number");
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    if !(-4..17).contains(&exponent) {
        let mantissa = without_zeros(mantissa);
        let direction = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{mantissa}e{direction}{:02}", exponent.abs());
    }
    let digits = mantissa.replace('.', "");
    let plain = match usize::try_from(exponent) {
        Ok(exponent) => format!("{}.{}", &digits[..=exponent], &digits[exponent + 1..]),
        Err(_) => format!("0.{}{digits}", "0".repeat((-exponent - 1) as usize)),
    };
    format!("{sign}{}", without_zeros(&plain))
}

/// Without what follows the point if it says nothing.
pub fn without_zeros(text: &str) -> &str {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, parse_bound, text};

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (input, value) in [
            ("1", Some(1.0)),
            ("-0", Some(-0.0)),
            ("+1.5", Some(1.5)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("1e3", Some(1000.0)),
            ("0x1p4", Some(16.0)),
            ("-0X1.8", Some(-1.5)),
            ("inf", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("4.9406564584124654e-324", Some(5e-324)),
            ("1e308", Some(1e308)),
            ("1e309", None),
            ("1e-400", None),
            ("0e-400", Some(0.0)),
            ("nan", None),
            ("1e", None),
            ("0x", None),
            (".", None),
            ("", None),
            (" 1", None),
            ("1 ", None),
            ("1\0", None),
        ] {
            assert_eq!(parse(input.as_bytes()), value, "{input:?}");
        }
        for (input, value) in [
            ("", Some(0.0)),
            (" 1", Some(1.0)),
            ("1\0x", Some(1.0)),
            ("1e400", Some(f64::INFINITY)),
            ("x", None),
            ("nan", None),
            ("1 ", None),
        ] {
            assert_eq!(parse_bound(input.as_bytes()), value, "{input:?}");
        }
    }

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        for (value, wanted) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (3.1, "3.1000000000000001"),
            (-0.1, "-0.10000000000000001"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1.5e300, "1.5000000000000001e+300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (f64::NEG_INFINITY, "-inf"),
            (9007199254740993.0, "9007199254740992"),
        ] {
            assert_eq!(text(value), wanted);
        }
    }
}
