//! A member that takes only what its subscription wants: everything else is done with at once, and nobody
//! sees it.

use realm_model::cloud::rules::Wanted;
use realm_model::cloud::{Answer, CloudError, Deliveries, Delivery, Subscription};
use tokio::task::JoinSet;

/// Messages that are not wanted, and of which the queue does not know yet that they are done.
const LEAVING_MAX: usize = 64;

struct Selective {
    member: Box<dyn Deliveries>,
    wanted: Wanted,
    /// By themselves: whoever asked for this one may be busy for long before he asks for the next.
    leaving: JoinSet<()>,
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
            leaving: JoinSet::new(),
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
                Some(_) = self.leaving.join_next(), if !self.leaving.is_empty() => {}
                delivery = self.member.next(), if self.leaving.len() < LEAVING_MAX => {
                    let delivery = delivery?;
                    if self.wanted.takes(&delivery.message) {
                        return Ok(delivery);
                    }
                    let receipt = delivery.receipt;
                    self.leaving.spawn(async move { drop(receipt.ack().await) });
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    use realm_model::cloud::rules::{Check, Field, Literal, Rule, Rules, Test};
    use realm_model::cloud::{Group, Message, Receipt};
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;

    /// A member that gets these, and whose queue takes words of them once the test lets it.
    struct Given {
        words: VecDeque<&'static str>,
        server: watch::Receiver<bool>,
        room: Arc<()>,
    }

    struct Word {
        server: watch::Receiver<bool>,
        _room: Arc<()>,
    }

    impl Deliveries for Given {
        fn next(&mut self) -> Answer<'_, Delivery> {
            let words = self.words.pop_front();
            Box::pin(async move {
                let words = words.ok_or(CloudError::Unavailable)?;
                Ok(Delivery {
                    message: Message {
                        data: words.into(),
                        topic: Some(words.to_owned()),
                        ..Message::default()
                    },
                    attempt: 1,
                    receipt: Box::new(Word {
                        server: self.server.clone(),
                        _room: Arc::clone(&self.room),
                    }),
                })
            })
        }
    }

    impl Receipt for Word {
        fn ack(&self) -> Answer<'_, ()> {
            Box::pin(async {
                let mut server = self.server.clone();
                server.wait_for(|is_there| *is_there).await.unwrap();
                Ok(())
            })
        }

        fn retry<'a>(&'a self, _: Duration, _: &'a str) -> Answer<'a, bool> {
            Box::pin(async { Ok(false) })
        }

        fn give_back(&self) -> Answer<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn extend(&self) -> Answer<'_, ()> {
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn what_is_left_takes_no_room_while_what_was_taken_is_worked_on() {
        let (there, server) = watch::channel(false);
        let room = Arc::new(());
        let given = Given {
            words: ["no", "no", "no", "yes"].into(),
            server,
            room: Arc::clone(&room),
        };
        let yes = Check::Equals(Literal::Text("yes".to_owned()));
        let rules = Rules(vec![Rule {
            field: Field::Topic,
            any: vec![Test {
                checks: vec![yes],
                ..Test::default()
            }],
        }]);
        let subscription = Subscription {
            group: Group {
                topic: "*".to_owned(),
                name: "w".to_owned(),
            },
            n_in_flight: 10,
            ack_wait: Duration::from_secs(60),
            n_deliveries: 1,
            dead_letter: None,
            wanted: Wanted::new(&rules, Arc::new(|| {})),
        };
        let mut member = selective(Box::new(given), &subscription);
        let taken = member.next().await.unwrap();
        assert_eq!(taken.message.data, b"yes");
        // This, the member, what was taken, and three that are left.
        assert_eq!(Arc::strong_count(&room), 6);
        there.send_replace(true);
        let left = timeout(Duration::from_secs(60), async {
            while Arc::strong_count(&room) > 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(left.await.is_ok(), "{}", Arc::strong_count(&room));
        drop(taken);
    }
}
