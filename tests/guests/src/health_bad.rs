//! Serves, and exports a health function that always says no.

guests::serve!(answer);

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "realm:app/healthy" });
    export!(Health);

    struct Health;

    impl exports::realm::app::health::Guest for Health {
        fn check() -> Result<(), String> {
            Err("database is down".to_owned())
        }
    }
}

fn answer(_request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    guests::text(out, 200, "hello\n");
}
