//! An order as a workflow: reserved, paid, and shipped or refunded, also if whoever works on it dies.

mod flows {
    wit_bindgen::generate!({
        path: "../../wit/deps/realm-cloud/workflows.wit",
        world: "realm:cloud/workflow-service",
    });
    export!(Handler);

    struct Handler;

    impl exports::realm::cloud::workflow_handler::Guest for Handler {
        fn handle(run: super::Run) -> Result<Vec<u8>, super::Outcome> {
            super::order(&run)
        }
    }
}

use std::io::{Read as _, Write as _};

use flows::exports::realm::cloud::workflow_handler::Outcome;
use flows::realm::cloud::workflows::{Error, Flows, Heard, Run, State};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

/// How long an order waits to be shipped.
const SHIPPED_WITHIN_MS: u64 = 60_000;

/// Called from its beginning each time: what is in the journal is not done again.
fn order(run: &Run) -> Result<Vec<u8>, Outcome> {
    let goods = String::from_utf8_lossy(&run.input()).into_owned();
    if goods.contains("unicorn") {
        return Err(Outcome::Rejected("out of unicorns".to_owned()));
    }
    let place = step(run, "reserve", || format!("{goods} put aside"))?;
    // Where somebody else is called, `ID/NAME` is the key under which he does it once.
    let receipt = step(run, "pay", || format!("paid under {}/pay", run.id()))?;
    let end = match run.wait_for("shipping", "shipped", Some(SHIPPED_WITHIN_MS)) {
        Ok(Heard::Signal(_)) => "shipped".to_owned(),
        Ok(Heard::TimedOut) => step(run, "refund", || "refunded".to_owned())?,
        Ok(Heard::Suspend) => return Err(Outcome::Suspended),
        Err(error) => return Err(failed(error)),
    };
    Ok(format!("{place}, {receipt}, {end}\n").into_bytes())
}

fn step(run: &Run, name: &str, work: impl FnOnce() -> String) -> Result<String, Outcome> {
    if let Some(done) = run.step(name).map_err(failed)? {
        return Ok(String::from_utf8_lossy(&done).into_owned());
    }
    let result = work();
    println!("{}: {result}", run.id());
    run.done(name, result.as_bytes()).map_err(failed)?;
    Ok(result)
}

fn failed(error: Error) -> Outcome {
    Outcome::Failed(format!("{error:?}"))
}

struct Shop;

wasip2::http::proxy::export!(Shop);

impl Guest for Shop {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let (status, text) = match answer(&request) {
            Ok(answer) => answer,
            Err(error) => (503, format!("{error:?}\n")),
        };
        let response = OutgoingResponse::new(Fields::new());
        response.set_status_code(status).expect("a valid status");
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let mut stream = body.write().expect("the stream is taken once");
        // A caller that went away is no failure of ours.
        let _ = stream.write_all(text.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

/// `/checkout/ID` and `/checkout/ID/shipped`.
fn answer(request: &IncomingRequest) -> Result<(u16, String), Error> {
    let path = request.path_with_query().unwrap_or_default();
    let mut parts = path.trim_start_matches("/checkout/").split('/');
    let (id, more) = (parts.next().unwrap_or_default(), parts.next());
    let flows = Flows::open("default")?;
    Ok(match (request.method(), more) {
        (Method::Post, None) => match flows.start("order", id, &body(request))? {
            true => (202, format!("order {id} is taken\n")),
            false => (200, format!("order {id} was taken before\n")),
        },
        (Method::Post, Some("shipped")) => match flows.signal(id, "shipped", b"")? {
            true => (202, format!("order {id} hears of it\n")),
            false => (404, format!("no order {id} waits for that\n")),
        },
        (Method::Get, None) => match flows.get(id)?.map(|status| status.state) {
            Some(State::Done(output)) => (200, String::from_utf8_lossy(&output).into_owned()),
            Some(State::Failed(why)) => (200, format!("it cannot be done: {why}\n")),
            Some(state) => (200, format!("{state:?}\n")),
            None => (404, format!("no order {id}\n")),
        },
        _ => (
            404,
            "POST or GET /checkout/ID, POST /checkout/ID/shipped\n".to_owned(),
        ),
    })
}

fn body(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("the body is taken once");
    let mut stream = body.stream().expect("the stream is taken once");
    let mut bytes = Vec::new();
    // What is too large is refused where the run is started.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
