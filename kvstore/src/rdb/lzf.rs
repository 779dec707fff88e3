//! LZF, as Redis compresses strings: runs of literal bytes, and copies of what came before.
//!
//! ```text
//! 000lllll                      l + 1 literal bytes follow
//! lllooooo oooooooo             l + 2 bytes from 1 + o back, for l from 1 to 6
//! 111ooooo llllllll oooooooo    l + 9 bytes from 1 + o back
//! ```

/// A copy of 264 bytes takes three.
const GROWTH_MAX: u64 = 88;

/// Whether so many bytes can become so many others: nobody is to make room for more.
pub fn is_possible(packed_bytes: u64, bytes: u64) -> bool {
    bytes <= packed_bytes.saturating_mul(GROWTH_MAX)
}

/// The bytes that were compressed, if they are exactly so many.
pub fn decompress(mut packed: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes);
    while let Some((&head, rest)) = packed.split_first() {
        packed = rest;
        if head < 32 {
            let (literal, rest) = packed.split_at_checked(usize::from(head) + 1)?;
            packed = rest;
            if literal.len() > bytes - out.len() {
                return None;
            }
            out.extend_from_slice(literal);
            continue;
        }
        let mut length = usize::from(head >> 5);
        if length == 7 {
            length += usize::from(take(&mut packed)?);
        }
        let back = usize::from(head & 31) << 8 | usize::from(take(&mut packed)?);
        let from = out.len().checked_sub(back + 1)?;
        if length + 2 > bytes - out.len() {
            return None;
        }
        // What is copied may include what this copy itself has written.
        for at in from..from + length + 2 {
            out.push(out[at]);
        }
    }
    (out.len() == bytes).then_some(out)
}

fn take(packed: &mut &[u8]) -> Option<u8> {
    let (&byte, rest) = packed.split_first()?;
    *packed = rest;
    Some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_copies() {
        let check = |packed: &[u8], bytes: usize, expect: Option<&[u8]>| {
            assert_eq!(decompress(packed, bytes).as_deref(), expect, "{packed:?}");
        };
        check(b"\x02abc", 3, Some(b"abc"));
        check(b"\x00a\x20\x00", 4, Some(b"aaaa"));
        check(b"\x01ab\xe0\x00\x01", 11, Some(b"abababababa"));
        check(b"\x02abc", 4, None);
        check(b"\x02abc", 2, None);
        check(b"\x02ab", 3, None);
        check(b"\x00a\x20\x01", 4, None);
        check(b"\x00a\x20", 4, None);
        check(b"\x00a\x20\x00", 3, None);
        check(b"", 0, Some(b""));
    }
}
