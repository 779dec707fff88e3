//! The reader of the write log: a segment that begins with sequence 1.

use std::fs;
use std::path::PathBuf;

use hawser_kv::store::log::{Cut, Log, OpenError};

/// A directory for one segment after the other.
pub struct Segment(PathBuf);

type Records = Vec<(u64, Vec<u8>)>;

impl Segment {
    pub fn new() -> Segment {
        let dir = std::env::temp_dir().join(format!("hkv-fuzz-log-{}", std::process::id()));
        Segment(dir)
    }

    pub fn check(&self, input: &[u8]) {
        _ = fs::remove_dir_all(&self.0);
        fs::create_dir_all(&self.0).expect("a directory");
        fs::write(self.0.join(format!("{:020}.log", 1)), input).expect("a segment");
        let (records, cut) = match self.open() {
            Ok(found) => found,
            Err(OpenError::Damaged { offset, .. }) => {
                return assert!(offset <= input.len() as u64, "damaged behind its end");
            }
            Err(error) => panic!("{error}"),
        };
        let wanted: Vec<u64> = (1..=records.len() as u64).collect();
        assert!(records.iter().map(|(sequence, _)| *sequence).eq(wanted), "not dense");
        if let Some(cut) = &cut {
            assert_eq!(cut.offset + cut.bytes, input.len() as u64);
        }
        let again = self.open().expect("what was opened opens again");
        assert_eq!(again, (records, None));
    }

    fn open(&self) -> Result<(Records, Option<Cut>), OpenError> {
        let mut records = Vec::new();
        let (_, cut) = Log::open(&self.0, 0, 1 << 20, |sequence, payload| {
            records.push((sequence, payload.to_vec()));
            Ok::<(), OpenError>(())
        })?;
        Ok((records, cut))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}
