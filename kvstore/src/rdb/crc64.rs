//! The checksum of RDB: CRC-64 with the polynomial of Jones, reflected, from 0 and without a final change.
//! Eight bytes at a time by eight tables ("slicing by eight", Kounavis and Berry).

/// 0xad93d23594c935a9, its bits turned around.
const POLYNOMIAL: u64 = 0xad93_d235_94c9_35a9_u64.reverse_bits();

static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u64, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut table = 1;
        while table < 8 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            table += 1;
        }
        byte += 1;
    }
    tables
}

/// The checksum of what had `crc`, followed by these bytes.
pub fn update(mut crc: u64, bytes: &[u8]) -> u64 {
    let mut eights = bytes.chunks_exact(8);
    for eight in &mut eights {
        crc ^= u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        let at = |table: usize, byte: u32| TABLES[table][(crc >> (8 * byte) & 0xff) as usize];
        crc = (0..8).fold(0, |sum, byte| sum ^ at(7 - byte as usize, byte));
    }
    for byte in eights.remainder() {
        crc = crc >> 8 ^ TABLES[0][(crc as u8 ^ byte) as usize];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both from the test of Redis's own implementation.
    #[test]
    fn it_is_that_of_redis() {
        assert_eq!(update(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        let text = b"This is a test of the emergency broadcast system.";
        let (first, rest) = text.split_at(5);
        assert_eq!(update(update(0, first), rest), update(0, text));
    }
}
