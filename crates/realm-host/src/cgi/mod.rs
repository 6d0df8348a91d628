//! CGI/1.1 (RFC 3875), sans I/O: a request as variables of an environment, and the head of a
//! program's answer as status and headers.
//!
//! Not here: running the program (`command`), and how bodies move (`stdio`). What the edge took
//! out of a request before (the client's story of its way, names that CGI misreads) is taken out
//! here again: the variables are safe whoever calls.

mod environment;
mod head;

pub use environment::{Environment, ScriptName, environment};
pub use head::{FIELDS_MAX, HEAD_BYTES_MAX, Head, HeadError, HeadParser, LINE_BYTES_MAX};
