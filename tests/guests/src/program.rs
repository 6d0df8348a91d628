//! A program whose first argument says what it does: `echo`, `exit CODE`, `out COUNT`, `mixed`,
//! `dirs`, `spin`, `park`, `bomb`, `trap`, `connect ADDRESS` (tells what it is told), `listen`, `env NAME`,
//! `read PATH`, `write PATH TEXT`.

use std::io::{Read as _, Write as _, stdin, stdout};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use guests::wasip2::cli::exit::exit_with_code;

fn main() {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_default();
    let second = args.next().unwrap_or_default();
    let number = second.parse().ok();
    match &*what {
        "echo" => echo(),
        // `std::process::exit` tells success from failure only.
        "exit" => exit_with_code(number.unwrap_or(0) as u8),
        "out" => (0..number.unwrap_or(0)).for_each(|line| println!("line {line}")),
        "mixed" => {
            for line in 0..3 {
                println!("out {line}");
                eprintln!("err {line}");
            }
        }
        "spin" => loop {
            std::hint::black_box(0);
        },
        "park" => std::thread::sleep(Duration::from_secs(600)),
        "bomb" => {
            let mut held = Vec::new();
            loop {
                held.push(std::hint::black_box(vec![0x5a_u8; 1024 * 1024]));
            }
        }
        "connect" => tell(connect(&second)),
        "listen" => tell(TcpListener::bind("127.0.0.1:0").map(|_| "listening".to_owned())),
        "dirs" => {
            let dirs = wasip2::filesystem::preopens::get_directories();
            let names: Vec<String> = dirs.into_iter().map(|(_, name)| name).collect();
            println!("{}", names.join(" "));
        }
        // All of what it is told at its start, in its order.
        "told" => {
            let variables = wasip2::cli::environment::get_environment();
            let variables = variables
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"));
            let all: Vec<String> = std::env::args().chain(variables).collect();
            println!("{}", all.join(" "));
        }
        "env" => println!("{}", std::env::var(&second).unwrap_or("absent".to_owned())),
        "read" => tell(std::fs::read_to_string(&second)),
        "write" => {
            let text = args.next().unwrap_or_default();
            tell(std::fs::write(&second, text).map(|()| "written".to_owned()));
        }
        "trap" => std::arch::wasm32::unreachable(),
        _ => println!("what?"),
    }
}

fn tell(told: std::io::Result<String>) {
    match told {
        Ok(told) => println!("{told}"),
        Err(error) => println!("{:?}", error.kind()),
    }
}

fn connect(to: &str) -> std::io::Result<String> {
    let mut told = String::new();
    TcpStream::connect(to)?.read_to_string(&mut told)?;
    Ok(told)
}

fn echo() {
    let mut piece = [0; 4_096];
    loop {
        let read = stdin().read(&mut piece).expect("the input is whole");
        if read == 0 {
            return;
        }
        stdout().write_all(&piece[..read]).expect("somebody reads");
        // Not left in a buffer until the line ends.
        stdout().flush().expect("somebody reads");
    }
}
