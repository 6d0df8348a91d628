//! SQLite: what a hostile guest tries on its node.

use realm_backends::sql::Sqlite;
use realm_model::cloud::SqlValue;

use crate::support::{code, open, rows};

#[tokio::test]
async fn a_row_of_many_large_values_is_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::new(folder.path());
    let mut session = open(&database).await;
    let many = format!("SELECT {}", vec!["$1"; 200].join(", "));
    let value = [SqlValue::Bytes(vec![7; 1 << 20])];
    assert_eq!(code(rows(&mut *session, &many, &value).await), "too-large");
    let few = "SELECT $1, $1, $1";
    let row = rows(&mut *session, few, &value).await.unwrap();
    assert_eq!(row, [vec![value[0].clone(); 3]]);
}
