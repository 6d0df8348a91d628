//! Servers that speak no HTTP are reached on their port through any node that listens for it.

use std::net::TcpListener as StdListener;
use std::time::Duration;

use realm_test_guests as guests;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::realms::Realms;
use crate::support::eventually;

/// Bytes that no window or buffer on the way takes at once.
const LARGE: usize = 10 * 1024 * 1024;
/// Where alpha listens; the server itself has 127.0.0.1, on the same machine.
const THERE: &str = "127.0.0.2";

/// A server on beta, and alpha, which listens on its port.
async fn server() -> (Realms, u16) {
    let more = format!("[listen]\nports = [\"{THERE}\"]\n");
    let mut realms = Realms::in_lab(None, &["alpha"], &more).await;
    realms.add("beta");
    realms.invite(1);
    realms.approve(1, &[]);
    realms.nodes[1].start();
    realms.all_meet().await;
    let free = StdListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    realms.first().realm.guest(guests::BYTES, "bytes.wasm");
    realms.apply(&format!(
        "[components.bytes]\nsource = \"file:bytes.wasm\"\nlisten = {port}\n\n[routing]\n\
         beta = [{{ path = \"/bytes/...\", component = \"bytes\" }}]\n"
    ));
    realms.run_there(&[("bytes", "beta")]).await;
    (realms, port)
}

/// Sends these bytes, says that this is all, and reads what comes.
async fn exchange(port: u16, sent: &[u8]) -> std::io::Result<Vec<u8>> {
    let stream = TcpStream::connect((THERE, port)).await?;
    let (mut read, mut write) = stream.into_split();
    let mut came = Vec::new();
    let writing = async {
        write.write_all(sent).await?;
        write.shutdown().await
    };
    tokio::try_join!(read.read_to_end(&mut came), writing)?;
    Ok(came)
}

/// What the server answers: the bytes, their number, and what they add up to.
fn answer(sent: &[u8]) -> Vec<u8> {
    let add = |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
    let sum = sent.iter().fold(0, add);
    let told = format!("{} {sum}\n", sent.len());
    [sent, told.as_bytes()].concat()
}

async fn answers(port: u16) {
    eventually("alpha carries bytes to beta", async || {
        let came = exchange(port, b"hello").await.ok()?;
        (came == answer(b"hello")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_http_is_reached_on_its_port_through_another_node() {
    let (mut realms, port) = server().await;
    answers(port).await;
    let sent: Vec<u8> = (0..LARGE).map(|at| (at / 7 % 251) as u8).collect();
    let came = exchange(port, &sent).await.unwrap();
    assert!(came == answer(&sent), "{} bytes", came.len());

    // The server ends itself: whoever is connected sees it, and who comes later is served again.
    let mut stream = TcpStream::connect((THERE, port)).await.unwrap();
    stream.write_all(&[255]).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    answers(port).await;

    // The same with its machine, if only later.
    // What beta said of the end travels for a moment.
    let mut stream = eventually("a connection stands", async || {
        let mut stream = TcpStream::connect((THERE, port)).await.ok()?;
        stream.write_all(b"x").await.ok()?;
        stream.read_exact(&mut [0]).await.ok()?;
        Some(stream)
    })
    .await;
    realms.nodes[1].kill_9();
    let closed = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0])).await;
    assert!(matches!(closed, Ok(Err(_))), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_is_an_alarm_until_it_is_free() {
    let (realms, port) = server().await;
    answers(port).await;
    realms.apply("[components]\n[routing]\n");
    eventually("alpha lets go of the port", async || {
        TcpStream::connect((THERE, port)).await.err()
    })
    .await;
    let other = TcpListener::bind((THERE, port)).await.unwrap();
    realms.apply(&format!(
        "[components.bytes]\nsource = \"file:bytes.wasm\"\nlisten = {port}\n\n[routing]\n\
         beta = [{{ path = \"/bytes/...\", component = \"bytes\" }}]\n"
    ));
    for node in &realms.nodes {
        eventually("the alarm is heard", async || {
            (node.alarms().await == ["port-busy"]).then_some(())
        })
        .await;
    }
    drop(other);
    answers(port).await;
    eventually("the alarm ends", async || {
        realms.first().alarms().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_127_0_0_1_a_port_is_left_to_the_server_when_it_comes() {
    let (mut realms, port) = server().await;
    answers(port).await;
    // From now on nobody else has the port of 127.0.0.1 on this machine.
    assert!(realms.nodes[1].take().terminate().success());
    assert!(realms.nodes[0].take().terminate().success());
    realms.nodes[0]
        .realm
        .write(".realm/node.toml", "[listen]\nports = [\"127.0.0.1\"]\n");
    realms.nodes[0].start();
    eventually("alpha listens", async || {
        TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    realms.apply(&format!(
        "[components.bytes]\nsource = \"file:bytes.wasm\"\nlisten = {port}\n\n[routing]\n\
         alpha = [{{ path = \"/bytes/...\", component = \"bytes\" }}]\n"
    ));
    realms.run_there(&[("bytes", "alpha")]).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut came = Vec::new();
    let reading = stream.read_to_end(&mut came);
    let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
    read.expect("it is not busy with another").unwrap();
    assert_eq!(came, answer(b"hello"));
    assert!(realms.first().alarms().await.is_empty());
}
