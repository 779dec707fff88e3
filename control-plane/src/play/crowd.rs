//! All fleet processes, seen from outside: started, listened to, ended.

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc;

use super::fleet::{DEVICES_PER_FLEET_MAX, FleetPlan};
use super::process::{Process, Spec};
use super::record::{RECORD_BYTES, Record};
use super::system::{System, beside_us};

/// Bytes read from a fleet at once: a pipe's usual capacity.
const CHUNK_BYTES: usize = 64 * 1024;

/// Above this, one source address may run out of ports towards one listener.
const DEVICES_ON_ONE_SOURCE_MAX: u32 = 25_000;

#[derive(Debug)]
pub struct Crowd {
    fleets: Vec<Fleet>,
}

#[derive(Debug)]
struct Fleet {
    process: Process,
    /// Closing it ends the fleet.
    stdin: ChildStdin,
}

/// A run of records of one fleet, in order.
#[derive(Debug)]
pub struct Records(Vec<u8>);

impl Records {
    pub fn iter(&self) -> impl Iterator<Item = anyhow::Result<Record>> {
        self.0.as_chunks::<RECORD_BYTES>().0.iter().map(|bytes| {
            Record::decode(bytes).context("a fleet wrote something that is not a record")
        })
    }
}

impl Crowd {
    /// Starts as many processes as the devices need. Their records go to `sink`.
    pub async fn start(
        system: &System,
        devices: u32,
        topics: u32,
        sink: mpsc::Sender<Records>,
    ) -> anyhow::Result<Crowd> {
        let processes = devices.div_ceil(DEVICES_PER_FLEET_MAX);
        let mut fleets = Vec::new();
        let mut first = 0;
        for index in 0..processes {
            // Spread evenly: the first ones take the remainder.
            let count = devices / processes + u32::from(index < devices % processes);
            let plan = FleetPlan {
                broker: system.addresses.broker,
                first,
                count,
                topics,
                run: system.run,
                many_sources: devices > DEVICES_ON_ONE_SOURCE_MAX,
            };
            let spec = Spec {
                name: format!("fleet-{}", index + 1),
                program: beside_us("hawser")?,
                args: arguments(plan),
                log: system.directory().join(format!("fleet-{}.log", index + 1)),
            };
            let (process, mut stdin, stdout) = Process::start_piped(spec)?;
            stdin.write_all(system.credentials().line().as_bytes()).await?;
            tokio::spawn(read(stdout, sink.clone()));
            fleets.push(Fleet { process, stdin });
            first += count;
        }
        Ok(Crowd { fleets })
    }

    /// An error if a fleet has died.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.fleets.iter_mut().try_for_each(|fleet| fleet.process.check())
    }

    pub async fn end(self) -> anyhow::Result<()> {
        for Fleet { process, stdin } in self.fleets {
            drop(stdin);
            process.end().await?;
        }
        Ok(())
    }
}

fn arguments(plan: FleetPlan) -> Vec<String> {
    let FleetPlan { broker, first, count, topics, run, many_sources } = plan;
    let mut args = vec!["fleet".to_owned()];
    let numbers = [("--first", first), ("--count", count), ("--topics", topics), ("--run", run)];
    for (name, value) in numbers {
        args.extend([name.to_owned(), value.to_string()]);
    }
    args.extend(["--broker".to_owned(), broker.to_string()]);
    if many_sources {
        args.push("--many-sources".to_owned());
    }
    args
}

/// Passes whole records on. The channel is bounded: a reader that falls behind slows the fleet.
async fn read(mut stdout: ChildStdout, sink: mpsc::Sender<Records>) {
    let mut rest = Vec::new();
    loop {
        let mut bytes = std::mem::take(&mut rest);
        bytes.reserve(CHUNK_BYTES);
        match stdout.read_buf(&mut bytes).await {
            // The process's end is noticed by whoever watches the process.
            Ok(0) | Err(_) => return,
            Ok(_) => rest = bytes.split_off(bytes.len() / RECORD_BYTES * RECORD_BYTES),
        }
        if !bytes.is_empty() && sink.send(Records(bytes)).await.is_err() {
            return;
        }
    }
}
