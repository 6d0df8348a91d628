//! A command: prints its arguments, a line each, and the number of its environment variables on
//! stderr; an argument `fail` makes it end with a failure.

fn main() {
    for argument in std::env::args() {
        println!("{argument}");
    }
    eprintln!("{} variables", std::env::vars().count());
    if std::env::args().any(|argument| argument == "fail") {
        std::process::exit(1);
    }
}
