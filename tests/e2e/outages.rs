//! Servers behind bindings that go and come back: an error for the guest, an alarm with its cause for the
//! operator until the server is back; what was kept before as a value is there.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use realm_test_guests as guests;

use crate::keyvalue::servers::{self, Server};
use crate::postgres;
use crate::secrets::with_input;
use crate::support::{Realm, eventually, get};
use crate::swift::{self, Swift};

/// What a guest needs that is taken away from it.
struct Case<'a> {
    interface: &'a str,
    guest: &'a str,
    backend: String,
    /// What `[backends] allow` has to name, and what the alarm names.
    origin: String,
    secret: Option<String>,
    /// What more the manifest says.
    more: &'a str,
    /// Paths of the guest, and what they answer while the server is there; `NTH` in the first one is another
    /// number each time.
    write: (&'a str, &'a str),
    read: (&'a str, &'a str),
    /// The status, and what is in the answer, while it is not.
    away: (u16, &'a str),
    /// What the operator reads of why.
    cause: &'a str,
}

async fn goes_and_comes_back(case: Case<'_>, set: impl Fn(bool)) {
    let realm = Realm::new();
    realm.guest(case.guest, "app.wasm");
    let secret = case.secret.as_ref().map_or("", |_| "secret = \"door\"\n");
    let manifest = format!(
        "[bindings.data]\ninterface = \"{}\"\nbackend = \"{}\"\n{secret}\n\
         [components.app]\nsource = \"file:./app.wasm\"\nbind = {{ default = \"data\" }}\n\n\
         {}[routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n",
        case.interface, case.backend, case.more
    );
    realm.write("realm.toml", &manifest);
    if let Some(secret) = &case.secret {
        with_input(realm.command(&["secret", "set", "door"]), secret.as_bytes()).ok();
    }
    let before = realm.read(".realm/node.toml");
    let allow = format!("{before}\n[backends]\nallow = [\"{}\"]\n", case.origin);
    realm.write(".realm/node.toml", &allow);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let alarm = async || {
        let alarms = realm.status().await.alarms;
        let mut down = alarms.into_iter().filter(|one| one.code == "backend-down");
        down.next().map(|one| one.message)
    };
    let ((write, written), (read, kept)) = (case.write, case.read);
    let nth = AtomicUsize::default();
    let write = || {
        let nth = nth.fetch_add(1, Relaxed).to_string();
        agent.url(&write.replace("NTH", &nth))
    };
    for (url, expected) in [(write(), written), (agent.url(read), kept)] {
        assert_eq!(get(&url).await, (200, expected.to_owned()));
    }
    assert_eq!(alarm().await, None);

    tokio::task::block_in_place(|| set(false));
    let (status, said) = get(&write()).await;
    assert!(
        status == case.away.0 && said.contains(case.away.1),
        "{status}: {said}"
    );
    let place = case.origin.split("//").nth(1).unwrap();
    // That a connection broke is told first, why there is no other a moment later.
    eventually("an alarm with its cause", async || {
        let told = alarm().await?;
        let words = ["`data`", place, case.cause];
        words.iter().all(|word| told.contains(word)).then_some(())
    })
    .await;
    // A guest reads no address and no word of the network's.
    assert!(!said.contains(place) && !said.contains("refused"), "{said}");
    // The same words for whoever reads the status.
    let shown = tokio::task::block_in_place(|| realm.run(&["status"]).ok().stdout);
    assert!(
        shown.contains("backend-down") && shown.contains(place),
        "{shown}"
    );

    tokio::task::block_in_place(|| set(true));
    eventually("what was kept is there", async || {
        (get(&agent.url(read)).await == (200, kept.to_owned())).then_some(())
    })
    .await;
    eventually("it takes more", async || {
        (get(&write()).await == (200, written.to_owned())).then_some(())
    })
    .await;
    eventually("the alarm is over", async || {
        alarm().await.is_none().then_some(())
    })
    .await;
}

/// Kills a server, or starts it again where it was.
fn switch(server: Server) -> impl Fn(bool) {
    let server = std::sync::Mutex::new(server);
    move |there| {
        let mut server = server.lock().unwrap();
        if there {
            server.run();
        } else {
            server.kill();
        }
    }
}

fn keyvalue(origin: String) -> Case<'static> {
    Case {
        interface: "wasi:keyvalue",
        guest: guests::KEYVALUE_CALL,
        backend: origin.clone(),
        origin,
        secret: None,
        more: "",
        write: ("/?open=default&op=set&key=k&value=v", "()"),
        read: ("/?open=default&key=k", "v"),
        away: (400, "the backend is not available"),
        cause: "refused",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_is_an_error_for_the_guest_and_an_alarm_for_the_operator() {
    let server = servers::redis(&[]);
    let case = keyvalue(format!("redis://127.0.0.1:{}", server.port));
    goes_and_comes_back(case, switch(server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_of_values_that_is_away_is_an_error_for_the_guest_and_an_alarm_for_the_operator() {
    let server = servers::nats("", None);
    let case = Case {
        // Its client says no more of a server that it tries to come back to.
        cause: "IO error",
        ..keyvalue(format!("nats://127.0.0.1:{}", server.port))
    };
    goes_and_comes_back(case, switch(server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_of_messages_that_is_away_is_an_error_for_the_guest_and_an_alarm_for_the_operator() {
    let server = servers::nats("", None);
    let origin = format!("nats://127.0.0.1:{}", server.port);
    let case = Case {
        interface: "wasi:messaging",
        guest: guests::TIMERS,
        backend: origin.clone(),
        origin,
        secret: None,
        more: "",
        write: ("/?topic=later&after=60000", "set\n"),
        read: ("/?topic=soon", "set\n"),
        away: (503, "Connection"),
        cause: "refused",
    };
    goes_and_comes_back(case, switch(server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_is_away_is_an_error_for_the_guest_and_an_alarm_for_the_operator() {
    let folder = tempfile::tempdir().unwrap();
    let server = Swift::start(folder.path(), None);
    let origin = server.endpoint();
    let (bucket, region) = (swift::BUCKET, swift::REGION);
    let case = Case {
        interface: "wasi:blobstore",
        guest: guests::BLOBSTORE,
        backend: format!("s3://{bucket}?region={region}&endpoint={origin}"),
        origin,
        secret: Some(Swift::credentials()),
        more: "",
        write: ("/write?c=default&o=more&n=10", "Ok(())\n"),
        read: ("/write?c=default&o=o&n=10", "Ok(())\n"),
        away: (200, "the backend is not available"),
        cause: "refused",
    };
    let server = std::sync::Mutex::new(server);
    goes_and_comes_back(case, |there| {
        let mut server = server.lock().unwrap();
        if there {
            server.begin();
        } else {
            server.stop();
        }
    })
    .await;
}

fn streams(origin: String) -> Case<'static> {
    Case {
        interface: "realm:cloud/streams",
        guest: guests::STREAMS,
        backend: origin.clone(),
        origin,
        secret: None,
        more: "",
        write: ("/append?name=orders-NTH&words=x", "1"),
        read: ("/replay?name=orders-0", "1 x\n"),
        away: (500, "Unavailable"),
        cause: "refused",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_of_streams_that_is_away_is_an_error_for_the_guest_and_an_alarm_for_the_operator() {
    let server = servers::nats("", None);
    let case = streams(format!("nats://127.0.0.1:{}", server.port));
    goes_and_comes_back(case, switch(server)).await;
}

fn workflows(server: &postgres::Server) -> Case<'static> {
    let (user, port) = (postgres::USER, server.port);
    Case {
        interface: "realm:cloud/workflows",
        guest: guests::WORKFLOWS,
        backend: format!("postgres://{user}@127.0.0.1:{port}/postgres?sslmode=disable"),
        origin: format!("postgres://127.0.0.1:{port}"),
        secret: None,
        more: "[components.app.workflows.test]\nlease = \"4s\"\n\n",
        write: ("/start?id=o-NTH&input=echo", "true"),
        // It knows that it has this one.
        read: ("/start?id=o-0&input=echo", "false"),
        away: (503, "Unavailable"),
        cause: "refused",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_of_workflows_that_is_away_is_an_error_for_the_guest_and_an_alarm_for_the_operator()
 {
    let server = postgres::Server::start(None, "trust");
    let case = workflows(&server);
    let server = std::sync::Mutex::new(server);
    goes_and_comes_back(case, |there| {
        let mut server = server.lock().unwrap();
        if there {
            server.up();
        } else {
            server.down();
        }
    })
    .await;
}
