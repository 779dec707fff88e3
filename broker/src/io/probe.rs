//! What the kernel must offer, asked before anything is opened.
//!
//! The floor is Linux 6.1: multishot accept and poll, provided buffer rings (5.19), deferred task
//! work (6.1). Newer set-up flags are used where the kernel takes them.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::uring::RingShape;

/// Why the rings cannot be used here. Each says what to do.
#[derive(Debug)]
pub enum Missing {
    /// `io_uring_setup` itself is refused.
    Ring(io::Error),
    Feature(&'static str),
    Operation(&'static str),
    /// The table of direct descriptors cannot have the planned size.
    Table {
        entries: u32,
        error: io::Error,
    },
    BufferRing(io::Error),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Ring(error) => match error.raw_os_error() {
                Some(libc::ENOSYS) => f.write_str(
                    "the kernel has no io_uring; hawser-broker needs Linux 6.1 or newer",
                ),
                Some(libc::EPERM | libc::EACCES) => f.write_str(
                    "io_uring is forbidden here; set sysctl kernel.io_uring_disabled=0 and let the \
                     container's seccomp profile allow io_uring_setup, io_uring_enter and \
                     io_uring_register",
                ),
                Some(libc::EINVAL) => f.write_str(
                    "the kernel does not know the ring flags SINGLE_ISSUER and DEFER_TASKRUN; \
                     hawser-broker needs Linux 6.1 or newer",
                ),
                Some(libc::ENOMEM) => f.write_str(
                    "no memory for an io_uring; raise the locked-memory limit (ulimit -l) or free \
                     memory",
                ),
                _ => write!(f, "an io_uring cannot be set up: {error}"),
            },
            Missing::Feature(name) => {
                write!(f, "io_uring lacks {name}; hawser-broker needs Linux 6.1 or newer")
            }
            Missing::Operation(name) => write!(
                f,
                "io_uring lacks the operation {name}; hawser-broker needs Linux 6.1 or newer"
            ),
            Missing::Table { entries, error } => write!(
                f,
                "a table of {entries} direct descriptors is refused ({error}); raise the limit of \
                 open files (ulimit -n, LimitNOFILE=) or lower table_max"
            ),
            Missing::BufferRing(error) => write!(
                f,
                "a buffer ring is refused ({error}); hawser-broker needs Linux 6.1 or newer"
            ),
        }
    }
}

impl std::error::Error for Missing {}

/// Sets one ring up as the shards will and asks it for everything they use.
pub fn probe(shape: &RingShape) -> Result<(), Missing> {
    let ring = super::uring::set_up(shape).map_err(Missing::Ring)?;
    let params = ring.params();
    for (present, name) in [
        (params.is_feature_nodrop(), "NODROP"),
        (params.is_feature_submit_stable(), "SUBMIT_STABLE"),
        (params.is_feature_fast_poll(), "FAST_POLL"),
        (params.is_feature_ext_arg(), "EXT_ARG"),
        (params.is_feature_skip_cqe_on_success(), "CQE_SKIP"),
        (params.is_feature_linked_file(), "LINKED_FILE"),
    ] {
        if !present {
            return Err(Missing::Feature(name));
        }
    }
    let mut operations = Probe::new();
    ring.submitter().register_probe(&mut operations).map_err(Missing::Ring)?;
    for (code, name) in [
        (opcode::AcceptMulti::CODE, "ACCEPT"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::Recv::CODE, "RECV"),
        (opcode::Send::CODE, "SEND"),
        (opcode::Connect::CODE, "CONNECT"),
        (opcode::Close::CODE, "CLOSE"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
        // Of 6.1 itself, and unused: tells 6.0 from it.
        (opcode::SendMsgZc::CODE, "SENDMSG_ZC"),
    ] {
        if !operations.is_supported(code) {
            return Err(Missing::Operation(name));
        }
    }
    register_table(&ring, shape.table)?;
    super::recv_ring::RecvRing::new(&ring, 0, 8, 64).map_err(Missing::BufferRing)?;
    Ok(())
}

fn register_table(ring: &IoUring, entries: u32) -> Result<(), Missing> {
    ring.submitter()
        .register_files_sparse(entries)
        .map_err(|error| Missing::Table { entries, error })
}
