//! CGI: answers every request with 200 and `hello`.

fn main() {
    print!("Content-Type: text/plain; charset=utf-8\n\nhello\n");
}
