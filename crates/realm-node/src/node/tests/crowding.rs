//! Who takes all the places of the TCP port takes none of the owner's.

use realm_model::key::PublicKey;

use super::*;
use crate::client::ClientError;
use crate::connect::{Connect as _, Tls};

const PATIENCE: Duration = Duration::from_secs(5);

async fn start(root: &std::path::Path, owner: &SecretKey) -> (Node, PublicKey) {
    let app = std::fs::read(realm_test_guests::HELLO).unwrap();
    let mut config = Config::load(folder(root, owner, &app)).unwrap();
    config.node.listen.http = vec!["127.0.0.1:0".parse().unwrap()];
    config.node.listen.admin = "127.0.0.1:0".parse().unwrap();
    config.node.listen.api = Some("127.0.0.1:0".parse().unwrap());
    let node = Node::start(config).await.unwrap();
    (node, SecretKey::from_seed(&[2; 32]).public())
}

fn tls(node: &Node, node_key: PublicKey, key: &SecretKey) -> Tls {
    let address = node.api_address().unwrap().to_string();
    Tls::new(&address, node_key, key).unwrap()
}

/// Begins as soon as there is a place, and never ends.
async fn hold(client: Client, byte: u8) {
    loop {
        let first = futures_util::stream::iter([Ok(vec![byte].into())]);
        let pieces = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        let _ = client.upload(&Digest::of(b"another"), pieces).await;
    }
}

async fn upload(client: &Client) -> Result<(), String> {
    let pieces = futures_util::stream::iter([Ok(b"bytes".as_slice().into())]);
    match client.upload(&Digest::of(b"bytes"), pieces).await {
        Ok(_) => Ok(()),
        Err(ClientError::Refused(error)) => Err(error.code),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_drip_leave_room_for_others() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("realm");
    let owner = SecretKey::from_seed(&[1; 32]);
    let (node, node_key) = start(&root, &owner).await;
    let far = Client::over(Arc::new(tls(&node, node_key, &owner)));
    let held: Vec<_> = (0..2)
        .map(|byte| tokio::spawn(hold(far.clone(), byte)))
        .collect();
    let refused = async {
        loop {
            if let Err(code) = upload(&far).await {
                return code;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await;
    assert_eq!(refused.as_deref(), Ok("busy"));
    let local = Client::new(&root.join("agent.sock"));
    assert_eq!(upload(&local).await, Ok(()));
    for held in held {
        held.abort();
    }
    let freed = async { while upload(&far).await.is_err() {} };
    assert!(tokio::time::timeout(PATIENCE, freed).await.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_a_role_has_one_answer() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("realm");
    let owner = SecretKey::from_seed(&[1; 32]);
    let (node, node_key) = start(&root, &owner).await;
    let request = b"GET /v1/heads HTTP/1.1\r\nhost: a\r\n\r\n";
    let stranger = tls(&node, node_key, &SecretKey::from_seed(&[9; 32]));
    let mut stream = stranger.connect().await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    assert!(tokio::time::timeout(PATIENCE, read).await.is_ok());
    assert!(answer.starts_with(b"HTTP/1.1 401 "));
    node.stop().await;
}
