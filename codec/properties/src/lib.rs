//! What every decoder must hold for any bytes, as plain functions: a fuzz target calls one of them
//! with what it invents, and the codec's own tests replay the committed corpora through the same.
//!
//! | target | input |
//! |---|---|
//! | `framer` | a limit, split sizes, then a byte stream |
//! | `device` | a byte stream, read as a device's and as a broker's |
//! | `link` | a byte stream, read as a shard's and as a control node's |
//! | `ticket` | one ticket |
//! | `session` | a script of what happens to a device's session |

#![forbid(unsafe_code)]

pub mod bytes;

pub mod samples;

pub mod script;

/// A property of any input; it panics where it does not hold.
pub type Property = fn(&[u8]);

/// Every fuzz target, by the name of its program and of its folder in `corpus/`.
pub const TARGETS: [(&str, Property); 5] = [
    ("framer", bytes::framer),
    ("device", bytes::device),
    ("link", bytes::link),
    ("ticket", bytes::ticket),
    ("session", script::session),
];

/// The body of a target that was not built by a fuzzer: checks the files given as arguments, such
/// as an input that a fuzzer has found, and says how many there were.
pub fn check_arguments(property: Property) {
    let mut count = 0;
    for path in std::env::args_os().skip(1) {
        let input = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.to_string_lossy()));
        property(&input);
        count += 1;
    }
    println!("{count} inputs hold");
}
