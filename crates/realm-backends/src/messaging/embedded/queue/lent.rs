//! What the queue does for nodes to which its messages are lent: they take what waits when they have room
//! for it, and say how it went. What they say nothing of comes again after `ack_wait`, as with any member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_model::cloud::{CloudError, Message, Subscription};
use realm_model::lending_message::{Came, How, Lent};
use realm_model::text::one_line;
use tokio::sync::watch;

use super::{Flight, Given, Later, Lending, Queue, Under, now_ms};
use crate::messaging::embedded::lend::AT_ONCE_BYTES_MAX;
use crate::messaging::embedded::tables::{Broken, Tables};

/// The longest wait that another node may ask for: as long as the host's own.
const AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// How long another node may have a message, however often it says that it still works on it.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Deliveries to other nodes of which nothing was heard in time, and which may turn out to be done.
const UNHEARD_MAX: usize = 4_096;
/// What it says of a message that went wrong.
const WHY_CHARS_MAX: usize = 1_000;

/// Messages that one turn leaves out, and how long it may look for one that is wanted: it asks again, and
/// others have their turn in between.
const LEFT_MAX: usize = 1_000;
const LOOK_MAX: Duration = Duration::from_millis(50);

/// Whether the group takes a message.
fn is_wanted(subscription: &Subscription, body: &[u8]) -> bool {
    subscription.wanted.is_none()
        || Message::from_bytes(body).is_none_or(|message| subscription.takes(&message))
}

impl Queue {
    /// Another node that gets messages of a group, if that is there: its number.
    pub(super) fn lend(
        &mut self,
        subscription: Arc<Subscription>,
        waits: watch::Sender<bool>,
    ) -> Result<u64, CloudError> {
        let mut groups = self.groups.iter();
        let group = groups.find(|(_, shared)| shared.group == subscription.group);
        // A manifest that came while the stream opened may have it no more.
        let (group, _) = group.ok_or(CloudError::NotFound("the group"))?;
        let group = *group;
        self.n_given += 1;
        let lending = Lending {
            group,
            subscription,
            waits,
        };
        self.lendings.insert(self.n_given, lending);
        Ok(self.n_given)
    }

    /// As many as are due, and as it has room for.
    pub(super) fn take_for(
        &mut self,
        tables: &mut Tables<'_>,
        lending: u64,
        n_max: usize,
    ) -> Result<Result<Vec<Given>, CloudError>, Broken> {
        let Some(Lending {
            group,
            subscription,
            ..
        }) = self.lendings.get(&lending)
        else {
            return Ok(Err(CloudError::NotFound("the group")));
        };
        let (group, subscription) = (*group, Arc::clone(subscription));
        let mut given = Vec::new();
        let (mut n_bytes, mut n_left) = (0, 0);
        let until = Instant::now() + LOOK_MAX;
        // Bytes of those that are left as well: they are read and looked at.
        while given.len() < n_max && n_bytes < AT_ONCE_BYTES_MAX && n_left < LEFT_MAX {
            if n_left > 0 && Instant::now() >= until {
                break;
            }
            let first = tables.first(group)?;
            let Some((key, n)) = first.filter(|(key, _)| key.1 <= now_ms()) else {
                break;
            };
            let (group, _, message) = key;
            let Some(body) = tables.body(message)? else {
                tables.fly(key, n + 1)?;
                tables.done((group, message))?;
                continue;
            };
            if n >= subscription.n_deliveries.max(1) {
                self.bury_unheard(tables, key, &subscription, n)?;
                continue;
            }
            if !is_wanted(&subscription, &body) {
                n_left += 1;
                n_bytes += body.len();
                tables.fly(key, n)?;
                tables.done((group, message))?;
                continue;
            }
            let flight = self.take_off(tables, key, n, lending, Arc::clone(&subscription))?;
            n_bytes += body.len();
            given.push(Given {
                which: Lent {
                    message,
                    delivery: flight.nonce,
                },
                attempt: n + 1,
                body,
            });
        }
        Ok(Ok(given))
    }

    /// How it went with a message. That it is done is good also where somebody else has it by now, or this node
    /// started anew since it gave it; anything else is about the delivery that is under way.
    pub(super) fn settle(
        &mut self,
        tables: &mut Tables<'_>,
        lending: u64,
        which: Lent,
        how: How,
    ) -> Result<Came, Broken> {
        let Some(group) = self.lendings.get(&lending).map(|lending| lending.group) else {
            return Ok(Came::Failed);
        };
        let flight = Flight {
            group,
            message: which.message,
            nonce: which.delivery,
        };
        Ok(match how {
            How::Done if self.may_end(tables, flight)? => {
                self.done(tables, (group, which.message))?;
                Came::Well
            }
            How::Done => Came::Failed,
            How::Retry { after_ms, why } => {
                let after = Duration::from_millis(after_ms).min(AFTER_MAX);
                let why = one_line(&why, WHY_CHARS_MAX);
                match self.retry(tables, flight, after, &why)? {
                    true => Came::Dead,
                    false => Came::Well,
                }
            }
            How::Return { untouched } => {
                self.give_back(tables, flight, untouched)?;
                Came::Well
            }
            How::Extend => match self.is_old(flight) {
                false if self.extend(flight).is_ok() => Came::Well,
                false | true => Came::Failed,
            },
        })
    }

    /// Whether another node has had it for as long as any may.
    fn is_old(&self, flight: Flight) -> bool {
        let under = self.flights.get(&(flight.group, flight.message));
        under.is_some_and(|under| under.nonce == flight.nonce && under.since.elapsed() > AGE_MAX)
    }

    /// Whether a delivery was given to another node, so that this may say that it is done: it is under way, or
    /// nothing was heard of it in time, or an earlier start gave it.
    fn may_end(&self, tables: &Tables<'_>, flight: Flight) -> Result<bool, Broken> {
        let key = (flight.group, flight.message);
        let under = self.flights.get(&key);
        if under.is_some_and(|under| under.nonce == flight.nonce) || self.unheard.contains(&flight)
        {
            return Ok(true);
        }
        let Some(n) = tables.n_deliveries(key)? else {
            // It is said again, where the answer was lost.
            return Ok(true);
        };
        // That which is under way is of this start.
        Ok(flight.nonce <= self.n_before && n > u32::from(under.is_some()))
    }

    /// Remembers a delivery to another node that came to its end by time.
    pub(super) fn note_unheard(&mut self, (group, message): (u32, u64), under: &Under) {
        if self.members.contains_key(&under.member) {
            return;
        }
        if self.unheard.len() >= UNHEARD_MAX {
            self.unheard.pop_front();
        }
        let nonce = under.nonce;
        self.unheard.push_back(Flight {
            group,
            message,
            nonce,
        });
    }

    /// Tells them whether anything waits.
    pub(super) fn tell_lendings(
        &mut self,
        tables: &Tables<'_>,
        later: &mut Vec<Later>,
    ) -> Result<(), Broken> {
        if self.lendings.is_empty() {
            return Ok(());
        }
        let now_ms = now_ms();
        for (number, shared) in &mut self.groups {
            let lendings = self.lendings.values();
            let mut lendings = lendings.filter(|one| one.group == *number).peekable();
            if lendings.peek().is_none() {
                continue;
            }
            if shared.due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
                shared.due_ms = tables.first(*number)?.map(|(key, _)| key.1);
            }
            let waits = shared.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
            for lending in lendings {
                if *lending.waits.borrow() != waits {
                    let told = lending.waits.clone();
                    later.push(Box::new(move || {
                        told.send_replace(waits);
                    }));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::sleep;

    use realm_model::cloud::rules::{Field, Rule, Rules, Test, Wanted};
    use realm_model::cloud::{Group, Messaging as _};
    use tokio::sync::oneshot;

    use super::super::Wish;
    use super::*;
    use crate::Unwatched;
    use crate::messaging::{Embedded, Room};

    /// How many of these messages one turn reads for a node that wants none of them, where each is looked at
    /// for so long.
    async fn left(n: usize, n_bytes: usize, look: Duration) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue");
        let queue = Embedded::open(path, Room::default(), Arc::new(Unwatched), Arc::new(|_| {}));
        let queue = queue.unwrap();
        let group = Group {
            topic: "orders".to_owned(),
            name: "w".to_owned(),
        };
        queue
            .keep_groups(std::slice::from_ref(&group))
            .await
            .unwrap();
        for _ in 0..n {
            let message = Message {
                data: vec![b'x'; n_bytes],
                ..Message::default()
            };
            queue.send("orders", message, None).await.unwrap();
        }
        let n_left = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&n_left);
        let on_left = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            sleep(look);
        });
        let none = Rules(vec![Rule {
            field: Field::Topic,
            any: vec![Test {
                exists: Some(false),
                ..Test::default()
            }],
        }]);
        let subscription = Arc::new(Subscription {
            group,
            n_in_flight: 1,
            ack_wait: Duration::from_secs(60),
            n_deliveries: 1,
            dead_letter: None,
            wanted: Wanted::new(&none, on_left),
        });
        let (reply, lent) = oneshot::channel();
        let waits = watch::channel(false).0;
        let lend = Wish::Lend {
            subscription,
            waits,
            reply,
        };
        assert!(queue.wishes.send(lend).is_ok());
        let lending = lent.await.unwrap().unwrap();
        let (reply, given) = oneshot::channel();
        let take = Wish::Take {
            lending,
            n: 10,
            reply,
        };
        assert!(queue.wishes.send(take).is_ok());
        assert!(given.await.unwrap().unwrap().is_empty());
        n_left.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_turn_leaves_so_many_bytes_for_so_long_and_no_more() {
        let large = left(10, 300_000, Duration::ZERO).await;
        assert!((1..=4).contains(&large), "{large}");
        let slow = left(100, 1, LOOK_MAX / 4).await;
        assert!((1..=5).contains(&slow), "{slow}");
        let all = left(10, 1, Duration::ZERO).await;
        assert!((1..=10).contains(&all), "{all}");
    }
}
