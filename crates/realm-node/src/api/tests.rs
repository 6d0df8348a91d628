//! Streams of the control API, without a connection.

use realm_model::api::LogStream;

use super::*;

#[tokio::test]
async fn a_log_stream_ends_with_the_right_to_read_it() {
    let component = "app".parse().unwrap();
    let ring = Rings::default().ring(&component);
    let (revoke, revoked) = oneshot::channel();
    let follow = LogQuery {
        since: 0,
        follow: true,
    };
    let gone = async move {
        let _ = revoked.await;
    };
    let lines = log_stream(Arc::clone(&ring), follow, gone);
    let mut lines = std::pin::pin!(lines);
    ring.push(0, LogStream::Stdout, "before".to_owned());
    assert!(lines.next().await.is_some());
    let (after, ()) = tokio::join!(lines.next(), async { revoke.send(()).unwrap() });
    assert_eq!(after, None);
    ring.push(0, LogStream::Stdout, "after".to_owned());
    assert_eq!(lines.next().await, None);
}
