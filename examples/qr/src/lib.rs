//! Draws a QR code as SVG: `GET /qr/?text=…`. Pure computing: it needs no grant at all.

use std::fmt::Write as _;
use std::io::Write as _;

use qrcodegen::{QrCode, QrCodeEcc};
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

/// Empty modules around the code, as ISO/IEC 18004 asks for.
const BORDER: i32 = 4;

struct Qr;

wasip2::http::proxy::export!(Qr);

impl wasip2::exports::http::incoming_handler::Guest for Qr {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let text = target
            .split_once("?text=")
            .map(|(_, text)| text.split('&').next());
        let text = text.flatten();
        let bytes = text
            .map(decode)
            .unwrap_or_else(|| b"https://wasi.dev".to_vec());
        match QrCode::encode_binary(&bytes, QrCodeEcc::Medium) {
            Ok(code) => answer(out, 200, "image/svg+xml", &svg(&code)),
            Err(error) => answer(out, 400, "text/plain", &format!("{error}\n")),
        }
    }
}

fn svg(code: &QrCode) -> String {
    let side = code.size() + 2 * BORDER;
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|x| code.get_module(*x, y)) {
            let _ = write!(path, "M{},{}h1v1h-1z", x + BORDER, y + BORDER);
        }
    }
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {side} {side}' \
         shape-rendering='crispEdges'><path fill='#fff' d='M0,0h{side}v{side}h-{side}z'/>\
         <path d='{path}'/></svg>\n"
    )
}

/// Decodes `%XX` and `+` of a query; a `%` that starts no pair of digits stands for itself.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let pair = tail
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        match (
            *first,
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()),
        ) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(byte),
        }
    }
    bytes
}

fn answer(out: ResponseOutparam, status: u16, content_type: &str, text: &str) {
    let headers = [("content-type".to_owned(), content_type.as_bytes().to_vec())];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("valid headers"));
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    let _ = stream.write_all(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
