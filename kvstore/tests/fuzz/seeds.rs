//! The inputs that are committed from the start.

pub fn all() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, stream) in STREAMS {
        for selector in 0..2u8 {
            let sizes: &[u8] = if selector == 0 { &[1, 0, 7, 3, 40] } else { &[] };
            let input = [&[selector, sizes.len() as u8], sizes, stream.as_bytes()].concat();
            all.push(("resp", format!("{name}-{selector}"), input));
        }
    }
    all.extend(logs());
    let lines = COMMANDS
        .iter()
        .map(|(name, lines)| ("arguments", name.to_string(), lines.as_bytes().to_vec()));
    all.extend(lines);
    all
}

const STREAMS: [(&str, &str); 12] = [
    ("ping", "*1\r\n$4\r\nPING\r\n"),
    ("set", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"),
    ("empty", "*0\r\n*-1\r\n\r\n   \r\n*1\r\n$0\r\n\r\n"),
    ("inline", "SET k \"a \\x41 \\n\" 'it\\'s'\r\nGET k\n"),
    ("unbalanced", "SET k \"a\r\n"),
    ("bulk-2g", "*2\r\n$3\r\nGET\r\n$2147483648\r\n"),
    ("bulk-negative", "*1\r\n$-1\r\n"),
    ("count-million", "*1000000\r\n$1\r\na\r\n"),
    ("count-long", "*00000000000000000000000000000000000000000000000000000000000000000001\r\n"),
    ("no-dollar", "*2\r\n$3\r\nGET\r\n:1\r\n"),
    ("http", "POST / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("unfinished", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nabc"),
];

/// A segment with records, each synced before the next, as the log's documentation has it.
fn segment(payloads: &[&[u8]]) -> Vec<u8> {
    const SALT: u64 = 0x0123_4567_89ab_cdef;
    let mut bytes = [&b"hawserkv-log-v3\n"[..], &SALT.to_be_bytes()].concat();
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    for (synced, payload) in (0u64..).zip(payloads) {
        let sequence = (synced + 1).to_be_bytes();
        let after = [&sequence[..], &(synced ^ SALT).to_be_bytes(), payload].concat();
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(crc32c::crc32c(&after).to_be_bytes());
        bytes.extend(after);
    }
    bytes
}

/// Whole, in part, and changed.
fn logs() -> Vec<(&'static str, String, Vec<u8>)> {
    let bytes =
        segment(&[b"", b"a", &[0; 40], b"\x01\x00\x00\x00\x02\x01k\x00\x00\x00\x01v", &[255; 3]]);
    let mut all = vec![("log", "five".to_string(), bytes.clone())];
    for length in [0, 8, 27, 28, 29, 52, 76, bytes.len() - 1] {
        all.push(("log", format!("first-{length}"), bytes[..length].to_vec()));
    }
    for (name, at) in [
        ("magic", 3),
        ("salt", 20),
        ("length", 31),
        ("checksum", 34),
        ("sequence", 43),
        ("synced", 51),
    ] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        all.push(("log", format!("changed-{name}"), changed));
    }
    let (head, tail) = bytes.split_at(28);
    all.push(("log", "twice".into(), [head, tail, tail].concat()));
    all.push(("log", "garbage".into(), [&bytes[..], &[7; 100]].concat()));
    all
}

const COMMANDS: [(&str, &str); 16] = [
    (
        "strings",
        "SET s v EX 100 NX GET\nSET s 1 KEEPTTL\nAPPEND s 2\nGETRANGE s 0 -1\nSETRANGE s 5 x\nLCS s s IDX",
    ),
    (
        "numbers",
        "SET n 9223372036854775807\nINCR n\nINCRBYFLOAT n 1e10\nDECRBY n -1\nHINCRBYFLOAT h f nan",
    ),
    ("many", "MSET a 1 b 2\nMSETNX a 1 c 2\nMGET a b c\nDEL a b c\nEXISTS a a\nTOUCH a\nUNLINK a"),
    (
        "expiry",
        "SET e v\nEXPIRE e 100 NX GT\nPEXPIREAT e 99999999999999\nEXPIRETIME e\nPERSIST e\nEXPIRE e -1",
    ),
    (
        "keys",
        "RENAME s s\nRENAMENX s t\nCOPY t u REPLACE\nTYPE u\nOBJECT ENCODING u\nRANDOMKEY\nKEYS *[a-\nSCAN 0 MATCH * COUNT 0",
    ),
    (
        "hashes",
        "HSET h f v g w\nHSETNX h f v\nHINCRBY h n 5\nHRANDFIELD h -3 WITHVALUES\nHDEL h f\nHSCAN h 0 COUNT 1\nHMGET h f g",
    ),
    (
        "lists",
        "RPUSH l a b c\nLPUSHX m a\nLINSERT l BEFORE b x\nLSET l -1 z\nLTRIM l 1 -2\nLPOS l x RANK -1 MAXLEN 0\nLMPOP 2 l m LEFT COUNT 2\nLREM l 0 x",
    ),
    (
        "blocking",
        "BLPOP l m 0\nBLMOVE l m LEFT RIGHT 0\nBZPOPMIN z 0\nXREAD BLOCK 0 STREAMS x $\nBLMPOP 0 1 l LEFT",
    ),
    (
        "sets",
        "SADD s1 a b 1 2\nSADD s2 b 2\nSINTERCARD 2 s1 s2 LIMIT 1\nSDIFFSTORE s3 s1 s2\nSPOP s1 2\nSRANDMEMBER s1 -5\nSMOVE s1 s2 a\nSMISMEMBER s1 a b",
    ),
    (
        "sorted",
        "ZADD z GT CH 1.5 a -inf b 2 c\nZADD z NX INCR 1 a\nZINCRBY z nan a\nZRANGE z 0 -1 REV WITHSCORES\nZRANGEBYLEX z [a (c LIMIT 0 1\nZRANGESTORE y z (1 +inf BYSCORE\nZPOPMAX z 2\nZLEXCOUNT z - +",
    ),
    (
        "sorted-more",
        "ZUNION 2 z y WEIGHTS 1 2 AGGREGATE MAX\nZINTERSTORE w 2 z y\nZRANDMEMBER z -2 WITHSCORES\nZREMRANGEBYRANK z 0 -1\nZMPOP 1 z MIN COUNT 3\nZMSCORE z a q",
    ),
    (
        "streams",
        "XADD x 1-1 f v\nXADD x NOMKSTREAM MAXLEN ~ 10 LIMIT 5 * f v\nXRANGE x - + COUNT 1\nXREVRANGE x + (1-1\nXTRIM x MINID 5\nXDEL x 1-1\nXSETID x 9-9\nXINFO STREAM x FULL",
    ),
    (
        "groups",
        "XGROUP CREATE x g $ MKSTREAM\nXADD x * f v\nXREADGROUP GROUP g c COUNT 1 STREAMS x >\nXPENDING x g - + 10\nXCLAIM x g d 0 1-1 FORCE\nXAUTOCLAIM x g d 0 0\nXACK x g 1-1\nXGROUP DESTROY x g",
    ),
    (
        "server",
        "INFO everything\nCOMMAND DOCS get\nMEMORY USAGE s\nLATENCY DOCTOR\nSLOWLOG GET -1\nFUNCTION FLUSH\nDBSIZE\nTIME\nOBJECT HELP\nEVAL x 0",
    ),
    (
        "wrong",
        "GET\nSET k\nNOSUCH a b\nLPUSH h x\nZADD z x a\nXADD x 0-0 f v\nHSET h f\nSETEX k 0 v\nEXPIRE k x\n\n ",
    ),
    (
        "flush",
        "FLUSHALL ASYNC\nFLUSHDB SYNC\nSWAPDB 0 0\nMOVE s 1\nWAIT 0 0\nPUBLISH c m\nPUBSUB CHANNELS *",
    ),
];
