//! Components that send mail, by the words of a manifest, through a real server.

use realm_test_guests as guests;

use crate::mail_server::{MailServer, PASSWORD, USER, certified};
use crate::secrets::with_input;
use crate::support::{Realm, app_manifest, eventually, get};

/// One component `app` at `/...` that sends as the shop.
fn manifest(backend: &str) -> String {
    let bindings = format!(
        "[bindings.post]\ninterface = \"realm:cloud/mail\"\nbackend = \"{backend}\"\n\
         secret = \"smtp\"\nsenders = [\"shop@example.org\"]\n\n"
    );
    format!(
        "{bindings}{}",
        app_manifest("bind = { default = \"post\" }")
    )
}

/// A realm that is let to the server, whose authority it knows.
fn realm(server: &MailServer, scheme: &str, secret: &str, authority: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(guests::MAIL, "app.wasm");
    let origin = format!("{scheme}://127.0.0.1:{}", server.port);
    realm.write("realm.toml", &manifest(&origin));
    let set = realm.command(&["secret", "set", "smtp"]);
    with_input(set, secret.as_bytes()).ok();
    let before = realm.read(".realm/node.toml");
    let backends = format!("[backends]\nallow = [\"{origin}\"]\nca_file = \"{authority}\"\n");
    realm.write(".realm/node.toml", &format!("{before}\n{backends}"));
    realm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_sends_mail_and_the_operator_hears_when_it_cannot() {
    for (mode, scheme) in [("starttls", "smtp"), ("tls", "smtps")] {
        let folder = tempfile::tempdir().unwrap();
        let authority = certified(folder.path());
        let mut server = MailServer::start(folder.path(), mode);
        let secret = format!("{USER}:{PASSWORD}");
        let authority = authority.display().to_string();
        let realm = realm(&server, scheme, &secret, &authority);
        let agent = realm.agent();
        realm.run(&["apply", "-y"]).ok();
        let (status, id) = get(&agent.url("/?subject=Gr%c3%bc%c3%9fe")).await;
        assert_eq!(status, 200, "{id}");
        assert!(server.parsed(1).contains(&id), "{}", server.parsed(1));
        let denied = get(&agent.url("/?from=ceo@example.org")).await;
        assert_eq!(denied.1, "Error::SenderDenied");
        let refused = get(&agent.url("/?to=nobody@example.net")).await.1;
        assert!(refused.contains("RecipientRefused"), "{refused}");
        assert_eq!(server.count(), 1);
        let alarms = async || {
            let alarms = realm.status().await.alarms;
            let mut down = alarms.into_iter().filter(|one| one.code == "backend-down");
            down.next().map(|one| one.message)
        };
        assert_eq!(alarms().await, None);

        server.stop();
        let (status, gone) = get(&agent.url("/")).await;
        assert_eq!(status, 503);
        assert!(gone.starts_with("Error::Unavailable"), "{gone}");
        let about = eventually("an alarm", alarms).await;
        assert!(about.contains("binding `post`: 127.0.0.1"), "{about}");
        assert!(!about.contains(PASSWORD), "{about}");
        server.start_again();
        let (status, id) = get(&agent.url("/")).await;
        assert_eq!(status, 200, "{id}");
        eventually("the alarm ends", async || {
            alarms().await.is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_the_node_does_not_name_or_that_wants_another_password_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let authority = certified(folder.path()).display().to_string();
    let server = MailServer::start(folder.path(), "starttls");
    let realm = realm(&server, "smtp", "shop:hunter2", &authority);
    let agent = realm.agent();
    realm.run(&["apply", "-y"]).ok();
    let (status, gone) = get(&agent.url("/")).await;
    assert_eq!(status, 503, "{gone}");
    eventually("an alarm", async || {
        let alarms = realm.status().await.alarms;
        let mut alarms = alarms.iter().filter(|one| one.code == "backend-down");
        let about = &alarms.next()?.message;
        assert!(!about.contains("hunter2"), "{about}");
        about
            .contains("does not let this user in (535)")
            .then_some(())
    })
    .await;
    assert_eq!(server.count(), 0);
    let elsewhere = manifest("smtp://127.0.0.1:9");
    let sealed = realm.read("realm.toml");
    let secrets = &sealed[sealed.find("[secrets]").unwrap()..];
    realm.write("realm.toml", &format!("{elsewhere}\n{secrets}"));
    let applied = realm.run(&["apply", "-y"]);
    assert!(
        applied.stderr.contains("backend-denied"),
        "{}",
        applied.stderr
    );
}
