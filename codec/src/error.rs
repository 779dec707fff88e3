//! What a peer can do wrong, and why a connection ends.
//!
//! Both enums are closed and `Copy`; their labels are metric labels, and a [`CloseReason`]'s
//! number is its wire code. A bug of ours is never one of these: it is an assert.

use std::fmt;

/// Why bytes are not a frame, or a frame's body not the value its type promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecodeError {
    /// The body ends before its last field.
    Truncated,
    /// The body goes on after its last field.
    TrailingBytes,
    /// A varint is longer than its shortest form, or longer than its type.
    BadVarint,
    /// The frame's length exceeds the limit of this direction.
    FrameTooLarge,
    /// A field has a value outside its range.
    BadValue,
    /// Text is not UTF-8, or a name breaks the rules of names.
    BadText,
}

impl DecodeError {
    pub const ALL: [DecodeError; 6] = [
        DecodeError::Truncated,
        DecodeError::TrailingBytes,
        DecodeError::BadVarint,
        DecodeError::FrameTooLarge,
        DecodeError::BadValue,
        DecodeError::BadText,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            DecodeError::Truncated => "truncated",
            DecodeError::TrailingBytes => "trailing_bytes",
            DecodeError::BadVarint => "bad_varint",
            DecodeError::FrameTooLarge => "frame_too_large",
            DecodeError::BadValue => "bad_value",
            DecodeError::BadText => "bad_text",
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecodeError::Truncated => "the frame ends before its last field",
            DecodeError::TrailingBytes => "the frame goes on after its last field",
            DecodeError::BadVarint => "a varint is not in its shortest form",
            DecodeError::FrameTooLarge => "the frame is larger than this direction allows",
            DecodeError::BadValue => "a field has a value outside its range",
            DecodeError::BadText => "a name is not valid text",
        })
    }
}

impl std::error::Error for DecodeError {}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal, $text:literal;)*) => {
        /// Why a connection ends. The number is the wire code and never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum CloseReason { $($(#[$doc])* $name = $code,)* }

        impl CloseReason {
            pub const ALL: &'static [CloseReason] = &[$(CloseReason::$name,)*];

            /// The reason with this wire code. A code of a newer peer reads as `Unknown`.
            pub fn from_code(code: u8) -> CloseReason {
                match code { $($code => CloseReason::$name,)* _ => CloseReason::Unknown }
            }

            /// The metric label.
            pub fn label(self) -> &'static str {
                match self { $(CloseReason::$name => $label,)* }
            }

            /// One sentence for a person.
            pub fn text(self) -> &'static str {
                match self { $(CloseReason::$name => $text,)* }
            }
        }
    };
}

close_reasons! {
    /// The peer said goodbye, or shut its side down.
    Bye = 0, "bye", "the device left";
    /// The broker is draining; the frame names where to go.
    Drain = 1, "drain", "the broker is shutting down; reconnect to another address";
    /// Admission control refused the connection; the frame says when to return.
    Overload = 2, "overload", "the broker is overloaded; come back after the stated delay";
    /// A newer connection of the same device exists.
    TakenOver = 3, "taken_over", "the device connected elsewhere";
    /// Heartbeats stopped.
    Idle = 4, "idle", "no heartbeat within the agreed interval";
    /// No complete `Connect` arrived in time.
    HandshakeTimeout = 5, "handshake_timeout", "no complete connect frame arrived in time";
    /// A frame could not be decoded.
    BadFrame = 6, "bad_frame", "a frame could not be decoded";
    /// A frame exceeds the limit of its direction.
    FrameTooLarge = 7, "frame_too_large", "a frame exceeds the size limit";
    /// The major protocol version is not spoken here.
    Version = 8, "version", "this protocol version is not supported";
    /// The ticket's time is over.
    TicketExpired = 9, "ticket_expired", "the ticket has expired; ask the app's server for a new one";
    /// The signature does not verify, or names a key the app does not have.
    TicketForged = 10, "ticket_forged", "the ticket's signature does not verify";
    /// The ticket is not well formed.
    TicketMalformed = 11, "ticket_malformed", "the ticket is not well formed";
    /// The ticket names an app that is not registered.
    UnknownApp = 12, "unknown_app", "the ticket names an app that is not registered";
    /// More topics than a session may have.
    TooManyTopics = 13, "too_many_topics", "the session subscribes to too many topics";
    /// The device does not read and the buffers for such devices are used up.
    SlowReader = 14, "slow_reader", "the device reads too slowly";
    /// A frame that this state does not allow, such as a push before the connect.
    Unexpected = 15, "unexpected", "the frame is not allowed in this state";
    /// The socket failed.
    Reset = 16, "reset", "the connection was reset";
    /// The broker has no verification keys yet.
    NotReady = 17, "not_ready", "the broker has no keys yet; come back after the stated delay";
    /// The other end failed to prove that it has the link key.
    LinkAuth = 18, "link_auth", "the other end does not have the link key";
    /// The link fell too far behind and starts over.
    LinkOverflow = 19, "link_overflow", "the link's queue is full";
    /// A code of a newer peer.
    Unknown = 255, "unknown", "a reason this version does not know";
}

impl CloseReason {
    /// Whether the same device may try again with the same ticket.
    pub fn may_retry(self) -> bool {
        !matches!(
            self,
            CloseReason::TakenOver
                | CloseReason::Version
                | CloseReason::TicketExpired
                | CloseReason::TicketForged
                | CloseReason::TicketMalformed
                | CloseReason::UnknownApp
                | CloseReason::TooManyTopics
        )
    }
}

impl From<DecodeError> for CloseReason {
    fn from(error: DecodeError) -> CloseReason {
        match error {
            DecodeError::FrameTooLarge => CloseReason::FrameTooLarge,
            _ => CloseReason::BadFrame,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
