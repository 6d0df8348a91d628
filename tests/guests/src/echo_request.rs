//! Answers with the request as the guest sees it, as JSON: method, scheme, authority, target, headers.

use guests::wasip2::http::types::{Method, Scheme};
use guests::{IncomingRequest, ResponseOutparam, quoted};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let headers = request.headers().entries();
    let headers = guests::array(headers.iter().map(|(name, value)| {
        format!(
            "[{},{}]",
            quoted(name),
            quoted(&String::from_utf8_lossy(value))
        )
    }));
    let json = format!(
        r#"{{"method":{},"scheme":{},"authority":{},"target":{},"headers":{headers}}}"#,
        quoted(&method(&request.method())),
        optional(request.scheme().as_ref().map(scheme)),
        optional(request.authority().as_deref()),
        optional(request.path_with_query().as_deref()),
    );
    guests::json(out, 200, &json);
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), quoted)
}

fn scheme(scheme: &Scheme) -> &str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
        Scheme::Other(name) => name,
    }
}

fn method(method: &Method) -> String {
    match method {
        Method::Other(name) => name.clone(),
        // `Method::Get` prints so.
        known => format!("{known:?}")
            .trim_start_matches("Method::")
            .to_uppercase(),
    }
}
