//! The bytes of a WebSocket on their way between a client and a server, in both directions, as fast as
//! whoever reads more slowly: nothing is kept but what one read brings.
//!
//! Who has to let go says so to the client in its own protocol, between two frames: closed with 1001
//! ("going away"), it connects anew. Where no such place comes in time, the connection just ends.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::frames::{Frames, close};
use super::{Server, Switched, Terms, Told, WebSocket};
use crate::pulse::now_ms;
use crate::table::random_below;
use crate::upstream::Io;

/// Bytes of one read: what one direction costs in memory beside the kernel's part.
const READ_BYTES: usize = 16 * 1024;
/// A server that takes no more is left by each client at a moment of its own within this time, so that
/// not all connect anew at once: well within the time that a drain has.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
/// How long one side may take to say its last words after the other has.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// RFC 6455 §7.4.1: "going away", such as a server going down.
const GOING_AWAY: u16 = 1001;

/// Why a client is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The server is replaced, or leaves this node.
    Replaced,
    /// There was no byte for too long.
    Idle,
    /// The node stops.
    Stops,
}

impl Gone {
    const fn words(self) -> &'static str {
        match self {
            Self::Replaced => "the server is replaced, connect again",
            Self::Idle => "idle for too long",
            Self::Stops => "the node stops, connect again",
        }
    }
}

/// Carries until one side has ended, or somebody lets go: the server, whoever `leave` stands for, or
/// time.
pub(crate) async fn carry(
    client: impl Io,
    switched: Switched,
    leave: impl Future<Output = Gone>,
    told: Option<&Told>,
) {
    let Some(Server { io: server, terms }) = switched.take() else {
        return;
    };
    let Terms {
        leaves,
        idle_max,
        place: _place,
    } = terms;
    let seen = AtomicU64::new(now_ms());
    let go = async {
        tokio::select! {
            gone = leave => gone,
            gone = replaced(&leaves) => gone,
            gone = idle(&seen, idle_max) => gone,
        }
    };
    let both = both(client, server, go, &seen, told);
    tokio::select! {
        ended = both => if let Err(error) = ended {
            tracing::debug!(%error, "a websocket broke");
        },
        () = switched.0.cut.cancelled() => {}
    }
}

async fn replaced(leaves: &CancellationToken) -> Gone {
    leaves.cancelled().await;
    let within_ms = usize::try_from(LEAVE_WITHIN.as_millis()).unwrap_or(usize::MAX);
    sleep(Duration::from_millis(random_below(within_ms) as u64)).await;
    Gone::Replaced
}

async fn idle(seen: &AtomicU64, idle_max: Option<Duration>) -> Gone {
    let Some(idle_max) = idle_max else {
        return std::future::pending().await;
    };
    loop {
        let idle = Duration::from_millis(now_ms().saturating_sub(seen.load(Relaxed)));
        match idle_max.checked_sub(idle) {
            Some(left) if !left.is_zero() => sleep(left).await,
            Some(_) | None => return Gone::Idle,
        }
    }
}

async fn both(
    client: impl Io,
    server: impl Io,
    go: impl Future<Output = Gone>,
    seen: &AtomicU64,
    told: Option<&Told>,
) -> io::Result<()> {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    let tell = |bytes_in: usize, bytes_out: usize| {
        seen.store(now_ms(), Relaxed);
        if let Some(told) = told {
            told.tell(WebSocket::Carried {
                bytes_in: bytes_in as u64,
                bytes_out: bytes_out as u64,
            });
        }
    };
    let mut up = std::pin::pin!(up(from_client, to_server, |count| tell(count, 0)));
    let mut down = std::pin::pin!(down(from_server, to_client, go, |count| tell(0, count)));
    // Who has nothing more to say is answered, or has heard that it is over.
    let rest = tokio::select! {
        ended = up.as_mut() => {
            ended?;
            timeout(LAST_WORDS_MAX, down).await
        }
        ended = down.as_mut() => {
            ended?;
            timeout(LAST_WORDS_MAX, up).await
        }
    };
    rest.unwrap_or(Ok(()))
}

/// From the client to the server.
async fn up(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    tell: impl Fn(usize),
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
        tell(count);
    }
}

/// From the server to the client, and the last word if it is time to go.
async fn down(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    go: impl Future<Output = Gone>,
    tell: impl Fn(usize),
) -> io::Result<()> {
    let mut go = pin!(go);
    let (mut frames, mut buffer) = (Frames::default(), vec![0; READ_BYTES]);
    let gone = loop {
        tokio::select! {
            read = from.read(&mut buffer) => {
                let count = read?;
                if count == 0 {
                    let ended = timeout(LAST_WORDS_MAX, to.shutdown());
                    return ended.await.unwrap_or(Ok(()));
                }
                let mut passing = pin!(pass(&mut to, &mut frames, &buffer[..count], &tell));
                tokio::select! {
                    biased;
                    passed = passing.as_mut() => passed?,
                    gone = go.as_mut() => match timeout(LAST_WORDS_MAX, passing).await {
                        Ok(passed) => {
                            passed?;
                            break gone;
                        }
                        // A client that does not read: there is no place for a word.
                        Err(_) => return Ok(()),
                    },
                }
            }
            gone = go.as_mut() => break gone,
        }
    };
    // The frame that is under way comes to its end, or there is no place for another one.
    let ending = async {
        while !frames.is_between() && !frames.is_closed() {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            pass(&mut to, &mut frames, &buffer[..count], &tell).await?;
        }
        io::Result::Ok(())
    };
    let _ = timeout(LAST_WORDS_MAX, ending).await;
    let words = async {
        if frames.is_between() {
            to.write_all(&close(GOING_AWAY, gone.words())).await?;
        }
        to.shutdown().await
    };
    timeout(LAST_WORDS_MAX, words).await.unwrap_or(Ok(()))
}

async fn pass(
    to: &mut (impl AsyncWrite + Unpin),
    frames: &mut Frames,
    bytes: &[u8],
    tell: impl Fn(usize),
) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await?;
    frames.saw(bytes);
    tell(bytes.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;
    use tokio::sync::oneshot;

    use super::*;
    use crate::upstream::Room;

    /// The two outer ends, and what makes it end.
    struct Rig {
        client: DuplexStream,
        server: DuplexStream,
        leave: oneshot::Sender<Gone>,
        leaves: CancellationToken,
        carried: tokio::task::JoinHandle<()>,
        room: Room,
        switched: Switched,
    }

    async fn rig(idle_max: Option<Duration>) -> Rig {
        let (client, inner_client) = tokio::io::duplex(1_000);
        let (server, inner_server) = tokio::io::duplex(1_000);
        let (leave, told) = oneshot::channel();
        let leaves = CancellationToken::new();
        let room = Room::new(1);
        let terms = Terms {
            leaves: leaves.clone(),
            idle_max,
            place: Box::new(room.admit().await.unwrap()),
        };
        let io: Box<dyn Io> = Box::new(inner_server);
        let switched = Switched::new(Server { io, terms });
        let leaving = async move {
            match told.await {
                Ok(gone) => gone,
                Err(_) => std::future::pending().await,
            }
        };
        let carrying = switched.clone();
        let carried = tokio::spawn(async move {
            carry(inner_client, carrying, leaving, None).await;
        });
        Rig {
            client,
            server,
            leave,
            leaves,
            carried,
            room,
            switched,
        }
    }

    async fn hears(from: &mut DuplexStream) -> Vec<u8> {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_and_an_end_ends_both() {
        let mut rig = rig(None).await;
        rig.client.write_all(b"\x81\x82abcdhi").await.unwrap();
        rig.server.write_all(b"\x81\x03abc").await.unwrap();
        let (mut up, mut down) = ([0; 8], [0; 5]);
        rig.server.read_exact(&mut up).await.unwrap();
        rig.client.read_exact(&mut down).await.unwrap();
        assert_eq!(
            (&up[..], &down[..]),
            (&b"\x81\x82abcdhi"[..], &b"\x81\x03abc"[..])
        );
        assert_eq!(rig.room.in_flight(), 1);
        drop(rig.server);
        assert_eq!(hears(&mut rig.client).await, b"");
        drop(rig.client);
        rig.carried.await.unwrap();
        assert_eq!(rig.room.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_word_is_said_between_two_frames() {
        for (first, rest) in [
            (&b""[..], &b""[..]),
            (b"\x82\x04ab", b"cd"),
            (b"\x82", b"\x00"),
        ] {
            let mut rig = rig(None).await;
            rig.server.write_all(first).await.unwrap();
            let mut heard = vec![0; first.len()];
            rig.client.read_exact(&mut heard).await.unwrap();
            rig.leave.send(Gone::Stops).unwrap();
            rig.server.write_all(rest).await.unwrap();
            let words = close(GOING_AWAY, Gone::Stops.words());
            assert_eq!(hears(&mut rig.client).await, [rest, &words].concat());
            // What the client answers is heard.
            rig.client.write_all(b"\x88\x80mask").await.unwrap();
            drop(rig.client);
            assert_eq!(hears(&mut rig.server).await, b"\x88\x80mask");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_frame_ends_nothing_is_said() {
        let mut rig = rig(None).await;
        let mut heard = [0; 4];
        rig.server.write_all(b"\x82\x04ab").await.unwrap();
        rig.client.read_exact(&mut heard).await.unwrap();
        rig.leave.send(Gone::Stops).unwrap();
        assert_eq!(hears(&mut rig.client).await, b"");
        tokio::time::timeout(LAST_WORDS_MAX * 2, rig.carried)
            .await
            .unwrap()
            .unwrap();
        let mut closed = self::rig(None).await;
        closed.server.write_all(b"\x88\x00").await.unwrap();
        closed.client.read_exact(&mut heard[..2]).await.unwrap();
        closed.leave.send(Gone::Stops).unwrap();
        assert_eq!(hears(&mut closed.client).await, b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_leaves_is_left_in_time_and_silence_ends() {
        let mut rig = rig(None).await;
        rig.leaves.cancel();
        let words = close(GOING_AWAY, Gone::Replaced.words());
        let heard = timeout(LEAVE_WITHIN + LAST_WORDS_MAX, hears(&mut rig.client)).await;
        assert_eq!(heard.unwrap(), words);

        let mut rig = self::rig(Some(Duration::from_millis(50))).await;
        let words = close(GOING_AWAY, Gone::Idle.words());
        assert_eq!(hears(&mut rig.client).await, words);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_left_in_time_all_the_same() {
        // In the middle of a frame; and at its end, which takes all the room that there is.
        let whole = [&[0x82, 126, 0x03, 0xe4][..], &[0; 996]].concat();
        for sent in [vec![0; 1_000_000], whole] {
            let mut rig = rig(None).await;
            let sending = timeout(Duration::from_secs(1), rig.server.write_all(&sent));
            let _ = sending.await;
            rig.leave.send(Gone::Stops).unwrap();
            let ended = timeout(LAST_WORDS_MAX * 4, rig.carried).await;
            ended.expect("it is left").unwrap();
            assert_eq!(rig.room.in_flight(), 0);
        }
    }

    /// A slow client gets the frame that is under way, and the last word.
    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_hears_the_last_word() {
        let mut rig = rig(None).await;
        let frame = [&[0x82, 126, 0x09, 0x60][..], &[7; 2_400]].concat();
        let sending = timeout(Duration::from_secs(1), rig.server.write_all(&frame));
        sending.await.unwrap().unwrap();
        rig.leave.send(Gone::Stops).unwrap();
        sleep(Duration::from_secs(1)).await;
        let words = close(GOING_AWAY, Gone::Stops.words());
        assert_eq!(hears(&mut rig.client).await, [frame, words].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_stops_the_other_and_is_cut_at_once() {
        let mut rig = rig(None).await;
        let flood = vec![0; 1_000_000];
        let sent = timeout(Duration::from_secs(1), rig.server.write_all(&flood)).await;
        assert!(sent.is_err(), "it waits");
        let (over, is_over) = oneshot::channel::<()>();
        rig.switched.until(async {
            let _ = is_over.await;
        });
        over.send(()).unwrap();
        rig.carried.await.unwrap();
        assert_eq!(rig.room.in_flight(), 0);
    }
}
