//! `realm`: what a person touches. Verbs, their help and their output; each verb is a file in
//! `commands/`. Not here: decisions about what runs (control) and doing it (node).

#![forbid(unsafe_code)]

mod alone;
mod authority;
mod blocking;
mod cli;
mod commands;
mod confirm;
mod context;
mod diagnostics;
mod everywhere;
mod failure;
mod files;
mod key_files;
mod output;
mod owner;
mod past;
mod progress;
mod reach;
mod resolve;
mod sign;
mod signals;
mod time;
mod upload;

use std::process::ExitCode;

// musl's own allocator is slow and takes one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Where the system gives huge pages unasked, each heap and each guest's memory would take two
    // megabytes at its first byte. A kernel without the switch has none to give.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    realm_node::install_crypto_provider();
    let code = commands::run(cli).unwrap_or_else(|failure| failure.report());
    owner::restore_terminal();
    code
}
