//! What a queue has room for.

use realm_model::cloud::CloudError;

use crate::checks::{member, send};
use crate::support::{Bed, soon, subscription, take, text};

pub(crate) async fn a_full_queue_says_so(bed: Bed) {
    let mut worker = member(&bed.small, &subscription("orders", "w", 100)).await;
    let mut n = 0;
    let refused = loop {
        match soon(bed.small.send("orders", text(n.to_string()), None)).await {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((n, refused), (20, CloudError::Full("the queue")));
    for wanted in 0..20 {
        assert_eq!(take(&mut worker).await, wanted.to_string());
    }
    let half = "x".repeat(45_000);
    send(&bed.small, "orders", half.as_str()).await;
    send(&bed.small, "orders", half.as_str()).await;
    let refused = soon(bed.small.send("orders", text(half.as_str()), None)).await;
    assert_eq!(refused, Err(CloudError::Full("the queue")));
    take(&mut worker).await;
    send(&bed.small, "orders", half.as_str()).await;
}
