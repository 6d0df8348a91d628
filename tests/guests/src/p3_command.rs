//! WASI 0.3: a command that copies its standard input to its standard output; with the argument
//! `fail` it ends with a failure, with `code` by exit code 7, and with `env` its variables come first, as the
//! body of an answer.

use wasip3::cli::environment::{get_arguments, get_environment};
use wasip3::cli::{exit, stdin, stdout};
use wasip3::wit_bindgen::StreamResult;
use wasip3::wit_stream;

/// Bytes that are moved at a time.
const PIECE_BYTES: usize = 64 * 1024;

struct Copy;

wasip3::cli::command::export!(Copy);

impl wasip3::exports::cli::run::Guest for Copy {
    async fn run() -> Result<(), ()> {
        let (mut source, _) = stdin::read_via_stream();
        let (mut sink, output) = wit_stream::new();
        let written = stdout::write_via_stream(output);
        let arguments = get_arguments();
        let wish = arguments.get(1).map(String::as_str);
        if wish == Some("env") {
            let mut told = "Content-Type: text/plain\n\n".to_owned();
            for (name, value) in get_environment() {
                told += &format!("{name}={value}\n");
            }
            sink.write_all(told.into_bytes()).await;
        }
        let mut buffer = Vec::with_capacity(PIECE_BYTES);
        loop {
            let (result, piece) = source.read(buffer).await;
            let StreamResult::Complete(_) = result else {
                break;
            };
            buffer = sink.write_all(piece).await;
            if !buffer.is_empty() {
                break;
            }
        }
        drop(sink);
        let _ = written.await;
        match wish {
            Some("fail") => Err(()),
            Some("code") => {
                exit::exit_with_code(7);
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }
}
