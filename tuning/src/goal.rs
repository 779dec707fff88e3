//! What a host is to be put in shape for.

use std::fmt;

/// Where the devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Phones and things behind radio links: round trips jump to seconds when a radio wakes up.
    Mobile,
    /// Machines on wired networks.
    Datacenter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Connections that this machine is to hold at once.
    pub connections: u64,
    pub profile: Profile,
}

/// What one kernel and one process can hold at most by this plan: the kernel's hash has at most
/// 2^24 buckets, and chains of four are as long as they should be.
pub const CONNECTIONS_MAX: u64 = 4 << 24;

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Mobile => "mobile",
            Profile::Datacenter => "datacenter",
        })
    }
}
