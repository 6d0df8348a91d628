//! Takes orders over HTTP and puts them into a queue: the customer waits for the queue, not for the work.

mod queue {
    wit_bindgen::generate!({
        path: "../../../wit/deps/wasi-messaging-0.2.0-draft",
        world: "imports",
    });
}

use std::io::{Read as _, Write as _};

use queue::wasi::messaging::producer::send;
use queue::wasi::messaging::types::{Client, Error, Message};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Shop;

wasip2::http::proxy::export!(Shop);

impl Guest for Shop {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        if !matches!(request.method(), Method::Post) {
            return answer(out, 405, "POST an order, as text\n");
        }
        match take(&request) {
            Ok(order) => answer(out, 202, &format!("taken: {order}\n")),
            Err(error) => answer(out, 503, &format!("not taken: {error:?}\n")),
        }
    }
}

/// Once this returns, the order is in the queue for good.
fn take(request: &IncomingRequest) -> Result<String, Error> {
    let body = request.consume().expect("the body is taken once");
    let mut order = String::new();
    let mut stream = body.stream().expect("the stream is taken once");
    if stream.read_to_string(&mut order).is_err() {
        return Err(Error::Other("an order is text".to_owned()));
    }
    let message = Message::new(order.as_bytes());
    message.set_content_type("text/plain");
    send(&Client::connect("default")?, "orders.new", message)?;
    Ok(order)
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
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
