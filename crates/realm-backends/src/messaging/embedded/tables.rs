//! The tables of the file, and what one transaction does to them.
//!
//! A message is stored once, however many groups wait for it, and goes with the last of them. A message
//! that is delivered stays in the file until its group is done with it.

use realm_model::cloud::{CloudError, Group, Letter, Message, topic_matches};
use redb::{ReadableTable, StorageError, Table, TableDefinition, TableError, WriteTransaction};

use super::Room;

type Waiting = (u32, u64, u64);
type Flying = (u32, u64);

const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// Number of a group → its topic and name.
const GROUPS: TableDefinition<'_, u32, (&str, &str)> = TableDefinition::new("groups");
const BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bodies");
/// Message → how many groups are not done with it.
const NEEDED: TableDefinition<'_, u64, u32> = TableDefinition::new("needed");
/// Group, milliseconds since 1970 from which on it is due (0: at once), message → deliveries so far.
const WAITING: TableDefinition<'_, Waiting, u32> = TableDefinition::new("waiting");
/// Group, message → deliveries so far, with the one that is under way.
const FLYING: TableDefinition<'_, Flying, u32> = TableDefinition::new("flying");
/// Dead letters, the newest last.
const DEAD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("dead");

/// Dead letters that are kept.
const DEAD_MAX: u64 = 1_000;
/// Bytes of them.
const DEAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Sums that are kept beside the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// The number of the next message.
    pub(super) next: u64,
    /// Messages that wait or are under way, once per group.
    pub(super) n_entries: u64,
    /// Bytes of messages, once however many groups wait.
    pub(super) n_bytes: u64,
    n_dead: u64,
    n_dead_bytes: u64,
}

/// Tables of one transaction.
pub(super) struct Tables<'t> {
    numbers: Table<'t, &'static str, u64>,
    groups: Table<'t, u32, (&'static str, &'static str)>,
    bodies: Table<'t, u64, &'static [u8]>,
    needed: Table<'t, u64, u32>,
    waiting: Table<'t, Waiting, u32>,
    flying: Table<'t, Flying, u32>,
    dead: Table<'t, u64, &'static [u8]>,
    pub(super) sums: Sums,
}

/// The file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the queue's file cannot be used")]
pub(super) struct Broken(#[source] Box<redb::Error>);

impl From<StorageError> for Broken {
    fn from(error: StorageError) -> Self {
        Self(Box::new(error.into()))
    }
}

impl From<TableError> for Broken {
    fn from(error: TableError) -> Self {
        Self(Box::new(error.into()))
    }
}

impl From<redb::Error> for Broken {
    fn from(error: redb::Error) -> Self {
        Self(Box::new(error))
    }
}

type Result<T> = std::result::Result<T, Broken>;

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, sums: Sums) -> Result<Self> {
        Ok(Self {
            numbers: transaction.open_table(NUMBERS)?,
            groups: transaction.open_table(GROUPS)?,
            bodies: transaction.open_table(BODIES)?,
            needed: transaction.open_table(NEEDED)?,
            waiting: transaction.open_table(WAITING)?,
            flying: transaction.open_table(FLYING)?,
            dead: transaction.open_table(DEAD)?,
            sums,
        })
    }

    /// What is there after a start: the groups; nothing is under way any more.
    pub(super) fn recover(&mut self) -> Result<Vec<(u32, Group)>> {
        let number =
            |name| -> Result<u64> { Ok(self.numbers.get(name)?.map_or(0, |value| value.value())) };
        self.sums = Sums {
            next: number("next")?,
            n_entries: number("entries")?,
            n_bytes: number("bytes")?,
            n_dead: number("dead")?,
            n_dead_bytes: number("dead-bytes")?,
        };
        while let Some((key, n)) = self.flying.pop_first()? {
            let ((group, id), n) = (key.value(), n.value());
            self.waiting.insert((group, 0, id), n)?;
        }
        let mut groups = Vec::new();
        for entry in self.groups.iter()? {
            let (number, names) = entry?;
            let (topic, name) = names.value();
            let group = Group {
                topic: topic.to_owned(),
                name: name.to_owned(),
            };
            groups.push((number.value(), group));
        }
        Ok(groups)
    }

    /// Writes the sums down: the last thing before a commit.
    pub(super) fn close(mut self) -> Result<Sums> {
        let sums = self.sums;
        let numbers = [
            ("next", sums.next),
            ("entries", sums.n_entries),
            ("bytes", sums.n_bytes),
            ("dead", sums.n_dead),
            ("dead-bytes", sums.n_dead_bytes),
        ];
        for (name, value) in numbers {
            self.numbers.insert(name, value)?;
        }
        Ok(sums)
    }

    pub(super) fn make_group(&mut self, number: u32, group: &Group) -> Result<()> {
        let names = (group.topic.as_str(), group.name.as_str());
        self.groups.insert(number, names)?;
        Ok(())
    }

    /// Forgets a group and all that waits for it.
    pub(super) fn forget_group(&mut self, group: u32) -> Result<()> {
        self.groups.remove(group)?;
        while let Some((key, _)) = self.first(group)? {
            self.waiting.remove(key)?;
            self.unneeded(key.2)?;
        }
        loop {
            let mut range = self.flying.range((group, 0)..=(group, u64::MAX))?;
            let Some(entry) = range.next() else { break };
            let key = entry?.0.value();
            drop(range);
            self.flying.remove(key)?;
            self.unneeded(key.1)?;
        }
        Ok(())
    }

    /// Puts a message into each of the groups; the outer error is the file's.
    pub(super) fn send(
        &mut self,
        groups: &[u32],
        body: &[u8],
        due_ms: u64,
        room: Option<Room>,
    ) -> Result<std::result::Result<(), CloudError>> {
        if groups.is_empty() {
            return Ok(Ok(()));
        }
        let (n_groups, n_bytes) = (groups.len() as u64, body.len() as u64);
        if let Some(room) = room
            && (self.sums.n_entries + n_groups > room.n_messages_max
                || self.sums.n_bytes + n_bytes > room.n_bytes_max)
        {
            return Ok(Err(CloudError::Full("the queue")));
        }
        let id = self.sums.next;
        self.sums.next += 1;
        self.sums.n_entries += n_groups;
        self.sums.n_bytes += n_bytes;
        self.bodies.insert(id, body)?;
        let n = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        self.needed.insert(id, n)?;
        for group in groups {
            self.waiting.insert((*group, due_ms, id), 0)?;
        }
        Ok(Ok(()))
    }

    /// The first of a group that waits, and its deliveries so far.
    pub(super) fn first(&self, group: u32) -> Result<Option<(Waiting, u32)>> {
        let mut range = self
            .waiting
            .range((group, 0, 0)..=(group, u64::MAX, u64::MAX))?;
        let Some(entry) = range.next() else {
            return Ok(None);
        };
        let (key, n) = entry?;
        Ok(Some((key.value(), n.value())))
    }

    /// What waited is under way for one more time.
    pub(super) fn fly(&mut self, key: Waiting, n_deliveries: u32) -> Result<()> {
        self.waiting.remove(key)?;
        self.flying.insert((key.0, key.2), n_deliveries)?;
        Ok(())
    }

    /// What was under way waits again; `None`: it was not under way.
    pub(super) fn land(&mut self, key: Flying, due_ms: u64, less: u32) -> Result<Option<u32>> {
        let Some(n) = self.flying.remove(key)?.map(|n| n.value()) else {
            return Ok(None);
        };
        let n = n.saturating_sub(less);
        self.waiting.insert((key.0, due_ms, key.1), n)?;
        Ok(Some(n))
    }

    /// How often something under way was delivered.
    pub(super) fn flown(&self, key: Flying) -> Result<Option<u32>> {
        Ok(self.flying.get(key)?.map(|n| n.value()))
    }

    /// How often something was delivered that waits to be so at once, or is under way; `None`: it does neither.
    pub(super) fn n_deliveries(&self, (group, id): Flying) -> Result<Option<u32>> {
        if let Some(n) = self.flown((group, id))? {
            return Ok(Some(n));
        }
        let n = self.waiting.get((group, 0, id))?;
        Ok(n.map(|n| n.value()))
    }

    /// A group is done with a message, wherever it is, unless it waits for a later time.
    pub(super) fn done(&mut self, (group, id): Flying) -> Result<bool> {
        let flew = self.flying.remove((group, id))?.is_some();
        let there = flew || self.waiting.remove((group, 0, id))?.is_some();
        if there {
            self.unneeded(id)?;
        }
        Ok(there)
    }

    /// A message of which one group less is in need.
    fn unneeded(&mut self, id: u64) -> Result<()> {
        self.sums.n_entries = self.sums.n_entries.saturating_sub(1);
        let n = self.needed.get(id)?.map_or(0, |n| n.value());
        if n > 1 {
            self.needed.insert(id, n - 1)?;
            return Ok(());
        }
        self.needed.remove(id)?;
        if let Some(body) = self.bodies.remove(id)? {
            let n_bytes = body.value().len() as u64;
            self.sums.n_bytes = self.sums.n_bytes.saturating_sub(n_bytes);
        }
        Ok(())
    }

    /// A message; `None`: it is not there, or does not read.
    pub(super) fn message(&self, id: u64) -> Result<Option<Message>> {
        let body = self.bodies.get(id)?;
        Ok(body.and_then(|body| Message::from_bytes(body.value())))
    }

    /// The same as it is kept.
    pub(super) fn body(&self, id: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.bodies.get(id)?.map(|body| body.value().to_vec()))
    }

    /// Keeps a dead letter, in place of older ones if it must.
    pub(super) fn keep_dead(&mut self, body: &[u8]) -> Result<()> {
        let id = self.sums.next;
        self.sums.next += 1;
        self.dead.insert(id, body)?;
        self.sums.n_dead += 1;
        self.sums.n_dead_bytes += body.len() as u64;
        while self.sums.n_dead > DEAD_MAX || self.sums.n_dead_bytes > DEAD_BYTES_MAX {
            let Some((_, old)) = self.dead.pop_first()? else {
                break;
            };
            self.sums.n_dead -= 1;
            let n_bytes = old.value().len() as u64;
            self.sums.n_dead_bytes = self.sums.n_dead_bytes.saturating_sub(n_bytes);
        }
        Ok(())
    }

    /// All dead letters, the newest first, without their bytes.
    pub(super) fn letters(&self) -> Result<Vec<Letter>> {
        let mut letters = Vec::new();
        for entry in self.dead.iter()?.rev() {
            let (number, body) = entry?;
            letters.extend(letter(number.value(), body.value()).map(|letter| Letter {
                message: Message {
                    data: Vec::new(),
                    ..letter.message
                },
                ..letter
            }));
        }
        Ok(letters)
    }

    /// One of them.
    pub(super) fn letter(&self, number: u64) -> Result<Option<Letter>> {
        let body = self.dead.get(number)?;
        Ok(body.and_then(|body| letter(number, body.value())))
    }

    /// One is a letter no more.
    pub(super) fn drop_letter(&mut self, number: u64) -> Result<()> {
        if let Some(body) = self.dead.remove(number)? {
            let n_bytes = body.value().len() as u64;
            self.sums.n_dead = self.sums.n_dead.saturating_sub(1);
            self.sums.n_dead_bytes = self.sums.n_dead_bytes.saturating_sub(n_bytes);
        }
        Ok(())
    }

    /// Dead letters, the newest first.
    pub(super) fn dead(&self, n_max: usize) -> Result<Vec<Message>> {
        let mut letters = Vec::new();
        for entry in self.dead.iter()?.rev().take(n_max) {
            let (_, body) = entry?;
            letters.extend(Message::from_bytes(body.value()));
        }
        Ok(letters)
    }
}

fn letter(number: u64, body: &[u8]) -> Option<Letter> {
    Some(Letter {
        number,
        n_bytes: body.len() as u64,
        message: Message::from_bytes(body)?,
    })
}

/// The numbers of the groups that get what is sent to a topic.
pub(super) fn who<'a>(groups: impl Iterator<Item = (u32, &'a Group)>, topic: &str) -> Vec<u32> {
    groups
        .filter(|(_, group)| topic_matches(&group.topic, topic))
        .map(|(number, _)| number)
        .collect()
}
