//! `realm:cloud/locks`: leases with tokens that grow, over what every key-value store can: swap.
//!
//! A lock is a key. Nobody compares clocks: who finds a lease waits until it has seen the same one for as
//! long as it lasts, and takes it then. The holder counts from before it asked, so it stops to rely on its
//! lease before anybody else may begin. Not here: what is done under a lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use realm_model::cloud::{CloudError, Revision, Swapped, within};
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::draft2::words;
use super::more::ms;
use super::{Bucket, Has, Held, View};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: ["../../wit/deps/wasi-keyvalue-0.2.0-draft2", "../../wit/deps/wasi-messaging-0.2.0-draft", "../../wit/deps/realm-cloud"],
        inline: "
            package realm:host;
            world holder {
                import realm:cloud/locks@0.1.0;
            }
        ",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store": crate::cloud::keyvalue::draft2::bindings::store,
            "realm:cloud/locks.lease": crate::cloud::keyvalue::locks::Lease,
        },
    });
}

use generated::realm::cloud::locks as bindings;

type Error = super::draft2::bindings::store::Error;

/// What the keys of locks begin with.
const PREFIX: &str = "~lock/";
const NAME_BYTES_MAX: usize = 255;
const LEASE_MIN: Duration = Duration::from_secs(1);
const LEASE_MAX: Duration = Duration::from_secs(3_600);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks at a lock that somebody else has.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Leases that are remembered as seen, by all instances of a component.
const SEEN_MAX: usize = 1_000;

/// Since when leases of others were seen as they are.
#[derive(Default)]
pub(crate) struct Seen(Mutex<BTreeMap<Lock, (Revision, Duration)>>);

/// A store, a bucket and a name.
type Lock = (usize, String, String);

/// A lock that a guest has, or had.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Lease {
    held: Held,
    key: String,
    token: u64,
    holder: String,
    lease: Duration,
    /// By the clock of this machine: until then nobody else takes it.
    until: Duration,
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    bindings::add_to_linker::<_, Has>(linker, State::keyvalue)
}

impl bindings::Host for View<'_> {
    async fn acquire(
        &mut self,
        bucket: Resource<Bucket>,
        name: String,
        lease_ms: u64,
        wait_ms: u64,
    ) -> Result<Result<Option<Resource<Lease>>, Error>> {
        let held = self.held(&bucket)?;
        let lease = Duration::from_millis(lease_ms);
        let wait = Duration::from_millis(wait_ms).min(WAIT_MAX);
        match acquire(held, &name, lease, wait).await {
            Ok(Some(lease)) => Ok(Ok(Some(self.table.push(lease)?))),
            Ok(None) => Ok(Ok(None)),
            Err(error) => Ok(Err(words(error))),
        }
    }
}

impl bindings::HostLease for View<'_> {
    async fn token(&mut self, lease: Resource<Lease>) -> Result<u64> {
        Ok(self.table.get(&lease)?.token)
    }

    async fn remaining_ms(&mut self, lease: Resource<Lease>) -> Result<u64> {
        Ok(ms(self.table.get(&lease)?.until.saturating_sub(now())))
    }

    async fn renew(&mut self, lease: Resource<Lease>) -> Result<Result<bool, Error>> {
        let lease = self.table.get_mut(&lease)?;
        Ok(lease.renew().await.map_err(words))
    }

    async fn release(&mut self, lease: Resource<Lease>) -> Result<Result<(), Error>> {
        let lease = self.table.get_mut(&lease)?;
        Ok(lease.release().await.map_err(words))
    }

    async fn drop(&mut self, lease: Resource<Lease>) -> Result<()> {
        self.table.delete(lease)?;
        Ok(())
    }
}

async fn acquire(
    held: Held,
    name: &str,
    lease: Duration,
    wait: Duration,
) -> Result<Option<Lease>, CloudError> {
    if name.is_empty() || !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        let words = "a lock has a name, and a lease of one second to one hour";
        return Err(CloudError::Invalid(words.to_owned()));
    }
    within("the name of the lock", name.len(), NAME_BYTES_MAX)?;
    let key = format!("{PREFIX}{name}");
    let holder = holder()?;
    let give_up = now() + wait;
    loop {
        let began = now();
        let found = held.read(&key).await?;
        let record = Record::of(found.value.as_deref())?;
        let seen_for = held.seen_for(&key, &found.revision);
        if record.is_free || seen_for >= record.lease {
            let mine = Record {
                token: record.token + 1,
                holder: holder.clone(),
                lease,
                renewals: 0,
                is_free: false,
            };
            let text = mine.text();
            let swapped = held.swap(&key, &found.revision, text.as_bytes());
            if swapped.await? == Swapped::Done {
                return Ok(Some(Lease {
                    held,
                    key,
                    token: mine.token,
                    holder,
                    lease,
                    until: began + lease,
                }));
            }
            // Somebody else was quicker, who may be again.
            if now() >= give_up {
                return Ok(None);
            }
            continue;
        }
        let left = give_up.saturating_sub(now());
        if left.is_zero() {
            return Ok(None);
        }
        let end = record.lease.saturating_sub(seen_for);
        tokio::time::sleep(LOOK_EVERY.min(left).min(end)).await;
    }
}

impl Lease {
    async fn renew(&mut self) -> Result<bool, CloudError> {
        let began = now();
        let is_held = self.write(|record| record.renewals += 1).await?;
        self.until = if is_held {
            began + self.lease
        } else {
            Duration::ZERO
        };
        Ok(is_held)
    }

    async fn release(&mut self) -> Result<(), CloudError> {
        // From here on nobody relies on it, whatever the store says.
        self.until = Duration::ZERO;
        self.write(|record| record.is_free = true).await?;
        Ok(())
    }

    /// Changes the lock if it is still this lease: whether it is.
    async fn write(&self, change: impl Fn(&mut Record)) -> Result<bool, CloudError> {
        let found = self.held.read(&self.key).await?;
        let mut record = Record::of(found.value.as_deref())?;
        if record.is_free || record.token != self.token || record.holder != self.holder {
            return Ok(false);
        }
        change(&mut record);
        let text = record.text();
        let swapped = self.held.swap(&self.key, &found.revision, text.as_bytes());
        // Nobody else changes it while it is this lease but who takes it after its end.
        Ok(swapped.await? == Swapped::Done)
    }
}

impl Held {
    /// For how long this lease was seen as it is; the first look begins it.
    fn seen_for(&self, key: &str, revision: &Revision) -> Duration {
        let store = Arc::as_ptr(&self.opened.store).cast::<()>() as usize;
        let place = (store, self.opened.part.clone(), key.to_owned());
        let now = now();
        let seen = self.cloud.seen();
        let mut all = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((same, since)) = all.get(&place)
            && same == revision
        {
            return now.saturating_sub(*since);
        }
        if all.len() >= SEEN_MAX {
            // Who looks at them again waits anew, which is long enough.
            all.clear();
        }
        all.insert(place, (revision.clone(), now));
        Duration::ZERO
    }
}

/// What stands in the key of a lock.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    token: u64,
    holder: String,
    lease: Duration,
    /// So that a lease that was renewed differs from what it was.
    renewals: u64,
    is_free: bool,
}

impl Record {
    fn of(value: Option<&[u8]>) -> Result<Self, CloudError> {
        let Some(value) = value else {
            return Ok(Self {
                token: 0,
                holder: String::new(),
                lease: Duration::ZERO,
                renewals: 0,
                is_free: true,
            });
        };
        Self::parse(value)
            .ok_or_else(|| CloudError::Invalid("the key of the lock holds none".to_owned()))
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut parts = text.strip_prefix("lock 1 ")?.split(' ');
        let state = parts.next()?;
        let record = Self {
            is_free: match state {
                "free" => true,
                "held" => false,
                _ => return None,
            },
            token: parts
                .next()?
                .parse()
                .ok()
                .filter(|token| *token < u64::MAX)?,
            holder: parts.next()?.to_owned(),
            lease: Duration::from_millis(parts.next()?.parse().ok()?).min(LEASE_MAX),
            renewals: parts.next()?.parse().ok().filter(|n| *n < u64::MAX)?,
        };
        parts.next().is_none().then_some(record)
    }

    fn text(&self) -> String {
        let state = if self.is_free { "free" } else { "held" };
        let (token, holder, renewals) = (self.token, &self.holder, self.renewals);
        format!(
            "lock 1 {state} {token} {holder} {} {renewals}",
            ms(self.lease)
        )
    }
}

/// Tells two holders apart that know nothing of each other.
fn holder() -> Result<String, CloudError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| CloudError::Failed("no randomness".to_owned()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// A clock that goes on while the machine sleeps: a holder that slept has lost its lease.
fn now() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
#[path = "../../../../realm-backends/tests/keyvalue/servers.rs"]
#[expect(dead_code, reason = "shared with the tests of the stores themselves")]
mod servers;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use realm_backends::keyvalue::{Embedded, Nats, Redis};
    use realm_backends::{Access, Unwatched};
    use realm_model::cloud::{Answer, Changes, Check, Edit, KeyPage, KeyValue, Versioned};

    use super::super::super::{Cloud, Store, Stores};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn store() -> (Arc<dyn KeyValue>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(&folder.path().join("kv"), Arc::new(Unwatched)).unwrap();
        (Arc::new(store), folder)
    }

    /// Somebody who knows of no other what he saw, like another node.
    fn somebody(store: &Arc<dyn KeyValue>) -> Held {
        let mut stores = Stores::default();
        stores.bind("default", Store::Keyvalue(store.clone()));
        let cloud = Cloud::new("guest".parse().unwrap(), Arc::new(stores), None, u64::MAX);
        Held {
            opened: cloud.keyvalue("default").unwrap(),
            cloud,
        }
    }

    async fn take(held: &Held, lease: Duration, wait: Duration) -> Option<Lease> {
        acquire(held.clone(), "door", lease, wait).await.unwrap()
    }

    fn left(lease: &Lease) -> Duration {
        lease.until.saturating_sub(now())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn never_two_have_it_and_its_token_grows() {
        let (store, _folder) = store();
        contend(&store).await;
    }

    /// The same where all that the holders share is a server.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn never_two_have_it_on_a_redis() {
        let server = servers::redis(&[]);
        let store = Redis::new(&server.at(false), 0, &access(), Arc::new(Unwatched)).unwrap();
        contend(&(Arc::new(store) as Arc<dyn KeyValue>)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn never_two_have_it_on_a_nats() {
        let server = servers::nats("", None);
        let store = Nats::new(&server.at(false), &access(), Arc::new(Unwatched)).unwrap();
        contend(&(Arc::new(store) as Arc<dyn KeyValue>)).await;
    }

    fn access() -> Access {
        Access {
            prefix: "cache".to_owned(),
            ..Access::default()
        }
    }

    async fn contend(store: &Arc<dyn KeyValue>) {
        let inside = Arc::new(AtomicU64::new(0));
        let last = Arc::new(AtomicU64::new(0));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (held, inside, last) = (somebody(store), inside.clone(), last.clone());
            all.spawn(async move {
                for _ in 0..4 {
                    let lease = take(&held, 60 * SECOND, 60 * SECOND).await;
                    let mut lease = lease.expect("each gets its turn");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                    let before = last.swap(lease.token, Ordering::SeqCst);
                    assert!(lease.token > before, "{} after {before}", lease.token);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    lease.release().await.unwrap();
                }
            });
        }
        all.join_all().await;
        assert_eq!(last.load(Ordering::SeqCst), 24);
    }

    #[tokio::test]
    async fn a_holder_that_is_not_heard_of_loses_it() {
        let (store, _folder) = store();
        let (first, second) = (somebody(&store), somebody(&store));
        let mut lost = take(&first, SECOND, Duration::ZERO).await.unwrap();
        assert!(take(&second, SECOND, Duration::ZERO).await.is_none());
        let began = now();
        let taken = take(&second, 60 * SECOND, 10 * SECOND).await.unwrap();
        assert!(now() - began <= 5 * SECOND);
        assert_eq!(
            left(&lost),
            Duration::ZERO,
            "it ended for its holder before"
        );
        assert!(taken.token > lost.token);
        assert!(!lost.renew().await.unwrap(), "it is another's");
        lost.release().await.unwrap();
        assert!(left(&taken) > 50 * SECOND);
        assert!(
            take(&first, SECOND, Duration::ZERO).await.is_none(),
            "it is not given back for another"
        );
    }

    #[tokio::test]
    async fn a_holder_that_renews_keeps_it() {
        let (store, _folder) = store();
        let (first, second) = (somebody(&store), somebody(&store));
        let mut kept = take(&first, SECOND, Duration::ZERO).await.unwrap();
        let renewing = async {
            for _ in 0..10 {
                tokio::time::sleep(SECOND / 4).await;
                assert!(kept.renew().await.unwrap());
                assert!(left(&kept) > SECOND / 2);
            }
        };
        let ((), taken) = tokio::join!(renewing, take(&second, SECOND, 2 * SECOND));
        assert!(taken.is_none());
    }

    #[test]
    fn a_lock_is_read_as_it_is_written() {
        let record = Record {
            token: 7,
            holder: "ab".to_owned(),
            lease: Duration::from_millis(1_500),
            renewals: 3,
            is_free: false,
        };
        assert_eq!(record.text(), "lock 1 held 7 ab 1500 3");
        assert_eq!(Record::parse(record.text().as_bytes()), Some(record));
        for text in [
            "",
            "lock 2 held 7 ab 1 1",
            "lock 1 lost 7 ab 1 1",
            "lock 1 held -7 ab 1 1",
            "lock 1 held 7 ab 1",
            "lock 1 held 7 ab 1 1 1",
            "lock 1 held 18446744073709551615 ab 1 1",
        ] {
            assert!(Record::of(Some(text.as_bytes())).is_err(), "{text}");
        }
        let long = Record::parse(b"lock 1 held 7 ab 18446744073709551615 1").unwrap();
        assert_eq!(long.lease, LEASE_MAX, "nobody waits for ever");
    }

    /// Whoever finds a lock free and is never quick enough gives up when his time is over.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_is_never_quick_enough_gives_up_in_time() {
        let (store, _folder) = store();
        let held = somebody(&(Arc::new(Contested(store)) as Arc<dyn KeyValue>));
        for wait in [Duration::ZERO, Duration::from_millis(50)] {
            let taken = take(&held, 60 * SECOND, wait);
            let taken = tokio::time::timeout(20 * SECOND, taken).await;
            assert!(taken.expect("it ends").is_none());
        }
    }

    /// Of every two who swap the other one is first.
    struct Contested(Arc<dyn KeyValue>);

    impl KeyValue for Contested {
        fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
            self.0.get(bucket, key)
        }
        fn set<'a>(
            &'a self,
            bucket: &'a str,
            key: &'a str,
            value: &'a [u8],
            ttl: Option<Duration>,
        ) -> Answer<'a, ()> {
            self.0.set(bucket, key, value, ttl)
        }
        fn delete<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, ()> {
            self.0.delete(bucket, key)
        }
        fn exists<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, bool> {
            self.0.exists(bucket, key)
        }
        fn ttl<'a>(
            &'a self,
            bucket: &'a str,
            key: &'a str,
        ) -> Answer<'a, Option<Option<Duration>>> {
            self.0.ttl(bucket, key)
        }
        fn keys<'a>(&'a self, bucket: &'a str, cursor: Option<&'a str>) -> Answer<'a, KeyPage> {
            self.0.keys(bucket, cursor)
        }
        fn get_many<'a>(
            &'a self,
            bucket: &'a str,
            keys: &'a [String],
        ) -> Answer<'a, Vec<Option<Vec<u8>>>> {
            self.0.get_many(bucket, keys)
        }
        fn set_many<'a>(
            &'a self,
            bucket: &'a str,
            pairs: &'a [(String, Vec<u8>)],
        ) -> Answer<'a, ()> {
            self.0.set_many(bucket, pairs)
        }
        fn delete_many<'a>(&'a self, bucket: &'a str, keys: &'a [String]) -> Answer<'a, ()> {
            self.0.delete_many(bucket, keys)
        }
        fn increment<'a>(&'a self, bucket: &'a str, key: &'a str, delta: i64) -> Answer<'a, i64> {
            self.0.increment(bucket, key, delta)
        }
        fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Versioned> {
            self.0.read(bucket, key)
        }
        fn swap<'a>(
            &'a self,
            bucket: &'a str,
            key: &'a str,
            _: &'a Revision,
            _: &'a [u8],
        ) -> Answer<'a, Swapped> {
            Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(Swapped::Changed(self.0.read(bucket, key).await?))
            })
        }
        fn commit<'a>(
            &'a self,
            bucket: &'a str,
            checks: &'a [Check],
            edits: &'a [Edit],
        ) -> Answer<'a, bool> {
            self.0.commit(bucket, checks, edits)
        }
        fn watch<'a>(&'a self, bucket: &'a str) -> Answer<'a, Box<dyn Changes>> {
            self.0.watch(bucket)
        }
        fn bytes(&self) -> Answer<'_, Option<u64>> {
            self.0.bytes()
        }
    }
}
