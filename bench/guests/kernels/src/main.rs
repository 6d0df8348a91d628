//! Four kernels that compute and wait for nothing. `kernels NAME REPEATS` prints, for each repeat,
//! the microseconds that it took by the guest's own clock, and a result that must be the same
//! everywhere: what is compared did the same work.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::BuildHasherDefault;
use std::hint::black_box;
use std::time::Instant;

/// Each takes about 100 ms, so that a clock with steps of 1 ms is good enough.
const SIEVE_UP_TO: usize = 4_000_000;
const SIEVES: u32 = 8;
const FIBONACCI_OF: u32 = 38;
const HASHMAP_KEYS: u64 = 400_000;
const HASHMAPS: u32 = 6;
const FORMATTED_LINES: u32 = 400_000;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(repeats)) = (args.next(), args.next()) else {
        eprintln!("usage: kernels sieve|fib|hashmap|format REPEATS");
        std::process::exit(2);
    };
    let kernel: fn() -> u64 = match name.as_str() {
        "sieve" => || (0..SIEVES).map(|_| sieve()).sum(),
        "fib" => || u64::from(fib(black_box(FIBONACCI_OF))),
        "hashmap" => || (0..HASHMAPS).map(|_| hashmap()).sum(),
        "format" => format,
        _ => {
            eprintln!("there is no kernel `{name}`");
            std::process::exit(2);
        }
    };
    for _ in 0..repeats.parse::<u32>().unwrap_or(1) {
        let began = Instant::now();
        let result = black_box(kernel());
        println!("{} {result}", began.elapsed().as_micros());
    }
}

/// Counts primes: a tight loop over memory.
fn sieve() -> u64 {
    let mut composite = vec![false; black_box(SIEVE_UP_TO)];
    let mut primes = 0;
    for number in 2..composite.len() {
        if composite[number] {
            continue;
        }
        primes += 1;
        let mut multiple = number.saturating_mul(number);
        while multiple < composite.len() {
            composite[multiple] = true;
            multiple = multiple.saturating_add(number);
        }
    }
    primes
}

/// Calls and nothing else.
fn fib(number: u32) -> u32 {
    if number < 2 {
        number
    } else {
        fib(number - 1) + fib(number - 2)
    }
}

/// Hashing, growing, looking up.
fn hashmap() -> u64 {
    // The hash of the standard library, with the same keys in every run.
    let mut map = HashMap::<u64, u64, BuildHasherDefault<DefaultHasher>>::default();
    for key in 0..black_box(HASHMAP_KEYS) {
        // Keys without an order that a hash could keep.
        *map.entry(key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40)
            .or_insert(0) += key;
    }
    (0..HASHMAP_KEYS)
        .filter_map(|key| map.get(&key))
        .fold(map.len() as u64, |sum, one| sum ^ one)
}

/// Texts, as handlers make them.
fn format() -> u64 {
    let mut text = String::new();
    let mut bytes = 0;
    for line in 0..black_box(FORMATTED_LINES) {
        text.clear();
        let _ = write!(
            text,
            "{{\"id\":{line},\"name\":\"user-{:08x}\",\"score\":{:.3}}}",
            line * 31,
            f64::from(line) / 7.0
        );
        bytes += text.len() as u64;
    }
    bytes
}
