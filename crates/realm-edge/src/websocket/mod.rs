//! WebSockets (RFC 6455) on their way through: a client's handshake, read strictly, and whether a
//! server's answer accepts it. From then on bytes go to and fro (`carry`), and of what they say nothing
//! is read but where frames begin (`frames`).
//!
//! No other protocol is switched to: what a head says of it goes no further than to the edge.

mod carry;
mod frames;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use realm_model::name::ComponentName;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backend::Body;
use crate::connection::Connection;
use crate::headers::strip_response;
use crate::observe::Observer;
use crate::upstream::Io;

pub(crate) use carry::{Gone, carry};

/// What a server's word is made of beside the key (RFC 6455 §1.3).
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The one version there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");
const PROTOCOL: HeaderValue = HeaderValue::from_static("websocket");
/// Bytes of what a key stands for.
const KEY_BYTES: usize = 16;

/// A client asks for a WebSocket: an extension of a request, whose headers do not say so themselves.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    key: HeaderValue,
}

impl Handshake {
    /// What a client's head asks for. What is not a whole handshake, and one alone, is none: its
    /// `Upgrade` is not passed on, as no other protocol's is.
    pub(crate) fn of(head: &Parts, has_body: bool) -> Option<Self> {
        let headers = &head.headers;
        if !headers.contains_key(UPGRADE) {
            return None;
        }
        let says = |name: HeaderName, word: &str| {
            only(headers, &name).is_some_and(|value| value.eq_ignore_ascii_case(word.as_bytes()))
        };
        let is_one = head.method == Method::GET
            && head.version == Version::HTTP_11
            && !has_body
            && says(UPGRADE, "websocket")
            && says(SEC_WEBSOCKET_VERSION, "13")
            && lists(headers, "upgrade");
        let key = only(headers, &SEC_WEBSOCKET_KEY).filter(|_| is_one)?;
        let is_key = STANDARD.decode(key).ok()?.len() == KEY_BYTES;
        let key = HeaderValue::from_bytes(key).ok()?;
        is_key.then_some(Self { key })
    }

    /// Asks a server for the same, in words of this side's own.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, PROTOCOL);
        headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
        headers.insert(SEC_WEBSOCKET_KEY, self.key.clone());
    }

    /// Whether a server that switches has understood to what.
    pub(crate) fn is_answered_by(&self, headers: &HeaderMap) -> bool {
        let word = [self.key.as_bytes(), MAGIC].concat();
        let word = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &word));
        let switches = only(headers, &UPGRADE);
        only(headers, &SEC_WEBSOCKET_ACCEPT) == Some(word.as_bytes())
            && switches.is_some_and(|to| to.eq_ignore_ascii_case(b"websocket"))
            && lists(headers, "upgrade")
    }
}

/// The value of a header that is there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes().trim_ascii()),
        (Some(_) | None, _) => None,
    }
}

/// Whether `Connection` lists this.
fn lists(headers: &HeaderMap, wanted: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The server's end of a WebSocket: an extension of an answer of 101. It is taken once.
#[derive(Clone)]
pub struct Switched(Arc<Inner>);

struct Inner {
    server: Mutex<Option<Server>>,
    /// Ends it at once, whatever is on its way.
    cut: CancellationToken,
    _ended: DropGuard,
}

/// A server's end, and until when it is kept.
pub(crate) struct Server {
    pub(crate) io: Box<dyn Io>,
    pub(crate) terms: Terms,
}

/// Until when a server's end is kept.
pub(crate) struct Terms {
    /// Told once the server takes no more: it ends soon.
    pub(crate) leaves: CancellationToken,
    /// How long there may be no byte in either direction; `None`: the other node looks to that.
    pub(crate) idle_max: Option<Duration>,
    /// What it takes as long as it is there: a place among what the server has in flight, or of those on
    /// the way to another node.
    pub(crate) place: Box<dyn Send>,
}

impl Switched {
    pub(crate) fn new(server: Server) -> Self {
        let cut = CancellationToken::new();
        Self(Arc::new(Inner {
            server: Mutex::new(Some(server)),
            _ended: cut.clone().drop_guard(),
            cut,
        }))
    }

    /// The answer that goes with it, to be sent or passed on.
    pub(crate) fn answer(self, mut head: http::response::Parts) -> Response<Body> {
        head.extensions.insert(self);
        Response::from_parts(head, crate::request_body::empty())
    }

    /// What an answer has, if it is one of 101.
    pub(crate) fn of(response: &mut Response<Body>) -> Option<Self> {
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => response.extensions_mut().remove(),
            _ => None,
        }
    }

    /// Ends it at once when `over` is ready: its server may not go on.
    pub fn until(&self, over: impl Future<Output = ()> + Send + 'static) {
        let cut = self.0.cut.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = over => cut.cancel(),
                () = cut.cancelled() => {}
            }
        });
    }

    fn take(&self) -> Option<Server> {
        let server = self.0.server.lock();
        server.unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The head of an answer of 101 as a client gets it: with nothing of the server's connection but that.
pub(crate) fn switching(headers: &mut HeaderMap) {
    strip_response(headers);
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, PROTOCOL);
}

/// A connection of a client that waits for the last byte of its 101.
pub(crate) struct Switching {
    pub(crate) upgrade: OnUpgrade,
    pub(crate) switched: Switched,
    pub(crate) told: Told,
}

/// Who is told of what a WebSocket carries. Dropped, it is over.
pub(crate) struct Told {
    observer: Arc<dyn Observer>,
    component: ComponentName,
    /// It has this one until its last answer is out.
    connection: Weak<Connection>,
}

/// What becomes of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebSocket {
    /// It is open.
    Opened,
    /// Bytes came from the client, or went to it.
    Carried {
        /// From the client.
        bytes_in: u64,
        /// To the client.
        bytes_out: u64,
    },
    /// It is over.
    Closed,
}

impl Told {
    pub(crate) fn new(
        observer: &Arc<dyn Observer>,
        component: &ComponentName,
        connection: &Arc<Connection>,
    ) -> Self {
        // Until its end the connection is in use.
        connection.begin_request();
        let told = Self {
            observer: Arc::clone(observer),
            component: component.clone(),
            connection: Arc::downgrade(connection),
        };
        told.tell(WebSocket::Opened);
        told
    }

    pub(crate) fn tell(&self, what: WebSocket) {
        self.observer.websocket(&self.component, what);
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.tell(WebSocket::Closed);
        if let Some(connection) = self.connection.upgrade() {
            connection.end_request();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// Counts what it is told.
    #[derive(Default)]
    struct Counting(Mutex<Vec<WebSocket>>);

    impl Observer for Counting {
        fn answered(&self, _: &crate::observe::Answered<'_>) {}

        fn websocket(&self, _: &ComponentName, what: WebSocket) {
            self.0.lock().unwrap().push(what);
        }
    }

    /// As when the task that serves it ends before its answer is out.
    #[tokio::test]
    async fn a_connection_that_ends_before_it_has_switched_leaves_nothing_behind() {
        let address = "127.0.0.1:1".parse().unwrap();
        let connection = Arc::new(Connection::new(address, address, |_| false));
        let counting = Arc::new(Counting::default());
        let observer: Arc<dyn Observer> = Arc::clone(&counting) as Arc<dyn Observer>;
        let (mut far_end, io) = tokio::io::duplex(64);
        let terms = Terms {
            leaves: CancellationToken::new(),
            idle_max: None,
            place: Box::new(()),
        };
        let io: Box<dyn Io> = Box::new(io);
        connection.switch(Switching {
            upgrade: hyper::upgrade::on(Request::new(())),
            switched: Switched::new(Server { io, terms }),
            told: Told::new(&observer, &"app".parse().unwrap(), &connection),
        });
        assert!(connection.idle_since().is_none(), "it is in use");
        let left = Arc::downgrade(&connection);
        drop(connection);
        assert!(left.upgrade().is_none());
        let told = counting.0.lock().unwrap().clone();
        assert_eq!(told, [WebSocket::Opened, WebSocket::Closed]);
        let ended = tokio::io::AsyncReadExt::read(&mut far_end, &mut [0]).await;
        assert_eq!(ended.unwrap(), 0, "the server's end is closed");
    }

    fn of(head: &[(&str, &str)], change: impl FnOnce(&mut Parts)) -> Option<Handshake> {
        let mut request = Request::new(());
        for (name, value) in head {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let mut parts = request.into_parts().0;
        change(&mut parts);
        Handshake::of(&parts, false)
    }

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const WHOLE: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];

    #[test]
    fn a_whole_handshake_is_one_and_nothing_else() {
        assert!(of(&WHOLE, |_| {}).is_some());
        for (name, value) in [
            ("connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("upgrade", "websocket, h2c"),
            ("upgrade", "h2c, websocket"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "short"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZTA="),
        ] {
            let head = WHOLE.map(|(known, own)| (known, if known == name { value } else { own }));
            assert!(of(&head, |_| {}).is_none(), "{name}: {value}");
        }
        for missing in 0..WHOLE.len() {
            let mut head = WHOLE.to_vec();
            let (name, value) = head.remove(missing);
            assert!(of(&head, |_| {}).is_none(), "without {name}");
            if name != "connection" {
                head.extend([(name, value), (name, value)]);
                assert!(of(&head, |_| {}).is_none(), "{name} twice");
            }
        }
        let others: [fn(&mut Parts); 3] = [
            |head| head.method = Method::POST,
            |head| head.version = Version::HTTP_10,
            |head| head.version = Version::HTTP_2,
        ];
        for change in others {
            assert!(of(&WHOLE, change).is_none());
        }
        let mut request = Request::new(());
        of(&WHOLE, |_| {}).unwrap().write(request.headers_mut());
        let parts = request.into_parts().0;
        assert!(Handshake::of(&parts, false).is_some());
        assert!(Handshake::of(&parts, true).is_none());
    }

    #[test]
    fn an_answer_has_the_word_that_the_key_makes() {
        let asked = of(&WHOLE, |_| {}).unwrap();
        // The example of RFC 6455.
        let word = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let answer = |name: &str, value: Option<&str>| {
            let mut headers = HeaderMap::new();
            for (known, own) in [
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-accept", word),
            ] {
                let value = if known == name { value } else { Some(own) };
                if let Some(value) = value {
                    let known: HeaderName = known.parse().unwrap();
                    headers.append(known, value.parse().unwrap());
                }
            }
            asked.is_answered_by(&headers)
        };
        assert!(answer("", None));
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!answer(name, None), "without {name}");
        }
        assert!(!answer("upgrade", Some("h2c")));
        assert!(!answer(
            "sec-websocket-accept",
            Some("t3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        ));
        assert!(!answer("sec-websocket-accept", Some(&word.to_lowercase())));
    }
}
