//! Computes for ever on `/spin`; says hello elsewhere.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    if guests::path(&request).ends_with("/spin") {
        let mut number = 1_u64;
        loop {
            number = std::hint::black_box(
                number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            );
        }
    }
    guests::text(out, 200, "hello\n");
}
