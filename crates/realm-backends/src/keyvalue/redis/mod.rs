//! Values by key on a server of Redis or Valkey: plain strings, which other programs may read and write.
//!
//! The name of a key is the prefix of the binding and the key; in a bucket that has a name it is the
//! prefix, `%`, the bucket, `:`, and the key, with `%3A` and `%25` for `:` and `%` in the bucket. A key
//! that begins with `%` stands as one of a bucket without a name, so that none reaches into another. What
//! a key is like is told by its value: one that was changed and changed back is as it was. Not here: clusters, whose keys lie on
//! several servers.

mod link;
mod names;
mod scripts;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use realm_model::binding;
use realm_model::cloud::{
    Answer, Changes, Check, CloudError, Edit, KeyPage, KeyValue, Revision, Swapped, Versioned,
    check_key, check_ttl, check_value, limits, within,
};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, Value};

use super::iterations::{Iterations, place_of};
use super::{check_batch, check_commit, check_keys};
use crate::server::{Access, ServerError};
use crate::watch::Watch;
use link::{Link, Live, Turn};
use names::Space;

/// Scans of one page: where a bucket is a small part of a database, most find nothing.
const SCANS_MAX: usize = 20;

/// A store on a server.
pub struct Redis {
    link: Arc<Link>,
    prefix: String,
    iterations: Iterations,
}

/// Whether a command that may have reached the server is sent once more when its connection broke.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It changes nothing that anybody else relies on.
    Yes,
    /// Perhaps it was done, somebody saw that, and changed the key again: done once more it would undo what
    /// he was told is done, and a lock that was let go and taken by another would be let go twice.
    No,
}

impl Redis {
    /// A store; the server is asked when it is needed. Called within the runtime that lasts as long.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: what is named cannot be used, whatever the server says.
    pub fn new(
        server: &binding::Server,
        database: u16,
        access: &Access,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        Ok(Self {
            link: Arc::new(Link::new(server, database, access, watch)?),
            prefix: access.prefix.clone(),
            iterations: Iterations::default(),
        })
    }

    fn space(&self, bucket: &str) -> Space {
        Space::new(&self.prefix, bucket)
    }

    fn name(&self, bucket: &str, key: &str) -> Result<String, CloudError> {
        check_key(key)?;
        Ok(self.space(bucket).name(key))
    }

    async fn ask<T: FromRedisValue>(&self, command: Cmd, again: Again) -> Result<T, CloudError> {
        ask(&self.link, &command, again).await
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
        again: Again,
    ) -> Result<T, CloudError> {
        run(&self.link, script, keys, arguments, again).await
    }

    async fn value(&self, name: String) -> Result<Option<Vec<u8>>, CloudError> {
        in_time(value(&self.link, name)).await
    }
}

async fn run<T: FromRedisValue>(
    link: &Link,
    script: &Script,
    keys: &[String],
    arguments: &[&[u8]],
    again: Again,
) -> Result<T, CloudError> {
    let mut call = script.prepare_invoke();
    for key in keys {
        call.key(key);
    }
    for argument in arguments {
        call.arg(*argument);
    }
    let call = &call;
    attempt(link, again, |mut connection| async move {
        call.invoke_async(&mut connection).await
    })
    .await
}

/// A value, if it is no larger than what is taken: other programs write what they like.
async fn value(link: &Link, name: String) -> Result<Option<Vec<u8>>, CloudError> {
    let cap = limits::VALUE_BYTES_MAX;
    let mut command = Cmd::new();
    command.arg("GETRANGE").arg(&name).arg(0).arg(cap);
    let value: Vec<u8> = ask(link, &command, Again::Yes).await?;
    if value.len() > cap {
        within("the value", value.len(), cap)?;
    }
    if !value.is_empty() {
        return Ok(Some(value));
    }
    // None, or one that is empty: this command does not tell them apart.
    let cap = cap.to_string();
    let arguments = [cap.as_bytes()];
    let parts: Vec<Value> = run(link, &scripts::GET, &[name], &arguments, Again::Yes).await?;
    let mut parts = parts.into_iter();
    match parts.next() {
        Some(Value::Int(0)) => Ok(None),
        Some(Value::Int(1)) => Ok(parts.next().and_then(bytes)),
        _ => Err(CloudError::TooLarge {
            what: "the value",
            bytes: match parts.next() {
                Some(Value::Int(n)) => u64::try_from(n).unwrap_or(u64::MAX),
                _ => u64::MAX,
            },
            bytes_max: limits::VALUE_BYTES_MAX as u64,
        }),
    }
}

async fn ask<T: FromRedisValue>(link: &Link, command: &Cmd, again: Again) -> Result<T, CloudError> {
    attempt(link, again, |mut connection| async move {
        command.query_async(&mut connection).await
    })
    .await
}

/// Asks once, and once more where that does no harm and the connection broke.
async fn attempt<T, F>(
    link: &Link,
    again: Again,
    ask: impl Fn(MultiplexedConnection) -> F,
) -> Result<T, CloudError>
where
    F: Future<Output = Result<T, RedisError>>,
{
    let turn = link.turn();
    let all = async {
        let mut is_first = true;
        loop {
            let live = link.live(&turn).await.map_err(|error| answer(&error))?;
            match ask(live.connection.clone()).await {
                Ok(value) => {
                    link.health.answered();
                    return Ok(value);
                }
                Err(error) => {
                    let broke = failed(link, &turn, &live, &error);
                    if !(broke && is_first && again == Again::Yes) {
                        return Err(answer(&error));
                    }
                    is_first = false;
                }
            }
        }
    };
    in_time(all).await
}

async fn in_time<T>(all: impl Future<Output = Result<T, CloudError>>) -> Result<T, CloudError> {
    tokio::time::timeout(Duration::from_millis(limits::CALL_TIMEOUT_MS), all)
        .await
        .unwrap_or(Err(CloudError::Timeout))
}

/// Tells the operator what is the server's, and leaves a connection that is of no use: whether it broke.
fn failed(link: &Link, turn: &Turn, live: &Live, error: &RedisError) -> bool {
    let broke = matches!(
        error.kind(),
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed
    );
    // After a change of roles another server may stand behind the same name.
    let is_another = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
    );
    if broke || is_another {
        turn.leave(live);
    }
    if answer(error) == CloudError::Unavailable && !broke {
        link.down(error);
    }
    broke
}

/// What a guest hears.
fn answer(error: &RedisError) -> CloudError {
    if error.is_timeout() {
        return CloudError::Timeout;
    }
    let is_unavailable = matches!(
        error.kind(),
        ErrorKind::Io
            | ErrorKind::Parse
            | ErrorKind::AuthenticationFailed
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::NoPerm
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask
            )
    );
    if is_unavailable {
        return CloudError::Unavailable;
    }
    match error.code() {
        Some("WRONGTYPE") => {
            CloudError::Invalid("the key holds something else than a value".to_owned())
        }
        Some("NOAUTH" | "WRONGPASS") => CloudError::Unavailable,
        Some("OOM") => CloudError::Failed("it is out of memory".to_owned()),
        Some("ERR") if says(error, "not an integer") => {
            CloudError::Invalid("the value is no number".to_owned())
        }
        Some("ERR") if says(error, "overflow") => {
            CloudError::Invalid("the number would be too large".to_owned())
        }
        code => CloudError::Failed(code.unwrap_or("no answer that is understood").to_owned()),
    }
}

fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(words))
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    Vec::<u8>::from_redis_value(value).ok()
}

/// The state of a key as the scripts write it.
fn state(value: Option<&[u8]>) -> Revision {
    let mut all = Vec::with_capacity(1 + value.map_or(0, <[u8]>::len));
    all.push(if value.is_some() { b'=' } else { b'-' });
    all.extend_from_slice(value.unwrap_or_default());
    Revision(all)
}

fn versioned(value: Option<Vec<u8>>) -> Versioned {
    Versioned {
        revision: state(value.as_deref()),
        value,
    }
}

fn ms(ttl: Duration) -> String {
    ttl.as_millis().to_string()
}

impl KeyValue for Redis {
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move { self.value(self.name(bucket, key)?).await })
    }

    fn set<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        value: &'a [u8],
        ttl: Option<Duration>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            check_value(value)?;
            check_ttl(ttl)?;
            let mut command = Cmd::new();
            command.arg("SET").arg(self.name(bucket, key)?).arg(value);
            if let Some(ttl) = ttl {
                command.arg("PX").arg(ms(ttl));
            }
            self.ask(command, Again::No).await
        })
    }

    fn delete<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut command = Cmd::new();
            command.arg("UNLINK").arg(self.name(bucket, key)?);
            self.ask(command, Again::No).await
        })
    }

    fn exists<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let mut command = Cmd::new();
            command.arg("EXISTS").arg(self.name(bucket, key)?);
            self.ask(command, Again::Yes).await
        })
    }

    fn ttl<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Option<Duration>>> {
        Box::pin(async move {
            let mut command = Cmd::new();
            command.arg("PTTL").arg(self.name(bucket, key)?);
            let left: i64 = self.ask(command, Again::Yes).await?;
            Ok(match left {
                -2 => None,
                left => Some(u64::try_from(left).ok().map(Duration::from_millis)),
            })
        })
    }

    fn keys<'a>(&'a self, bucket: &'a str, cursor: Option<&'a str>) -> Answer<'a, KeyPage> {
        Box::pin(in_time(async move {
            let (number, mut at) = match cursor {
                None => (self.iterations.begin(bucket), 0),
                Some(text) => place_of(text)?,
            };
            let space = self.space(bucket);
            let pattern = space.pattern_after("");
            let mut keys = Vec::new();
            for _ in 0..SCANS_MAX {
                let mut command = Cmd::new();
                command.arg("SCAN").arg(at).arg("MATCH").arg(&pattern);
                command.arg("COUNT").arg(limits::PAGE_KEYS / 4);
                command.arg("TYPE").arg("string");
                let (next, names): (u64, Vec<Vec<u8>>) = self.ask(command, Again::Yes).await?;
                at = next;
                let found = names.into_iter().filter_map(|name| {
                    // What another program named otherwise than in text is not seen by guests.
                    let name = String::from_utf8(name).ok()?;
                    let key = space.key(&name)?;
                    check_key(key).ok()?;
                    Some(key.to_owned())
                });
                keys.extend(found);
                if at == 0 || keys.len() >= limits::PAGE_KEYS / 2 {
                    break;
                }
            }
            self.iterations.only_new(number, bucket, &mut keys);
            if at == 0 {
                self.iterations.end(number, bucket);
            }
            Ok(KeyPage {
                keys,
                cursor: (at != 0).then(|| format!("{number}.{at}")),
            })
        }))
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a str,
        keys: &'a [String],
    ) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            check_keys(keys)?;
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let names = names(self, bucket, keys.iter())?;
            let cap = limits::BATCH_BYTES_MAX.to_string();
            let cap = [cap.as_bytes()];
            let all: Value = self
                .run(&scripts::GET_MANY, &names, &cap, Again::Yes)
                .await?;
            if let Value::Int(n) = all {
                return Err(CloudError::TooLarge {
                    what: "the batch",
                    bytes: u64::try_from(n).unwrap_or(u64::MAX),
                    bytes_max: limits::BATCH_BYTES_MAX as u64,
                });
            }
            Vec::from_redis_value(all)
                .map_err(|_| CloudError::Failed("no answer that is understood".to_owned()))
        })
    }

    fn set_many<'a>(&'a self, bucket: &'a str, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        Box::pin(async move {
            check_batch(pairs)?;
            if pairs.is_empty() {
                return Ok(());
            }
            let mut command = Cmd::new();
            command.arg("MSET");
            for (key, value) in pairs {
                command.arg(self.name(bucket, key)?).arg(value);
            }
            self.ask(command, Again::No).await
        })
    }

    fn delete_many<'a>(&'a self, bucket: &'a str, keys: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move {
            check_keys(keys)?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut command = Cmd::new();
            command.arg("UNLINK").arg(names(self, bucket, keys.iter())?);
            self.ask(command, Again::No).await
        })
    }

    fn increment<'a>(&'a self, bucket: &'a str, key: &'a str, delta: i64) -> Answer<'a, i64> {
        Box::pin(async move {
            let mut command = Cmd::new();
            command
                .arg("INCRBY")
                .arg(self.name(bucket, key)?)
                .arg(delta);
            self.ask(command, Again::No).await
        })
    }

    fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Versioned> {
        Box::pin(async move { Ok(versioned(self.value(self.name(bucket, key)?).await?)) })
    }

    fn swap<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        revision: &'a Revision,
        value: &'a [u8],
    ) -> Answer<'a, Swapped> {
        Box::pin(async move {
            check_value(value)?;
            let name = [self.name(bucket, key)?];
            let arguments = [&revision.0[..], value];
            let parts: Vec<Value> = self
                .run(&scripts::SWAP, &name, &arguments, Again::No)
                .await?;
            let mut parts = parts.into_iter();
            Ok(match parts.next() {
                Some(Value::Int(1)) => Swapped::Done,
                _ => Swapped::Changed(versioned(parts.next().and_then(bytes))),
            })
        })
    }

    fn commit<'a>(
        &'a self,
        bucket: &'a str,
        checks: &'a [Check],
        edits: &'a [Edit],
    ) -> Answer<'a, bool> {
        Box::pin(async move {
            check_commit(checks, edits)?;
            let keys = checks.iter().map(|check| &check.key);
            let keys = keys.chain(edits.iter().map(|edit| match edit {
                Edit::Set(key, _, _) | Edit::Delete(key) => key,
            }));
            let names = names(self, bucket, keys)?;
            let n_checks = checks.len().to_string();
            let times: Vec<String> = edits.iter().map(how).collect();
            let mut arguments = vec![n_checks.as_bytes()];
            arguments.extend(checks.iter().map(|check| &check.revision.0[..]));
            for (edit, time) in edits.iter().zip(&times) {
                arguments.push(time.as_bytes());
                arguments.push(match edit {
                    Edit::Set(_, value, _) => value,
                    Edit::Delete(_) => b"",
                });
            }
            let done: u8 = self
                .run(&scripts::COMMIT, &names, &arguments, Again::No)
                .await?;
            Ok(done == 1)
        })
    }

    fn watch<'a>(&'a self, bucket: &'a str) -> Answer<'a, Box<dyn Changes>> {
        Box::pin(in_time(watching::watch(
            self.link.clone(),
            self.space(bucket),
        )))
    }

    fn bytes(&self) -> Answer<'_, Option<u64>> {
        // Other programs may write there as well, and keys end by themselves: nothing counts exactly.
        Box::pin(async { Ok(None) })
    }
}

fn how(edit: &Edit) -> String {
    match edit {
        Edit::Set(_, _, Some(ttl)) => ms(*ttl),
        Edit::Set(_, _, None) => "0".to_owned(),
        Edit::Delete(_) => "d".to_owned(),
    }
}

fn names<'a>(
    store: &Redis,
    bucket: &str,
    keys: impl Iterator<Item = &'a String>,
) -> Result<Vec<String>, CloudError> {
    keys.map(|key| store.name(bucket, key)).collect()
}
