//! What an ordinary handler does: parse an order, add it up, answer with the total per product,
//! the dearest first.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use serde::{Deserialize, Serialize};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

/// More than any request of the harness has.
const BODY_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Deserialize)]
struct Order<'a> {
    customer: &'a str,
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    product: &'a str,
    quantity: u64,
    price_cents: u64,
}

#[derive(Serialize)]
struct Receipt<'a> {
    customer: &'a str,
    total_cents: u64,
    products: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    product: &'a str,
    cents: u64,
}

struct Json;

wasip2::http::proxy::export!(Json);

impl Guest for Json {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let incoming = request.consume().expect("the body is taken once");
        let source = incoming.stream().expect("the stream is taken once");
        let mut body = Vec::new();
        let _ = source.take(BODY_BYTES_MAX).read_to_end(&mut body);
        match serde_json::from_slice::<Order<'_>>(&body) {
            Ok(order) => {
                let text = serde_json::to_vec(&receipt(&order)).expect("a receipt is JSON");
                answer(out, 200, &text);
            }
            Err(error) => answer(out, 400, error.to_string().as_bytes()),
        }
    }
}

fn receipt<'a>(order: &Order<'a>) -> Receipt<'a> {
    let mut sums = BTreeMap::new();
    for item in &order.items {
        *sums.entry(item.product).or_insert(0) += item.quantity * item.price_cents;
    }
    let mut products: Vec<_> = sums
        .into_iter()
        .map(|(product, cents)| Line { product, cents })
        .collect();
    products.sort_by_key(|line| std::cmp::Reverse(line.cents));
    Receipt {
        customer: order.customer,
        total_cents: products.iter().map(|line| line.cents).sum(),
        products,
    }
}

fn answer(out: ResponseOutparam, status: u16, text: &[u8]) {
    let headers = [("content-type".to_owned(), b"application/json".to_vec())];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("valid headers"));
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    // A caller that went away is no failure of ours.
    let _ = stream.write_all(text);
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
