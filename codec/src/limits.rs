//! Every maximum of the wire, in one place.
//!
//! A decoder refuses what exceeds these before it reads the body, so a peer can make the other
//! side hold at most one frame of its own direction's limit.

/// Largest message payload. Push payloads elsewhere are 4 KiB (APNs, FCM); 64 KiB leaves room for
/// configuration and small documents, above which a link to a download serves better.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Largest frame body a device may send. The largest legitimate one is `Connect` with its ticket.
pub const UPLINK_BODY_BYTES_MAX: usize = 1024;

/// Largest frame body a broker may send to a device: one payload and its header.
pub const DOWNLINK_BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 32;

/// Largest frame body on a link, either way. Bounds the buffer of a shard's link.
pub const LINK_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Largest frame body on a link before both ends are authenticated.
pub const LINK_HANDSHAKE_BODY_BYTES_MAX: usize = 256;

/// A payload up to this size travels with its notice; a larger one is pulled by the device.
/// One or two TCP segments: a bigger body would occupy a mobile link that may not want it now.
pub const INLINE_BYTES_MAX: usize = 4096;

/// Entries in one answer to a pull. The answer is also cut at `PULL_BYTES_MAX`.
pub const PULL_ENTRIES_MAX: usize = 64;

/// Payload bytes in one answer to a pull, unless a single entry is larger.
pub const PULL_BYTES_MAX: usize = 128 * 1024;

/// Sequence numbers fit in an eight-byte varint, which keeps a push within 12 bytes of overhead.
pub const SEQ_MAX: u64 = (1 << 56) - 1;

/// App names: 1 to 32 bytes of `[a-z0-9-]`.
pub const APP_NAME_BYTES_MAX: usize = 32;

/// Device ids as the app knows them: 1 to 64 bytes of UTF-8 without control characters.
pub const DEVICE_NAME_BYTES_MAX: usize = 64;

/// Topic names: 1 to 128 bytes of UTF-8 without control characters.
pub const TOPIC_NAME_BYTES_MAX: usize = 128;

/// Topics of one session. Each costs the broker about 20 bytes.
pub const TOPICS_PER_SESSION_MAX: usize = 32;

/// Tickets: the longest names, an Ed25519 signature and the fixed fields.
pub const TICKET_BYTES_MAX: usize = 256;

/// Addresses in a `Close` frame.
pub const REDIRECT_ADDRESSES_MAX: usize = 8;

/// One address: the longest DNS name (253), a colon and a port.
pub const ADDRESS_BYTES_MAX: usize = 260;

/// Apps in one key set. The set is one link frame and one file.
pub const APPS_MAX: usize = 4096;

/// Verification keys of one app: the current one, the next one, and two retired ones.
pub const APP_KEYS_MAX: usize = 4;

/// The longest heartbeat interval a server may order.
pub const HEARTBEAT_S_MAX: u16 = 3600;

const _: () = assert!(INLINE_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(PULL_BYTES_MAX + DOWNLINK_BODY_BYTES_MAX <= LINK_BODY_BYTES_MAX);
const _: () = assert!(TICKET_BYTES_MAX + 64 <= UPLINK_BODY_BYTES_MAX);
const _: () =
    assert!(REDIRECT_ADDRESSES_MAX * (ADDRESS_BYTES_MAX + 2) + 16 <= DOWNLINK_BODY_BYTES_MAX);
const _: () = assert!(
    APPS_MAX * (APP_NAME_BYTES_MAX + 6 + APP_KEYS_MAX * 37) + 64 <= LINK_BODY_BYTES_MAX,
    "a full key set must fit one link frame"
);
