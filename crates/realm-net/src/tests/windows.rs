//! Answers that nobody reads take the room of no others: the windows of a connection and its streams.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::world::*;
use crate::{Event, Protocol, Transport as _};

/// Requests under way to one node at once, all of them answered and none read.
const UNREAD: usize = 96;
/// A stream that takes nothing for so long takes nothing.
const FULL_AFTER: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_leave_room_for_others() {
    let (a, mut b) = pair().await;
    let (sent, mut come) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = b.events.recv().await {
            if let Event::Stream { incoming, .. } = event {
                let sent = sent.clone();
                tokio::spawn(async move { sent.send(incoming.accept().await.unwrap()) });
            }
        }
    });
    let open = || a.net.open(key(2), Protocol::Tunnel);
    let mut unread = join_all((0..UNREAD).map(|_| open())).await;
    let mut held = Vec::new();
    while held.len() < UNREAD {
        held.push(timeout(PATIENCE, come.recv()).await.unwrap().unwrap());
    }
    let filled = unread.iter_mut().map(|stream| async {
        let stream = stream.as_mut().unwrap();
        let mut bytes = 0;
        while let Ok(written) = timeout(FULL_AFTER, stream.write(&[0; 16 * 1024])).await {
            bytes += written.unwrap();
        }
        bytes
    });
    let filled = join_all(filled).await;
    let most = filled.iter().sum::<usize>();
    assert!(most > 32 * 1024 * 1024, "{filled:?}");

    let mut one = timeout(PATIENCE, open()).await.unwrap().unwrap();
    let mut other = timeout(PATIENCE, come.recv()).await.unwrap().unwrap();
    let question = vec![7; 256 * 1024];
    let asked = async {
        one.write_all(&question).await.unwrap();
        one.flush().await.unwrap();
        one.read_u8().await.unwrap()
    };
    let answered = async {
        let mut read = vec![0; question.len()];
        other.read_exact(&mut read).await.unwrap();
        other.write_u8(read[0]).await.unwrap();
        other.flush().await.unwrap();
    };
    let both = async { tokio::join!(asked, answered) };
    let (answer, ()) = timeout(PATIENCE, both).await.expect("there is room");
    assert_eq!(answer, 7);
    drop((unread, held));
}
