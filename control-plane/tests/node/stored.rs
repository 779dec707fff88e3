//! What stands in the store reads back, and what does not belong there is left alone.

use bytes::Bytes;
use hawser_codec::ids::{AppId, DeviceId, Seq, TopicId};
use hawser_codec::link::VerifyKey;
use hawser_codec::ticket::Algorithm;
use hawser_control::node::event::{CountField, CountKey, Priority, Removal, StreamId, Wake};
use hawser_control::records::{
    AppKey, Entry, KeyHash, MessageId, NewApp, Pointer, Quota, collapse_key, count_key,
    parse_stream_key, record_key, stream_key, tombstone_key,
};
use proptest::prelude::*;

const INBOX: StreamId = StreamId::Inbox { app: AppId(7), device: DeviceId(0xf0) };
const GROUP: StreamId = StreamId::Group { app: AppId(7) };

#[test]
fn keys_have_these_names() {
    let device = "000000000000000000000000000000f0";
    let key = KeyHash(0xab);
    let check = |made: String, expect: &str| {
        assert_eq!(made, expect.replace("DEV", device).replace("KEY", &format!("{:032x}", 0xab)));
    };
    check(stream_key(INBOX), "hw:s:{7:DEV}");
    check(stream_key(GROUP), "hw:s:{7}");
    check(record_key(INBOX, key), "hw:r:{7:DEV}:KEY");
    check(collapse_key(INBOX, key), "hw:c:{7:DEV}:KEY");
    check(tombstone_key(GROUP, Seq(9)), "hw:t:{7}:9");
    check(count_key(CountKey::App(AppId(7))), "hw:n:{7}");
    check(count_key(CountKey::GroupEntry { app: AppId(7), seq: Seq(9) }), "hw:n:{7}:9");
    for stream in [INBOX, GROUP] {
        assert_eq!(parse_stream_key(&stream_key(stream)), Some(stream));
    }
    for other in ["", "hw:s:{", "hw:s:{}", "hw:s:{x}", "hw:s:{7:f0}", "hw:n:{7}", "hw:s:{7}:1"] {
        assert_eq!(parse_stream_key(other), None, "{other}");
    }
}

#[test]
fn words_of_the_store_read_back() {
    for field in CountField::ALL {
        assert_eq!(CountField::parse(field.as_str().as_bytes()), Some(field));
    }
    for removal in [Removal::Expired, Removal::Collapsed] {
        assert_eq!(Removal::parse(removal.as_str().as_bytes()), Some(removal));
    }
    assert_eq!((CountField::parse(b"other"), Removal::parse(b"")), (None, None));
}

#[test]
fn another_version_is_left_alone() {
    let entry = Entry {
        expires_unix_ms: 5,
        priority: Priority::High,
        wake: Wake::Now,
        topic: TopicId::ALL,
        payload: Bytes::from_static(b"x"),
    };
    let mut bytes = entry.encode().to_vec();
    bytes[0] = 2;
    assert_eq!(Entry::decode(&Bytes::from(bytes)), None);
    let mut bytes = Pointer { seq: Seq(1), expires_unix_ms: 5 }.encode();
    bytes[0] = 2;
    assert_eq!(Pointer::decode(&bytes), None);
}

proptest! {
    #[test]
    fn entries_read_back(
        expires_unix_ms: u64,
        priority in prop::sample::select(vec![Priority::Low, Priority::Normal, Priority::High]),
        is_awake: bool,
        topic in prop_oneof![Just(0), any::<u64>()],
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let wake = if is_awake { Wake::WhenAwake } else { Wake::Now };
        let (topic, payload) = (TopicId(topic), Bytes::from(payload));
        let entry = Entry { expires_unix_ms, priority, wake, topic, payload };
        prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
    }

    #[test]
    fn any_bytes_are_an_entry_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let bytes = Bytes::from(bytes);
        if let Some(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }
        let _ = (Pointer::decode(&bytes), NewApp::decode(&bytes));
    }

    #[test]
    fn ids_and_pointers_read_back(
        app: u32,
        device in prop::option::of(any::<u128>()),
        seq in 1..=Seq::MAX.0,
        expires_unix_ms in 0..u64::from(u32::MAX) * 1000,
    ) {
        let app = AppId(app);
        let stream = match device {
            Some(device) => StreamId::Inbox { app, device: DeviceId(device) },
            None => StreamId::Group { app },
        };
        let id = MessageId::new(stream, Seq(seq), expires_unix_ms);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert!(id.expires_unix_ms() >= expires_unix_ms);
        let pointer = Pointer { seq: Seq(seq), expires_unix_ms };
        prop_assert_eq!(Pointer::decode(&pointer.encode()), Some(pointer));
    }

    #[test]
    fn any_text_is_an_id_or_an_error(text in "[A-Za-z0-9_-]{0,70}") {
        if let Ok(id) = text.parse::<MessageId>() {
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn apps_read_back(name in "[a-z0-9]{1,32}", rate in 0..1000u32, seeds: [Option<[u8; 32]>; 3]) {
        let key = |(id, seed)| AppKey {
            verify: VerifyKey { id, algorithm: Algorithm::Ed25519, key: [9; 32] },
            seed,
        };
        let app = NewApp {
            name,
            quota: Quota { messages_per_s: rate, ..Quota::default() },
            api_key_hash: [1; 32],
            keys: (0..).zip(seeds).map(key).collect(),
            created_unix_ms: 77,
        };
        prop_assert_eq!(NewApp::decode(&app.encode()), Some(app));
    }
}
