//! CGI: streams the request's body back as it comes.

use std::io::{Read as _, Write as _, stdin, stdout};

/// Bytes that are moved at a time.
const PIECE_BYTES: usize = 64 * 1024;

fn main() {
    let content_type = std::env::var("CONTENT_TYPE").unwrap_or("text/plain".to_owned());
    let mut out = stdout().lock();
    let mut piece = vec![0; PIECE_BYTES];
    let head = format!("Content-Type: {content_type}\r\n\r\n");
    out.write_all(head.as_bytes()).expect("somebody reads");
    loop {
        // Not left in a buffer: who sent a piece may wait for it.
        out.flush().expect("somebody reads");
        let read = stdin().lock().read(&mut piece).expect("the body is whole");
        if read == 0 {
            break;
        }
        out.write_all(&piece[..read]).expect("somebody reads");
    }
}
