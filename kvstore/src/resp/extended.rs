//! Numbers of 64 bits of mantissa, with which Redis adds up on x86 (`long double`), so that 3 + 1.1
//! is 4.1 and not 4.0999999999999996. Read and written exactly: through integers of any length.
//!
//! Limit: exponents as in the hardware, so a number has at most 4,933 digits. The numbers too small for
//! a full mantissa are kept with one.

use std::cmp::Ordering;

use super::double::{Scan, Shape, scan, without_zeros};

/// Redis takes no longer text for a number.
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;
/// Of the highest bit of a number.
const EXPONENT_MAX: i64 = 16_383;
const EXPONENT_MIN: i64 = -16_445;
/// Powers of ten beyond which a number is surely too large or too small.
const DIGITS_MAX: i64 = 5_000;
/// Digits after the point.
const FRACTION_DIGITS: usize = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    Infinite,
    /// `mantissa * 2^exponent`; the highest bit of the mantissa is set, unless the number is zero.
    Finite {
        is_negative: bool,
        mantissa: u64,
        exponent: i64,
    },
}

const ZERO: Extended = Extended::Finite { is_negative: false, mantissa: 0, exponent: 0 };

impl Extended {
    /// The whole text as a number; `None` if it is none, or too large or too small.
    pub fn parse(text: &[u8]) -> Option<Extended> {
        let is_blank = text.first().is_some_and(|byte| byte.is_ascii_whitespace() || *byte == 0x0b);
        if is_blank || text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let Scan { is_negative, shape, .. } = scan(text).filter(|scan| scan.end == text.len())?;
        let size = match shape {
            Shape::Infinite => return Some(Extended::Infinite),
            Shape::NotANumber => return None,
            Shape::Decimal { digits, scale } => decimal(&digits, scale)?,
            Shape::Hexadecimal { digits, scale } => Extended::hexadecimal(&digits, scale),
        };
        match size {
            Extended::Infinite => None,
            Extended::Finite { mantissa, exponent, .. } => {
                Some(Extended::Finite { is_negative, mantissa, exponent })
            }
        }
    }

    pub fn hexadecimal(digits: &[u8], scale: i64) -> Extended {
        let mut number = Natural::default();
        digits.iter().for_each(|digit| number.multiply_and_add(16, (*digit).into()));
        number.rounded(scale, false)
    }

    pub fn is_infinite(self) -> bool {
        self == Extended::Infinite
    }

    /// `None` if the sum is infinite or not a number.
    pub fn plus(self, other: Extended) -> Option<Extended> {
        let (Extended::Finite { .. }, Extended::Finite { .. }) = (self, other) else { return None };
        let (large, small) =
            if self.highest_bit() >= other.highest_bit() { (self, other) } else { (other, self) };
        let sum = add(large, small);
        (!sum.is_infinite()).then_some(sum)
    }

    fn highest_bit(self) -> i64 {
        match self {
            Extended::Finite { mantissa: 0, .. } => i64::MIN,
            Extended::Finite { exponent, .. } => exponent + 63,
            Extended::Infinite => i64::MAX,
        }
    }

    pub fn to_f64(self) -> f64 {
        match self {
            Extended::Infinite => f64::INFINITY,
            Extended::Finite { is_negative, mantissa, exponent } => {
                // In two steps, since the power alone may be too large or too small for a double.
                let half = (exponent / 2) as i32;
                let rest = (exponent - i64::from(half)) as i32;
                let size = mantissa as f64 * 2f64.powi(half) * 2f64.powi(rest);
                if is_negative { -size } else { size }
            }
        }
    }

    /// As `%.17Lf`, without zeros at the end.
    pub fn text(self) -> String {
        let Extended::Finite { is_negative, mantissa, exponent } = self else {
            return "inf".to_string();
        };
        let plain = match u32::try_from(-exponent) {
            Err(_) => {
                let mut number = Natural::from(mantissa);
                number.shift_left(exponent.max(0) as usize);
                number.text()
            }
            Ok(fraction_bits) => fixed(mantissa, fraction_bits),
        };
        if is_negative && plain != "0" { format!("-{plain}") } else { plain }
    }
}

/// `mantissa / 2^fraction_bits`, rounded to even.
fn fixed(mantissa: u64, fraction_bits: u32) -> String {
    let ten_to = 10u128.pow(FRACTION_DIGITS as u32);
    // At most 121 bits.
    let number = u128::from(mantissa) * ten_to;
    let rounded = match fraction_bits {
        0 => number,
        1..128 => {
            let (whole, rest) = (number >> fraction_bits, number & ((1 << fraction_bits) - 1));
            let half = 1 << (fraction_bits - 1);
            whole + u128::from(rest > half || rest == half && whole % 2 == 1)
        }
        _ => 0,
    };
    let digits = format!("{}.{:017}", rounded / ten_to, rounded % ten_to);
    without_zeros(&digits).to_string()
}

/// The highest bit of `large` is at least as high as that of `small`; both are finite.
fn add(large: Extended, small: Extended) -> Extended {
    let (
        Extended::Finite { is_negative, mantissa, exponent },
        Extended::Finite { is_negative: other_negative, mantissa: other, exponent: other_exponent },
    ) = (large, small)
    else {
        return Extended::Infinite;
    };
    if other == 0 {
        return large;
    }
    // Room below for what the smaller one has there, and above for a carry.
    const ROOM: i64 = 62;
    let left = u128::from(mantissa) << ROOM;
    let distance = (exponent - other_exponent).min(127) as u32;
    let shifted = u128::from(other) << ROOM;
    let lost = shifted & ((1 << distance) - 1) != 0;
    // What was lost only matters as more than nothing.
    let right = shifted >> distance | u128::from(lost);
    let (is_negative, sum) = match is_negative == other_negative {
        true => (is_negative, left + right),
        false if left >= right => (is_negative, left - right),
        false => (other_negative, right - left),
    };
    match Natural::from_u128(sum).rounded(exponent - ROOM, false) {
        Extended::Finite { mantissa: 0, .. } => ZERO,
        Extended::Finite { mantissa, exponent, .. } => {
            Extended::Finite { is_negative, mantissa, exponent }
        }
        Extended::Infinite => Extended::Infinite,
    }
}

/// `None` if it is too small; what is too large is infinite.
fn decimal(digits: &[u8], scale: i64) -> Option<Extended> {
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let digits = &digits[zeros..];
    if digits.is_empty() {
        return Some(ZERO);
    }
    let magnitude = scale.saturating_add(digits.len() as i64);
    if magnitude > DIGITS_MAX {
        return Some(Extended::Infinite);
    }
    if magnitude < -DIGITS_MAX {
        return None;
    }
    let mut number = Natural::default();
    digits.iter().for_each(|digit| number.multiply_and_add(10, (*digit).into()));
    let mut power = Natural::from(1);
    (0..scale.unsigned_abs()).for_each(|_| power.multiply_and_add(10, 0));
    let rounded = match scale >= 0 {
        true => number.times(&power).rounded(0, false),
        false => number.divided(power),
    };
    let vanished = matches!(rounded, Extended::Finite { mantissa: 0, .. });
    (!vanished).then_some(rounded)
}

/// A whole number of any length; the lowest part first, none of the highest are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Natural(Vec<u32>);

impl From<u64> for Natural {
    fn from(value: u64) -> Natural {
        Natural::from_u128(value.into())
    }
}

impl Natural {
    fn from_u128(value: u128) -> Natural {
        let mut parts: Vec<u32> = (0..4).map(|index| (value >> (32 * index)) as u32).collect();
        while parts.pop_if(|part| *part == 0).is_some() {}
        Natural(parts)
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |part| self.0.len() * 32 - part.leading_zeros() as usize)
    }

    fn multiply_and_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for part in &mut self.0 {
            let value = u64::from(*part) * u64::from(factor) + carry;
            *part = value as u32;
            carry = value >> 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    fn times(&self, other: &Natural) -> Natural {
        let mut product = vec![0u32; self.0.len() + other.0.len()];
        for (shift, factor) in self.0.iter().enumerate() {
            let mut carry = 0;
            for (index, part) in other.0.iter().enumerate() {
                let place = &mut product[shift + index];
                let value = u64::from(*part) * u64::from(*factor) + u64::from(*place) + carry;
                *place = value as u32;
                carry = value >> 32;
            }
            product[shift + other.0.len()] = carry as u32;
        }
        while product.pop_if(|part| *part == 0).is_some() {}
        Natural(product)
    }

    fn shift_left(&mut self, bits: usize) {
        if !bits.is_multiple_of(32) {
            self.multiply_and_add(1 << (bits % 32), 0);
        }
        if !self.0.is_empty() {
            self.0.splice(0..0, std::iter::repeat_n(0, bits / 32));
        }
    }

    fn compare(&self, other: &Natural) -> Ordering {
        let by_length = self.0.len().cmp(&other.0.len());
        by_length.then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// `other` is not larger.
    fn subtract(&mut self, other: &Natural) {
        let mut borrow = false;
        for (index, part) in self.0.iter_mut().enumerate() {
            let (value, first) = part.overflowing_sub(other.0.get(index).copied().unwrap_or(0));
            let (value, second) = value.overflowing_sub(borrow.into());
            (*part, borrow) = (value, first || second);
        }
        while self.0.pop_if(|part| *part == 0).is_some() {}
    }

    /// `self / divisor`, with two bits more than a mantissa has before rounding.
    fn divided(mut self, mut divisor: Natural) -> Extended {
        const QUOTIENT_BITS: usize = 66;
        let scale = QUOTIENT_BITS as i64 + divisor.bits() as i64 - self.bits() as i64;
        match usize::try_from(scale) {
            Ok(scale) => self.shift_left(scale),
            Err(_) => divisor.shift_left(scale.unsigned_abs() as usize),
        }
        let mut quotient = 0u128;
        for bit in (0..=QUOTIENT_BITS).rev() {
            let mut part = divisor.clone();
            part.shift_left(bit);
            if self.compare(&part).is_ge() {
                self.subtract(&part);
                quotient |= 1 << bit;
            }
        }
        Natural::from_u128(quotient).rounded(-scale, !self.0.is_empty())
    }

    /// `self * 2^exponent` with a mantissa of 64 bits, rounded to even; `has_rest` says that the number
    /// is a little larger.
    fn rounded(&self, exponent: i64, has_rest: bool) -> Extended {
        let bits = self.bits();
        if bits == 0 {
            return ZERO;
        }
        let bit = |index: usize| self.0[index / 32] >> (index % 32) & 1 == 1;
        let dropped = bits.saturating_sub(64);
        let take = |value: u64, index| value << 1 | u64::from(bit(index));
        let mut mantissa = (dropped..bits).rev().fold(0, take) << (64 - (bits - dropped));
        let mut exponent = exponent.saturating_add(bits as i64 - 64);
        let is_half = dropped > 0 && bit(dropped - 1);
        let has_more = has_rest || (0..dropped.saturating_sub(1)).any(bit);
        if is_half && (has_more || mantissa % 2 == 1) {
            (mantissa, exponent) = match mantissa.checked_add(1) {
                Some(mantissa) => (mantissa, exponent),
                None => (1 << 63, exponent + 1),
            };
        }
        match exponent + 63 {
            EXPONENT_MIN..=EXPONENT_MAX => {
                Extended::Finite { is_negative: false, mantissa, exponent }
            }
            ..EXPONENT_MIN => ZERO,
            _ => Extended::Infinite,
        }
    }

    fn text(&self) -> String {
        let mut rest = self.0.clone();
        let mut groups = Vec::new();
        while !rest.is_empty() {
            let mut remainder = 0u64;
            for part in rest.iter_mut().rev() {
                let value = remainder << 32 | u64::from(*part);
                *part = (value / 1_000_000_000) as u32;
                remainder = value % 1_000_000_000;
            }
            while rest.pop_if(|part| *part == 0).is_some() {}
            groups.push(remainder);
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        groups.iter().rev().for_each(|group| text.push_str(&format!("{group:09}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Extended;

    fn sum(left: &str, right: &str) -> Option<String> {
        let parse = |text: &str| Extended::parse(text.as_bytes()).expect("a number");
        parse(left).plus(parse(right)).map(Extended::text)
    }

    /// The answers of `redis-server` 7.0.15 on x86-64 to `SET k left` and `INCRBYFLOAT k right`.
    #[test]
    fn sums_are_those_of_the_hardware() {
        for (left, right, wanted) in [
            ("3", "1.1", "4.1"),
            ("0.1", "0.2", "0.3"),
            ("-0.0", "0", "0"),
            ("1", "-1", "0"),
            ("5e3", "200", "5200"),
            ("1e20", "1", "100000000000000000000"),
            ("17179869184", "1.5", "17179869185.5"),
            ("1", "1e-18", "1"),
            ("0x1p3", "0", "8"),
            ("-1.5", "0.25", "-1.25"),
            ("9223372036854775807", "1", "9223372036854775808"),
            ("36893488147419103232", "1", "36893488147419103232"),
            ("36893488147419103232", "3", "36893488147419103236"),
        ] {
            assert_eq!(sum(left, right).as_deref(), Some(wanted), "{left} + {right}");
        }
        assert_eq!(sum("inf", "1"), None);
        assert_eq!(sum("1e4932", "1e4932"), None);
        assert_eq!(sum("1e4900", "1").map(|text| text.len()), Some(4901));
        for text in ["", "x", "1e5000", "1e-5000", "nan", " 1", "1 ", &"1".repeat(5120)] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
    }
}
