//! Asking for an answer, for whoever waits for it: with what is kept in hand, if that is too old, and with
//! what is to become of what comes. Not who asks: that is for `flights`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{
    DATE, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, VARY,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use realm_model::observed::Revision;
use tokio::time::sleep;

use super::filling::{ENTRY_BYTES_MAX, Filled, fill};
use super::flights::{Flight, Landed};
use super::giving::{given, not_modified, tell};
use super::policy::{
    Came, Freshness, Policy, Varies, has_it, is_somebodys, is_still_it, renewed, varies,
};
use super::store::{Entry, Key, Standing, Store};
use super::{Caching, count};
use crate::answer::{Asking, declared_length};
use crate::backend::Body;
use crate::headers::{REALM_EDITION, strip_response};
use crate::refusal::Refusal;
use crate::request_body;
use crate::table::Group;
use crate::turns::in_turn_with_caller;

/// How often it is looked whether somebody still waits for an answer whose client has left. Nobody waits for
/// long.
const LOOKED_AFTER: Duration = Duration::from_millis(500);

/// Who is asked for what is not there.
pub(super) enum Asker<'a, 'r> {
    /// For a client, which waits.
    Client(&'a mut Asking<'r>),
    /// For nobody yet.
    Later { group: Arc<Group>, is_far: bool },
}

/// An answer that is to be kept, without its body.
struct Head {
    key: Key,
    edition: Revision,
    varies: Varies,
    status: StatusCode,
    headers: HeaderMap,
    policy: Policy,
}

impl Caching {
    /// Asks for an answer, keeps it if that may be, and gives it.
    pub(super) async fn lead(
        &self,
        mut asker: Asker<'_, '_>,
        key: &Key,
        mut request: Request<()>,
        stale: Option<Arc<Entry>>,
        flight: Option<Flight>,
    ) -> Result<Response<Body>, Refusal> {
        let standing = self.cache.store.standing(key);
        let client = conditions_of(request.headers_mut());
        let mut asked = Instant::now();
        let mut response = asker
            .ask(conditional(request.clone(), stale.as_deref()))
            .await;
        let is_unchanged = |response: &Result<Response<Body>, Refusal>| {
            let status = response.as_ref().map(Response::status);
            status.is_ok_and(|status| status == StatusCode::NOT_MODIFIED)
        };
        if let Some(entry) = &stale
            && is_unchanged(&response)
        {
            let is_it = response
                .as_ref()
                .is_ok_and(|response| is_still_it(&entry.headers, response.headers()));
            if is_it && let Ok(response) = response {
                let came = Came::since(asked);
                let renews = (entry, standing, flight, request.headers());
                return Ok(self.renew(&asker, renews, response, &client, came));
            }
            // It is about something else.
            self.cache.store.forget(entry);
            asked = Instant::now();
            response = asker.ask(request.clone()).await;
        }
        let has_failed = match &response {
            Ok(response) => is_failure(response.status()),
            Err(refusal) => refusal.status.is_server_error(),
        };
        if has_failed && let Some(entry) = &stale {
            let past = match entry.policy.freshness(Instant::now()) {
                Freshness::Stale(past) => past,
                Freshness::Fresh(_) => Duration::ZERO,
            };
            if entry.policy.may_serve_on_error(past) {
                if let Some(flight) = flight {
                    flight.fail();
                }
                asker.is_answered_by_cache();
                return Ok(self.stale(entry, &client, past, "fwd=stale"));
            }
        }
        let why = if stale.is_some() { "stale" } else { "uri-miss" };
        match response {
            Err(refusal) => {
                if let Some(flight) = flight {
                    flight.fail();
                }
                Err(refusal)
            }
            Ok(response) => {
                count(&self.counts.misses);
                let came = Came::since(asked);
                let (mut parts, body) = response.into_parts();
                let head = self.head(&asker, key, request.headers(), &mut parts, came);
                let client_has_it = has_it(&client, parts.status, &parts.headers);
                let stored = if head.is_some() { "; stored" } else { "" };
                tell(&mut parts.headers, &format!("realm; fwd={why}{stored}"));
                let body = match head {
                    Some(head) => {
                        let filled = self.keep(head, body, standing, flight).await;
                        let is_bodiless = client_has_it || parts.status == StatusCode::NO_CONTENT;
                        match is_bodiless || asker.is_later() {
                            // Who gets none of it waits for it all the same.
                            true => {
                                filled.read_out().await;
                                request_body::empty()
                            }
                            false => filled.boxed_unsync(),
                        }
                    }
                    None => {
                        if let Some(flight) = flight {
                            flight.land(Landed::Alone);
                        }
                        body
                    }
                };
                let response = Response::from_parts(parts, body);
                Ok(match client_has_it {
                    true => not_modified(response),
                    false => response,
                })
            }
        }
    }

    /// What of an answer is to be kept; `None`: nothing.
    fn head(
        &self,
        asker: &Asker<'_, '_>,
        key: &Key,
        request: &HeaderMap,
        parts: &mut http::response::Parts,
        came: Came,
    ) -> Option<Head> {
        let edition = self.answered(asker, &parts.headers);
        strip_response(&mut parts.headers);
        let headers = &parts.headers;
        let policy = Policy::of(is_somebodys(request), parts.status, headers, came)?;
        let length = declared_length(headers).ok()?;
        if length.is_some_and(|length| length > ENTRY_BYTES_MAX as u64) {
            return None;
        }
        let mut kept = headers.clone();
        // RFC 9110 §6.6.1.
        if !kept.contains_key(DATE) {
            let date = httpdate::fmt_http_date(came.unix);
            kept.insert(DATE, HeaderValue::try_from(date).ok()?);
        }
        Some(Head {
            key: key.clone(),
            edition: edition?,
            varies: varies(headers, request)?,
            status: parts.status,
            headers: kept,
            policy,
        })
    }

    /// Which version answered, if it is the one whose answers are kept.
    fn answered(&self, asker: &Asker<'_, '_>, headers: &HeaderMap) -> Option<Revision> {
        let edition = self.edition?;
        let is_it = match asker.is_far()? {
            false => true,
            true => {
                let said = headers.get(REALM_EDITION);
                said.is_some_and(|said| said.as_bytes() == edition.0.hex().as_bytes())
            }
        };
        is_it.then_some(edition)
    }

    /// Reads all of a body that is to be kept, and gives it as it comes: to its client, and to nobody where
    /// nobody waits for its bytes.
    async fn keep(
        &self,
        head: Head,
        body: Body,
        standing: Standing,
        flight: Option<Flight>,
    ) -> Filled {
        let length = declared_length(&head.headers).ok().flatten();
        let (filling, filled, client) = fill(body, length);
        let caching = self.clone();
        let keeping = async move {
            let store = &caching.cache.store;
            // It ends with its client, as it does where nothing is kept: else who leaves at once holds a
            // place of the component to its end, and the next one with the next request.
            let is_followed = || flight.as_ref().is_some_and(Flight::is_followed);
            let unwanted = async {
                client.leaves().await;
                while is_followed() {
                    sleep(LOOKED_AFTER).await;
                }
            };
            let body = tokio::select! {
                biased;
                body = filling.read(store, &caching.counts) => body,
                () = unwanted => return,
            };
            let kept = body.and_then(|body| caching.put(head, body, standing));
            caching.land(flight, kept.as_deref(), standing);
        };
        // Most of what is kept is there at once.
        let mut keeping: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(keeping);
        let first = poll_fn(|context| Poll::Ready(keeping.as_mut().poll(context)));
        if first.await.is_pending() {
            tokio::spawn(in_turn_with_caller(keeping, Box::new(|| false)));
        }
        filled
    }

    fn put(&self, head: Head, body: Vec<Bytes>, standing: Standing) -> Option<Arc<Entry>> {
        let store = &self.cache.store;
        let Head {
            key,
            edition,
            varies,
            status,
            headers,
            policy,
        } = head;
        let bytes = Store::head_bytes(&key, &headers, &varies);
        let taken = store.take(&self.counts, bytes)?;
        let entry = Entry {
            key,
            component: self.component.clone(),
            edition,
            varies,
            status,
            headers,
            body,
            policy,
            was_used: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            taken,
        };
        store.put(entry, standing)
    }

    /// Tells those who wait what was kept for them.
    fn land(&self, flight: Option<Flight>, kept: Option<&Entry>, standing: Standing) {
        let Some(flight) = flight else { return };
        match kept {
            Some(entry) if entry.policy.is_for_others(Instant::now()) => {
                flight.land(Landed::Kept);
            }
            // What it was about changed meanwhile: the next one may be kept.
            None if !self.cache.store.still_stands(standing) => flight.fail(),
            // What is to be asked about each time is of no use for who waited.
            Some(_) | None => flight.land(Landed::Alone),
        }
    }

    /// What is kept is good for another while, and given.
    fn renew(
        &self,
        asker: &Asker<'_, '_>,
        (entry, standing, flight, request): (&Arc<Entry>, Standing, Option<Flight>, &HeaderMap),
        response: Response<Body>,
        client: &HeaderMap,
        came: Came,
    ) -> Response<Body> {
        count(&self.counts.revalidated);
        let edition = self.answered(asker, response.headers());
        let mut answer = response.into_parts().0.headers;
        strip_response(&mut answer);
        let mut headers = renewed(&entry.headers, &answer);
        let policy = Policy::of(is_somebodys(request), entry.status, &headers, came);
        // What it says now, and what it said of the body that is kept.
        let mut vary = headers.clone();
        for (name, _) in &entry.varies {
            vary.append(VARY, name.clone().into());
        }
        let varies = varies(&vary, request);
        if !headers.contains_key(DATE) {
            let date = HeaderValue::try_from(httpdate::fmt_http_date(came.unix));
            headers.extend(date.ok().map(|date| (DATE, date)));
        }
        let head = edition.zip(policy).zip(varies);
        let head = head.map(|((edition, policy), varies)| Head {
            key: entry.key.clone(),
            edition,
            varies,
            status: entry.status,
            headers: headers.clone(),
            policy,
        });
        let kept = head.and_then(|head| self.put(head, entry.body.clone(), standing));
        // Where what it depends on has changed it lies beside the new one.
        self.cache.store.forget(entry);
        self.land(flight, kept.as_deref(), standing);
        let mut response = Response::new(given(entry));
        *response.status_mut() = entry.status;
        *response.headers_mut() = headers;
        let stored = if kept.is_some() { "; stored" } else { "" };
        let status = format!("realm; fwd=stale; fwd-status=304{stored}");
        tell(response.headers_mut(), &status);
        match has_it(client, entry.status, &entry.headers) {
            true => not_modified(response),
            false => response,
        }
    }

    /// Has an answer renewed while the old one is given out.
    pub(super) fn renew_later(
        &self,
        asking: &Asking<'_>,
        key: &Key,
        request: &Request<()>,
        entry: Arc<Entry>,
        flight: Flight,
    ) {
        let Ok(place) = Arc::clone(&self.cache.background).try_acquire_owned() else {
            return;
        };
        let asker = Asker::Later {
            group: asking.group(),
            is_far: false,
        };
        let (caching, key) = (self.clone(), key.clone());
        let mut request = request.clone();
        *request.method_mut() = Method::GET;
        let renewing = async move {
            let _place = place;
            let stale = Some(entry);
            let renewed = caching.lead(asker, &key, request, stale, Some(flight));
            if let Err(refusal) = renewed.await {
                let (component, code) = (&caching.component, refusal.code);
                tracing::debug!(%component, code, "an answer was not renewed");
            }
        };
        tokio::spawn(in_turn_with_caller(Box::pin(renewing), Box::new(|| false)));
    }
}

impl Asker<'_, '_> {
    async fn ask(&mut self, request: Request<()>) -> Result<Response<Body>, Refusal> {
        match self {
            Self::Client(asking) => asking.ask(request).await,
            Self::Later { group, is_far } => {
                let backend = group.pick().ok_or_else(Refusal::no_backend)?;
                *is_far = backend.node().is_some();
                let answered = backend.call(request.map(|()| request_body::empty())).await;
                answered.map_err(Refusal::from)
            }
        }
    }

    /// Whether another node answered; `None`: another component did.
    fn is_far(&self) -> Option<bool> {
        match self {
            Self::Client(asking) => asking.is_far(),
            Self::Later { is_far, .. } => Some(*is_far),
        }
    }

    const fn is_later(&self) -> bool {
        matches!(self, Self::Later { .. })
    }

    fn is_answered_by_cache(&mut self) {
        match self {
            Self::Client(asking) => asking.is_answered_by_cache(),
            Self::Later { .. } => {}
        }
    }
}

impl Came {
    fn since(asked: Instant) -> Self {
        Self {
            asked,
            at: Instant::now(),
            unix: SystemTime::now(),
        }
    }
}

/// Takes what a client says of what it has: all of it is asked for, for whoever comes next.
fn conditions_of(headers: &mut HeaderMap) -> HeaderMap {
    let mut taken = HeaderMap::new();
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
        for value in headers.get_all(&name) {
            taken.append(name.clone(), value.clone());
        }
        headers.remove(&name);
    }
    taken
}

/// Asks whether what is kept is still it.
fn conditional(mut request: Request<()>, stale: Option<&Entry>) -> Request<()> {
    if let Some(entry) = stale {
        let headers = request.headers_mut();
        for (validator, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
            if let Some(value) = entry.headers.get(validator) {
                headers.insert(condition, value.clone());
            }
        }
    }
    request
}

/// For which an older answer may stand in (RFC 5861 §4).
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests;
