//! What a transaction is: all or nothing, as if it were alone.

use std::sync::Arc;

use realm_model::cloud::{Session, Sql, SqlError, SqlValue};

use crate::support::{Checks, checks, code, int, one, open, rows, run, text};

pub(crate) fn all() -> Checks {
    checks![
        what_is_committed_is_there,
        what_is_rolled_back_never_was,
        a_session_that_goes_takes_its_transaction_with_it,
        after_an_error_only_a_roll_back_helps,
        transactions_that_met_say_so,
        of_counters_that_conflict_none_is_lost,
        statements_do_not_end_transactions,
        ends_without_a_beginning,
    ]
}

async fn balances(database: &dyn Sql) -> Box<dyn Session> {
    let mut session = open(database).await;
    run(
        &mut *session,
        "CREATE TABLE accounts (name TEXT PRIMARY KEY, balance BIGINT NOT NULL)",
    )
    .await;
    run(
        &mut *session,
        "INSERT INTO accounts VALUES ('ann', 100), ('bob', 100)",
    )
    .await;
    session
}

async fn balance(session: &mut dyn Session, name: &str) -> SqlValue {
    one(
        session,
        "SELECT balance FROM accounts WHERE name = $1",
        &[text(name)],
    )
    .await
}

async fn add(session: &mut dyn Session, name: &str, sum: i64) -> Result<u64, SqlError> {
    let parameters = [int(sum), text(name)];
    session
        .execute(
            "UPDATE accounts SET balance = balance + $1 WHERE name = $2",
            &parameters,
        )
        .await
}

async fn what_is_committed_is_there(database: Arc<dyn Sql>) {
    let mut session = balances(&*database).await;
    let mut other = open(&*database).await;
    session.begin().await.unwrap();
    add(&mut *session, "ann", -30).await.unwrap();
    add(&mut *session, "bob", 30).await.unwrap();
    assert_eq!(balance(&mut *session, "ann").await, int(70));
    assert_eq!(balance(&mut *other, "ann").await, int(100));
    session.commit().await.unwrap();
    assert_eq!(balance(&mut *other, "ann").await, int(70));
    assert_eq!(balance(&mut *other, "bob").await, int(130));
}

async fn what_is_rolled_back_never_was(database: Arc<dyn Sql>) {
    let mut session = balances(&*database).await;
    session.begin().await.unwrap();
    add(&mut *session, "ann", -30).await.unwrap();
    run(&mut *session, "CREATE TABLE another (id INTEGER)").await;
    session.roll_back().await.unwrap();
    assert_eq!(balance(&mut *session, "ann").await, int(100));
    let gone = rows(&mut *session, "SELECT * FROM another", &[]).await;
    assert_eq!(code(gone), "42P01");
    // The session goes on.
    assert_eq!(add(&mut *session, "ann", 1).await, Ok(1));
}

async fn a_session_that_goes_takes_its_transaction_with_it(database: Arc<dyn Sql>) {
    let mut session = balances(&*database).await;
    session.begin().await.unwrap();
    add(&mut *session, "ann", -100).await.unwrap();
    drop(session);
    let mut other = open(&*database).await;
    // Waits for the lock of the other one at most for as long as its end takes.
    assert_eq!(add(&mut *other, "ann", 1).await, Ok(1));
    assert_eq!(balance(&mut *other, "ann").await, int(101));
}

async fn after_an_error_only_a_roll_back_helps(database: Arc<dyn Sql>) {
    let mut session = balances(&*database).await;
    let mut other = open(&*database).await;
    session.begin().await.unwrap();
    add(&mut *session, "ann", 1).await.unwrap();
    let twice = session
        .execute("INSERT INTO accounts VALUES ('bob', 1)", &[])
        .await;
    assert_eq!(code(twice), "23505");
    assert_eq!(code(add(&mut *session, "ann", 1).await), "aborted");
    assert_eq!(code(session.query("SELECT 1", &[]).await), "aborted");
    // Others do not wait for it.
    assert_eq!(add(&mut *other, "ann", 5).await, Ok(1));
    assert_eq!(code(session.commit().await), "aborted");
    assert_eq!(balance(&mut *session, "ann").await, int(105));
}

async fn transactions_that_met_say_so(database: Arc<dyn Sql>) {
    let mut first = balances(&*database).await;
    let mut second = open(&*database).await;
    // Each reads what the other one writes: in whatever order they come, one of them would be wrong.
    first.begin().await.unwrap();
    second.begin().await.unwrap();
    assert_eq!(balance(&mut *first, "bob").await, int(100));
    assert_eq!(balance(&mut *second, "ann").await, int(100));
    add(&mut *first, "ann", -100).await.unwrap();
    first.commit().await.unwrap();
    let late = match add(&mut *second, "bob", -100).await {
        Ok(_) => second.commit().await,
        Err(error) => Err(error),
    };
    assert_eq!(late, Err(SqlError::Conflict));
    second.roll_back().await.unwrap();
    assert_eq!(balance(&mut *second, "bob").await, int(100));
    assert_eq!(balance(&mut *second, "ann").await, int(0));
}

async fn of_counters_that_conflict_none_is_lost(database: Arc<dyn Sql>) {
    drop(balances(&*database).await);
    let guests = (0..8).map(|_| {
        let database = Arc::clone(&database);
        tokio::spawn(async move {
            let mut session = open(&*database).await;
            let mut done = 0;
            while done < 10 {
                match one_more(&mut *session).await {
                    Ok(()) => done += 1,
                    Err(SqlError::Conflict) => session.roll_back().await.unwrap(),
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
    });
    for guest in guests.collect::<Vec<_>>() {
        guest.await.unwrap();
    }
    let mut session = open(&*database).await;
    assert_eq!(balance(&mut *session, "ann").await, int(180));
}

/// Reads, and writes what it read and one: as people do who know no better.
async fn one_more(session: &mut dyn Session) -> Result<(), SqlError> {
    session.begin().await?;
    let rows = rows(
        session,
        "SELECT balance FROM accounts WHERE name = 'ann'",
        &[],
    )
    .await?;
    let SqlValue::Integer(balance) = rows[0][0] else {
        panic!("{rows:?}");
    };
    let parameters = [int(balance + 1)];
    session
        .execute(
            "UPDATE accounts SET balance = $1 WHERE name = 'ann'",
            &parameters,
        )
        .await?;
    session.commit().await
}

async fn statements_do_not_end_transactions(database: Arc<dyn Sql>) {
    let mut session = balances(&*database).await;
    session.begin().await.unwrap();
    add(&mut *session, "ann", 1).await.unwrap();
    for statement in [
        "COMMIT",
        "/* x */ rollback",
        "SAVEPOINT a",
        "BEGIN",
        "-- x\nEND",
    ] {
        assert_eq!(
            code(session.execute(statement, &[]).await),
            "invalid",
            "{statement}"
        );
        assert_eq!(
            code(session.query(statement, &[]).await),
            "invalid",
            "{statement}"
        );
    }
    // What was never run is no error of the transaction.
    add(&mut *session, "ann", 1).await.unwrap();
    session.commit().await.unwrap();
    assert_eq!(balance(&mut *session, "ann").await, int(102));
}

async fn ends_without_a_beginning(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    assert_eq!(code(session.commit().await), "invalid");
    assert_eq!(session.roll_back().await, Ok(()));
    session.begin().await.unwrap();
    assert_eq!(code(session.begin().await), "invalid");
    session.commit().await.unwrap();
}
