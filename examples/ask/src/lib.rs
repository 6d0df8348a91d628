//! A page on which a model answers: `?q=` is a question, the answer goes out as it comes.
//!
//! Which model answers, and where it runs, is not known here: `bind` in realm.toml leads to it. When the
//! visitor goes away, writing fails, the generation is dropped, and the engine stops.

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::OutputStream;

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/deps/realm-cloud/inference.wit",
        world: "realm:cloud/inference-imports",
    });
}

use bindings::realm::cloud::inference::{self, Error, Message, Options, Role};

const PAGE: &str = include_str!("page.html");
/// Bytes of a question.
const QUESTION_BYTES_MAX: usize = 8_000;

struct Ask;

wasip2::http::proxy::export!(Ask);

impl Guest for Ask {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        match target.split_once("?q=") {
            None => send(out, 200, "text/html; charset=utf-8", |stream| {
                stream.write_all(PAGE.as_bytes())
            }),
            Some((_, question)) => match begin(&decoded(question)) {
                Err(error) => send(out, 503, TEXT, |stream| {
                    writeln!(stream, "{}", words(&error))
                }),
                Ok(answer) => send(out, 200, TEXT, |stream| {
                    loop {
                        match answer.next() {
                            Ok(Some(text)) => {
                                stream.write_all(text.as_bytes())?;
                                Write::flush(stream)?;
                            }
                            Ok(None) => return Ok(()),
                            Err(error) => return write!(stream, "\n({})\n", words(&error)),
                        }
                    }
                }),
            },
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn begin(question: &str) -> Result<inference::Generation, Error> {
    if question.len() > QUESTION_BYTES_MAX {
        return Err(Error::TooLarge(format!(
            "a question has {QUESTION_BYTES_MAX} bytes at most"
        )));
    }
    let message = |role, text: &str| Message {
        role,
        text: text.to_owned(),
    };
    let messages = [
        message(Role::System, "Answer in a few plain sentences."),
        message(Role::User, question),
    ];
    let options = Options {
        max_tokens: Some(512),
        temperature: None,
        top_p: None,
        seed: None,
        stop: Vec::new(),
        json_schema: None,
    };
    inference::stream("default", &messages, &options)
}

/// What a visitor reads of an error.
fn words(error: &Error) -> &str {
    match error {
        Error::NoSuchModel => "no model is bound",
        Error::Invalid(why) | Error::TooLarge(why) => why,
        Error::Quota | Error::Busy(_) => "too many ask: try again in a while",
        Error::Refused => "the model does not take this question",
        Error::Timeout => "the model does not answer in time",
        Error::Unsupported | Error::Unavailable | Error::Malformed => "the model does not answer",
    }
}

/// The value of a query, as a form writes it.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = behind
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        (rest, _) = match (first, byte) {
            (b'%', Some(byte)) => (&behind[2..], bytes.push(byte)),
            (b'+', _) => (behind, bytes.push(b' ')),
            (byte, _) => (behind, bytes.push(*byte)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn send(
    out: ResponseOutparam,
    status: u16,
    content_type: &str,
    write: impl FnOnce(&mut OutputStream) -> std::io::Result<()>,
) {
    let headers = [("content-type".to_owned(), content_type.as_bytes().to_vec())];
    let headers = Fields::from_list(&headers).expect("a header that may be set");
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    // A visitor that went away is no failure.
    if write(&mut stream)
        .and_then(|()| Write::flush(&mut stream))
        .is_ok()
    {
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
