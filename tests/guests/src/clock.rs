//! Answers with the resolution and the time of both clocks, in nanoseconds, as JSON.
//!
//! `*_step` is the smallest step that either clock took while it was read in a loop: what the guest
//! can measure with it, whatever it says of its resolution. 0: it did not move.

use guests::wasip2::clocks::{monotonic_clock, wall_clock};
use guests::{IncomingRequest, ResponseOutparam};

/// Readings until a clock counts as standing still.
const READINGS_MAX: u32 = 200_000;
/// Steps that are looked at.
const STEPS: u32 = 8;

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let json = format!(
        r#"{{"monotonic_resolution":{},"monotonic_now":{},"monotonic_step":{},"wall_resolution":{},"wall_now":{},"wall_step":{}}}"#,
        monotonic_clock::resolution(),
        monotonic_clock::now(),
        smallest_step(|| u128::from(monotonic_clock::now())),
        nanoseconds(wall_clock::resolution()),
        nanoseconds(wall_clock::now()),
        smallest_step(|| nanoseconds(wall_clock::now())),
    );
    guests::json(out, 200, &json);
}

fn smallest_step(read: impl Fn() -> u128) -> u128 {
    let (mut smallest, mut steps, mut before) = (0, 0, read());
    for _ in 0..READINGS_MAX {
        let now = read();
        if now != before {
            let step = now.abs_diff(before);
            smallest = if steps == 0 { step } else { smallest.min(step) };
            steps += 1;
            before = now;
        }
        if steps == STEPS {
            break;
        }
    }
    smallest
}

fn nanoseconds(time: wall_clock::Datetime) -> u128 {
    u128::from(time.seconds) * 1_000_000_000 + u128::from(time.nanoseconds)
}
