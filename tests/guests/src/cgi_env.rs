//! CGI: answers with its environment and its arguments: `{"env":{..},"args":[..]}`.

fn main() {
    let env = guests::object(std::env::vars());
    let args = guests::array(std::env::args().map(|argument| guests::quoted(&argument)));
    println!("Content-Type: application/json\n\n{{\"env\":{env},\"args\":{args}}}");
}
