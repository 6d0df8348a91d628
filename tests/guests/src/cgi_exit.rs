//! CGI: ends with a failure; the query says when. Says so on stderr first.

use std::io::Write as _;

fn main() {
    eprintln!("about to fail");
    match std::env::var("QUERY_STRING").as_deref() {
        Ok("within") => println!("Content-Type: text/plain"),
        Ok("after") => print!("Content-Type: text/plain\n\nhalf"),
        Ok(_) | Err(_) => {}
    }
    // `exit` does not.
    std::io::stdout().flush().expect("somebody reads");
    std::process::exit(1);
}
