//! A realm of three owners, of whom two must sign. The command line signs with one key: what two agreed on
//! is made here, and handed in by the verb that takes what was signed elsewhere.

use realm_model::entry::{Body, ChainId, Fence, ManifestBody, RestartBody, Rotate, SetNode};
use realm_model::key::SecretKey;
use realm_model::lock::Lock;
use realm_test_guests::{HELLO, VERSION_A};

use crate::realms::{Node, Realms, delegation, next_entry_of, pinned, write_key};
use crate::support::Said;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// Hands an entry in at a node, as who carries it there on a stick does.
fn submit(node: &Node, chain: ChainId, entry: &[u8]) -> Said {
    std::fs::write(node.realm.path("entry"), entry).unwrap();
    node.run(&["submit", "entry", "--chain", chain.as_str()])
}

/// No agent of the realm takes what these signed: each says so with a code, counts it, and stays where it
/// was.
async fn refused_everywhere(realms: &Realms, chain: ChainId, body: Body, keys: &[&SecretKey]) {
    for node in realms.running() {
        let entry = next_entry_of(node, chain, keys, body.clone()).await;
        let refusals = async || {
            let refusals = node.status().await.refusals;
            refusals.get("wrong-owner").copied().unwrap_or_default()
        };
        let (before, counted) = (node.realm.heads().await, refusals().await);
        let said = submit(node, chain, &entry).fails(3, "wrong-owner");
        let why = "1 of the 2 signatures that are needed";
        assert!(said.stderr.contains(why), "{}", said.stderr);
        assert!(said.stderr.contains("hint: "), "{}", said.stderr);
        assert_eq!(node.realm.heads().await, before, "{}", node.name);
        assert_eq!(refusals().await, counted + 1, "{}", node.name);
    }
}

/// Two of three owners sign from here on; `gamma` hears of it when it is back.
async fn three_owners(realms: &mut Realms) -> [SecretKey; 3] {
    let first = realms.first().realm.owner();
    let owners = [
        first,
        SecretKey::from_seed(&[21; 32]),
        SecretKey::from_seed(&[22; 32]),
    ];
    realms.nodes[2].kill_9();
    let default = realms.first().head().await;
    let body = Body::Rotate(Rotate {
        owners: owners.iter().map(SecretKey::public).collect(),
        threshold: 2,
        recovery: Vec::new(),
        fences: vec![Fence {
            namespace: "default".parse().unwrap(),
            base: default,
            head: default,
        }],
    });
    // Who is to sign with others from then on must have signed with one of them: no slip locks all out.
    refused_everywhere(realms, ChainId::Authority, body.clone(), &[&owners[0]]).await;
    let both = [&owners[0], &owners[2]];
    let entry = next_entry_of(realms.first(), ChainId::Authority, &both, body).await;
    submit(realms.first(), ChainId::Authority, &entry).ok();
    realms.nodes[2].start();
    realms.all_meet().await;
    realms.converge().await;
    for node in realms.running() {
        let heads = node.realm.heads().await;
        assert_eq!(
            (heads.threshold, heads.owners.len()),
            (2, 3),
            "{}",
            node.name
        );
    }
    owners
}

/// What one key here would sign is refused before anything is signed, whatever the verb.
#[tokio::test(flavor = "multi_thread")]
async fn where_two_of_three_owners_sign_no_verb_signs_alone() {
    let mut realms = Realms::meet(&NAMES).await;
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    let owners = three_owners(&mut realms).await;
    let before = realms.first().realm.heads().await;
    let other = SecretKey::from_seed(&[30; 32]).public().to_string();
    write_key(&realms.first().realm, "third.key", &owners[2]);
    realms.first().realm.guest(VERSION_A, "a.wasm");
    realms
        .first()
        .realm
        .write("realm.toml", &pinned(&[("hello", HELLO, "gamma")]));
    let verbs: [&[&str]; 12] = [
        &["nodes", "cordon", "gamma"],
        &["nodes", "revoke", "gamma", "--yes"],
        &["nodes", "tag", "gamma", "metal"],
        &["nodes", "approve", &other, "--name", "delta", "--yes"],
        &["delegate", "add", "shop", &other, "--apps", "*", "--yes"],
        &["key", "rotate", "--yes"],
        &["key", "recovery", "add", &other],
        &["apply", "--yes"],
        &["apply", "--yes", "--sign-only", "one"],
        &["push", "hello", "a.wasm"],
        &["restart", "hello"],
        &["--key", "third.key", "restart", "hello"],
    ];
    for verb in verbs {
        let said = realms.first().run(verb).fails(3, "threshold");
        assert!(
            said.stderr.contains("2 of 3 owners must sign"),
            "{verb:?}: {}",
            said.stderr
        );
        let hint = "hint: this version signs with one owner's key; `realm submit ENTRY`";
        assert!(said.stderr.contains(hint), "{verb:?}: {}", said.stderr);
    }
    assert!(!realms.first().realm.path("one").exists());
    assert_eq!(realms.first().realm.heads().await, before);
    assert_eq!(realms.nodes[1].get("/hello/").await.0, 200);
}

/// What one owner signed no agent takes, at whichever it is handed in; what two did, all take.
#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_owners_change_authority_and_what_runs_and_one_alone_neither() {
    let mut realms = Realms::meet(&NAMES).await;
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    let [one, two, three] = three_owners(&mut realms).await;

    let authority = ChainId::Authority;
    let cordon = Body::SetNode(SetNode {
        key: realms.nodes[2].key().public(),
        cordoned: true,
        drained: false,
    });
    refused_everywhere(&realms, authority, cordon.clone(), &[&one]).await;
    // Case 7: who signs twice is one owner; and a stranger beside an owner is nobody.
    refused_everywhere(&realms, authority, cordon.clone(), &[&two, &two]).await;
    let stranger = SecretKey::from_seed(&[30; 32]);
    refused_everywhere(&realms, authority, cordon.clone(), &[&two, &stranger]).await;
    let entry = next_entry_of(&realms.nodes[1], authority, &[&two, &three], cordon).await;
    submit(&realms.nodes[1], authority, &entry).ok();
    realms.converge().await;
    for node in realms.running() {
        assert!(node.sees("gamma").await.cordoned, "{}", node.name);
    }

    // What runs is a matter of two as well.
    let default = ChainId::DEFAULT;
    let restart = Body::Restart(RestartBody {
        component: "hello".parse().unwrap(),
        nodes: Vec::new(),
    });
    refused_everywhere(&realms, default, restart, &[&three]).await;
    let heads = realms.first().realm.heads().await;
    let mut lock = Lock::parse(&heads.lock.unwrap()).unwrap();
    lock.version += 1;
    let moved = Body::Manifest(ManifestBody {
        manifest: pinned(&[("hello", HELLO, "alpha")]),
        lock: lock.to_text(),
    });
    refused_everywhere(&realms, default, moved.clone(), &[&one]).await;
    let entry = next_entry_of(&realms.nodes[2], default, &[&one, &two], moved).await;
    submit(&realms.nodes[2], default, &entry).ok();
    realms.run_there(&[("hello", "alpha")]).await;
    realms.converge().await;

    // In a namespace that two gave away, one key signs: its delegate's, and no owner's.
    let team = SecretKey::from_seed(&[31; 32]);
    let shop = Body::Delegate(realm_model::entry::Delegate {
        apps: vec!["cart".parse().unwrap()],
        ..delegation("shop", team.public())
    });
    refused_everywhere(&realms, authority, shop.clone(), &[&one]).await;
    let entry = next_entry_of(realms.first(), authority, &[&one, &three], shop).await;
    submit(realms.first(), authority, &entry).ok();
    realms.converge().await;
    let beta = &realms.nodes[1];
    beta.realm
        .write("realm.toml", &pinned(&[("cart", VERSION_A, "beta")]));
    let apply = ["apply", "--yes", "--namespace", "shop", "--key"];
    write_key(&beta.realm, "owner.key", &one);
    write_key(&beta.realm, "team.key", &team);
    beta.run(&[&apply[..], &["owner.key"]].concat())
        .fails(3, "wrong-owner");
    beta.run(&[&apply[..], &["team.key"]].concat()).ok();
    realms
        .run_there(&[("hello", "alpha"), ("cart", "beta")])
        .await;
}
