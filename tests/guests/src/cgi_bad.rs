//! CGI: answers that are none; the query chooses one.

fn main() {
    match std::env::var("QUERY_STRING").as_deref() {
        Ok("nothing") => {}
        Ok("half") => println!("Content-Type: text/plain"),
        Ok("http") => print!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello\n"),
        Ok("long") => println!("X-Long: {}", "x".repeat(1_000_000)),
        Ok("upgrade") => print!("Status: 101 Switching Protocols\n\n"),
        Ok(_) | Err(_) => println!("hello, without a head"),
    }
}
