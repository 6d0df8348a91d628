//! One request: whose is it, may it pass, what does the backend see, what does the client get.
//!
//! Everything here is per request and shares nothing that is written, the connection's notes
//! aside. Not how bytes come and go: that is hyper's, `io`'s and the bodies'.

use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use hyper::upgrade::OnUpgrade;
use realm_model::block::Block;

use crate::backend::{Backend, Body, CallError, Elsewhere, RoutePrefix};
use crate::cache::Way;
use crate::config::EdgeLimits;
use crate::connection::{Connection, Ending, Order};
use crate::fastcgi::GuestLog;
use crate::headers::{
    REALM_PATH, REALM_TRACE, is_framing_clear, strip_request, strip_response, strip_vouched,
};
use crate::https;
use crate::https::Front;
use crate::observe::{MethodClass, Observer, Protocol};
use crate::origin::{self, Origin};
use crate::path::other_readings;
use crate::refusal::{ALLOWED_METHODS, NO_TURN, Refusal};
use crate::request_body::{self, Arriving, Upload};
use crate::response_body::{Record, Reply};
use crate::table::{Group, Table, Target};
use crate::turns::{self, Turn};
use crate::websocket::{self, Handshake, Switched, Switching, Told};

/// Replicas that one request is brought to, at most.
pub(crate) const REPLICAS_TRIED_MAX: usize = 3;
/// Requests under way on one connection, in parts of the streams that it may open: those that the client has
/// reset are under way until they have their turn.
const STREAMS_HELD_FACTOR: u32 = 2;
/// There is no room for a request.
const OVERLOADED: &str = "overloaded";

/// What all connections share.
pub(crate) struct Edge {
    pub(crate) table: ArcSwap<Table>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) trusted_proxies: Vec<IpAddr>,
    pub(crate) proxy_protocol_from: Vec<Block>,
    pub(crate) https: Option<Front>,
    pub(crate) limits: EdgeLimits,
}

/// What becomes of a request that is not refused.
enum Answer {
    Guest(Response<Body>),
    /// The client and a guest speak WebSocket from there on.
    Switched(Response<Body>, Switched, OnUpgrade),
    /// `OPTIONS *` asks the server, not a component.
    Options,
    /// To be asked over HTTPS, there.
    Moved(HeaderValue),
    /// An authority asks for proof that a host leads here.
    Proof(String),
}

/// Answers a request. Never fails: what goes wrong, a panic included, is an answer too.
pub(crate) async fn answer(
    edge: Arc<Edge>,
    connection: Arc<Connection>,
    request: Request<Arriving>,
) -> Result<Response<Reply>, Infallible> {
    let mut record = Record::new(
        &edge.observer,
        &connection,
        request.method(),
        request.version(),
    );
    if connection.in_flight() > STREAMS_HELD_FACTOR * edge.limits.streams_max {
        // Streams that were reset while they were held back count on: whoever opens and resets them without
        // end is cut off.
        connection.give_order(Order::Cut);
    }
    let (mut parts, body) = request.into_parts();
    let accept = parts.headers.get(http::header::ACCEPT).cloned();
    let has_body = !body.is_end_stream();
    let answer = AssertUnwindSafe(dispatch(&edge, &mut record, &mut parts, body))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            tracing::error!(component = ?record.group.as_ref().map(|group| &group.component), "a request panicked");
            Err(Refusal::internal())
        });
    let response = match answer {
        Ok(Answer::Guest(response)) => fit(record.method, response),
        Ok(Answer::Switched(response, switched, upgrade)) => {
            return Ok(switch(&edge, record, response, switched, upgrade));
        }
        Ok(Answer::Options) => return Ok(options(record)),
        Ok(Answer::Proof(proof)) => return Ok(https::proof(proof, record)),
        Ok(Answer::Moved(location)) => {
            if has_body {
                connection.end_with(Ending::Linger);
            }
            return Ok(https::moved(location, record));
        }
        Err(refusal) => Err(refusal),
    };
    Ok(match response {
        Ok((mut response, owed)) => {
            record.status = Some(response.status());
            tell_path(&record, response.headers_mut());
            edge.tell_strictness(&connection, response.headers_mut());
            let (head, body) = response.into_parts();
            let mut reply = match body {
                Some(body) => Reply::stream(body, owed, record),
                None => Reply::nothing(record),
            };
            reply.look_ahead().await;
            Response::from_parts(head, reply)
        }
        Err(refusal) => {
            if has_body {
                connection.end_with(Ending::Linger);
                if refusal.code == NO_TURN {
                    connection.excuse();
                }
            }
            let mut response = refuse(&refusal, accept, record);
            edge.tell_strictness(&connection, response.headers_mut());
            response
        }
    })
}

/// Everything up to the backend's response.
async fn dispatch(
    edge: &Edge,
    record: &mut Record,
    parts: &mut Parts,
    body: Arriving,
) -> Result<Answer, Refusal> {
    let connection = Arc::clone(&record.connection);
    if !is_framing_clear(parts.version, &parts.headers) {
        return Err(Refusal::unclear_framing());
    }
    if parts.method == Method::CONNECT {
        return Err(Refusal::method_not_supported());
    }
    if parts.headers.len() > edge.limits.header_count_max {
        return Err(Refusal::headers_too_large());
    }
    if parts.headers.remove(REALM_TRACE).is_some() && connection.may_trace() {
        record.path = Some(String::new());
    }
    let origin = origin::origin(&connection, parts, &edge.trusted_proxies)?;
    if parts.uri.path() == "*" && parts.method == Method::OPTIONS {
        return Ok(Answer::Options);
    }
    if let Some(proof) = edge.proof(&origin, parts) {
        return Ok(Answer::Proof(proof));
    }
    let (target, prefix) = route(&edge.table.load(), &origin, parts.uri.path())?;
    if let Some(location) = edge.elsewhere(&connection, &origin, &parts.uri)? {
        return Ok(Answer::Moved(location));
    }
    record.group = Some(Arc::clone(&target.group));
    let turn = turns::serve(&target.group.component).await;
    if turn != Turn::AtOnce && record.protocol == Protocol::Http2 {
        // A stream that was reset meanwhile ends here, before a guest is begun for it.
        turns::once_more().await;
    }
    if turn == Turn::Late {
        return Err(Refusal::no_turn());
    }
    record.is_begun = true;
    let handshake = Handshake::of(parts, !body.is_end_stream());
    if handshake.is_some() && connection.is_behind() {
        return Err(Refusal::no_websocket());
    }
    // Most components have no gate, and pay for none.
    let gate = target.group.gate.as_ref();
    let gate = gate.map(|gate| (gate, origin.client()));
    if body.size_hint().lower() > edge.limits.request_bytes_max {
        return Err(Refusal::request_too_large());
    }
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.version_mut() = parts.version;
    *request.uri_mut() = origin.uri(std::mem::take(&mut parts.uri))?;
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    strip_request(request.headers_mut());
    strip_vouched(request.headers_mut());
    origin.write(request.headers_mut());
    connection.vouch(request.headers_mut());
    if let Some((gate, client)) = &gate {
        let path = request.uri().path();
        gate.admit(client, request.method(), path, request.headers())?;
    }
    // Where nothing is told, nothing is allocated: most routes are for a whole host.
    if prefix.0 > 0 {
        request.extensions_mut().insert(prefix);
    }
    if let Some(log) = parts.extensions.remove::<GuestLog>() {
        request.extensions_mut().insert(log);
    }
    let has_body = !body.is_end_stream();
    if has_body {
        record.upload = Some(Upload::new(body));
    }
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let mut switches = false;
    if let (Some(handshake), Some(_)) = (handshake, &upgrade) {
        switches = true;
        request.extensions_mut().insert(handshake);
    }
    let mut asking = Asking {
        edge,
        record,
        target: &target,
    };
    // What is said over a WebSocket is nobody else's.
    let gate = gate.as_ref().filter(|_| !switches);
    let caching = gate.and_then(|(gate, client)| Some((gate.caching()?, client)));
    let mut response = match caching {
        None => asking.ask(request).await?,
        Some((caching, client)) => match caching.way(&client.host, &request, has_body) {
            Way::Through(wanted) => caching.answer(&mut asking, wanted, request).await?,
            way @ (Way::Past | Way::Changes(_)) => {
                let mut response = asking.ask(request).await?;
                caching.passed(&way, &mut response);
                response
            }
        },
    };
    // An answer of 101 without one is no last word, and refused as such.
    Ok(match (upgrade, Switched::of(&mut response)) {
        (Some(upgrade), Some(switched)) => Answer::Switched(response, switched, upgrade),
        (Some(_) | None, Some(_) | None) => Answer::Guest(response),
    })
}

/// Who is asked for an answer, by a client that waits.
pub(crate) struct Asking<'r> {
    edge: &'r Edge,
    record: &'r mut Record,
    target: &'r Target,
}

impl Asking<'_> {
    pub(crate) async fn ask(&mut self, request: Request<()>) -> Result<Response<Body>, Refusal> {
        let first = self.target.group.pick().ok_or_else(Refusal::no_backend)?;
        call(self.edge, self.record, self.target, first, request).await
    }

    /// Whether another node was asked last; `None`: another component than the route led to.
    pub(crate) fn is_far(&self) -> Option<bool> {
        let group = self.record.group.as_ref()?;
        let is_it = Arc::ptr_eq(group, &self.target.group);
        is_it.then_some(self.record.is_far)
    }

    pub(crate) fn group(&self) -> Arc<Group> {
        Arc::clone(&self.target.group)
    }

    /// Nobody was asked, or in vain.
    pub(crate) fn is_answered_by_cache(&mut self) {
        self.record.is_told("cache");
    }
}

/// Who owns the path. Where another reader of the path would land at another one, the request is
/// refused: a component must not be reached around the route that guards it.
fn route(table: &Table, origin: &Origin, path: &str) -> Result<(Target, RoutePrefix), Refusal> {
    let others = other_readings(path).map_err(|error| Refusal::bad_path(error.to_string()))?;
    let host = origin.route_key();
    let found = table.find(host, path);
    for other in others {
        let is_same = match (found, table.find(host, &other)) {
            (Some(found), Some(other)) => found.owner.is(other.owner),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same {
            return Err(Refusal::bad_path(
                "the path has readings that belong to different routes",
            ));
        }
    }
    let found = found.ok_or_else(Refusal::no_route)?;
    let prefix = RoutePrefix(found.prefix_bytes);
    Ok((found.owner.choose(), prefix))
}

/// Calls one replica, and others if it never took the request.
async fn call(
    edge: &Edge,
    record: &mut Record,
    target: &Target,
    first: &Arc<dyn Backend>,
    mut request: Request<()>,
) -> Result<Response<Body>, Refusal> {
    let upload = record.upload.clone();
    let connection = Arc::clone(&record.connection);
    let body = || match &upload {
        Some(upload) => upload.body(&connection, &edge.limits),
        None => request_body::empty(),
    };
    // A copy of the head is made only where a second replica could get it.
    let spare = target.has_several().then(|| request.clone());
    if spare.is_none()
        && let Some(upload) = &upload
    {
        upload.settle();
    }
    record.goes_to(first.node());
    if spare.is_some() && first.node().is_some() {
        request.extensions_mut().insert(Elsewhere);
    }
    let mut result = first.call(request.map(|()| body())).await;
    if let Some(spare) = spare {
        let mut tried = [first; REPLICAS_TRIED_MAX];
        let (mut n_tried, mut is_repeated) = (1, false);
        while n_tried < REPLICAS_TRIED_MAX
            && let Err(error) = &result
            && goes_on(error, n_tried, is_repeated)
            && can_repeat(upload.as_deref()).await
            && let Some((group, next)) = target.pick_other(&tried[..n_tried])
        {
            tracing::debug!(component = %group.component, "asking another replica");
            is_repeated |= error.perhaps_taken;
            record.group = Some(Arc::clone(group));
            record.is_retried = true;
            record.goes_to(next.node());
            tried[n_tried] = next;
            n_tried += 1;
            result = next.call(spare.clone().map(|()| body())).await;
        }
    }
    if let Some(upload) = &upload {
        upload.settle();
    }
    result.map_err(|error| failed(error, upload.as_deref()))
}

/// Whether a request may go to one replica more. What a guest may have had is repeated once; where there is
/// no room, the second is the last, or a crowd would be one for three; and what nobody had goes on.
fn goes_on(error: &CallError, n_tried: usize, is_repeated: bool) -> bool {
    let is_first = n_tried == 1;
    let is_full = [OVERLOADED, NO_TURN].contains(&error.code);
    let is_free = !error.perhaps_taken && !is_full;
    error.retryable && (is_first || is_free && !is_repeated)
}

/// Whether all of a body can be given to another replica.
async fn can_repeat(upload: Option<&Upload>) -> bool {
    match upload {
        None => true,
        Some(upload) => upload.fault().is_none() && upload.comes_back().await,
    }
}

/// A failed call, unless the client's own upload is to blame.
fn failed(error: CallError, upload: Option<&Upload>) -> Refusal {
    upload
        .and_then(Upload::fault)
        .unwrap_or_else(|| Refusal::from(error))
}

/// Makes a backend's response fit to send: its body (`None` where there must be none) and the
/// length it declares.
pub(crate) fn fit(
    method: MethodClass,
    response: Response<Body>,
) -> Result<(Response<Option<Body>>, Option<u64>), Refusal> {
    let (mut parts, body) = response.into_parts();
    parts.extensions.clear();
    strip_response(&mut parts.headers);
    let status = parts.status;
    if status.is_informational() {
        return Err(Refusal::bad_response(
            "the component answered with an interim status as its last word",
        ));
    }
    let declared = declared_length(&parts.headers)?;
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        if status == StatusCode::NO_CONTENT {
            parts.headers.remove(CONTENT_LENGTH);
        }
        return Ok((Response::from_parts(parts, None), None));
    }
    let exact = body.size_hint().exact();
    if method == MethodClass::Head {
        // What GET would declare, where the backend made that body all the same.
        if let (None, Some(length @ 1..)) = (declared, exact) {
            parts
                .headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        return Ok((Response::from_parts(parts, None), None));
    }
    if let (Some(declared), Some(exact)) = (declared, exact)
        && declared != exact
    {
        return Err(Refusal::bad_response(
            "the component declared another length than its body has",
        ));
    }
    Ok((Response::from_parts(parts, Some(body)), declared))
}

/// The one value of `Content-Length`; several equal ones are folded into it.
pub(crate) fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut declared = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let length = value
            .to_str()
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse::<u64>().ok());
        if length.is_none() || declared.is_some_and(|known| Some(known) != length) {
            return Err(Refusal::bad_response(
                "the component declared a length that is none",
            ));
        }
        declared = length;
    }
    Ok(declared)
}

fn tell_path(record: &Record, headers: &mut HeaderMap) {
    let path = record.path.as_deref().map(HeaderValue::from_str);
    if let Some(Ok(path)) = path {
        headers.insert(REALM_PATH, path);
    }
}

/// The last answer on a connection of HTTP/1.1; what follows waits for it.
fn switch(
    edge: &Edge,
    mut record: Record,
    response: Response<Body>,
    switched: Switched,
    upgrade: OnUpgrade,
) -> Response<Reply> {
    let connection = Arc::clone(&record.connection);
    record.status = Some(response.status());
    let (mut parts, _) = response.into_parts();
    parts.extensions.clear();
    websocket::switching(&mut parts.headers);
    tell_path(&record, &mut parts.headers);
    edge.tell_strictness(&connection, &mut parts.headers);
    if let Some(group) = &record.group {
        connection.switch(Switching {
            upgrade,
            switched,
            told: Told::new(&edge.observer, &group.component, &connection),
        });
    }
    Response::from_parts(parts, Reply::nothing(record))
}

fn options(mut record: Record) -> Response<Reply> {
    record.status = Some(StatusCode::NO_CONTENT);
    let mut response = Response::new(Reply::nothing(record));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
    response
}

fn refuse(refusal: &Refusal, accept: Option<HeaderValue>, mut record: Record) -> Response<Reply> {
    record.status = Some(refusal.status);
    record.code = Some(refusal.code);
    let mut response = refusal.answer(accept.as_ref());
    tell_path(&record, response.headers_mut());
    let is_upload_broken = record
        .upload
        .as_ref()
        .is_some_and(|upload| upload.fault().is_some());
    if (is_upload_broken || refusal.ends_connection) && record.protocol != Protocol::Http2 {
        // Where the next request would begin is not known, or not worth the wait.
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if record.method == MethodClass::Head {
        response.map(|_| Reply::nothing(record))
    } else {
        response.map(|body| Reply::whole(body, record))
    }
}
