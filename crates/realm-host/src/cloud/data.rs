//! What is made of databases so that a guest needs no SQL: `realm:cloud/documents@0.1.0`,
//! `realm:cloud/search@0.1.0` and `realm:cloud/vectors@0.1.0`.
//!
//! A resource is a name in a database that `bind` lists; each call is an operation of its own, and the
//! host keeps nothing between two. What it keeps meanwhile is counted: a call may wait for a session.

mod documents;
mod search;
mod vectors;

use std::sync::{Mutex, MutexGuard, PoisonError};

use realm_model::cloud::documents::{Meter, Place, check_collection};
use realm_model::cloud::{CloudError, DataError, Database};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker};

use super::sql::View;
use super::{Cloud, Kept, Opened};
use crate::state::State;

/// A collection or an index of a database that a guest opened.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Part {
    opened: Opened<dyn Database>,
    name: String,
    bytes_max: u64,
}

impl Part {
    fn open(cloud: &Cloud, database: &str, name: String) -> Result<Self, DataError> {
        let opened = cloud.sql(database)?;
        check_collection(&name)?;
        Ok(Self {
            opened,
            name,
            bytes_max: cloud.bytes_max(),
        })
    }

    /// One call, for which the guest handed over so many bytes: counts both.
    fn call(&self, cloud: &Cloud, n_given: usize) -> Result<Call<'_>, CloudError> {
        cloud.charge()?;
        // As they came, and as the database gets them.
        let kept = Kept::new(cloud, n_given.saturating_mul(2))?;
        Ok(Call {
            part: self,
            held: Held(Mutex::new(kept)),
        })
    }
}

/// A call that is under way.
struct Call<'a> {
    part: &'a Part,
    held: Held,
}

impl Call<'_> {
    fn store(&self) -> &dyn Database {
        &*self.part.opened.store
    }

    fn place(&self) -> Place<'_> {
        Place {
            database: &self.part.opened.part,
            collection: &self.part.name,
            bytes_max: self.part.bytes_max,
            meter: &self.held,
        }
    }
}

/// What a call holds.
struct Held(Mutex<Kept>);

impl Held {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A number that is written at once: no panic can leave it torn.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meter for Held {
    fn more(&self, n_bytes: usize) -> Result<(), CloudError> {
        self.kept().more(n_bytes)
    }

    fn less(&self, n_bytes: usize) {
        self.kept().less(n_bytes);
    }
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    documents::link(linker)?;
    search::link(linker)?;
    vectors::link(linker)
}

/// What a guest reads of an error: each interface has a type of its own, of the same cases.
macro_rules! said {
    ($error:ty) => {
        fn said(error: realm_model::cloud::DataError) -> $error {
            use realm_model::cloud::{CloudError, DataError};
            let words = error.to_string();
            let error = match error {
                DataError::Conflict => return <$error>::Conflict,
                DataError::Cloud(error) => error,
            };
            match error {
                CloudError::NoSuchStore => <$error>::NoSuchDatabase,
                CloudError::AccessDenied => <$error>::AccessDenied,
                CloudError::Quota(which) => <$error>::Quota(which.to_string()),
                CloudError::TooLarge { .. } => <$error>::TooLarge(words),
                CloudError::Invalid(_) => <$error>::Invalid(words),
                CloudError::Timeout => <$error>::Timeout,
                CloudError::Unavailable => <$error>::Unavailable,
                CloudError::Unsupported(_) => <$error>::Unsupported(words),
                CloudError::NotFound(_) | CloudError::Full(_) | CloudError::Failed(_) => {
                    <$error>::Other(words)
                }
            }
        }
    };
}
use said;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use realm_backends::data::Database as Backend;
    use realm_backends::sql::Sqlite;

    use super::super::{KEPT_BYTES_MAX, Store, Stores};
    use super::*;

    #[test]
    fn what_a_call_was_given_and_what_it_holds_is_counted_until_it_ends() {
        // Nothing is made there before something is asked.
        let backend = Backend::sqlite(Sqlite::new(Path::new("none")));
        let mut stores = Stores::default();
        stores.bind("default", Store::Sql(Arc::new(backend)));
        let component = "guest".parse().unwrap();
        let cloud = Cloud::new(component, Arc::new(stores), None, 0);
        let open = Part::open(&cloud, "default", "c".to_owned());
        let part = open.unwrap_or_else(|error| panic!("{error}"));
        assert!(part.call(&cloud, KEPT_BYTES_MAX).is_err());
        let call = part.call(&cloud, KEPT_BYTES_MAX / 4);
        let call = call.unwrap_or_else(|error| panic!("{error}"));
        let Place { meter, .. } = call.place();
        assert!(meter.more(KEPT_BYTES_MAX).is_err());
        meter.more(KEPT_BYTES_MAX / 2).unwrap();
        assert!(Kept::new(&cloud, 1).is_err());
        meter.less(KEPT_BYTES_MAX / 2);
        assert!(Kept::new(&cloud, KEPT_BYTES_MAX / 2).is_ok());
        drop(call);
        assert!(Kept::new(&cloud, KEPT_BYTES_MAX).is_ok());
    }
}
