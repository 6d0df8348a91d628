//! A guestbook: a page with what visitors wrote, and a form. What a visitor calls itself is remembered by
//! a cookie, for a month.
//!
//! Where any of it is kept is not known here: `bind` in realm.toml leads to it.

mod text;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::random::random::get_random_bytes;

mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/deps/wasi-keyvalue-0.2.0-draft2", "../../wit/deps/wasi-messaging-0.2.0-draft", "../../wit/deps/realm-cloud"],
        inline: "
            package realm:guestbook;
            world guestbook {
                include wasi:keyvalue/imports@0.2.0-draft2;
                import realm:cloud/ttl@0.1.0;
            }
        ",
        world: "realm:guestbook/guestbook",
        generate_all,
    });
}

use std::io::{Read as _, Write as _};

use bindings::realm::cloud::ttl;
use bindings::wasi::keyvalue::store::{Bucket, Error, open};
use bindings::wasi::keyvalue::{atomics, batch};

/// Entries on the page.
const SHOWN: i64 = 20;
/// The number of the last entry; the entries themselves are `entry/1`, `entry/2`, ..
const COUNT: &str = "entries";
const MONTH_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
const FORM_BYTES_MAX: u64 = 8_192;

struct Guestbook;

wasip2::http::proxy::export!(Guestbook);

impl Guest for Guestbook {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let session = session(&request);
        let answer = open("default").and_then(|book| match request.method() {
            Method::Post => write(&book, &request, &session),
            _ => page(&book, &session),
        });
        match answer {
            Ok(answer) => send(out, &answer),
            Err(error) => send(out, &Answer::new(503, format!("{error:?}\n"))),
        }
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Answer {
    fn new(status: u16, body: String) -> Self {
        let headers = vec![("content-type", "text/html; charset=utf-8".to_owned())];
        Self {
            status,
            headers,
            body,
        }
    }
}

/// The page, with the name that the visitor gave last.
fn page(book: &Bucket, session: &str) -> Result<Answer, Error> {
    let name = book.get(&format!("session/{session}"))?.unwrap_or_default();
    let last = atomics::increment(book, COUNT, 0)?;
    let keys: Vec<String> = (1.max(last - SHOWN + 1)..=last)
        .rev()
        .map(|number| format!("entry/{number}"))
        .collect();
    let entries: String = batch::get_many(book, &keys)?
        .into_iter()
        .flatten()
        .map(|(_, entry)| {
            let entry = String::from_utf8_lossy(&entry);
            let (name, text) = entry.split_once('\n').unwrap_or(("", &entry));
            format!(
                "<p><b>{}</b>: {}</p>\n",
                text::escaped(name),
                text::escaped(text)
            )
        })
        .collect();
    let name = text::escaped(&String::from_utf8_lossy(&name));
    let mut answer = Answer::new(
        200,
        format!(
            "<!doctype html><title>Guestbook</title>\n<form method=\"post\">\
             <input name=\"name\" placeholder=\"your name\" value=\"{name}\" required>\
             <input name=\"text\" placeholder=\"what you say\" required><button>Write</button></form>\n{entries}"
        ),
    );
    answer.headers.push(cookie(session));
    Ok(answer)
}

/// Keeps an entry, and the name for the next one.
fn write(book: &Bucket, request: &IncomingRequest, session: &str) -> Result<Answer, Error> {
    let mut form = Vec::new();
    let body = request.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let _ = stream.take(FORM_BYTES_MAX).read_to_end(&mut form);
    let form = String::from_utf8_lossy(&form);
    let (Some(name), Some(said)) = (text::field(&form, "name"), text::field(&form, "text")) else {
        return Ok(Answer::new(
            400,
            "a name and a text are asked for\n".to_owned(),
        ));
    };
    let name = name.replace(['\n', '\r'], " ");
    // The number is this entry's alone, whoever writes at the same time.
    let number = atomics::increment(book, COUNT, 1)?;
    book.set(
        &format!("entry/{number}"),
        format!("{name}\n{said}").as_bytes(),
    )?;
    match ttl::set(
        book,
        &format!("session/{session}"),
        name.as_bytes(),
        MONTH_MS,
    ) {
        // A store that cannot end keys remembers nobody.
        Ok(()) | Err(Error::Other(_)) => {}
        Err(error) => return Err(error),
    }
    let mut answer = Answer::new(303, String::new());
    answer
        .headers
        .push(("location", request.path_with_query().unwrap_or_default()));
    answer.headers.push(cookie(session));
    Ok(answer)
}

/// That of the cookie, or a new one.
fn session(request: &IncomingRequest) -> String {
    let cookies = request.headers().get("cookie");
    let known = cookies.iter().find_map(|line| {
        let line = String::from_utf8_lossy(line);
        let mut pairs = line
            .split(';')
            .filter_map(|pair| pair.trim().split_once('='));
        pairs.find_map(|(name, value)| (name == "session").then(|| value.to_owned()))
    });
    let is_one = |text: &String| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    known.filter(is_one).unwrap_or_else(|| {
        get_random_bytes(16)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    })
}

fn cookie(session: &str) -> (&'static str, String) {
    let month = MONTH_MS / 1_000;
    let text = format!("session={session}; Max-Age={month}; HttpOnly; SameSite=Lax");
    ("set-cookie", text)
}

fn send(out: ResponseOutparam, answer: &Answer) {
    let headers = answer.headers.iter();
    let headers: Vec<_> = headers
        .map(|(name, value)| ((*name).to_owned(), value.clone().into_bytes()))
        .collect();
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("valid headers"));
    response
        .set_status_code(answer.status)
        .expect("a valid status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    let _ = stream.write_all(answer.body.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
