//! Runs of tests, and short words.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use realm_backends::Unwatched;
use realm_backends::data::Flows;
use realm_backends::sql::{Postgres, Settings};
use realm_model::cloud::workflows::{
    Claiming, End, Ended, Handling, New, Run, RunState, Workflows,
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::server::{PASSWORD, Server, USER};

/// More than any of these tests writes.
pub(crate) const ROOM: u64 = 1 << 30;

/// The longest that anything here waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn sqlite(folder: &Path) -> Flows {
    Flows::sqlite(folder)
}

pub(crate) fn postgres(server: &Server) -> Flows {
    let settings = Settings {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        database: "postgres".to_owned(),
        user: Some(USER.to_owned()),
        secret: Some(PASSWORD.to_owned()),
        tls: false,
        ca_file: None,
    };
    let made = Postgres::new(settings, "p~~runs", Arc::new(Unwatched)).unwrap();
    Flows::postgres(made)
}

/// Both, each empty.
pub(crate) struct Both {
    _folder: TempDir,
    _server: Server,
    pub(crate) all: [(&'static str, Flows); 2],
}

pub(crate) fn both() -> Both {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start(None, "trust"));
    Both {
        all: [
            ("sqlite", sqlite(folder.path())),
            ("postgres", postgres(&server)),
        ],
        _folder: folder,
        _server: server,
    }
}

pub(crate) fn handling() -> Handling {
    Handling {
        workflow: "order".to_owned(),
        n_attempts: 3,
        backoff: Duration::from_millis(20),
        lease: Duration::from_secs(60),
        bytes_max: ROOM,
    }
}

pub(crate) async fn member(flows: &Flows) -> Box<dyn Claiming> {
    flows.take_part(&handling()).await.unwrap()
}

pub(crate) async fn start(flows: &Flows, id: &str) -> bool {
    let new = New {
        workflow: "order",
        id,
        input: b"input",
        bytes_max: ROOM,
    };
    flows.start(new).await.unwrap()
}

/// The next run that is due.
pub(crate) async fn claim(member: &mut Box<dyn Claiming>) -> Arc<dyn Run> {
    timeout(PATIENCE, member.next()).await.unwrap().unwrap()
}

/// Whether none is due for a while.
pub(crate) async fn nothing_is_due(member: &mut Box<dyn Claiming>) -> bool {
    timeout(Duration::from_millis(150), member.next())
        .await
        .is_err()
}

pub(crate) async fn state(flows: &Flows, id: &str) -> RunState {
    flows.status(id).await.unwrap().unwrap().state
}

pub(crate) async fn done(run: &dyn Run, output: &[u8]) -> Ended {
    run.end(End::Done(output.to_vec())).await.unwrap()
}

pub(crate) async fn failed(run: &dyn Run, why: &str) -> Ended {
    run.end(End::Failed(why.to_owned())).await.unwrap()
}
