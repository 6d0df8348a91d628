//! Components that come from S3: applied, fetched by the agent and served. A real server, which wants to
//! know who asks. What it may do wrong is tested where the bytes are fetched (`realm-store`, `fetch`).

use realm_test_guests as guests;

use crate::support::{AGENT, Agent, Realm, Said, eventually, get, said};
use crate::swift::{self, Swift};

fn write(realm: &Realm, source: &str) {
    realm.write(
        "realm.toml",
        &format!(
            "[components.app]\nsource = \"{source}\"\n\n\
             [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n"
        ),
    );
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
    let toml = std::fs::read_to_string(realm.path(".realm/node.toml")).unwrap_or_default();
    let (endpoint, region) = (server.endpoint(), swift::REGION);
    realm.write(
        ".realm/node.toml",
        &format!("{toml}\n[sources]\ns3_endpoint = \"{endpoint}\"\ns3_region = \"{region}\"\n"),
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
