//! Keys and identities of components, whose roots are sealed secrets: on every node the same, rotated by
//! their owner, and checked by a stranger.

use std::io::Write as _;
use std::process::{Command, Stdio};

use realm_test_guests as guests;
use serde_json::{Value, json};

use crate::realms::Realms;
use crate::secrets::with_input;
use crate::support::{Realm, app_manifest, eventually, get};

/// What docs/wasi-cloud.md says makes a root.
const GENERATE: &str = "openssl rand -base64 32";

/// Runs a line of the documentation, whose `realm` is this one's.
fn shell(realm: &Realm, line: &str) -> String {
    let realm = realm.command(&[]);
    let mut words = vec![realm.get_program().to_string_lossy().into_owned()];
    words.extend(
        realm
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    let mut command = Command::new("bash");
    command.args(["-ceuo", "pipefail"]).arg(format!(
        "realm() {{ '{}' \"$@\"; }}\n{line}",
        words.join("' '")
    ));
    if let Some(folder) = realm.get_current_dir() {
        command.current_dir(folder);
    }
    for (name, value) in realm.get_envs() {
        match value {
            Some(value) => drop(command.env(name, value)),
            None => drop(command.env_remove(name)),
        }
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn with_vault(more: &str) -> String {
    let bindings = "[bindings.vault]\ninterface = \"realm:cloud/keys\"\nbackend = \"embedded\"\nsecret = \"root\"\n\n";
    let app = app_manifest(&format!("bind = {{ default = \"vault\" }}\n{more}"));
    format!("{bindings}{app}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_component_sealed_opens_after_its_root_was_rotated() {
    let realm = Realm::new();
    realm.guest(guests::KEYS, "app.wasm");
    realm.write("realm.toml", &with_vault(""));
    realm.run(&["apply", "-y"]).fails(1, "invalid-manifest");
    shell(&realm, &format!("{GENERATE} | realm secret set root"));
    let agent = realm.agent();
    realm.run(&["apply", "-y"]).ok();
    let (status, lines) = get(&agent.url("/")).await;
    assert!(
        status == 200 && lines.lines().all(|line| line.starts_with("ok ")),
        "{lines}"
    );
    let seal = async || get(&agent.url("/seal?name=orders&text=hello")).await.1;
    let open = async |sealed: &str| {
        let path = format!("/open?name=orders&sealed={sealed}");
        get(&agent.url(&path)).await.1
    };
    let before = seal().await;
    assert_eq!(open(&before).await, "hello");

    // The new root behind the old one, on every node; then before it; then alone.
    shell(
        &realm,
        &format!("{{ realm secret show root; echo; {GENERATE}; }} | realm secret rotate root"),
    );
    realm.run(&["apply", "-y"]).ok();
    assert_eq!(open(&before).await, "hello");
    assert_eq!(seal().await[2..18], before[2..18]);
    shell(
        &realm,
        "{ realm secret show root; echo; } | tac | realm secret rotate root",
    );
    realm.run(&["apply", "-y"]).ok();
    let after = seal().await;
    assert_ne!(after[2..18], before[2..18]);
    assert_eq!(open(&before).await, "hello");
    assert_eq!(open(&after).await, "hello");
    shell(
        &realm,
        "realm secret show root | head -n 1 | realm secret rotate root",
    );
    realm.run(&["apply", "-y"]).ok();
    assert_eq!(open(&after).await, "hello");
    assert_eq!(open(&before).await, "Error::UnknownKey");

    // Who reads no further is no fault of the secret's.
    shell(&realm, "{ sleep 0.2; realm secret show root; } | true");

    // What is no root stops the component, and stands in no message.
    let rotate = realm.command(&["secret", "rotate", "root"]);
    with_input(rotate, b"hunter2hunter2").ok();
    let applied = realm.run(&["apply", "-y"]);
    let logged = realm.run(&["explain", "app"]);
    let said = [applied.stdout, applied.stderr, logged.stdout, logged.stderr].concat();
    assert!(said.contains("line 1 of the secret is no root"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_seals_another_opens() {
    let realms = Realms::meet(&["a", "b"]).await;
    let first = realms.first();
    first.realm.guest(guests::KEYS, "app.wasm");
    let manifest = with_vault("").replace("\"app\" }", "\"app\", per_node = true }");
    first.realm.write("realm.toml", &manifest);
    eventually("the sealing key of b is known", async || {
        first.sees("b").await.sealing
    })
    .await;
    let root = shell(&first.realm, GENERATE);
    with_input(first.command(&["secret", "set", "root"]), root.as_bytes()).ok();
    let applied = first.run(&["apply", "-y"]).ok();
    assert!(
        !applied.stderr.contains("local-store"),
        "{}",
        applied.stderr
    );
    let ask = async |at: usize, path: String| {
        let url = realms.nodes[at].agent().url(&path);
        eventually("it answers", async || {
            let (status, text) = get(&url).await;
            (status == 200).then_some(text)
        })
        .await
    };
    let sealed = ask(0, "/seal?name=a&text=hello".to_owned()).await;
    assert_eq!(
        ask(1, format!("/open?name=a&sealed={sealed}")).await,
        "hello"
    );
    let signed = ask(1, "/sign?name=a&text=hello".to_owned()).await;
    let verify = format!("/verify?name=a&text=hello&sealed={signed}");
    assert_eq!(ask(0, verify).await, "true");
}

/// Two components of one binding, and one of another.
const IDENTITIES: &str = r#"
[bindings.id]
interface = "realm:cloud/identity"
backend = "embedded"
secret = "root"
issuer = "https://shop.example"

[bindings.other]
interface = "realm:cloud/identity"
backend = "embedded"
secret = "root"
issuer = "https://shop.example"

[components.shop]
source = "file:./app.wasm"
bind = { default = "id" }

[components.admin]
source = "file:./app.wasm"
bind = { default = "id" }

[components.stranger]
source = "file:./app.wasm"
bind = { default = "other" }

[routing]
"*" = [
  { path = "/...", component = "shop", host = "shop.localhost" },
  { path = "/...", component = "admin", host = "admin.localhost" },
  { path = "/...", component = "stranger", host = "stranger.localhost" },
]
"#;

/// Judges tokens by the keys in a JWKS, as any service in another language does; and makes false ones.
const PYTHON: &str = r#"
import base64, hashlib, hmac, json, sys, jwt
asked = json.load(sys.stdin)
keys = jwt.PyJWKSet.from_dict(json.loads(asked["jwks"]))
def judge(token):
    kid = jwt.get_unverified_header(token)["kid"]
    known = [key for key in keys.keys if key.key_id == kid]
    if not known: return "no such key"
    try:
        return jwt.decode(token, known[0].key, algorithms=["EdDSA"], audience=asked["audience"],
            issuer="https://shop.example", options={"require": ["exp", "iat", "nbf", "sub", "jti"]})
    except jwt.PyJWTError as error:
        return type(error).__name__
b64 = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
head, body, signature = asked["tokens"][0].split(".")
kid = jwt.get_unverified_header(asked["tokens"][0])["kid"]
public = json.loads(asked["jwks"])["keys"][0]["x"]
none = b64(json.dumps({"alg": "none", "kid": kid, "typ": "JWT"}).encode())
hs = b64(json.dumps({"alg": "HS256", "kid": kid, "typ": "JWT"}).encode())
def coded(key): return b64(hmac.new(key, (hs + "." + body).encode(), hashlib.sha256).digest())
raw = base64.urlsafe_b64decode(public + "=")
forged = [none + "." + body + ".", none + "." + body + "." + signature,
    hs + "." + body + "." + coded(raw), hs + "." + body + "." + coded(public.encode())]
print(json.dumps({"judged": [judge(token) for token in asked["tokens"]], "forged": forged,
    "refused": [judge(token) for token in forged]}))
"#;

fn python(asked: &Value) -> Value {
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(asked.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "PyJWT: on Debian: sudo apt-get install python3-jwt python3-cryptography"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_components_are_good_for_whoever_has_the_public_keys() {
    let realm = Realm::new();
    realm.guest(guests::IDENTITY, "app.wasm");
    realm.write("realm.toml", IDENTITIES);
    let root = shell(&realm, GENERATE);
    with_input(realm.command(&["secret", "set", "root"]), root.as_bytes()).ok();
    let agent = realm.agent();
    realm.run(&["apply", "-y"]).ok();
    let client = reqwest::Client::new();
    let ask = async |who: &str, path: String| {
        let host = format!("{who}.localhost");
        let request = client.get(agent.url(&path)).header("host", host);
        request.send().await.unwrap().text().await.unwrap()
    };
    let audience = "https%3a%2f%2fpay.example";
    let token = async |who, more| ask(who, format!("/token?audience={audience}{more}")).await;
    let (shop, admin) = (token("shop", "").await, token("admin", "").await);
    let stranger = token("stranger", "").await;
    let elsewhere = ask("shop", "/token?audience=elsewhere".to_owned()).await;
    let jwks = ask("admin", "/.well-known/jwks.json".to_owned()).await;
    let short = token("shop", "&lifetime=1").await;
    let asked = json!({
        "jwks": jwks, "audience": "https://pay.example",
        "tokens": [shop, admin, stranger, elsewhere, short],
    });
    let said = eventually("the short one is over", async || {
        let said = python(&asked);
        (said["judged"][4] == "ExpiredSignatureError").then_some(said)
    })
    .await;
    let judged = &said["judged"];
    assert_eq!(judged[0]["sub"], "realm/default/shop", "{said}");
    assert_eq!(judged[1]["sub"], "realm/default/admin", "{said}");
    assert_eq!(judged[2], "no such key");
    assert_eq!(judged[3], "InvalidAudienceError");
    // What the stranger refuses, the realm's own verifier does as well.
    let verify = async |who, token: &str| {
        let path = format!("/verify?audience={audience}&token={token}");
        ask(who, path).await
    };
    let good = "https://shop.example realm/default/shop 300";
    assert_eq!(verify("admin", &shop).await, good);
    assert_eq!(verify("stranger", &shop).await, "Error::NotAuthentic");
    assert_eq!(verify("admin", &elsewhere).await, "Error::OtherAudience");
    let forged = said["forged"].as_array().unwrap();
    assert_eq!(forged.len(), 4);
    for token in forged {
        let token = token.as_str().unwrap();
        assert_eq!(verify("admin", token).await, "Error::NotAuthentic");
    }
    let refused = said["refused"].as_array().unwrap();
    assert!(refused.iter().all(Value::is_string), "{said}");
}
