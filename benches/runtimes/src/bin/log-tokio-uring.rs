//! A log on tokio-uring: one thread that writes one file and does nothing else. `hawser-bench log` starts
//! it, with a file of zeros that it writes over again and again.
//!
//! ```text
//! append BYTES COUNT  ──▶  took NANOSECONDS ...     of each append, which is on the disk when it is over
//! ```

#![forbid(unsafe_code)]

use std::io::{BufRead, stdin};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use tokio_uring::fs::{File, OpenOptions};

#[derive(Parser)]
struct Arguments {
    /// The file, which keeps its size
    file: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let Arguments { file } = Arguments::parse();
    let file_bytes = std::fs::metadata(&file).with_context(|| file.display().to_string())?.len();
    tokio_uring::start(async {
        let file = OpenOptions::new().write(true).open(&file).await?;
        let mut offset = 0;
        // Nothing else runs on this thread, so it may wait for its next command.
        for line in stdin().lock().lines() {
            let line = line?;
            let mut words = line.split(' ');
            let (Some("append"), Some(bytes), Some(count)) =
                (words.next(), words.next(), words.next())
            else {
                anyhow::bail!("no command: {line:?}");
            };
            let (bytes, count) = (bytes.parse::<u64>()?, count.parse::<u64>()?);
            let mut record = vec![1; bytes as usize];
            let mut took = String::from("took");
            for _ in 0..count {
                if offset + bytes > file_bytes {
                    offset = 0;
                }
                let begun = Instant::now();
                record = append(&file, record, offset).await?;
                took += &format!(" {}", begun.elapsed().as_nanos());
                offset += bytes;
            }
            println!("{took}");
        }
        Ok(())
    })
}

async fn append(file: &File, record: Vec<u8>, offset: u64) -> anyhow::Result<Vec<u8>> {
    let (written, record) = file.write_all_at(record, offset).await;
    written?;
    file.sync_data().await?;
    Ok(record)
}
