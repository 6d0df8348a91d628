//! A real registry of OCI artifacts for tests: Docker's (`distribution`), which knows one user. Included by
//! the tests that need it; scripts/setup-test.sh brings its package.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use realm_model::digest::Digest;
use reqwest::{Client, StatusCode};
use tempfile::TempDir;

/// Who may push and pull.
const USER: &str = "acme";
/// The user's.
const PASSWORD: &str = "hush";
/// The same as `user:password` in base 64.
const LOGIN: &str = "YWNtZTpodXNo";
/// The password, with the least work that bcrypt has.
const HASH: &str = "$2b$05$i1jpRXaDaO/OsukODP03muhVlPL/RJ./jtgZlOH0C2pH5bbbUEQ22";
/// Where everything is pushed to.
pub(crate) const REPOSITORY: &str = "acme/orders";

/// A process that ends with the test.
pub(crate) struct Registry {
    process: Child,
    folder: TempDir,
    /// Its host and port.
    pub(crate) address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// Starts it on a port of its own, and waits until it listens.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::write(root.join("users"), format!("{USER}:{HASH}\n")).expect("written");
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {0}/data\nhttp:\n  addr: 127.0.0.1:0\n\
             auth:\n  htpasswd:\n    realm: test\n    path: {0}/users\n",
            root.display()
        );
        fs::write(root.join("config.yml"), config).expect("written");
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(root.join("config.yml"))
            .env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let spawned = command.stderr(Stdio::piped()).spawn();
        let mut process = spawned.unwrap_or_else(|error| {
            panic!("{command:?}: {error}; scripts/setup-test.sh brings what is missing")
        });
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let mut lines = log.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
            Some(rest[..end.unwrap_or(rest.len())].to_owned())
        });
        // Read on, or it would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            folder,
            address: address.expect("it listens"),
        }
    }

    async fn push_blob(&self, bytes: &[u8]) -> Digest {
        let (client, digest) = (Client::new(), Digest::of(bytes));
        let begin = format!("http://{}/v2/{REPOSITORY}/blobs/uploads/", self.address);
        let begun = client.post(begin).basic_auth(USER, Some(PASSWORD)).send();
        let begun = begun.await.expect("answered");
        assert_eq!(begun.status(), StatusCode::ACCEPTED);
        let place = begun.headers()["location"].to_str().expect("text");
        let end = client.put(format!("{place}&digest={digest}"));
        let end = end.basic_auth(USER, Some(PASSWORD)).body(bytes.to_vec());
        let ended = end.send().await.expect("answered");
        assert_eq!(ended.status(), StatusCode::CREATED);
        digest
    }

    /// Pushes an artifact of the form that `wkg` pushes; returns the digest of its manifest.
    pub(crate) async fn push(&self, tag: &str, component: &[u8]) -> Digest {
        let (layer, config) = (self.push_blob(component).await, self.push_blob(b"{}").await);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config.to_string(), "size": 2},
            "layers": [{"mediaType": "application/wasm", "digest": layer.to_string(), "size": component.len()}],
        })
        .to_string();
        let url = format!("http://{}/v2/{REPOSITORY}/manifests/{tag}", self.address);
        let put = Client::new().put(url).basic_auth(USER, Some(PASSWORD));
        let put = put.header("content-type", "application/vnd.oci.image.manifest.v1+json");
        let put = put.body(manifest.clone()).send().await.expect("answered");
        assert_eq!(put.status(), StatusCode::CREATED);
        Digest::of(manifest.as_bytes())
    }

    /// The file that `docker login` leaves on a machine whose user may pull.
    pub(crate) fn log_in(&self) -> PathBuf {
        let path = self.folder.path().join("config.json");
        let auths = serde_json::json!({"auths": {&self.address: {"auth": LOGIN}}});
        fs::write(&path, auths.to_string()).expect("written");
        path
    }

    /// It has other bytes under this digest, as on a disk that rots: it does not look.
    pub(crate) fn rots(&self, digest: Digest, bytes: &[u8]) {
        let hex = digest.hex();
        let kept = format!(
            "data/docker/registry/v2/blobs/sha256/{}/{hex}/data",
            &hex[..2]
        );
        fs::write(self.folder.path().join(kept), bytes).expect("kept there");
    }
}
