//! PostgreSQL: what a hostile guest tries on its server, and on whoever comes after it.

use std::sync::Arc;

use realm_backends::Unwatched;
use realm_backends::sql::{Postgres, Settings};

use crate::postgres::settings;
use crate::server::Server;
use crate::support::{code, open, rows};

fn database(settings: Settings) -> Postgres {
    Postgres::new(settings, "p", Arc::new(Unwatched)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_grows_on_its_way_is_too_large() {
    let server = Server::start(None, "scram-sha-256");
    let database = database(settings(&server));
    let mut session = open(&database).await;
    // Ten bytes each on the wire, and 131,072 digits.
    let many = vec!["1e131071"; 1_600].join(", ");
    let large = rows(&mut *session, &format!("SELECT {many}"), &[]).await;
    assert_eq!(code(large), "too-large");
    let few = vec!["1e131071"; 100].join(", ");
    let row = rows(&mut *session, &format!("SELECT {few}"), &[]).await;
    assert_eq!(row.unwrap()[0].len(), 100);
}
