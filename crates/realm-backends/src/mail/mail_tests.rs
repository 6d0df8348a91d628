//! Places and bytes of messages whose sender went away, or whose server is slow.

use std::sync::Weak;
use std::sync::mpsc;

use realm_model::cloud::mail::Mailbox;
use tokio::net::TcpListener;

use super::*;
use crate::watch::Unwatched;

fn mail(n_bytes: usize) -> Mail {
    let mailbox = |address: &str| Mailbox {
        name: None,
        address: address.to_owned(),
    };
    Mail {
        from: mailbox("shop@example.org"),
        to: vec![mailbox("ann@example.net")],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: None,
        subject: "Hello".to_owned(),
        text: Some("x".repeat(n_bytes)),
        html: None,
        attachments: Vec::new(),
        headers: Vec::new(),
    }
}

fn smtp(port: u16) -> Smtp {
    let settings = SmtpSettings {
        host: "127.0.0.1".to_owned(),
        port,
        security: Security::Plain,
        senders: vec!["shop@example.org".to_owned()],
        access: Access {
            user: None,
            password: None,
            authorities: None,
            prefix: String::new(),
        },
    };
    Smtp::new(settings, Arc::new(Unwatched)).unwrap()
}

/// Something held, and whether it still is.
fn held() -> (Held, Weak<()>) {
    let held = Arc::new(());
    let seen = Arc::downgrade(&held);
    (Box::new(held), seen)
}

async fn until(done: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(tokio::time::Instant::now() < end, "it does not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_message_whose_sender_went_away_is_counted_until_its_bytes_are_gone() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (go, wait) = mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv());
        let smtp = smtp(9);
        let (held, seen) = held();
        let mut sending = smtp.send_holding(mail(1_000), held);
        // Far enough that it waits to be written down.
        let begun = async {
            tokio::select! {
                biased;
                _ = &mut sending => panic!("nobody is there to write it"),
                () = until(|| smtp.room.available_permits() < AT_ONCE_MAX) => {}
            }
            tokio::task::yield_now().await;
        };
        begun.await;
        drop(sending);
        assert_eq!(smtp.room.available_permits(), AT_ONCE_MAX - 1);
        assert!(seen.upgrade().is_some(), "its bytes are still there");
        go.send(()).unwrap();
        _ = busy.await;
        until(|| seen.upgrade().is_none()).await;
        assert_eq!(smtp.room.available_permits(), AT_ONCE_MAX);
    });
}

#[tokio::test]
async fn a_small_message_goes_on_its_way_beside_large_ones() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let smtp = smtp(listener.local_addr().unwrap().port());
    let large = (0..AT_ONCE_MAX).map(|_| smtp.send(mail(LARGE_MAIL_BYTES + 1)));
    let all = futures_util::future::join_all(large);
    let n_connections = async {
        let mut taken = Vec::new();
        for _ in 0..LARGE_AT_ONCE_MAX {
            taken.push(listener.accept().await.unwrap());
        }
        // The others of them wait, and not in a place.
        assert_eq!(
            smtp.room.available_permits(),
            AT_ONCE_MAX - LARGE_AT_ONCE_MAX
        );
        let small = smtp.send(mail(10));
        tokio::select! {
            _ = small => panic!("nobody answers it"),
            third = listener.accept() => taken.push(third.unwrap()),
        }
        taken.len()
    };
    tokio::select! {
        biased;
        n = n_connections => assert_eq!(n, LARGE_AT_ONCE_MAX + 1),
        _ = all => panic!("nobody answers them"),
    }
}
