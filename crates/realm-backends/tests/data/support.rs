//! Databases of tests, and short words.

use std::sync::Arc;

use realm_backends::Unwatched;
use realm_backends::data::Database;
use realm_backends::sql::{Postgres, Settings, Sqlite};
use realm_model::cloud::documents::{Filter, Meter, Node, Place, Scalar, Test};
use realm_model::cloud::{CloudError, DataError};
use tempfile::TempDir;

use crate::server::{PASSWORD, Server, USER};

/// More than any of these tests writes.
pub(crate) const ROOM: u64 = 1 << 30;

/// A collection of the database without a name.
pub(crate) const fn place(collection: &str) -> Place<'_> {
    Place {
        database: "",
        collection,
        bytes_max: ROOM,
        meter: &Uncounted,
    }
}

/// Counts nothing.
pub(crate) struct Uncounted;

impl Meter for Uncounted {
    fn more(&self, _: usize) -> Result<(), CloudError> {
        Ok(())
    }

    fn less(&self, _: usize) {}
}

pub(crate) fn sqlite() -> (TempDir, Arc<Database>) {
    let folder = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::sqlite(Sqlite::new(folder.path())));
    (folder, database)
}

pub(crate) fn postgres(server: &Server) -> Arc<Database> {
    postgres_as(server, USER)
}

pub(crate) fn postgres_as(server: &Server, user: &str) -> Arc<Database> {
    let settings = Settings {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        database: "postgres".to_owned(),
        user: Some(user.to_owned()),
        secret: Some(PASSWORD.to_owned()),
        tls: false,
        ca_file: None,
    };
    let made = Postgres::new(settings, "p", Arc::new(Unwatched)).unwrap();
    Arc::new(Database::postgres(made))
}

/// The filter of one test.
pub(crate) fn field(field: &str, test: Test) -> Filter {
    Filter(vec![Node::Field {
        field: field.to_owned(),
        test,
    }])
}

pub(crate) fn text(text: &str) -> Scalar {
    Scalar::Text(text.to_owned())
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, DataError>) -> &'static str {
    result.unwrap_err().code()
}
