//! Computes `?n=` rounds (1,000,000 when absent), then answers with the number it came to.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let mut number = 1_u64;
    for _ in 0..guests::number(&request, "n", 1_000_000) {
        number = std::hint::black_box(
            number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1),
        );
    }
    guests::text(out, 200, &format!("{number}\n"));
}
