//! What a command can answer instead of a result. The texts are those of Redis 7.0, since clients
//! look at them.

use thiserror::Error;

use crate::store::database::StoreError;
use crate::users::user::Denied;

/// The code of an error after which nobody knows whether the write happened, or will. Every other
/// error means that it did not and will not.
pub const OUTCOME_OPEN: &str = "OUTCOMEOPEN";

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR value is out of range, must be positive")]
    NotPositive,
    #[error("ERR value is out of range, value must between {0} and 9223372036854775807")]
    CountTooNegative(i64),
    #[error("ERR more than {0} bytes were drawn; ask for fewer")]
    DrawnTooMuch(usize),
    #[error("ERR Number of keys can't be greater than number of args")]
    NumkeysAboveArguments,
    #[error("ERR LIMIT can't be negative")]
    CardLimitNegative,
    #[error("ERR value is out of range")]
    OutOfRange,
    #[error("ERR value is not a valid float")]
    NotFloat,
    #[error("ERR hash value is not a float")]
    HashNotFloat,
    #[error("ERR value is NaN or Infinity")]
    Infinite,
    #[error("ERR increment would produce NaN or Infinity")]
    IncrementInfinite,
    #[error("ERR offset is out of range")]
    OffsetOutOfRange,
    #[error("ERR The specified keys must contain string values")]
    LcsNotStrings,
    #[error("ERR If you want both the length and indexes, please just use IDX.")]
    LcsLengthAndMatches,
    #[error("ERR Insufficient memory, transient memory for LCS exceeds 64 MiB")]
    LcsTooLong,
    #[error("ERR resulting score is not a number (NaN)")]
    ScoreNotNumber,
    #[error("ERR XX and NX options at the same time are not compatible")]
    ZaddNxXx,
    #[error("ERR GT, LT, and/or NX options at the same time are not compatible")]
    ZaddGtLtNx,
    #[error("ERR INCR option supports a single increment-element pair")]
    ZaddIncrements,
    #[error("ERR min or max is not a float")]
    RangeNotFloat,
    #[error("ERR min or max not valid string range item")]
    RangeNotNames,
    #[error(
        "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
    )]
    LimitByRank,
    #[error("ERR syntax error, WITHSCORES not supported in combination with BYLEX")]
    ScoresByName,
    #[error("ERR at least 1 input key is needed for '{0}' command")]
    NoInputKey(&'static str),
    #[error("ERR weight value is not a float")]
    WeightNotFloat,
    #[error("ERR source and destination objects are the same")]
    SameObject,
    #[error("ERR invalid first DB index")]
    FirstDatabaseInvalid,
    #[error("ERR invalid second DB index")]
    SecondDatabaseInvalid,
    #[error(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
         that when switching between policies at runtime LRU and LFU data will take some time to \
         adjust."
    )]
    FrequencyNotTracked,
    #[error("ERR hash value is not an integer")]
    HashNotInteger,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpiry(&'static str),
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arguments(&'static str),
    #[error("ERR NX and XX, GT or LT options at the same time are not compatible")]
    ExpireNx,
    #[error("ERR GT and LT options at the same time are not compatible")]
    ExpireGtLt,
    #[error("BUSYKEY Target key name already exists.")]
    BusyKey,
    #[error("ERR Invalid TTL value, must be >= 0")]
    RestoreExpiry,
    #[error("ERR Invalid IDLETIME value, must be >= 0")]
    RestoreIdle,
    #[error("ERR Invalid FREQ value, must be >= 0 and <= 255")]
    RestoreFrequency,
    #[error("ERR DUMP payload version or checksum are wrong")]
    DumpUnusable,
    #[error("ERR Bad data format")]
    DumpMalformed,
    #[error("ERR the value takes more than {0} bytes (output_bytes_max); read it in parts")]
    DumpTooLarge(usize),
    #[error("ERR no such key")]
    NoSuchKey,
    #[error("ERR index out of range")]
    IndexOutOfRange,
    #[error("ERR COUNT can't be negative")]
    CountNegative,
    #[error("ERR MAXLEN can't be negative")]
    PositionMaxlenNegative,
    #[error(
        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use \
         negative to start from the end of the list"
    )]
    RankZero,
    #[error("ERR numkeys should be greater than 0")]
    NumkeysNotPositive,
    #[error("ERR count should be greater than 0")]
    CountNotPositive,
    #[error("ERR timeout is not a float or out of range")]
    TimeoutNotFloat,
    #[error("ERR timeout is not an integer or out of range")]
    TimeoutNotInteger,
    #[error("ERR timeout is negative")]
    TimeoutNegative,
    #[error("ERR timeout is out of range")]
    TimeoutTooLong,
    #[error("ERR Client names cannot contain spaces, newlines or special characters.")]
    ClientName,
    #[error("ERR Unknown client type '{0}'")]
    UnknownClientType(String),
    #[error("ERR No such user '{0}'")]
    NoSuchUser(String),
    #[error("ERR No such client")]
    NoSuchClient,
    #[error("ERR Invalid client ID")]
    ClientIdInvalid,
    #[error("ERR client-id should be greater than 0")]
    ClientIdNotPositive,
    #[error("ERR CLIENT PAUSE mode must be WRITE or ALL")]
    PauseMode,
    #[error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")]
    UnblockReason,
    #[error("ERR more subscriptions than subscriptions_max")]
    Subscriptions,
    #[error("ERR too many keys are waited for; raise waiting_keys_max")]
    WaitingKeys,
    #[error("ERR string exceeds maximum allowed size (bulk_bytes_max)")]
    StringTooLong,
    #[error("ERR invalid cursor")]
    InvalidCursor,
    #[error("ERR Invalid stream ID specified as stream command argument")]
    InvalidStreamId,
    #[error("ERR The ID specified in XADD is equal or smaller than the target stream top item")]
    StreamIdTooSmall,
    #[error("ERR The ID specified in XADD must be greater than 0-0")]
    StreamIdZero,
    #[error("ERR The stream has exhausted the last possible ID, unable to add more items")]
    StreamExhausted,
    #[error("ERR The MAXLEN argument must be >= 0.")]
    MaxlenNegative,
    #[error("ERR The LIMIT argument must be >= 0.")]
    LimitNegative,
    #[error("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy")]
    LimitWithoutTrim,
    #[error("ERR syntax error, XTRIM must be called with a trimming strategy")]
    NoTrim,
    #[error("ERR syntax error, LIMIT cannot be used without the special ~ option")]
    LimitWithoutApproximate,
    #[error("ERR syntax error, MAXLEN and MINID options at the same time are not compatible")]
    TwoTrims,
    #[error(
        "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."
    )]
    UnbalancedStreams,
    #[error("UNBLOCKED the stream key no longer exists")]
    StreamGone,
    #[error("NOGROUP the consumer group this client was blocked on no longer exists")]
    GroupGone,
    #[error("ERR invalid start ID for the interval")]
    IntervalStart,
    #[error("ERR invalid end ID for the interval")]
    IntervalEnd,
    #[error("ERR The ID specified in XSETID is smaller than the target stream top item")]
    SetIdTooSmall,
    #[error("ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id")]
    SetIdBelowDeleted,
    #[error("ERR The entries_added specified in XSETID is smaller than the target stream length")]
    SetIdAddedTooSmall,
    #[error("ERR entries_added must be positive")]
    SetIdAddedNegative,
    #[error("ERR unknown command '{0}', with args beginning with: {1}")]
    UnknownCommand(String, String),
    #[error("{0}")]
    LeftOut(String),
    #[error("NOPERM this user has no permissions to run the '{0}' command")]
    DeniedCommand(&'static str),
    #[error("NOPERM this user has no permissions to access one of the keys used as arguments")]
    DeniedKey,
    #[error("NOPERM this user has no permissions to access one of the channels used as arguments")]
    DeniedChannel,
    #[error("ERR {0}")]
    Users(String),
    #[error("ERR User '{0}' not found")]
    UserNotFound(String),
    #[error("ERR Command '{0}' not found")]
    CommandNotFound(String),
    #[error("ERR Unknown category '{0}'")]
    UnknownCategory(String),
    #[error("ERR The 'default' user cannot be removed")]
    DefaultUserStays,
    #[error("ERR there is no file of users: set `users_file`, or the users in the configuration")]
    NoUsersFile,
    #[error(
        "ERR There was an error trying to save the ACLs. Please check the server logs for more information"
    )]
    UsersNotSaved,
    #[error(
        "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to {0}"
    )]
    GenpassBits(i64),
    #[error("ERR Invalid command specified")]
    GetKeysUnknown,
    #[error("ERR The command has no key arguments")]
    GetKeysNone,
    #[error("ERR Invalid number of arguments specified for command")]
    GetKeysArity,
    #[error("ERR Invalid arguments specified for command")]
    GetKeysInvalid,
    #[error("ERR Unknown option or number of arguments for CONFIG SET - '{0}'")]
    ConfigUnknown(String),
    #[error("ERR CONFIG SET failed (possibly related to argument '{0}') - {1}")]
    ConfigRefused(String, String),
    #[error("ERR count should be greater than or equal to -1")]
    SlowlogCount,
    #[error("ERR No samples available for event '{0}'")]
    NoLatencySamples(String),
    #[error("ERR {0}")]
    Namespace(&'static str),
    #[error("ERR {0}")]
    Checkpoint(&'static str),
    #[error("ERR unknown subcommand '{0}'. Try {1} HELP.")]
    UnknownSubcommand(String, String),
    #[error("ERR unknown subcommand or wrong number of arguments for '{0}'. Try {1} HELP.")]
    SubcommandSyntax(String, &'static str),
    #[error("NOGROUP No such key '{0}' or consumer group '{1}'")]
    NoGroup(String, String),
    #[error("NOGROUP No such key '{0}' or consumer group '{1}' in XREADGROUP with GROUP option")]
    NoGroupToRead(String, String),
    #[error("NOGROUP No such consumer group '{0}' for key name '{1}'")]
    NoGroupOfKey(String, String),
    #[error("BUSYGROUP Consumer Group name already exists")]
    GroupExists,
    #[error(
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want \
         to use the MKSTREAM option to create an empty stream automatically."
    )]
    NoStreamForGroup,
    #[error("ERR value for ENTRIESREAD must be positive or -1")]
    EntriesReadNegative,
    #[error("ERR Missing GROUP option for XREADGROUP")]
    NoGroupOption,
    #[error("ERR The {0} option is only supported by XREADGROUP. You called XREAD instead.")]
    OnlyInXreadgroup(&'static str),
    #[error(
        "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history \
         of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ \
         ID would just return an empty result set."
    )]
    DollarInGroup,
    #[error(
        "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
         <consumer> option."
    )]
    NewInXread,
    #[error("ERR Invalid min-idle-time argument for {0}")]
    ClaimMinIdle(&'static str),
    #[error("ERR Invalid {0} option argument for XCLAIM")]
    ClaimOption(&'static str),
    #[error("ERR Unrecognized XCLAIM option '{0}'")]
    ClaimUnrecognized(String),
    #[error("ERR COUNT must be > 0")]
    ClaimCount,
    #[error("ERR DB index is out of range")]
    DatabaseOutOfRange,
    #[error("ERR a collection of more than {0} members cannot be renamed")]
    RenameTooLarge(u64),
    #[error("ERR this would change more than {0} bytes at once; do it in parts")]
    ChangesTooLarge(usize),
    #[error("IOERR the store cannot read: see the server's log")]
    Storage,
}

impl From<Denied> for CommandError {
    fn from(denied: Denied) -> CommandError {
        match denied {
            Denied::Command(name) => CommandError::DeniedCommand(name),
            Denied::Key(_) => CommandError::DeniedKey,
            Denied::Channel(_) => CommandError::DeniedChannel,
        }
    }
}

impl CommandError {
    pub fn is_denial(&self) -> bool {
        use CommandError::{DeniedChannel, DeniedCommand, DeniedKey};
        matches!(self, DeniedCommand(_) | DeniedKey | DeniedChannel)
    }
}

/// What a client sent, to be shown in an error.
pub fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(128)]).into_owned()
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> CommandError {
        tracing::error!(%error, "reading the database failed");
        CommandError::Storage
    }
}

impl From<crate::store::layout::Malformed> for CommandError {
    fn from(error: crate::store::layout::Malformed) -> CommandError {
        CommandError::from(StoreError::from(error))
    }
}
