//! Answers `/healthz` with 200, or with 503 if the environment variable `HEALTH` is `bad`; hello elsewhere.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    if !guests::path(&request).ends_with("/healthz") {
        return guests::text(out, 200, "hello\n");
    }
    match std::env::var("HEALTH").as_deref() {
        Ok("bad") => guests::text(out, 503, "database is down\n"),
        _ => guests::text(out, 200, "ok\n"),
    }
}
