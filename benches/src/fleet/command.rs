//! What a fleet is told and what it answers, one JSON object a line.
//!
//! One command is carried out at a time. While one lasts, [`Answer::Progress`] may come before its
//! answer. A device's number is its place in the fleet: commands about some devices mean the first.

use serde::{Deserialize, Serialize};

use super::latency::Latency;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Connects devices until there are so many. Answered with [`Answer::Opened`].
    Open {
        total: u32,
        /// Connects a second; `None`: as fast as `window` allows. A part of the fleet may have less
        /// than one.
        rate: Option<f64>,
        /// Devices that are connecting at a time.
        window: u32,
        limits: Limits,
    },
    /// So many heartbeats, round robin over the devices. Answered with [`Answer::Asked`].
    Ping { count: u64, pace: Pace },
    /// A heartbeat of every device that is online, which none is asked for twice: so many answers are
    /// so many devices. `window` of them are under way at a time. Answered with [`Answer::Asked`].
    Verify { window: u32 },
    /// So many pulls of the inbox, each answered by the control node.
    Pull { count: u64, pace: Pace },
    /// Counts messages from now on. Answered with [`Answer::Armed`], and with
    /// [`Answer::Received`] when there were so many, none for `quiet_ms`, or the next command waits.
    /// Without `quiet_ms` it is the owner who ends it, and progress is told often: how many of the
    /// messages come to this part of the fleet, nobody knows. The first `resume` devices begin to read
    /// again.
    Expect { messages: u64, quiet_ms: Option<u64>, resume: u32 },
    /// Ends [`Command::Expect`]. Answered with [`Answer::Armed`].
    Enough,
    /// The first devices stop reading. Answered with [`Answer::Armed`].
    Stall { devices: u32 },
    /// The first devices lose their connections at once and come back. Answered with
    /// [`Answer::Back`].
    Storm { devices: u32, limits: Limits },
    /// Devices leave and come back, so many a second. Answered with [`Answer::Back`].
    Churn { rate: u32, seconds: u32, limits: Limits },
    /// Answered with [`Answer::Counted`].
    Count,
}

/// When a command is given up. Nobody dials any more then.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// When less memory than this is free.
    pub free_min_bytes: u64,
    /// When no device got further for so long.
    pub quiet_ms: u64,
}

/// How fast devices ask.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pace {
    /// So many a second, whatever the answers do: an answer that is late makes none of the next
    /// wait, and a question that is sent late is timed from when it was due.
    Rate(u32),
    /// So many unanswered at a time.
    Window(u32),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Ready,
    Progress { done: u64, of: u64 },
    Opened(Opened),
    Asked(Asked),
    Armed,
    Received(Received),
    Back(Back),
    Counted(Counted),
    Failed(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opened {
    /// Accepted by the server, and there still.
    pub online: u32,
    /// Of these, those with a place in both streams.
    pub ready: u32,
    pub seconds: f64,
    /// Pairs of connections held and connects a second while they came.
    pub curve: Vec<(u32, f64)>,
    /// Why it ended before all were there.
    pub stopped: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    pub sent: u64,
    pub answered: u64,
    pub seconds: f64,
    /// Why it ended before all were answered.
    pub stopped: Option<String>,
    pub latency: Latency,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Received {
    pub messages: u64,
    pub repeats: u64,
    /// When the last one came, on the monotonic clock.
    pub last_ns: u64,
    /// From the time in each payload's first eight bytes.
    pub latency: Latency,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Back {
    /// Devices that lost their connections for this, and those that have one again.
    pub left: u64,
    pub back: u64,
    pub seconds: f64,
    /// Why it ended before all were back.
    pub stopped: Option<String>,
    /// From the first dial to the welcome, however often the device dialled between.
    pub connect: Latency,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    pub online: u32,
    /// Connections that ended without being asked to.
    pub lost: u64,
    /// The close reasons that the server gave, with their counts.
    pub closes: Vec<(String, u64)>,
    pub memory_bytes: u64,
    pub net: Vec<(String, u64)>,
}
