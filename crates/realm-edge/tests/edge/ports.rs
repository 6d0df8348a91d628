//! Connections of bytes to servers here and on other nodes: two edges in one process, and streams in
//! memory between them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use realm_edge::{
    Backend, BoxFuture, Dial, Far, Handle, Io, Line, Port, PortTrouble, Table, Upstream,
    UpstreamLimits,
};
use realm_model::name::ComponentName;
use realm_model::route::{PathPattern, Route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Rig, named, sockets, soon};

/// Bytes that no window or buffer on the way takes at once.
const LARGE: usize = 10 * 1024 * 1024;

/// A node at the end of streams in memory, whose bytes on their way back are counted.
struct Node {
    edge: Handle,
    came: Arc<AtomicU64>,
}

impl Dial for Node {
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        // As much as a stream between nodes may hold.
        let ((near, out), (back, far)) = (tokio::io::duplex(1 << 20), tokio::io::duplex(1 << 20));
        self.edge.serve_node(far, sockets());
        let came = Arc::clone(&self.came);
        tokio::spawn(async move {
            let (mut out_read, mut out_write) = tokio::io::split(out);
            let (mut back_read, mut back_write) = tokio::io::split(back);
            let there = async {
                let _ = tokio::io::copy(&mut out_read, &mut back_write).await;
                let _ = back_write.shutdown().await;
            };
            let here = async {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = back_read.read(&mut buffer).await {
                    came.fetch_add(count as u64, Relaxed);
                    if out_write.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
                let _ = out_write.shutdown().await;
            };
            tokio::join!(there, here);
        });
        Box::pin(async { Ok(Box::new(near) as Box<dyn Io>) })
    }
}

fn app() -> ComponentName {
    "app".parse().expect("a name")
}

fn table(here: Vec<Arc<dyn Backend>>, others: Vec<Far>) -> Table {
    let route = Route {
        host: None,
        path: PathPattern::Prefix(String::new()),
        component: app(),
        weights: [].into(),
    };
    Table::with_others(
        vec![route],
        [(app(), here)].into(),
        [(app(), others)].into(),
        [].into(),
    )
}

/// A server at this address, with so many places.
fn server(address: SocketAddr, concurrency_max: u32) -> Arc<dyn Backend> {
    let limits = UpstreamLimits {
        concurrency_max,
        wall_timeout: Duration::from_secs(5),
        request_bytes_max: 1,
        response_bytes_max: None,
        websocket_idle: Duration::from_secs(60),
        takes_connections: true,
    };
    Arc::new(Upstream::new(address, limits))
}

/// Gives every byte back, and counts them once the client has said all.
async fn echo() -> SocketAddr {
    serve(|mut stream| async move {
        let (mut buffer, mut count) = (vec![0; 64 * 1024], 0);
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            count += read;
            if stream.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
        let _ = stream.write_all(format!("{count}\n").as_bytes()).await;
    })
    .await
}

pub(crate) async fn serve<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

/// A node where clients connect with a port, and the one that has the server.
pub(crate) struct Pair {
    pub(crate) near: Rig,
    far: Rig,
    line: Arc<Line>,
    port: SocketAddr,
    came: Arc<AtomicU64>,
}

impl Pair {
    pub(crate) async fn of(backend: Arc<dyn Backend>) -> Self {
        let (near, far) = (
            Rig::with_config(Vec::new(), |_| {}).await,
            Rig::with_config(Vec::new(), |_| {}).await,
        );
        far.handle.set_table(table(vec![backend], Vec::new()));
        let came = Arc::<AtomicU64>::default();
        let node = Node {
            edge: far.handle.clone(),
            came: Arc::clone(&came),
        };
        let line = Line::new("far".parse().expect("a name"), Box::new(node));
        let way = Far::new(Arc::clone(&line), app(), 0);
        near.handle.set_table(table(Vec::new(), vec![way]));
        let port = listened(&near);
        Self {
            near,
            far,
            line,
            port,
            came,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.port).await.expect("it listens")
    }
}

/// A port on which a node listens for `app`.
fn listened(rig: &Rig) -> SocketAddr {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let component = app();
    let troubles = rig.handle.set_ports(vec![Port { address, component }]);
    assert_eq!(troubles, []);
    address
}

/// Sends much, ends its side, and reads all.
async fn exchange(stream: TcpStream) {
    let sent: Vec<u8> = (0..LARGE).map(|at| (at / 7 % 251) as u8).collect();
    let (mut read, mut write) = stream.into_split();
    let writing = async {
        write.write_all(&sent).await.expect("sent");
        write.shutdown().await.expect("ended");
    };
    let mut came = Vec::new();
    let (read, ()) = tokio::join!(read.read_to_end(&mut came), writing);
    read.expect("read");
    let (echoed, count) = came.split_at(LARGE);
    assert!(echoed == sent, "the same bytes come back");
    assert_eq!(count, format!("{LARGE}\n").as_bytes());
}

/// Reads until the connection ends or breaks.
async fn ends(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut came = Vec::new();
    soon(stream.read_to_end(&mut came)).await?;
    Ok(came)
}

#[tokio::test]
async fn bytes_go_to_a_server_here_or_elsewhere_and_back_with_both_ends() {
    let address = echo().await;
    let pair = Pair::of(server(address, 8)).await;
    soon(exchange(pair.connect().await)).await;
    assert!(pair.came.load(Relaxed) > LARGE as u64);
    // What is here is asked first.
    let before = pair.came.load(Relaxed);
    let way = Far::new(Arc::clone(&pair.line), app(), 0);
    pair.near
        .handle
        .set_table(table(vec![server(address, 8)], vec![way]));
    soon(exchange(pair.connect().await)).await;
    assert_eq!(pair.came.load(Relaxed), before);
}

#[tokio::test]
async fn a_server_that_goes_closes_the_connection_and_one_that_breaks_breaks_it() {
    // What it was sent is unread: the system says so with a reset.
    let leaves = serve(|mut stream| async move {
        let _ = stream.read_u8().await;
    });
    let pair = Pair::of(server(leaves.await, 8)).await;
    let mut stream = pair.connect().await;
    stream.write_all(b"hello").await.expect("sent");
    let error = ends(&mut stream).await.expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let says_all = serve(|mut stream| async move {
        let _ = stream.write_all(b"bye").await;
    });
    let pair = Pair::of(server(says_all.await, 8)).await;
    assert_eq!(
        ends(&mut pair.connect().await).await.expect("an end"),
        b"bye"
    );
}

#[tokio::test]
async fn a_client_that_breaks_is_no_client_that_ended() {
    let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let listens = serve(move |mut stream| {
        let told = told.clone();
        async move {
            let read = stream.read_to_end(&mut Vec::new()).await;
            let _ = told.send(read.map_err(|error| error.kind()));
        }
    });
    let pair = Pair::of(server(listens.await, 8)).await;
    let mut stream = pair.connect().await;
    stream.write_all(b"half of").await.expect("sent");
    stream.set_zero_linger().expect("a socket");
    drop(stream);
    let read = soon(ended.recv()).await.expect("the server lives");
    assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn who_reads_nothing_fills_no_more_than_a_window() {
    let gushes =
        serve(|mut stream| async move { while stream.write_all(&[7; 64 * 1024]).await.is_ok() {} });
    let pair = Pair::of(server(gushes.await, 8)).await;
    let mut stream = pair.connect().await;
    let mut byte = [0];
    soon(stream.read_exact(&mut byte)).await.expect("it gushes");
    // Until nothing comes any more.
    let mut last = 0;
    soon(async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let came = pair.came.load(Relaxed);
            if came == last {
                return;
            }
            last = came;
        }
    })
    .await;
    let read = stream.peek(&mut vec![0; 64 << 20]).await.expect("bytes");
    // What the client's own socket took was given on.
    let sockets = 16 << 20;
    assert!(
        last < sockets + (512 << 10),
        "{last} came, {read} are there"
    );
    // The stream itself is read at all times: what another one needs is not behind it.
    let mut rest = 0;
    let mut buffer = vec![0; 1 << 20];
    while rest < 8 << 20 {
        rest += soon(stream.read(&mut buffer)).await.expect("it goes on");
    }
}

#[tokio::test]
async fn connections_count_among_the_requests_of_a_component() {
    let pair = Pair::of(server(echo().await, 2)).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = pair.connect().await;
        stream.write_all(b"x").await.expect("sent");
        let mut byte = [0];
        soon(stream.read_exact(&mut byte)).await.expect("an echo");
        kept.push(stream);
    }
    let error = ends(&mut pair.connect().await).await.expect_err("no room");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    kept.clear();
    // The places are given back.
    soon(async {
        loop {
            let mut stream = pair.connect().await;
            let mut byte = [0];
            let asked = stream.write_all(b"x").await;
            if asked.is_ok() && stream.read_exact(&mut byte).await.is_ok() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn where_nobody_takes_bytes_the_connection_is_refused() {
    // A component that answers requests alone, and one without any replica.
    for backends in [vec![named("app")], Vec::new()] {
        let pair = Pair::of(named("app")).await;
        pair.far.handle.set_table(table(backends, Vec::new()));
        let error = ends(&mut pair.connect().await).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn of_two_nodes_the_one_that_takes_bytes_is_asked() {
    let pair = Pair::of(server(echo().await, 8)).await;
    let old = Rig::new(named("app")).await;
    let node = Node {
        edge: old.handle.clone(),
        came: Arc::default(),
    };
    let line = Line::new("old".parse().expect("a name"), Box::new(node));
    let ways = vec![
        Far::new(line, app(), 0),
        Far::new(Arc::clone(&pair.line), app(), 1),
    ];
    pair.near.handle.set_table(table(Vec::new(), ways));
    soon(exchange(pair.connect().await)).await;
}

#[tokio::test]
async fn a_port_that_cannot_be_had_is_told_and_had_later() {
    let rig = Rig::with_config(Vec::new(), |_| {}).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address");
    let port = |component: &str| Port {
        address,
        component: component.parse().expect("a name"),
    };
    let told = |troubles: Vec<PortTrouble>| -> Vec<_> {
        troubles.into_iter().map(|one| one.port).collect()
    };
    assert_eq!(told(rig.handle.set_ports(vec![port("app")])), [port("app")]);
    drop(taken);
    // Of two the first one has it.
    let both = || vec![port("app"), port("other")];
    assert_eq!(told(rig.handle.set_ports(both())), [port("other")]);
    assert_eq!(told(rig.handle.set_ports(both())), [port("other")]);
    // What is not wanted is let go.
    assert_eq!(rig.handle.set_ports(Vec::new()), []);
    soon(async {
        while TcpListener::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_end_with_the_grace_of_the_node_that_has_the_server() {
    let pair = Pair::of(server(echo().await, 8)).await;
    let mut stream = pair.connect().await;
    let mut byte = [0];
    stream.write_all(b"x").await.expect("sent");
    soon(stream.read_exact(&mut byte)).await.expect("an echo");
    let handle = pair.far.handle.clone();
    let ending = tokio::spawn(async move { handle.shutdown(Duration::from_secs(1)).await });
    // It goes on meanwhile.
    soon(async {
        while pair.far.handle.takes_nodes() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stream.write_all(b"y").await.expect("sent");
    soon(stream.read_exact(&mut byte)).await.expect("an echo");
    assert_eq!(&byte, b"y");
    let error = ends(&mut stream).await.expect_err("it is cut");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    soon(ending).await.expect("no panic");
}

#[tokio::test]
async fn a_server_that_takes_one_after_the_other_is_not_kept_busy_by_a_question() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut came = Vec::new();
            let _ = stream.read_to_end(&mut came).await;
            let _ = stream.write_all(&came).await;
        }
    });
    let limits = UpstreamLimits {
        concurrency_max: 2,
        wall_timeout: Duration::from_secs(5),
        request_bytes_max: 1,
        response_bytes_max: None,
        websocket_idle: Duration::from_secs(60),
        takes_connections: true,
    };
    let upstream = Upstream::new(address, limits);
    // The connection is kept for the first request.
    upstream.reach().await.expect("it listens");
    let pair = Pair::of(Arc::new(upstream)).await;
    let mut stream = pair.connect().await;
    stream.write_all(b"hello").await.expect("sent");
    stream.shutdown().await.expect("ended");
    assert_eq!(ends(&mut stream).await.expect("an echo"), b"hello");
}
