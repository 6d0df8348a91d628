//! Components that come from S3 or from an OCI registry: applied, fetched by the agent and served. Real
//! servers, which want to know who asks. What else they may do wrong is tested where the bytes are fetched
//! (`realm-store`, `fetch`).

use realm_model::digest::Digest;
use realm_test_guests as guests;

use crate::realms::Realms;
use crate::registry::{REPOSITORY, Registry};
use crate::support::{AGENT, Agent, Realm, Said, eventually, get, said};
use crate::swift::{self, Swift};

fn write(realm: &Realm, source: &str) {
    write_for(realm, source, "*");
}

/// The same for the nodes of one list.
fn write_for(realm: &Realm, source: &str, list: &str) {
    realm.write(
        "realm.toml",
        &format!(
            "[components.app]\nsource = \"{source}\"\n\n\
             [routing]\n\"{list}\" = [{{ path = \"/...\", component = \"app\", per_node = true }}]\n"
        ),
    );
}

/// What a node of a machine where somebody did `docker login` has in `node.toml`.
fn logged_in(registry: &Registry) -> String {
    let file = registry.log_in();
    format!("[sources]\nregistry_auth = \"{}\"\n", file.display())
}

/// Adds lines to a realm's `node.toml`.
fn node_toml(realm: &Realm, more: &str) {
    let toml = std::fs::read_to_string(realm.path(".realm/node.toml")).unwrap_or_default();
    realm.write(".realm/node.toml", &format!("{toml}\n{more}"));
}

/// Applies on a machine with these settings of its own.
fn apply(realm: &Realm, more: &[&str], own: &[(&str, &str)]) -> Said {
    let mut apply = realm.command(&[&["apply", "--yes"], more].concat());
    apply.envs(own.iter().copied());
    said(apply)
}

async fn answers(agent: &Agent, body: &str) {
    eventually("it answers", async || {
        (get(&agent.url("/")).await == (200, body.to_owned())).then_some(())
    })
    .await;
}

fn version(guest: &str) -> Vec<u8> {
    std::fs::read(guest).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_a_component_of_a_bucket_is_applied_and_served() {
    let folder = tempfile::tempdir().unwrap();
    let server = Swift::start(folder.path(), None);
    let put = |guest: &str| {
        let put = server.put(swift::BUCKET, Some("builds/app.wasm"), &version(guest));
        assert_eq!(put, Some(200));
    };
    put(guests::VERSION_A);
    let realm = Realm::new();
    let (endpoint, region) = (server.endpoint(), swift::REGION);
    node_toml(
        &realm,
        &format!("[sources]\ns3_endpoint = \"{endpoint}\"\ns3_region = \"{region}\"\n"),
    );
    let keys = [
        ("AWS_ACCESS_KEY_ID", swift::USER),
        ("AWS_SECRET_ACCESS_KEY", swift::PASSWORD),
    ];
    let mut own = keys.to_vec();
    own.extend([
        ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
        ("AWS_REGION", region),
    ]);
    let source = format!("s3://{}/builds/app.wasm", swift::BUCKET);
    write(&realm, &source);
    let mut command = realm.command(&AGENT);
    command.envs(keys);
    let agent = Agent::start(command);
    let nobody = apply(&realm, &[], &own[2..]);
    assert_ne!(nobody.code, 0, "{}", nobody.stderr);
    apply(&realm, &["--no-wait"], &own).ok();
    let from = agent.after("fetched");
    assert!(from.contains(&source), "{from}");
    answers(&agent, "version a\n").await;

    put(guests::VERSION_B);
    assert_eq!(get(&agent.url("/")).await.1, "version a\n");
    apply(&realm, &[], &own).ok();
    answers(&agent, "version b\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_a_component_of_a_registry_is_applied_and_served() {
    let server = Registry::start();
    server.push("1", &version(guests::VERSION_A)).await;
    let realm = Realm::new();
    node_toml(&realm, &logged_in(&server));
    let source = format!("registry:{}/{REPOSITORY}:1", server.address);
    write(&realm, &source);
    let agent = realm.agent();
    let file = server.log_in();
    let own = [("REGISTRY_AUTH_FILE", file.to_str().unwrap())];
    let none = realm.path("none.json");
    let nobody = [("REGISTRY_AUTH_FILE", none.to_str().unwrap())];
    let nobody = apply(&realm, &[], &nobody).fails(1, "fetch-failed");
    assert!(nobody.stderr.contains("401"), "{}", nobody.stderr);
    apply(&realm, &["--no-wait"], &own).ok();
    let from = agent.after("fetched");
    assert!(from.contains(&source), "{from}");
    answers(&agent, "version a\n").await;

    // A tag that moves moves nothing until it is applied.
    server.push("1", &version(guests::VERSION_B)).await;
    assert_eq!(get(&agent.url("/")).await.1, "version a\n");
    apply(&realm, &[], &own).ok();
    answers(&agent, "version b\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_other_bytes_of_a_registry_are_refused_before_they_run() {
    let server = Registry::start();
    let good = version(guests::VERSION_A);
    let digest = Digest::of(&good);
    server.push("1", &good).await;
    let realm = Realm::new();
    node_toml(&realm, &logged_in(&server));
    let source = format!("registry:{}/{REPOSITORY}:1", server.address);
    // Signed, and not wanted by anybody yet.
    write_for(&realm, &source, "tag:web");
    let agent = realm.agent();
    let file = server.log_in();
    let own = [("REGISTRY_AUTH_FILE", file.to_str().unwrap())];
    apply(&realm, &["--no-wait"], &own).ok();
    let mut other = version(guests::VERSION_B);
    other.resize(good.len(), 0);
    server.rots(digest, &other);

    // Who signs sees it, and so does the node that is to run it: by code and by the registry's name.
    let refused = apply(&realm, &[], &own).fails(1, "digest-mismatch");
    assert!(refused.stderr.contains(&source), "{}", refused.stderr);
    realm.run(&["nodes", "tag", "node-1", "web"]).ok();
    let why = eventually("the agent refuses them", async || {
        let waits = realm.component("app").await.waiting_on.into_iter();
        let mut waits = waits.map(|one| one.message);
        waits.find(|message| message.contains("digest-mismatch: "))
    })
    .await;
    let blamed = format!("`{source}` has other bytes");
    assert!(why.contains(&blamed), "{why}");
    assert_eq!(get(&agent.url("/")).await.0, 503);
    assert!(
        !realm
            .path(&format!(".realm/blobs/{}", digest.hex()))
            .exists()
    );

    // A registry that is mended is asked again.
    server.rots(digest, &good);
    answers(&agent, "version a\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_a_node_has_what_came_from_a_registry_from_its_peers_first() {
    let server = Registry::start();
    let bytes = version(guests::VERSION_A);
    server.push("1", &bytes).await;
    let realms = Realms::in_lab(None, &["alpha", "beta", "gamma"], &logged_in(&server)).await;
    let source = format!("registry:{}/{REPOSITORY}:1", server.address);
    let [alpha, beta, gamma] = &realms.nodes[..] else {
        panic!("three nodes");
    };
    write_for(&alpha.realm, &source, "tag:web");
    realms.as_owner(0, &["nodes", "tag", "alpha", "web"]).ok();
    let mut apply = alpha.command(&["apply", "--yes"]);
    apply.env("REGISTRY_AUTH_FILE", server.log_in());
    said(apply).ok();
    let from = alpha.agent().after("fetched");
    assert!(from.contains(&source), "{from}");

    // Beta could ask the registry, and asks who has them; gamma cannot: it is gone.
    let serves = async |node: &str, at: &crate::realms::Node| {
        realms.as_owner(0, &["nodes", "tag", node, "web"]).ok();
        let from = at.agent().after("fetched");
        assert!(!from.contains("registry:"), "{node}: {from}");
        answers(at.agent(), "version a\n").await;
        eventually("it runs there", async || {
            (at.healthy().await == ["app"]).then_some(())
        })
        .await;
        let blob = format!(".realm/blobs/{}", Digest::of(&bytes).hex());
        assert_eq!(std::fs::read(at.realm.path(&blob)).unwrap(), bytes);
    };
    serves("beta", beta).await;
    drop(server);
    serves("gamma", gamma).await;
}
