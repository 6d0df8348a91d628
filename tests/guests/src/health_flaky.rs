//! Serves, and exports a health function that does what the environment variable `HEALTH` says:
//! `ok`, `bad`, `long`, `trap` or `spin`; absent: `ok`.

guests::serve!(answer);

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "realm:app/healthy" });
    export!(Health);

    struct Health;

    impl exports::realm::app::health::Guest for Health {
        fn check() -> Result<(), String> {
            match std::env::var("HEALTH").as_deref() {
                Ok("bad") => Err("database is down".to_owned()),
                Ok("long") => Err(format!("\u{1b}[2J\n{}", "long ".repeat(200_000))),
                Ok("trap") => std::arch::wasm32::unreachable(),
                Ok("spin") => loop {
                    std::hint::black_box(());
                },
                _ => Ok(()),
            }
        }
    }
}

fn answer(_request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    guests::text(out, 200, "hello\n");
}
