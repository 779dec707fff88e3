//! Mistakes that can be switched on where the crash rig must show that it would see them.
//!
//! Only with the feature `seeded-bugs` is there a switch, the environment variable
//! `HAWSER_KV_SEEDED_BUG`; without it every question is answered with no, at compile time.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeededBug {
    /// A group is answered without a sync.
    SkipsSync,
    /// A group is answered before it is in the log.
    AnswersBeforeLog,
    /// Readers see a group before it is in the log.
    AppliesBeforeLog,
    /// A sync that failed is tried again and then believed.
    RetriesSync,
    /// A record's checksum is not looked at.
    IgnoresChecksum,
    /// The last record is replayed although it is torn.
    AcceptsTornRecord,
    /// The name of a new segment is not made durable.
    ForgetsDirectorySync,
    /// The name of the log's directory is not made durable.
    ForgetsParentSync,
    /// Segments are deleted although the database has not written out what they hold.
    DeletesTooEarly,
    /// The database says that it has one group more than it has.
    MarkerAhead,
    /// What is replayed is not synced first.
    TrustsWhatItReads,
    /// Replay leaves the last record out.
    StopsReplayEarly,
    /// A write that did not fit is not cut off again.
    ForgetsToCut,
    /// A write that failed counts as written.
    IgnoresWriteError,
    /// The writer forgets what a group changed before that is in the database.
    ForgetsLayers,
    /// The writer panics at its second group. Nothing that the rig would see is wrong then.
    PanicsWhileWriting,
}

impl SeededBug {
    /// Those that break a promise.
    pub const ALL: [SeededBug; 15] = [
        SeededBug::SkipsSync,
        SeededBug::AnswersBeforeLog,
        SeededBug::AppliesBeforeLog,
        SeededBug::RetriesSync,
        SeededBug::IgnoresChecksum,
        SeededBug::AcceptsTornRecord,
        SeededBug::ForgetsDirectorySync,
        SeededBug::ForgetsParentSync,
        SeededBug::DeletesTooEarly,
        SeededBug::MarkerAhead,
        SeededBug::TrustsWhatItReads,
        SeededBug::StopsReplayEarly,
        SeededBug::ForgetsToCut,
        SeededBug::IgnoresWriteError,
        SeededBug::ForgetsLayers,
    ];

    /// Whether the code is to make this mistake.
    #[inline]
    pub fn is_on(self) -> bool {
        #[cfg(feature = "seeded-bugs")]
        {
            static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
            let read = || std::env::var("HAWSER_KV_SEEDED_BUG").unwrap_or_default();
            *CHOSEN.get_or_init(read) == format!("{self:?}")
        }
        #[cfg(not(feature = "seeded-bugs"))]
        {
            let _ = self;
            false
        }
    }
}
