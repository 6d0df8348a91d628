//! Answers that the edge gives in a backend's place: a status, a stable code, a sentence, a hint.
//!
//! Plain text for people, JSON for who asks for it. Nothing of the request is repeated in them.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::accept::prefers_json;
use crate::backend::CallError;
use crate::headers::REALM_ERROR;

/// The methods that `Allow` names: those that every guest interface knows.
pub(crate) const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The code of a request that waited for too long until it might begin.
pub(crate) const NO_TURN: &str = "no-turn";

/// A request without an answer from a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: Cow<'static, str>,
    pub(crate) hint: Option<&'static str>,
    pub(crate) retry_after_s: Option<u32>,
    /// Whether nothing that follows on this HTTP/1 connection can be believed.
    pub(crate) ends_connection: bool,
}

impl Refusal {
    fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        hint: &'static str,
    ) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            hint: Some(hint),
            retry_after_s: None,
            ends_connection: false,
        }
    }

    pub(crate) fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-route",
            "no component answers this host and path",
            "`realm status` lists the routes; `[routing]` in realm.toml sets them",
        )
    }

    pub(crate) fn no_backend() -> Self {
        Self {
            retry_after_s: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no-backend",
                "the component of this route has no healthy replica",
                "`realm status` tells why it is not up",
            )
        }
    }

    pub(crate) fn no_turn() -> Self {
        Self {
            retry_after_s: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                NO_TURN,
                "the node has more to do than it can, and others of its components were to have their turn first",
                "try again later, or give the component more nodes; docs/security.md says whose turn it is",
            )
        }
    }

    pub(crate) fn bad_host(why: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-host",
            why,
            "send one `Host` header with a name or an address",
        )
    }

    pub(crate) fn bad_path(why: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-path",
            why,
            "resolve dot segments and write the path in its plain form",
        )
    }

    pub(crate) fn no_websocket() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "no-websocket",
            "FastCGI carries no WebSocket",
            "the web server in front has to pass WebSockets on over HTTP: docs/edge.md shows how",
        )
    }

    pub(crate) fn denied_by_rule() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "denied-by-rule",
            "a rule of the component refuses this request",
            "`rules` of the component in realm.toml say which; the agent's log names the rule",
        )
    }

    pub(crate) fn too_many_requests(retry_after_s: u32) -> Self {
        Self {
            retry_after_s: Some(retry_after_s),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "this client sends more requests than the component takes of one",
                "wait as long as `Retry-After` says; `per_client` in realm.toml sets the rate",
            )
        }
    }

    pub(crate) fn not_in_cache() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "not-in-cache",
            "nothing is kept that answers this, and the request wants nothing else",
            "ask without `only-if-cached`",
        )
    }

    pub(crate) fn method_not_supported() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "method-not-supported",
            "CONNECT has no meaning here",
            "this is no proxy for other servers",
        )
    }

    pub(crate) fn headers_too_large() -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers-too-large",
            "the header fields are too many or too large",
            "send fewer or smaller cookies",
        )
    }

    pub(crate) fn request_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request-too-large",
            "the request body is larger than this server takes",
            "send less, or in parts",
        )
    }

    pub(crate) fn request_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request-timeout",
            "the request body did not arrive in time",
            "send it again",
        )
    }

    pub(crate) fn bad_response(why: &'static str) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "bad-response",
            why,
            "the component's author can correct this; `realm logs` shows its output",
        )
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server made a mistake; other requests are not affected",
            "the agent's log has the details",
        )
    }

    pub(crate) fn bad_request() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            "this is not a well-formed HTTP request",
            "the request line or a header field breaks RFC 9112",
        )
    }

    pub(crate) fn unclear_framing() -> Self {
        Self {
            ends_connection: true,
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "bad-request",
                "the request body has another `Transfer-Encoding` than `chunked` once and alone",
                "send `Transfer-Encoding: chunked`, or `Content-Length`",
            )
        }
    }

    fn uri_too_long() -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "uri-too-long",
            "the request target is too long",
            "send long data in a body",
        )
    }

    pub(crate) fn too_many_connections() -> Self {
        Self {
            retry_after_s: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too-many-connections",
                "the server has as many connections as it can take",
                "try again shortly",
            )
        }
    }

    fn plain_http() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "plain-http",
            "this is plain HTTP, on a port for HTTPS",
            "ask again with `https://`",
        )
    }

    /// The answer, in the form that the request's `Accept` prefers.
    pub(crate) fn answer(&self, accept: Option<&HeaderValue>) -> Response<Bytes> {
        let is_json = accept.is_some_and(prefers_json);
        let body = if is_json { self.json() } else { self.text() };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(content_type(is_json)),
        );
        headers.insert(REALM_ERROR, HeaderValue::from_static(self.code));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::NOT_IMPLEMENTED {
            headers.insert(ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
        }
        let length = response.body().len();
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }

    fn text(&self) -> String {
        let hint = self
            .hint
            .map_or_else(String::new, |hint| format!("hint: {hint}\n"));
        format!("error[{}]: {}\n{hint}", self.code, self.message)
    }

    fn json(&self) -> String {
        let hint = self
            .hint
            .map_or_else(|| "null".to_owned(), |hint| format!("\"{}\"", escape(hint)));
        format!(
            "{{\"error\":{{\"code\":\"{}\",\"message\":\"{}\",\"hint\":{hint}}}}}\n",
            self.code,
            escape(&self.message)
        )
    }

    /// The whole answer as HTTP/1.1 bytes, for where no response can be handed to hyper.
    fn bytes(&self) -> Vec<u8> {
        use std::fmt::Write;

        let response = self.answer(None);
        let mut head = format!("HTTP/1.1 {}\r\n", self.status);
        for (name, value) in response.headers() {
            let value = value.to_str().expect("refusals are ASCII");
            write!(head, "{name}: {value}\r\n").expect("writing to a String cannot fail");
        }
        head.push_str("connection: close\r\n\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(response.body());
        bytes
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self {
            status: error.status,
            code: error.code,
            message: Cow::Owned(error.message),
            hint: error.hint,
            retry_after_s: error.retry_after_s,
            ends_connection: false,
        }
    }
}

/// The coded answer for the bare one that hyper makes of a head it cannot parse.
pub(crate) fn for_hypers_answer(bytes: &[u8]) -> Option<&'static [u8]> {
    static BAD_REQUEST: LazyLock<Vec<u8>> = LazyLock::new(|| Refusal::bad_request().bytes());
    static URI_TOO_LONG: LazyLock<Vec<u8>> = LazyLock::new(|| Refusal::uri_too_long().bytes());
    static HEADERS: LazyLock<Vec<u8>> = LazyLock::new(|| Refusal::headers_too_large().bytes());

    let status = bytes
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
    match status.get(..3)? {
        b"400" => Some(&BAD_REQUEST),
        b"414" => Some(&URI_TOO_LONG),
        b"431" => Some(&HEADERS),
        _ => None,
    }
}

/// What a client gets where there are too many.
pub(crate) fn for_one_too_many() -> &'static [u8] {
    static TOO_MANY: LazyLock<Vec<u8>> = LazyLock::new(|| Refusal::too_many_connections().bytes());
    &TOO_MANY
}

/// What a client gets that speaks HTTP where TLS is expected.
pub(crate) fn for_plain_http() -> &'static [u8] {
    static PLAIN: LazyLock<Vec<u8>> = LazyLock::new(|| Refusal::plain_http().bytes());
    &PLAIN
}

fn content_type(is_json: bool) -> &'static str {
    if is_json {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    }
}

/// JSON's string escapes (RFC 8259 §7).
fn escape(text: &str) -> String {
    use std::fmt::Write;

    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            '\u{0}'..='\u{1f}' => write!(escaped, "\\u{:04x}", u32::from(character))
                .expect("writing to a String cannot fail"),
            _ => escaped.push(character),
        }
    }
    escaped
}
