//! What is made of databases so that a guest needs no SQL: `realm:cloud/documents@0.1.0`,
//! `realm:cloud/search@0.1.0` and `realm:cloud/vectors@0.1.0`.
//!
//! A resource is a name in a database that `bind` lists; each call is an operation of its own, and the
//! host keeps nothing between two.

mod documents;
mod search;
mod vectors;

use std::sync::Arc;

use realm_model::cloud::documents::{Place, check_collection};
use realm_model::cloud::{DataError, Database};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker};

use super::sql::View;
use super::{Cloud, Opened};
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

    fn place(&self) -> Place<'_> {
        Place {
            database: &self.opened.part,
            collection: &self.name,
            bytes_max: self.bytes_max,
        }
    }

    /// Before each call: counts it.
    fn store(&self, cloud: &Cloud) -> Result<&Arc<dyn Database>, DataError> {
        cloud.charge()?;
        Ok(&self.opened.store)
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
