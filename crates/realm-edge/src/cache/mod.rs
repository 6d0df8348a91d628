//! Answers that are used again: between the routes of a node and whoever answers, here or elsewhere.
//!
//! A shared cache after RFC 9111 in memory, for components that say so. Which answers: `policy`; to which
//! requests: `key`; where they lie: `store`; who waits for whom: `flights`; how one is asked for: `leading`;
//! how it comes in: `filling`; how it is given: `giving`.

mod budget;
mod directives;
mod filling;
mod flights;
mod giving;
mod key;
mod leading;
mod policy;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::HeaderMap;
use http::{Method, Request, Response};
use realm_model::name::ComponentName;
use realm_model::observed::Revision;
use tokio::sync::Semaphore;

use crate::answer::Asking;
use crate::backend::Body;
use crate::refusal::Refusal;
use budget::Counts;
use flights::{Flights, Landed, Turn};
use giving::{respond, tell};
use leading::Asker;
use policy::{Freshness, is_somebodys};
use store::{Entry, Key, Store};

/// How often one looks again after it waited for another.
const ROUNDS_MAX: usize = 4;
/// Answers that are asked for while an older one is given out.
const BACKGROUND_MAX: usize = 64;

/// All answers that a node keeps.
pub(crate) struct Cache {
    store: Store,
    flights: Arc<Flights>,
    background: Arc<Semaphore>,
    counts: Mutex<BTreeMap<ComponentName, Arc<Counts>>>,
    /// Whose answers are of use.
    editions: Mutex<BTreeSet<(ComponentName, Revision)>>,
}

/// The cache as one component has it.
#[derive(Clone)]
pub(crate) struct Caching {
    cache: Arc<Cache>,
    component: ComponentName,
    /// What answers; `None`: several versions do.
    edition: Option<Revision>,
    counts: Arc<Counts>,
}

/// What became of the requests of a component that has a cache, and the bytes that its answers take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Answered with what was kept.
    pub hits: u64,
    /// With what was too old, as it allows.
    pub stale: u64,
    /// With what was kept, after the component said that nothing changed.
    pub revalidated: u64,
    /// With what another request brought meanwhile.
    pub collapsed: u64,
    /// By the component.
    pub misses: u64,
    /// By the component: no requests for the cache.
    pub passed: u64,
    /// Bytes, those included that clients still read and that are on their way.
    pub stored_bytes: u64,
}

/// What one request is for the cache.
pub(crate) enum Way {
    /// Nothing.
    Past,
    /// What changes what others are given, if it succeeds.
    Changes(Vec<u8>),
    /// It may be answered.
    Through(Wanted),
}

/// What may be answered.
pub(crate) struct Wanted(Key);

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            store: Store::new(bytes_max),
            flights: Arc::default(),
            background: Arc::new(Semaphore::new(BACKGROUND_MAX)),
            counts: Mutex::default(),
            editions: Mutex::default(),
        })
    }

    /// The cache for the components of a table that comes into force, with what answers for each. What was
    /// kept of others is gone.
    pub(crate) fn of(
        self: &Arc<Self>,
        components: BTreeMap<ComponentName, Option<Revision>>,
    ) -> BTreeMap<ComponentName, Caching> {
        let known = components.iter();
        let editions: BTreeSet<(ComponentName, Revision)> = known
            .filter_map(|(component, edition)| Some((component.clone(), (*edition)?)))
            .collect();
        self.store.budget.divide(components.len());
        let mut before = lock(&self.editions);
        if *before != editions {
            self.store
                .retain(|entry| editions.contains(&(entry.component.clone(), entry.edition)));
            *before = editions;
        }
        drop(before);
        let mut counts = lock(&self.counts);
        counts.retain(|component, _| components.contains_key(component));
        let caching = components.into_iter().map(|(component, edition)| {
            let counts = counts.entry(component.clone()).or_default();
            let caching = Caching {
                cache: Arc::clone(self),
                component: component.clone(),
                edition,
                counts: Arc::clone(counts),
            };
            (component, caching)
        });
        caching.collect()
    }

    pub(crate) fn figures(&self) -> BTreeMap<ComponentName, CacheFigures> {
        let counts = lock(&self.counts);
        let figures = counts.iter();
        let figures = figures.map(|(component, counts)| (component.clone(), counts.figures()));
        figures.collect()
    }
}

impl Counts {
    fn figures(&self) -> CacheFigures {
        CacheFigures {
            hits: self.hits.load(Relaxed),
            stale: self.stale.load(Relaxed),
            revalidated: self.revalidated.load(Relaxed),
            collapsed: self.collapsed.load(Relaxed),
            misses: self.misses.load(Relaxed),
            passed: self.passed.load(Relaxed),
            stored_bytes: u64::try_from(self.bytes.load(Relaxed)).unwrap_or(u64::MAX),
        }
    }
}

impl Caching {
    /// What answers, for the node that asks.
    pub(crate) const fn edition(&self) -> Option<Revision> {
        self.edition
    }

    /// What a request is for the cache.
    pub(crate) fn way(&self, host: &str, request: &Request<()>, has_body: bool) -> Way {
        let uri = || key::uri(self.component.app(), host, request);
        if !request.method().is_safe() {
            return Way::Changes(uri());
        }
        let edition = self
            .edition
            .filter(|_| key::is_for_cache(request, has_body));
        match edition {
            Some(edition) => Way::Through(Wanted(key::key(uri(), edition, request))),
            None => Way::Past,
        }
    }

    /// An answer that did not go through here.
    pub(crate) fn passed(&self, way: &Way, response: &mut Response<Body>) {
        count(&self.counts.passed);
        let mut why = "bypass";
        if let Way::Changes(uri) = way {
            why = "method";
            let status = response.status();
            if status.is_success() || status.is_redirection() {
                self.cache.store.invalidate(uri);
            }
        }
        tell(response.headers_mut(), &format!("realm; fwd={why}"));
    }

    /// Answers a request with what is kept, or has it answered.
    pub(crate) async fn answer(
        &self,
        asking: &mut Asking<'_>,
        Wanted(key): Wanted,
        request: Request<()>,
    ) -> Result<Response<Body>, Refusal> {
        let since = Instant::now();
        let mut is_collapsed = false;
        for _ in 0..ROUNDS_MAX {
            let kept = self.cache.store.find(&key, request.headers());
            let stale = match kept.map(|entry| (entry.policy.freshness(Instant::now()), entry)) {
                Some((Freshness::Fresh(left), entry)) => {
                    asking.is_answered_by_cache();
                    return Ok(self.hit(&entry, request.headers(), left, is_collapsed));
                }
                Some((Freshness::Stale(past), entry)) => Some((entry, past)),
                None => None,
            };
            if key::is_only_if_cached(request.headers()) {
                return Err(Refusal::not_in_cache());
            }
            let turn = self.turn(&key, &request);
            if let Some((entry, past)) = &stale
                && entry.policy.may_serve_while_revalidating(*past)
            {
                if let Turn::Lead(flight) = turn {
                    self.renew_later(asking, &key, &request, Arc::clone(entry), flight);
                }
                asking.is_answered_by_cache();
                return Ok(self.stale(entry, request.headers(), *past, "hit"));
            }
            if *request.method() == Method::HEAD {
                // It brings nothing for those who would wait.
                drop(turn);
                return self.ask_plainly(asking, request, stale.is_some()).await;
            }
            let entry = stale.map(|(entry, _)| entry);
            let asker = Asker::Client(asking);
            match turn {
                Turn::Lead(flight) => {
                    // Somebody else may have landed between the look and the turn.
                    let kept = self.cache.store.find(&key, request.headers());
                    let is_fresh = |entry: &Arc<Entry>| {
                        matches!(entry.policy.freshness(Instant::now()), Freshness::Fresh(_))
                    };
                    if kept.as_ref().is_some_and(is_fresh) {
                        flight.land(Landed::Kept);
                        continue;
                    }
                    return self.lead(asker, &key, request, entry, Some(flight)).await;
                }
                Turn::Alone => return self.lead(asker, &key, request, entry, None).await,
                Turn::Follow(told) => match self.cache.flights.wait(told, since).await {
                    Some(Landed::Kept | Landed::Gone) => is_collapsed = true,
                    Some(Landed::Alone) | None => {
                        return self.lead(asker, &key, request, entry, None).await;
                    }
                },
            }
        }
        self.lead(Asker::Client(asking), &key, request, None, None)
            .await
    }

    /// Who asks. What is somebody's is waited for by nobody.
    fn turn(&self, key: &Key, request: &Request<()>) -> Turn {
        if is_somebodys(request.headers()) {
            return Turn::Alone;
        }
        let mut what = [&*key.uri, &*key.base].concat();
        // Those that get different answers do not wait for each other, as far as it is known.
        for (name, _) in self.cache.store.varies(key).into_iter().flatten() {
            for line in request.headers().get_all(name) {
                what.extend_from_slice(&line.len().to_le_bytes());
                what.extend_from_slice(line.as_bytes());
            }
            what.push(b'\n');
        }
        self.cache.flights.join(&what, Instant::now())
    }

    async fn ask_plainly(
        &self,
        asking: &mut Asking<'_>,
        request: Request<()>,
        is_stale: bool,
    ) -> Result<Response<Body>, Refusal> {
        count(&self.counts.misses);
        let mut response = asking.ask(request).await?;
        let why = if is_stale { "stale" } else { "uri-miss" };
        tell(response.headers_mut(), &format!("realm; fwd={why}"));
        Ok(response)
    }

    fn hit(
        &self,
        entry: &Arc<Entry>,
        request: &HeaderMap,
        left: Duration,
        is_collapsed: bool,
    ) -> Response<Body> {
        let (counter, how) = match is_collapsed {
            true => (&self.counts.collapsed, "fwd=uri-miss; collapsed"),
            false => (&self.counts.hits, "hit"),
        };
        count(counter);
        let left = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        respond(entry, request, how, left)
    }

    fn stale(
        &self,
        entry: &Arc<Entry>,
        request: &HeaderMap,
        past: Duration,
        how: &str,
    ) -> Response<Body> {
        count(&self.counts.stale);
        let past = i64::try_from(past.as_secs()).unwrap_or(i64::MAX);
        respond(entry, request, how, -past)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Each change is a whole one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
