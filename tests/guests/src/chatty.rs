//! Writes to stdout, or to stderr with `?stream=stderr`, then answers.
//!
//! `/lines?n=` writes `line 0`, `line 1`, ..; `/long?bytes=` one line of x; `/partial` a text
//! without a line break at its end; `/control` escapes, a bell, a bare carriage return and bytes
//! that are no UTF-8; anything else one line, `hello`.

use std::io::{self, Write};

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let path = guests::path(&request);
    let bytes = match path.rsplit('/').next() {
        Some("lines") => (0..guests::number(&request, "n", 3))
            .map(|n| format!("line {n}\n"))
            .collect::<String>()
            .into(),
        Some("long") => {
            let mut line = vec![b'x'; guests::number(&request, "bytes", 100_000) as usize];
            line.push(b'\n');
            line
        }
        Some("partial") => b"no line break".to_vec(),
        Some("control") => b"\x1b[31mred\x1b[0m \x07bell \rover \xff\xfe end\n".to_vec(),
        _ => b"hello\n".to_vec(),
    };
    let written = match guests::parameter(&request, "stream").as_deref() {
        Some("stderr") => write(io::stderr().lock(), &bytes),
        _ => write(io::stdout().lock(), &bytes),
    };
    match written {
        Ok(()) => guests::text(out, 200, "written\n"),
        Err(error) => guests::text(out, 500, &format!("{error}\n")),
    }
}

fn write(mut stream: impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}
