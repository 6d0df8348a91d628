//! A close that does not swallow the last answer: what the client still sends is read and dropped for
//! a while, since a socket that is closed with bytes unread resets. Not whether that is needed.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::connection::{Connection, Order};

/// How long a closing connection reads on, so that its client sees the answer and not a reset.
const TIMEOUT: Duration = Duration::from_secs(2);
/// And how much: as much as a component takes by default, so that whoever sends such a body and
/// gets its answer early can read it.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// At once. On the heap: most connections never come to this.
const READ_BYTES: usize = 16 * 1024;
/// Of all closing connections together: a line of a gigabit. What nobody wants is not read as fast as a
/// machine can, while requests wait; whoever sends it waits instead.
const BYTES_PER_S: u32 = 128 * 1024 * 1024;
/// What is read ahead of that: single ones do not wait.
const BURST: Duration = Duration::from_millis(20);

/// The pace of all closing connections of a listener.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When what was read so far would have been read at that pace.
    even_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Counts bytes that were read; gives when the next ones may be.
    fn read(&self, bytes: usize, now: Instant) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / f64::from(BYTES_PER_S));
        let mut even_at = self.even_at.lock().unwrap_or_else(PoisonError::into_inner);
        let from = even_at.unwrap_or(now).max(now);
        let next = from + takes;
        *even_at = Some(next);
        next.checked_sub(BURST).unwrap_or(now).max(now)
    }
}

/// Says that nothing follows, and reads until the client says so as well.
pub(crate) async fn linger(pace: &Pace, connection: &Connection, stream: &mut TcpStream) {
    let reading = async {
        let _ = stream.shutdown().await;
        let mut unread = vec![0; READ_BYTES];
        let mut n_read = 0;
        while n_read < BYTES_MAX {
            let count = match stream.read(&mut unread).await {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            n_read += count;
            let now = Instant::now();
            let next = pace.read(count, now);
            if next > now {
                sleep_until(next).await;
            } else {
                // Else many are read for milliseconds at a time, while requests wait for the thread.
                yield_now().await;
            }
        }
    };
    let cut = poll_fn(|context| match connection.poll_order(context) {
        Order::Serve | Order::Drain => Poll::Pending,
        Order::Evict | Order::Cut => Poll::Ready(()),
    });
    tokio::select! {
        () = reading => {}
        () = cut => {}
        () = sleep(TIMEOUT) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;

    /// A closing connection, and a client that has sent what its socket takes and went away.
    async fn closing() -> (Connection, TcpStream, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        client.writable().await.unwrap();
        let mut n_sent = 0;
        while let Ok(count) = client.try_write(&[0; 4096]) {
            n_sent += count;
        }
        (Connection::new(peer, address, |_| false), stream, n_sent)
    }

    #[tokio::test]
    async fn a_closing_connection_lets_others_run_between_two_reads() {
        let (connection, mut stream, n_sent) = closing().await;
        let mut n_turns = 0;
        let others = async {
            loop {
                n_turns += 1;
                yield_now().await;
            }
        };
        let pace = Pace::default();
        tokio::select! {
            () = linger(&pace, &connection, &mut stream) => {}
            () = others => {}
        }
        let n_read = n_sent.min(BYTES_MAX);
        assert!(
            n_turns >= n_read / READ_BYTES,
            "{n_turns} turns, {n_read} bytes"
        );
    }

    #[tokio::test]
    async fn many_that_close_are_read_at_one_pace() {
        let pace = Arc::new(Pace::default());
        let (mut lingering, mut n_sent) = (Vec::new(), 0);
        for _ in 0..16 {
            let (connection, mut stream, sent) = closing().await;
            n_sent += sent;
            let pace = Arc::clone(&pace);
            lingering.push(async move { linger(&pace, &connection, &mut stream).await });
        }
        let began = Instant::now();
        futures_util::future::join_all(lingering).await;
        let least = n_sent as f64 / f64::from(BYTES_PER_S) - BURST.as_secs_f64();
        let took = began.elapsed().as_secs_f64();
        assert!(took >= least, "{n_sent} bytes were read in {took} s");
        // And all of it, rather than until the time is over.
        assert!(took < TIMEOUT.as_secs_f64(), "{took} s for {n_sent} bytes");
    }

    #[test]
    fn a_pace_allows_a_burst_and_forgets_what_is_long_ago() {
        let pace = Pace::default();
        let now = Instant::now();
        let burst = (f64::from(BYTES_PER_S) * BURST.as_secs_f64()) as usize;
        assert_eq!(pace.read(burst, now), now);
        let next = pace.read(burst, now);
        assert!((next - now).abs_diff(BURST) < Duration::from_micros(1));
        let later = now + Duration::from_secs(5);
        assert_eq!(pace.read(burst, later), later);
    }
}
