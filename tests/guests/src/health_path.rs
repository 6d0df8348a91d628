//! Answers `/healthz` with 200, or with 503 if the environment variable `HEALTH` is `bad` or the file
//! `/state/bad` is there; hello elsewhere.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    if !guests::path(&request).ends_with("/healthz") {
        return guests::text(out, 200, "hello\n");
    }
    let bad = std::env::var("HEALTH").is_ok_and(|health| health == "bad")
        || std::path::Path::new("/state/bad").exists();
    if bad {
        guests::text(out, 503, "database is down\n");
    } else {
        guests::text(out, 200, "ok\n");
    }
}
