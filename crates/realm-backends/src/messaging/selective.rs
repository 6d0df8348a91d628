//! A member that takes only what its subscription wants: everything else is done with at once, and nobody
//! sees it.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use realm_model::cloud::rules::Wanted;
use realm_model::cloud::{Answer, CloudError, Deliveries, Delivery, Subscription};

/// Messages that are not wanted, and of which the queue does not know yet that they are done.
const LEAVING_MAX: usize = 64;

struct Selective {
    member: Box<dyn Deliveries>,
    wanted: Wanted,
    leaving: FuturesUnordered<Answer<'static, ()>>,
}

/// The member as the subscription wants it.
pub(super) fn selective(
    member: Box<dyn Deliveries>,
    subscription: &Subscription,
) -> Box<dyn Deliveries> {
    match &subscription.wanted {
        Some(wanted) => Box::new(Selective {
            member,
            wanted: wanted.clone(),
            leaving: FuturesUnordered::new(),
        }),
        None => member,
    }
}

impl Selective {
    async fn next(&mut self) -> Result<Delivery, CloudError> {
        loop {
            tokio::select! {
                biased;
                // What could not be said is delivered again, and said again.
                Some(_) = self.leaving.next(), if !self.leaving.is_empty() => {}
                delivery = self.member.next(), if self.leaving.len() < LEAVING_MAX => {
                    let delivery = delivery?;
                    if self.wanted.takes(&delivery.message) {
                        return Ok(delivery);
                    }
                    let receipt = delivery.receipt;
                    self.leaving.push(Box::pin(async move { receipt.ack().await }));
                }
            }
        }
    }
}

impl Deliveries for Selective {
    fn next(&mut self) -> Answer<'_, Delivery> {
        Box::pin(Self::next(self))
    }
}
