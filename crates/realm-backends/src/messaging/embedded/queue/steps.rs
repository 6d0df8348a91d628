//! What one transaction of the queue does: wishes, what timed out, and what can be handed out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_model::cloud::{CloudError, Group, Subscription};

use super::{Flight, Later, Member, Queue, Reply, Shared, Under, Wish, after_ms, now_ms};
use crate::messaging::Death;
use crate::messaging::budget::bytes_of;
use crate::messaging::embedded::member::{Handed, Held};
use crate::messaging::embedded::tables::{Broken, Tables, who};

impl Queue {
    /// What nobody spoke of in time is to be delivered again.
    pub(super) fn expire(&mut self, tables: &mut Tables<'_>) -> Result<(), Broken> {
        let now = Instant::now();
        while let Some((at, group, message)) = self.ends.first().copied() {
            if at > now {
                break;
            }
            let Some(under) = self.take_flight((group, message)) else {
                continue;
            };
            self.note_unheard((group, message), &under);
            let why = "it was delivered, and nothing was heard of it in time";
            self.again(tables, (group, message), &under, Duration::ZERO, why)?;
        }
        Ok(())
    }

    /// Ends a flight: its member has room for another one.
    fn take_flight(&mut self, key: (u32, u64)) -> Option<Under> {
        let under = self.flights.remove(&key);
        if let Some(under) = &under {
            self.ends.remove(&(under.until, key.0, key.1));
            if let Some(member) = self.members.get(&under.member) {
                member.room.leave_own();
            }
        }
        under
    }

    /// The same, if it is this delivery that is under way.
    fn take_this_flight(&mut self, flight: Flight) -> Option<Under> {
        let key = (flight.group, flight.message);
        if self.flights.get(&key)?.nonce != flight.nonce {
            return None;
        }
        self.take_flight(key)
    }

    /// To be delivered again, or dead: whether it is dead.
    fn again(
        &mut self,
        tables: &mut Tables<'_>,
        key: (u32, u64),
        under: &Under,
        after: Duration,
        why: &str,
    ) -> Result<bool, Broken> {
        let Some(n) = tables.flown(key)? else {
            return Ok(false);
        };
        if n >= under.subscription.n_deliveries.max(1) {
            self.bury(tables, key, &under.subscription, n, why)?;
            return Ok(true);
        }
        let due_ms = if after.is_zero() { 0 } else { after_ms(after) };
        tables.land(key, due_ms, 0)?;
        self.noticed(key.0, due_ms);
        Ok(false)
    }

    /// A message that was delivered often enough.
    fn bury(
        &mut self,
        tables: &mut Tables<'_>,
        key: (u32, u64),
        subscription: &Subscription,
        n: u32,
        why: &str,
    ) -> Result<(), Broken> {
        let group = &subscription.group.name;
        if let Some(message) = tables.message(key.1)? {
            let topic = message.topic.clone().unwrap_or_default();
            let further = subscription.dead_letter.as_ref();
            let further = further.filter(|_| !message.is_dead());
            let mut letter = message.into_dead(group, n, why, now_ms());
            letter.topic.clone_from(&subscription.dead_letter);
            let body = letter.to_bytes();
            tables.keep_dead(&body)?;
            // What it was makes room for it.
            tables.done(key)?;
            if let Some(topic) = further {
                let groups = self.who(topic);
                // Where there is none it is kept, and that is all.
                if tables
                    .send(&groups, &body, 0, Some(self.setting.room))?
                    .is_ok()
                {
                    for group in groups {
                        self.noticed(group, 0);
                    }
                }
            }
            (self.setting.on_death)(&Death {
                topic,
                group: group.clone(),
                n_deliveries: n,
                why: why.to_owned(),
            });
        } else {
            tables.done(key)?;
        }
        Ok(())
    }

    fn who(&self, topic: &str) -> Vec<u32> {
        let groups = self.groups.iter();
        who(
            groups.map(|(number, shared)| (*number, &shared.group)),
            topic,
        )
    }

    /// Something of a group is due at a time.
    pub(super) fn noticed(&mut self, group: u32, due_ms: u64) {
        if let Some(shared) = self.groups.get_mut(&group) {
            shared.due_ms = Some(shared.due_ms.map_or(due_ms, |old| old.min(due_ms)));
        }
    }

    pub(super) fn grant(
        &mut self,
        tables: &mut Tables<'_>,
        wish: Wish,
        later: &mut Vec<Later>,
    ) -> Result<(), Broken> {
        match wish {
            Wish::Send {
                topic,
                body,
                delay,
                _room,
                reply,
            } => {
                let due_ms = delay.map_or(0, after_ms);
                let groups = self.who(&topic);
                let sent = tables.send(&groups, &body, due_ms, Some(self.setting.room))?;
                if sent.is_ok() {
                    for group in groups {
                        self.noticed(group, due_ms);
                    }
                }
                later.push(said(reply, sent));
            }
            Wish::Join {
                subscription,
                room,
                sender,
                reply,
            } => {
                let group = self.group(tables, &subscription.group)?;
                self.n_given += 1;
                let member = Member {
                    group,
                    subscription,
                    sender,
                    room,
                };
                self.members.insert(self.n_given, member);
                if let Some(shared) = self.groups.get_mut(&group) {
                    shared.members.push(self.n_given);
                }
                later.push(said(reply, Ok(self.n_given)));
            }
            Wish::Lend {
                subscription,
                waits,
                reply,
            } => {
                let lent = self.lend(subscription, waits);
                later.push(said(reply, lent));
            }
            Wish::Take { lending, n, reply } => {
                let given = self.take_for(tables, lending, n)?;
                later.push(said(reply, given));
            }
            Wish::Settle {
                lending,
                which,
                how,
                reply,
            } => {
                let came = self.settle(tables, lending, which, how)?;
                later.push(said(reply, Ok(came)));
            }
            Wish::Look => {}
            Wish::Leave(id) => self.leave(id),
            Wish::Ack(flight, reply) => {
                self.done(tables, (flight.group, flight.message))?;
                later.push(said(reply, Ok(())));
            }
            Wish::Retry {
                flight,
                after,
                why,
                reply,
            } => {
                let dead = self.retry(tables, flight, after, &why)?;
                later.push(said(reply, Ok(dead)));
            }
            Wish::Return {
                flight,
                untouched,
                reply,
            } => {
                self.give_back(tables, flight, untouched)?;
                later.extend(reply.map(|reply| said(reply, Ok(()))));
            }
            Wish::Extend(flight, reply) => {
                let extended = self.extend(flight);
                later.push(said(reply, extended));
            }
            Wish::Keep(groups, reply) => {
                self.keep(tables, &groups)?;
                later.push(said(reply, Ok(())));
            }
            Wish::Dead(n_max, reply) => {
                let letters = tables.dead(n_max)?;
                later.push(said(reply, Ok(letters)));
            }
            Wish::Letters(reply) => {
                let letters = tables.letters()?;
                later.push(said(reply, Ok(letters)));
            }
            Wish::Letter(number, reply) => {
                let letter = tables.letter(number)?;
                later.push(said(reply, Ok(letter)));
            }
            Wish::SettleLetter {
                number,
                is_retried,
                reply,
            } => {
                let settled = self.settle_letter(tables, number, is_retried)?;
                later.push(said(reply, settled));
            }
            Wish::Close => self.closed = true,
        }
        Ok(())
    }

    /// A member takes no more part, or another node.
    pub(super) fn leave(&mut self, id: u64) {
        self.lendings.remove(&id);
        if let Some(member) = self.members.remove(&id)
            && let Some(shared) = self.groups.get_mut(&member.group)
        {
            shared.members.retain(|one| *one != id);
        }
    }

    /// A group is done with a message, also with one that another member has by now.
    pub(super) fn done(&mut self, tables: &mut Tables<'_>, key: (u32, u64)) -> Result<(), Broken> {
        self.take_flight(key);
        tables.done(key)?;
        Ok(())
    }

    /// To be delivered again: whether it is dead.
    pub(super) fn retry(
        &mut self,
        tables: &mut Tables<'_>,
        flight: Flight,
        after: Duration,
        why: &str,
    ) -> Result<bool, Broken> {
        let Some(under) = self.take_this_flight(flight) else {
            return Ok(false);
        };
        let key = (flight.group, flight.message);
        self.again(tables, key, &under, after, why)
    }

    /// Back to the queue.
    pub(super) fn give_back(
        &mut self,
        tables: &mut Tables<'_>,
        flight: Flight,
        untouched: bool,
    ) -> Result<(), Broken> {
        if self.take_this_flight(flight).is_some() {
            let key = (flight.group, flight.message);
            tables.land(key, 0, u32::from(untouched))?;
            self.noticed(flight.group, 0);
        }
        Ok(())
    }

    pub(super) fn extend(&mut self, flight: Flight) -> Result<(), CloudError> {
        let key = (flight.group, flight.message);
        let under = self.flights.get_mut(&key);
        let Some(under) = under.filter(|under| under.nonce == flight.nonce) else {
            return Err(CloudError::NotFound("the delivery"));
        };
        self.ends.remove(&(under.until, key.0, key.1));
        under.until = Instant::now() + under.subscription.ack_wait;
        self.ends.insert((under.until, key.0, key.1));
        Ok(())
    }

    /// The number of a group, which is made if it must.
    pub(super) fn group(&mut self, tables: &mut Tables<'_>, group: &Group) -> Result<u32, Broken> {
        let known = self
            .groups
            .iter()
            .find(|(_, shared)| shared.group == *group);
        if let Some((number, _)) = known {
            return Ok(*number);
        }
        let number = self.groups.keys().next_back().map_or(1, |last| last + 1);
        tables.make_group(number, group)?;
        let shared = Shared {
            group: group.clone(),
            members: Vec::new(),
            due_ms: None,
        };
        self.groups.insert(number, shared);
        Ok(number)
    }

    fn keep(&mut self, tables: &mut Tables<'_>, groups: &[Group]) -> Result<(), Broken> {
        for group in groups {
            self.group(tables, group)?;
        }
        let gone = self.groups.iter();
        let gone = gone.filter(|(_, shared)| !groups.contains(&shared.group));
        let gone: Vec<u32> = gone.map(|(number, _)| *number).collect();
        for number in gone {
            tables.forget_group(number)?;
            let under_way = self.flights.keys().filter(|key| key.0 == number);
            let under_way: Vec<(u32, u64)> = under_way.copied().collect();
            for key in under_way {
                self.take_flight(key);
            }
            // Their channels close, and they hear that there is no such group.
            self.members.retain(|_, member| member.group != number);
            self.lendings.retain(|_, lending| lending.group != number);
            self.groups.remove(&number);
        }
        Ok(())
    }

    /// Hands out what is due, while members have room.
    pub(super) fn deliver(
        &mut self,
        tables: &mut Tables<'_>,
        later: &mut Vec<Later>,
    ) -> Result<(), Broken> {
        let now_ms = now_ms();
        let numbers: Vec<u32> = self.groups.keys().copied().collect();
        for number in numbers {
            let due = |shared: &Shared| shared.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
            while let Some(shared) = self.groups.get(&number).filter(|shared| due(shared)) {
                let Some((at, member)) = self.free(shared) else {
                    break;
                };
                let first = tables.first(number)?;
                let Some((key, n)) = first.filter(|(key, _)| key.1 <= now_ms) else {
                    let due_ms = first.map(|(key, _)| key.1);
                    self.groups
                        .entry(number)
                        .and_modify(|one| one.due_ms = due_ms);
                    break;
                };
                self.hand_out(tables, (at, member), key, n, later)?;
            }
        }
        self.say_due();
        Ok(())
    }

    /// Members of a group hear whether their own queue has something that they have no room for.
    pub(super) fn say_due(&self) {
        let now_ms = now_ms();
        for shared in self.groups.values() {
            if !self.setting.borrowing.anything_waits(&shared.group) {
                continue;
            }
            let is_due = shared.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
            for member in shared.members.iter().filter_map(|id| self.members.get(id)) {
                member.room.say_due(is_due);
            }
        }
    }

    fn hand_out(
        &mut self,
        tables: &mut Tables<'_>,
        (at, id): (usize, u64),
        key: (u32, u64, u64),
        n: u32,
        later: &mut Vec<Later>,
    ) -> Result<(), Broken> {
        let (group, _, message) = key;
        let Some(content) = tables.message(message)? else {
            tables.fly(key, n + 1)?;
            tables.done((group, message))?;
            return Ok(());
        };
        let Some(member) = self.members.get(&id) else {
            return Ok(());
        };
        let subscription = Arc::clone(&member.subscription);
        if n >= subscription.n_deliveries.max(1) {
            return self.bury_unheard(tables, key, &subscription, n);
        }
        member.room.take_own();
        let budget = &self.setting.borrowing.budget;
        let share = budget.count(&member.room.holder, bytes_of(&content));
        let sender = member.sender.clone();
        if let Some(shared) = self.groups.get_mut(&group) {
            shared.members.remove(at);
            shared.members.push(id);
        }
        let flight = self.take_off(tables, key, n, id, subscription)?;
        let handed = Handed {
            message: content,
            attempt: n + 1,
            held: Held::new(self.setting.wishes.clone(), flight, share),
        };
        later.push(Box::new(move || {
            // A member that left meanwhile drops it, which brings it back.
            let _ = sender.send(handed);
        }));
        Ok(())
    }

    /// Each delivery so far ended with the node that had it.
    pub(super) fn bury_unheard(
        &mut self,
        tables: &mut Tables<'_>,
        key: (u32, u64, u64),
        subscription: &Subscription,
        n: u32,
    ) -> Result<(), Broken> {
        let why = "it was delivered, and the node ended before it said how that went";
        tables.fly(key, n)?;
        self.bury(tables, (key.0, key.2), subscription, n, why)
    }

    /// What waited is under way, for the next time.
    pub(super) fn take_off(
        &mut self,
        tables: &mut Tables<'_>,
        key: (u32, u64, u64),
        n: u32,
        member: u64,
        subscription: Arc<Subscription>,
    ) -> Result<Flight, Broken> {
        let (group, _, message) = key;
        tables.fly(key, n + 1)?;
        self.n_given += 1;
        let since = Instant::now();
        let until = since + subscription.ack_wait;
        let flight = Flight {
            group,
            message,
            nonce: self.n_given,
        };
        let under = Under {
            nonce: flight.nonce,
            member,
            subscription,
            since,
            until,
        };
        self.flights.insert((group, message), under);
        self.ends.insert((until, group, message));
        Ok(flight)
    }
}

fn said<T: Send + 'static>(reply: Reply<T>, what: Result<T, CloudError>) -> Later {
    Box::new(move || {
        let _ = reply.send(what);
    })
}
