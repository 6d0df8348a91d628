//! Streams `?bytes=` bytes (1 MiB when absent); `?length=1` names the length in a header.
//!
//! Byte number `n` is `n % 251`, so that a lost or doubled piece shows.

use std::io::Write as _;

use guests::wasip2::http::types::OutgoingBody;
use guests::{IncomingRequest, ResponseOutparam};

/// A multiple of 251, so that every piece is the same.
const PIECE_BYTES: usize = 251 * 256;

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let mut left = guests::number(&request, "bytes", 1024 * 1024) as usize;
    let length = left.to_string();
    let mut headers = vec![("content-type", "application/octet-stream")];
    if guests::parameter(&request, "length").is_some() {
        headers.push(("content-length", &length));
    }
    let (body, mut stream) = guests::start(out, 200, &headers);
    let piece: Vec<u8> = (0..PIECE_BYTES).map(|index| (index % 251) as u8).collect();
    while left > 0 {
        let now = left.min(PIECE_BYTES);
        if stream.write_all(&piece[..now]).is_err() {
            return;
        }
        left -= now;
    }
    let _ = stream.blocking_flush();
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
