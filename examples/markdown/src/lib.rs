//! Turns Markdown into HTML: `POST` a document, get the page. Raw HTML in it is shown as text, and
//! links lead to the web only, so that a document from a stranger cannot bring scripts.
//!
//! The component exports a health function: it renders a line and looks at what came out.

use std::io::{Read as _, Write as _};

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, html};
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

mod health {
    wit_bindgen::generate!({ path: "../../wit", world: "realm:app/healthy" });
    export!(Health);

    struct Health;

    impl exports::realm::app::health::Guest for Health {
        fn check() -> Result<(), String> {
            match super::render("*well*").as_str() {
                "<p><em>well</em></p>\n" => Ok(()),
                other => Err(format!("rendered `{other}`")),
            }
        }
    }
}

const USAGE: &str = "POST a Markdown document:\n  curl --data-binary @README.md URL\n";

struct Markdown;

wasip2::http::proxy::export!(Markdown);

impl wasip2::exports::http::incoming_handler::Guest for Markdown {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        if !matches!(request.method(), Method::Post | Method::Put) {
            return answer(out, 405, "text/plain", USAGE);
        }
        let body = request.consume().expect("the body is taken once");
        let mut stream = body.stream().expect("the stream is taken once");
        let mut text = String::new();
        match stream.read_to_string(&mut text) {
            Ok(_) => answer(out, 200, "text/html; charset=utf-8", &render(&text)),
            Err(error) => answer(out, 400, "text/plain", &format!("{error}\n")),
        }
    }
}

fn render(markdown: &str) -> String {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let events = Parser::new_ext(markdown, options).map(|event| match event {
        Event::Html(raw) | Event::InlineHtml(raw) => Event::Text(raw),
        Event::Start(Tag::Link {
            link_type,
            dest_url,
            title,
            id,
        }) => {
            let dest_url = web_only(dest_url);
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            })
        }
        Event::Start(Tag::Image {
            link_type,
            dest_url,
            title,
            id,
        }) => {
            let dest_url = web_only(dest_url);
            Event::Start(Tag::Image {
                link_type,
                dest_url,
                title,
                id,
            })
        }
        other => other,
    });
    let mut page = String::new();
    html::push_html(&mut page, events);
    page
}

/// Keeps a link with a scheme of the web, or none; `javascript:` and its like become `#`.
fn web_only(url: CowStr<'_>) -> CowStr<'_> {
    let before_path = url.split(['/', '?', '#']).next().unwrap_or_default();
    match before_path.split_once(':') {
        None | Some(("http" | "https" | "mailto", _)) => url,
        Some(_) => "#".into(),
    }
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
