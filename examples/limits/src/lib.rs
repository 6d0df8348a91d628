//! Runs into its limits on demand, to see what they do: `/limits/spin` computes for ever,
//! `/limits/memory` takes memory until it is refused, `/limits/sleep` waits for a minute,
//! `/limits/trap` gives up. Whatever it does, its neighbours answer.

use std::io::Write as _;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

const USAGE: &str = "\
/limits/spin     computes for ever     epoch_timeout_ms ends it, fuel_per_sec slows it down
/limits/memory   takes memory          memory_max_mb refuses it
/limits/sleep    waits for a minute    wall_timeout_ms ends it
/limits/trap     gives up              its instance ends, nothing else
";
const MINUTE_NS: u64 = 60_000_000_000;
const PAGES_PER_MIB: usize = 16;

struct Limits;

wasip2::http::proxy::export!(Limits);

impl wasip2::exports::http::incoming_handler::Guest for Limits {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        match path.rsplit('/').next().unwrap_or_default() {
            "spin" => loop {
                std::hint::black_box(());
            },
            "memory" => answer(out, &format!("refused at {} MiB\n", take_memory())),
            "sleep" => {
                subscribe_duration(MINUTE_NS).block();
                answer(out, "slept for a minute\n");
            }
            "trap" => panic!("asked to give up"),
            _ => answer(out, USAGE),
        }
    }
}

fn take_memory() -> usize {
    while std::arch::wasm32::memory_grow::<0>(PAGES_PER_MIB) != usize::MAX {}
    std::arch::wasm32::memory_size::<0>() / PAGES_PER_MIB
}

fn answer(out: ResponseOutparam, text: &str) {
    let headers = [("content-type".to_owned(), b"text/plain".to_vec())];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("valid headers"));
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    let _ = stream.write_all(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
