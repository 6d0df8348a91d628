//! Keys, signatures and refusals, seen from the outside.

use realm_model::entry::{
    Body, ChainId, ENTRY_BYTES_MAX, ManifestBody, Payload, RealmId, RestartBody,
};
use realm_model::key::SecretKey;
use realm_test_guests::{HELLO, VERSION_B};

use crate::support::{Agent, Realm, Said, get, mode};

/// A realm that serves hello, so that refusals can be shown to disturb nobody.
async fn serving() -> (Realm, Agent) {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/")).await.0, 200);
    (realm, agent)
}

/// The next entry after what is in force: a restart of the app.
async fn next(realm: &Realm) -> (RealmId, Payload) {
    let heads = realm.heads().await;
    let restart = RestartBody {
        component: "app".parse().unwrap(),
        nodes: Vec::new(),
    };
    let payload = Payload {
        seq: heads.default.seq + 1,
        prev: heads.default.hash,
        authority: heads.authority,
        created_unix_s: 0,
        body: Body::Restart(restart),
    };
    (heads.realm, payload)
}

fn submit(realm: &Realm, entry: &[u8]) -> Said {
    std::fs::write(realm.path("entry"), entry).unwrap();
    realm.run(&["submit", "entry"])
}

/// Submits an entry that must be refused: with this code, counted, and with no effect.
async fn refused(realm: &Realm, agent: &Agent, entry: &[u8], code: &str) {
    let before = realm.heads().await;
    let count = async || {
        realm
            .status()
            .await
            .refusals
            .get(code)
            .copied()
            .unwrap_or_default()
    };
    let counted = count().await;
    let said = submit(realm, entry).fails(3, code);
    assert!(said.stderr.contains("hint: "), "{}", said.stderr);
    assert_eq!(count().await, counted + 1);
    assert_eq!(realm.heads().await, before);
    assert_eq!(get(&agent.url("/")).await, (200, "hello\n".to_owned()));
    let metrics = get(&agent.metrics_url).await.1;
    assert!(metrics.contains(&format!(
        "realm_refusals_total{{code=\"{code}\"}} {}",
        counted + 1
    )));
}

#[test]
fn keys_are_private_and_have_a_spoken_form() {
    let realm = Realm::new();
    assert_eq!(mode(&realm.path(".realm")), 0o700);
    assert_eq!(mode(&realm.path(".realm/owner.key")), 0o600);
    assert_eq!(mode(&realm.path(".realm/node.key")), 0o600);
    let shown = realm.run(&["key", "show"]).ok().stdout;
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[0], realm.owner().public().to_string());
    assert_eq!(lines[1], realm.owner().public().words().join(" "));
    assert_eq!(lines[1].split(' ').count(), 6);
    realm.run(&["init"]).fails(1, "exists");
    let other = realm.run(&["init", "--realm", "other"]).ok();
    assert!(!other.stdout.contains(lines[0]), "two realms, two owners");
}

#[test]
fn an_exposed_or_missing_owner_key_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let realm = Realm::new();
    realm.app(HELLO, "");
    let _agent = realm.agent();
    let key = realm.path(".realm/owner.key");
    let chmod = |bits: &str| {
        std::process::Command::new("chmod")
            .arg(bits)
            .arg(&key)
            .status()
            .unwrap()
    };
    chmod("644");
    realm.run(&["apply", "--yes"]).fails(1, "key-exposed");
    chmod("600");
    // A key that others could have put there signs nothing.
    let folder = |bits: u32| {
        let mode = std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(realm.path(".realm"), mode).unwrap();
    };
    folder(0o770);
    let said = realm.run(&["apply", "--yes"]).fails(1, "bad-realm-folder");
    assert!(said.stderr.contains("chmod go-w"), "{}", said.stderr);
    folder(0o700);
    std::fs::rename(&key, realm.path("elsewhere")).unwrap();
    realm.run(&["apply", "--yes"]).fails(1, "no-owner-key");
}

#[test]
fn a_sealed_owner_key_needs_its_passphrase() {
    let realm = Realm::empty();
    realm.write("right", "correct horse\n");
    realm.write("wrong", "battery staple\n");
    let with = |passphrase: &str, args: &[&str]| {
        let mut command = realm.command(args);
        command.env("REALM_PASSPHRASE_FILE", realm.path(passphrase));
        crate::support::said(command)
    };
    with("right", &["init", "--passphrase"]).ok();
    assert!(!realm.read(".realm/owner.key").contains("ed25519-secret"));
    realm.app(HELLO, "");
    let _agent = realm.agent();
    realm.run(&["apply", "--yes"]).fails(64, "no-passphrase");
    with("wrong", &["apply", "--yes"]).fails(1, "bad-passphrase");
    with("right", &["apply", "--yes"]).ok();
    // Public things need no passphrase.
    realm.run(&["key", "show"]).ok();
    realm.run(&["verify"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_good_from_changed_from_foreign() {
    let (realm, agent) = serving().await;
    // Offline.
    agent.kill_9();
    realm.run(&["verify"]).ok();
    let manifest = realm.read("realm.toml");
    realm.write("realm.toml", &format!("{manifest}# a comment\n"));
    realm.run(&["verify"]).fails(3, "bad-signature");
    realm.write("realm.toml", &manifest);
    let lock = realm.read("realm.lock");
    realm.write("realm.lock", &lock.replace("version = 1", "version = 2"));
    realm.run(&["verify"]).fails(3, "bad-signature");
    realm.write("realm.lock", &lock);
    let other = SecretKey::from_seed(&[7; 32]).public().to_string();
    realm
        .run(&["verify", "--owner", &other])
        .fails(3, "wrong-owner");
    let signature = realm.read("realm.toml.sig");
    realm.write("realm.toml.sig", "nonsense");
    realm.run(&["verify"]).fails(3, "bad-signature");
    std::fs::remove_file(realm.path("realm.toml.sig")).unwrap();
    realm.run(&["verify"]).fails(3, "unsigned");
    realm.write("realm.toml.sig", &signature);
    realm.run(&["verify"]).ok();
    realm.run(&["init", "--realm", "other"]).ok();
    realm
        .run(&["verify", "--realm", "other"])
        .fails(3, "wrong-owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_entry_is_refused() {
    let (realm, agent) = serving().await;
    let (id, payload) = next(&realm).await;
    let entry = payload.with_signatures(id, ChainId::DEFAULT, &[]);
    refused(&realm, &agent, &entry, "unsigned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_entry_is_refused() {
    let (realm, agent) = serving().await;
    let (id, payload) = next(&realm).await;
    let entry = payload.sign(id, ChainId::DEFAULT, &realm.owner());
    let other = Payload {
        created_unix_s: 1,
        ..payload
    };
    let signature = realm.owner().sign(&other.message(id, ChainId::Authority));
    let wrong = other.with_signatures(id, ChainId::DEFAULT, &[(realm.owner().public(), signature)]);
    refused(&realm, &agent, &wrong, "bad-signature").await;
    // One bit in the middle of the payload.
    let mut flipped = entry.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    submit(&realm, &flipped).fails(3, "bad-signature");
    // The untouched one is taken: nothing but the tampering was wrong.
    submit(&realm, &entry).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_owners_entry_is_refused() {
    let (realm, agent) = serving().await;
    let (id, payload) = next(&realm).await;
    let stranger = SecretKey::from_seed(&[7; 32]);
    let entry = payload.sign(id, ChainId::DEFAULT, &stranger);
    refused(&realm, &agent, &entry, "wrong-owner").await;
    // A manifest that names another owner.
    let manifest = format!(
        "[owner]\npubkey = \"{}\"\n{}",
        stranger.public(),
        realm.read("realm.toml")
    );
    realm.write("realm.toml", &manifest);
    realm.run(&["apply", "--yes"]).fails(3, "wrong-owner");
    let body = Body::Manifest(ManifestBody {
        manifest,
        lock: realm
            .read("realm.lock")
            .replace("version = 1", "version = 2"),
    });
    let entry = Payload { body, ..payload }.sign(id, ChainId::DEFAULT, &realm.owner());
    refused(&realm, &agent, &entry, "wrong-owner").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_realms_entry_is_refused() {
    let (realm, agent) = serving().await;
    let (_, payload) = next(&realm).await;
    let other = RealmId::new(realm_model::digest::Digest::of(b"another realm"));
    let entry = payload.sign(other, ChainId::DEFAULT, &realm.owner());
    refused(&realm, &agent, &entry, "wrong-realm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_chains_entry_is_refused() {
    let (realm, agent) = serving().await;
    let (id, payload) = next(&realm).await;
    let entry = payload.sign(id, ChainId::Authority, &realm.owner());
    refused(&realm, &agent, &entry, "wrong-chain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_entry_is_refused() {
    let (realm, agent) = serving().await;
    let (id, payload) = next(&realm).await;
    let entry = payload.sign(id, ChainId::DEFAULT, &realm.owner());
    submit(&realm, &entry).ok();
    refused(&realm, &agent, &entry, "replayed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_entry_is_refused() {
    let (realm, agent) = serving().await;
    let (id, payload) = next(&realm).await;
    let first = payload.sign(id, ChainId::DEFAULT, &realm.owner());
    let second = Payload {
        created_unix_s: 9,
        ..payload
    }
    .sign(id, ChainId::DEFAULT, &realm.owner());
    submit(&realm, &first).ok();
    // Another entry at the same place: somebody else signed meanwhile.
    refused(&realm, &agent, &second, "stale").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_an_old_version_is_refused() {
    let (realm, agent) = serving().await;
    let manifest = format!("version = 5\n{}", realm.read("realm.toml"));
    realm.write("realm.toml", &manifest);
    realm.run(&["apply", "--yes"]).ok();
    let older = manifest.replace("version = 5", "version = 4");
    realm.write("realm.toml", &older);
    realm.run(&["apply", "--yes"]).fails(3, "stale");
    // Signed all the same, by a tool that does not check.
    let (id, payload) = next(&realm).await;
    let lock = realm
        .read("realm.lock")
        .replace("version = 5", "version = 4");
    let body = Body::Manifest(ManifestBody {
        manifest: older,
        lock,
    });
    let entry = Payload { body, ..payload }.sign(id, ChainId::DEFAULT, &realm.owner());
    refused(&realm, &agent, &entry, "stale").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_refused() {
    let (realm, agent) = serving().await;
    let (id, payload) = next(&realm).await;
    for seq in [payload.seq + 1, u64::MAX] {
        let entry = Payload {
            seq,
            ..payload.clone()
        }
        .sign(id, ChainId::DEFAULT, &realm.owner());
        refused(&realm, &agent, &entry, "gap").await;
    }
    let parent = realm_model::digest::Digest::of(b"another history");
    let entry = Payload {
        prev: parent,
        ..payload
    }
    .sign(id, ChainId::DEFAULT, &realm.owner());
    refused(&realm, &agent, &entry, "wrong-parent").await;
}

/// Facts §5, case 24: the size is checked before anything is read.
#[tokio::test(flavor = "multi_thread")]
async fn case_24_oversized_and_malformed_entries_are_refused() {
    let (realm, agent) = serving().await;
    refused(&realm, &agent, &vec![0; ENTRY_BYTES_MAX + 1], "oversized").await;
    refused(&realm, &agent, b"not an entry", "malformed").await;
    refused(&realm, &agent, b"", "malformed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_with_another_digest_are_refused() {
    let (realm, agent) = serving().await;
    let digest = realm_model::digest::Digest::of(b"what was signed");
    let bytes = futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"something else"))]);
    let error = realm.client().upload(&digest, bytes).await.unwrap_err();
    assert!(
        matches!(&error, realm_node::ClientError::Refused(refusal) if refusal.code == "digest-mismatch"),
        "{error:?}"
    );
    assert!(!realm.client().has(&digest).await.unwrap());
    assert_eq!(realm.status().await.refusals["digest-mismatch"], 1);
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_can_be_signed_on_one_machine_and_submitted_on_another() {
    let (realm, agent) = serving().await;
    realm.guest(VERSION_B, "app.wasm");
    realm.run(&["apply", "--sign-only", "entry"]).ok();
    assert_eq!(realm.heads().await.version, 1, "nothing was submitted yet");
    let offline = realm.run(&["submit", "entry"]).ok();
    assert!(
        offline.stdout.contains("version 2 is in force"),
        "{}",
        offline.stdout
    );
    // The bytes did not travel: the status says so, and the old version goes on serving.
    assert_eq!(get(&agent.url("/")).await, (200, "hello\n".to_owned()));
    let waiting = crate::support::eventually("the missing bytes are told", async || {
        realm.component("app").await.waiting_on.first().cloned()
    });
    assert!(
        waiting.await.message.contains("uploaded"),
        "{:?}",
        realm.component("app").await
    );
}
