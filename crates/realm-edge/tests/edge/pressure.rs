//! What waits of a connection over FastCGI: of answers that a web server does not take, of bodies that a
//! component does not read. Who sends is stopped, and goes on where there is room again.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use realm_edge::fastcgi::Limits;
use realm_edge::{Backend, BoxError};
use tokio::io::AsyncWriteExt as _;

use crate::fastcgi::{KEEP, RESPONDER, STDIN, STDOUT, Server};
use crate::support::{Rig, backend, soon, text};

/// What the streams in memory hold in each direction.
pub(crate) const STREAM_BYTES: usize = 64 * 1024;
/// What is in the hands of those who move it: a piece that is being written, one that waits for its place,
/// and what a body has ready.
const MOVING_BYTES: usize = 192 * 1024;

/// A web server with limits of its own.
pub(crate) fn server(rig: &Rig, limits: Limits) -> Server {
    let (near, far) = tokio::io::duplex(STREAM_BYTES);
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    rig.handle.serve_fastcgi(far, limits, here);
    Server(near)
}

/// What a count comes to: it has not moved at many looks, at each of which all others had a turn.
pub(crate) async fn settled(count: &AtomicUsize) -> usize {
    let began = Instant::now();
    let (mut before, mut still) = (0, 0);
    while still < 20 {
        assert!(began.elapsed() < Duration::from_secs(60), "it never rests");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let seen = count.load(Relaxed);
        still = match seen == before && seen > 0 {
            true => still + 1,
            false => 0,
        };
        before = seen;
    }
    before
}

const FRAME_BYTES: usize = 16 * 1024;
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// A body that always has more, and counts what is taken of it.
struct Counted {
    taken: Arc<AtomicUsize>,
    left: usize,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= FRAME_BYTES;
        self.taken.fetch_add(FRAME_BYTES, Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![7; FRAME_BYTES])))))
    }
}

fn talks(taken: &Arc<AtomicUsize>) -> Arc<dyn Backend> {
    let taken = Arc::clone(taken);
    backend(move |request| {
        let taken = Arc::clone(&taken);
        async move {
            if request.uri().path() == "/short" {
                return Ok(Response::new(text("short")));
            }
            let left = ANSWER_BYTES;
            Ok(Response::new(Counted { taken, left }.boxed_unsync()))
        }
    })
}

#[tokio::test]
async fn who_does_not_read_stops_the_guest_and_who_reads_on_lets_it_go_on() {
    for waiting in [32 * 1024, 2 * 1024 * 1024] {
        let taken = Arc::default();
        let rig = Rig::new(talks(&taken)).await;
        let limits = Limits {
            stdout_waiting_bytes_max: waiting,
            ..Limits::default()
        };
        let mut slow = server(&rig, limits);
        slow.begin(1, RESPONDER, KEEP, &[]).await;
        slow.body(1, b"").await;
        let at_rest = settled(&taken).await;
        let expected = waiting..=waiting + STREAM_BYTES + MOVING_BYTES;
        assert!(expected.contains(&at_rest), "{at_rest} of {expected:?}");
        // Others of the node are answered meanwhile.
        let mut other = server(&rig, limits);
        let short = [("REQUEST_URI", "/short")];
        other.begin(1, RESPONDER, KEEP, &short).await;
        other.body(1, b"").await;
        assert!(other.came(1).await.answer.ends_with("short"));
        // A quarter of it is taken, and as much comes after.
        let mut came = 0;
        while came < ANSWER_BYTES / 4 {
            let (kind, _, content) = slow.next().await.expect("it goes on");
            assert_eq!(kind, STDOUT);
            came += content.len();
        }
        let later = settled(&taken).await;
        let most = came + waiting + STREAM_BYTES + MOVING_BYTES;
        assert!((came - 1024..=most).contains(&later), "{later} of {most}");
        // And all of it in the end.
        let rest = slow.came(1).await;
        assert!(rest.has_ended && !rest.is_broken);
        assert!(came + rest.answer.len() > ANSWER_BYTES);
        assert_eq!(taken.load(Relaxed), ANSWER_BYTES);
    }
}

#[tokio::test]
async fn so_much_of_a_body_waits_as_the_limit_says() {
    for waiting in [16 * 1024, 4 * 1024 * 1024] {
        let (go, wait) = tokio::sync::watch::channel(false);
        let lazy = backend(move |request| {
            let mut wait = wait.clone();
            async move {
                let _ = wait.wait_for(|go| *go).await;
                let body = request.into_body().collect().await.expect("a body");
                Ok(Response::new(text(body.to_bytes().len().to_string())))
            }
        });
        let rig = Rig::new(lazy).await;
        let limits = Limits {
            stdin_waiting_bytes_max: waiting,
            ..Limits::default()
        };
        let mut server = server(&rig, limits);
        server.begin(1, RESPONDER, KEEP, &[]).await;
        let (read, mut write) = tokio::io::split(server.0);
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let sending = tokio::spawn(async move {
            let record = [&[1, STDIN, 0, 1, 0x40, 0, 0, 0][..], &[7; 0x4000]].concat();
            for _ in 0..512 {
                write.write_all(&record).await.expect("it is taken");
                count.fetch_add(0x4000, Relaxed);
            }
            let end = [1, STDIN, 0, 1, 0, 0, 0, 0];
            write.write_all(&end).await.expect("it is taken");
            write
        });
        let at_rest = settled(&sent).await;
        // A part is as long as what was read at once, and where a record ends there are two.
        let expected = waiting / 4..=waiting + STREAM_BYTES + MOVING_BYTES;
        assert!(expected.contains(&at_rest), "{at_rest} of {expected:?}");
        go.send_replace(true);
        let write = soon(sending).await.expect("no panic");
        let mut server = Server(read.unsplit(write));
        let came = server.came(1).await;
        assert!(came.answer.ends_with("\r\n\r\n8388608"), "{came:?}");
    }
}
