//! The parser of commands: `[limits][count of sizes][sizes][stream]`.

use bytes::BytesMut;
use hawser_kv::resp::request::{Parser, ProtocolError, Request, RequestLimits};

const SMALL: RequestLimits = RequestLimits {
    arguments_max: 4,
    bulk_bytes_max: 16,
    request_bytes_max: 40,
    inline_bytes_max: 64,
};
const LARGE: RequestLimits = RequestLimits {
    arguments_max: 1 << 20,
    bulk_bytes_max: 1 << 20,
    request_bytes_max: 1 << 24,
    inline_bytes_max: 1 << 16,
};

type Parsed = (Vec<Request>, Option<ProtocolError>);

pub fn check(input: &[u8]) {
    let Some((&selector, rest)) = input.split_first() else { return };
    let Some((&count, rest)) = rest.split_first() else { return };
    let Some((sizes, stream)) = rest.split_at_checked(usize::from(count)) else { return };
    let limits = if selector % 2 == 0 { SMALL } else { LARGE };
    let whole = parse(&limits, [stream].into_iter());
    let mut left = stream;
    let sizes = sizes.iter().map(|size| usize::from(*size)).chain(std::iter::repeat(1));
    let pieces = sizes.map_while(|size| {
        if left.is_empty() {
            return None;
        }
        let (piece, rest) = left.split_at(size.min(left.len()));
        left = rest;
        Some(piece)
    });
    // An endless line is noticed at the latest when all of it is there; in pieces perhaps before.
    assert_eq!(parse(&limits, pieces), whole, "in pieces, and whole");
    for request in &whole.0 {
        let bytes: usize = request.iter().map(|argument| argument.len()).sum();
        assert!(
            !request.is_empty() && bytes <= limits.request_bytes_max.max(limits.inline_bytes_max)
        );
    }
}

fn parse<'a>(limits: &RequestLimits, pieces: impl Iterator<Item = &'a [u8]>) -> Parsed {
    let (mut parser, mut buffer, mut requests) = (Parser::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&mut buffer, limits) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}
