//! Documents: their JSON in one table, the values of indexed fields as keys in another.
//!
//! A database finds candidates by keys, and sorts by them where it can; each candidate is read here and
//! judged by the filter, so that an answer does not depend on the database, nor on the indexes.

mod plan;
mod top;

use std::collections::BTreeSet;

use aws_lc_rs::rand;
use realm_model::cloud::documents::{
    Document, Documents, Expected, Filter, Order, Page, Place, Query, Standing, Tree, Work,
    check_collection, check_field, check_id, check_order, elements,
};
use realm_model::cloud::json::{self, Json};
use realm_model::cloud::{Answer, CloudError, DataError, Session, SqlValue, limits, within};

use super::dialect::{Ground, Part};
use super::steps::{Failure, Load, Pace, Row, first, number, page, places, rows, size, text};
use super::{Database, work};
use plan::Plan;
use top::Top;

/// What the keys of values begin with, and those of the elements of arrays.
const VALUE: u8 = b'v';
const ELEMENT: u8 = b'e';

/// Keys that one statement writes.
const KEYS_AT_ONCE: usize = 200;

/// Documents that are read at a time while an index is made.
const INDEXED_AT_ONCE: u64 = 16;

/// What a walk along an index reads at first and at most before it looks whether that is enough.
const WALK_MIN: usize = 64;
const WALK_MAX: usize = 4_096;

impl Documents for Database {
    fn put<'a>(
        &'a self,
        at: Place<'a>,
        id: &'a str,
        body: &'a str,
        expected: Expected,
    ) -> Answer<'a, u64, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_id(id)?;
            within("the document", body.len(), limits::DOCUMENT_BYTES_MAX)?;
            // Its values take many times the bytes of the text: they are not there while this waits.
            Json::object(body)?;
            let put = Put {
                at,
                id,
                body,
                expected,
            };
            self.with(at, Part::Documents, &put).await
        })
    }

    fn get<'a>(&'a self, at: Place<'a>, id: &'a str) -> Answer<'a, Option<Document>, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_id(id)?;
            self.with(at, Part::Documents, &Get { at, id }).await
        })
    }

    fn delete<'a>(
        &'a self,
        at: Place<'a>,
        id: &'a str,
        expected: Expected,
    ) -> Answer<'a, bool, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_id(id)?;
            let delete = Delete { at, id, expected };
            self.with(at, Part::Documents, &delete).await
        })
    }

    fn find<'a>(&'a self, at: Place<'a>, query: &'a Query) -> Answer<'a, Page, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_order(&query.order)?;
            let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
            if !(1..=limits::FOUND_MAX).contains(&limit) {
                let max = limits::FOUND_MAX;
                let why = format!("a page has 1 to {max} documents");
                return Err(CloudError::Invalid(why).into());
            }
            let cursor = query.cursor.as_deref();
            let find = Find {
                at,
                tree: Tree::of(&query.filter)?,
                order: &query.order,
                after: cursor
                    .map(|cursor| Standing::read(&query.order, cursor))
                    .transpose()?,
                limit,
            };
            self.with(at, Part::Documents, &find).await
        })
    }

    fn count<'a>(&'a self, at: Place<'a>, filter: &'a Filter) -> Answer<'a, u64, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            let tree = Tree::of(filter)?;
            self.with(at, Part::Documents, &Count { at, tree }).await
        })
    }

    fn index<'a>(&'a self, at: Place<'a>, field: &'a str) -> Answer<'a, (), DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_field(field)?;
            self.with(at, Part::Documents, &Index { at, field }).await
        })
    }
}

struct Put<'a> {
    at: Place<'a>,
    id: &'a str,
    body: &'a str,
    expected: Expected,
}
work!(Put -> u64);

impl Put<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<u64, Failure> {
        ground.begin(session).await?;
        let Some(revision) = self.write(session).await? else {
            session.roll_back().await?;
            return Err(DataError::Conflict.into());
        };
        let fields = indexed(session, self.at).await?;
        if !fields.is_empty() {
            let own = [text(self.at.collection), text(self.id)];
            session.execute(FORGET, &own).await?;
            let keys = self.keys(&fields)?;
            let mut load = Load::none(self.at.meter);
            load.set(size(&keys))?;
            add(session, &keys).await?;
        }
        session.commit().await?;
        Ok(revision)
    }

    fn keys(&self, fields: &[String]) -> Result<Vec<[SqlValue; 4]>, CloudError> {
        let json = Json::object(self.body)?;
        let mut keys = Vec::new();
        for field in fields {
            keys.extend(keys_of(self.at, self.id, field, &json)?);
        }
        Ok(keys)
    }

    /// Writes the document if what is there is as expected: its revision.
    async fn write(&self, session: &mut dyn Session) -> Result<Option<u64>, Failure> {
        // None that was here before, whatever clocks say: there are 2^62 to begin with.
        let mut fresh = [0; 8];
        rand::fill(&mut fresh)
            .map_err(|_| CloudError::Failed("the system gives no random numbers".to_owned()))?;
        let fresh = u64::from_be_bytes(fresh) >> 2;
        let (statement, revision) = match self.expected {
            Expected::Anything => (
                "INSERT INTO realm_documents (collection, id, revision, body) \
                 VALUES ($1, $2, $3, $4) ON CONFLICT (collection, id) DO UPDATE \
                 SET revision = realm_documents.revision + 1, body = excluded.body \
                 RETURNING revision",
                fresh,
            ),
            Expected::Absent => (
                "INSERT INTO realm_documents (collection, id, revision, body) \
                 VALUES ($1, $2, $3, $4) ON CONFLICT (collection, id) DO NOTHING \
                 RETURNING revision",
                fresh,
            ),
            Expected::Revision(revision) => (
                "UPDATE realm_documents SET revision = revision + 1, body = $4 \
                 WHERE collection = $1 AND id = $2 AND revision = $3 RETURNING revision",
                revision,
            ),
        };
        let values = [
            text(self.at.collection),
            text(self.id),
            number(revision),
            text(self.body),
        ];
        let row = first(session, statement, &values).await?;
        row.map(|row| Row::of(row).number()).transpose()
    }
}

struct Get<'a> {
    at: Place<'a>,
    id: &'a str,
}
work!(Get -> Option<Document>);

impl Get<'_> {
    async fn work(
        &self,
        _: &Ground,
        session: &mut dyn Session,
    ) -> Result<Option<Document>, Failure> {
        let one =
            "SELECT id, revision, body FROM realm_documents WHERE collection = $1 AND id = $2";
        let row = first(session, one, &[text(self.at.collection), text(self.id)]).await?;
        row.map(read).transpose()
    }
}

struct Delete<'a> {
    at: Place<'a>,
    id: &'a str,
    expected: Expected,
}
work!(Delete -> bool);

impl Delete<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<bool, Failure> {
        ground.begin(session).await?;
        let own = [text(self.at.collection), text(self.id)];
        let which = "DELETE FROM realm_documents WHERE collection = $1 AND id = $2";
        let n_deleted = match self.expected {
            Expected::Revision(revision) => {
                let which = format!("{which} AND revision = $3");
                let values = [&own[..], &[number(revision)]].concat();
                session.execute(&which, &values).await?
            }
            Expected::Anything | Expected::Absent => session.execute(which, &own).await?,
        };
        let as_expected = match self.expected {
            Expected::Anything => true,
            Expected::Absent => n_deleted == 0,
            Expected::Revision(_) => n_deleted == 1,
        };
        if !as_expected {
            session.roll_back().await?;
            return Err(DataError::Conflict.into());
        }
        session.execute(FORGET, &own).await?;
        session.commit().await?;
        Ok(n_deleted == 1)
    }
}

struct Find<'a> {
    at: Place<'a>,
    tree: Tree,
    order: &'a [Order],
    after: Option<Standing>,
    limit: usize,
}
work!(Find -> Page);

impl Find<'_> {
    async fn work(&self, _: &Ground, session: &mut dyn Session) -> Result<Page, Failure> {
        let plan = Plan::of(&self.tree, self.order, &indexed(session, self.at).await?);
        let mut looking = Looking {
            top: Top::new(self.limit, self.after.clone()),
            pace: Pace::default(),
            load: Load::none(self.at.meter),
        };
        if !plan.is_sorted() {
            let (statement, values) = plan.all(self.at.collection);
            session.query(&statement, &values).await?;
            while self.look(session, &mut looking).await?.is_some() {}
            return Ok(looking.top.page());
        }
        let mut last = self.after.clone();
        let mut at_once = (self.limit + 1).max(WALK_MIN);
        loop {
            let (statement, values) = plan.walk(self.at.collection, last.as_ref(), at_once);
            session.query(&statement, &values).await?;
            let mut n_read = 0;
            while let Some((n_rows, standing)) = self.look(session, &mut looking).await? {
                n_read += n_rows;
                last = Some(standing);
            }
            if looking.top.is_over() || n_read < at_once {
                return Ok(looking.top.page());
            }
            at_once = (at_once * 2).min(WALK_MAX);
        }
    }

    /// Looks at a page of rows: how many they were, and where the last one stands.
    async fn look(
        &self,
        session: &mut dyn Session,
        Looking { top, pace, load }: &mut Looking<'_>,
    ) -> Result<Option<(usize, Standing)>, Failure> {
        let page = page(session).await?;
        load.set(top.bytes() + size(&page))?;
        let n_rows = page.len();
        let mut last = None;
        for row in page {
            let document = read(row)?;
            let mut work = Work::default();
            let (standing, matches) = self.judge(&document, &mut work)?;
            pace.spend(document.body.len() + work.done()).await;
            last = Some((n_rows, standing.clone()));
            if matches {
                top.offer(standing, document);
            }
        }
        load.set(top.bytes())?;
        Ok(last)
    }

    fn judge(&self, document: &Document, work: &mut Work) -> Result<(Standing, bool), CloudError> {
        let json = Json::parse(&document.body)?;
        let standing = Standing::of(self.order, &json, &document.id);
        Ok((standing, self.tree.matches(&json, work)?))
    }
}

/// What a search has beside its question.
struct Looking<'a> {
    top: Top,
    pace: Pace,
    load: Load<'a>,
}

struct Count<'a> {
    at: Place<'a>,
    tree: Tree,
}
work!(Count -> u64);

impl Count<'_> {
    async fn work(&self, _: &Ground, session: &mut dyn Session) -> Result<u64, Failure> {
        let plan = Plan::of(&self.tree, &[], &indexed(session, self.at).await?);
        if let Some((statement, values)) = plan.count(&self.tree, self.at.collection) {
            let row = first(session, &statement, &values).await?;
            return row.map_or(Ok(0), |row| Row::of(row).number());
        }
        let (statement, values) = plan.all(self.at.collection);
        session.query(&statement, &values).await?;
        let mut n_found = 0;
        let mut pace = Pace::default();
        let mut load = Load::none(self.at.meter);
        loop {
            let page = page(session).await?;
            if page.is_empty() {
                return Ok(n_found);
            }
            load.set(size(&page))?;
            for row in page {
                let document = read(row)?;
                let mut work = Work::default();
                let matches = self
                    .tree
                    .matches(&Json::parse(&document.body)?, &mut work)?;
                n_found += u64::from(matches);
                pace.spend(document.body.len() + work.done()).await;
            }
        }
    }
}

struct Index<'a> {
    at: Place<'a>,
    field: &'a str,
}
work!(Index -> ());

impl Index<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<(), Failure> {
        ground.begin(session).await?;
        ground.hold(session, "realm_documents").await?;
        let one = "INSERT INTO realm_document_indexes (collection, field) VALUES ($1, $2) \
            ON CONFLICT DO NOTHING";
        let own = [text(self.at.collection), text(self.field)];
        if session.execute(one, &own).await? == 0 {
            return Ok(session.roll_back().await?);
        }
        if indexed(session, self.at).await?.len() > limits::INDEXES_MAX {
            session.roll_back().await?;
            let max = limits::INDEXES_MAX;
            let why = format!("a collection has {max} indexes at most");
            return Err(CloudError::Invalid(why).into());
        }
        let mut last = String::new();
        let mut pace = Pace::default();
        let mut load = Load::none(self.at.meter);
        loop {
            let some = "SELECT id, revision, body FROM realm_documents \
                WHERE collection = $1 AND id > $2 ORDER BY id LIMIT $3";
            let values = [
                text(self.at.collection),
                text(&last),
                number(INDEXED_AT_ONCE),
            ];
            session.query(some, &values).await?;
            let mut keys = Vec::new();
            loop {
                let page = page(session).await?;
                load.set(size(&page) + size(&keys))?;
                if page.is_empty() {
                    break;
                }
                for row in page {
                    let document = read(row)?;
                    let json = Json::parse(&document.body)?;
                    keys.extend(keys_of(self.at, &document.id, self.field, &json)?);
                    drop(json);
                    pace.spend(document.body.len()).await;
                    last = document.id;
                }
            }
            if keys.is_empty() {
                return Ok(session.commit().await?);
            }
            add(session, &keys).await?;
        }
    }
}

const FORGET: &str = "DELETE FROM realm_document_keys WHERE collection = $1 AND id = $2";

/// The fields of a collection that have an index.
async fn indexed(session: &mut dyn Session, at: Place<'_>) -> Result<Vec<String>, Failure> {
    let all = "SELECT field FROM realm_document_indexes WHERE collection = $1";
    // One more than there may be is there while another one is made.
    let n_max = limits::INDEXES_MAX + 1;
    let found = rows(session, all, &[text(at.collection)], n_max).await?;
    let found = found.into_iter();
    found
        .map(|row| Row::of(row).text_within(limits::FIELD_BYTES_MAX))
        .collect()
}

/// The keys of a field, as rows of their table.
fn keys_of(
    at: Place<'_>,
    id: &str,
    field: &str,
    document: &Json<'_>,
) -> Result<Vec<[SqlValue; 4]>, CloudError> {
    let value = document.at(field);
    let elements = elements(value);
    let most = limits::INDEXED_ELEMENTS_MAX;
    if elements.len() > most {
        let why = format!("an array in an indexed field has {most} elements at most");
        return Err(CloudError::Invalid(why));
    }
    let own = [(VALUE, json::key(value))];
    let each = elements
        .iter()
        .map(|element| (ELEMENT, json::key(Some(element))));
    let mut keys = BTreeSet::new();
    for (kind, key) in own.into_iter().chain(each) {
        let what = "a text in an indexed field";
        within(what, key.len() - 1, limits::INDEXED_BYTES_MAX)?;
        keys.insert([&[kind], &key[..]].concat());
    }
    let row = |key| {
        [
            text(at.collection),
            text(field),
            SqlValue::Bytes(key),
            text(id),
        ]
    };
    Ok(keys.into_iter().map(row).collect())
}

async fn add(session: &mut dyn Session, keys: &[[SqlValue; 4]]) -> Result<(), Failure> {
    for some in keys.chunks(KEYS_AT_ONCE) {
        let places = places(some.len(), 4);
        let statement =
            format!("INSERT INTO realm_document_keys (collection, field, key, id) VALUES {places}");
        session.execute(&statement, &some.concat()).await?;
    }
    Ok(())
}

fn read(row: Vec<SqlValue>) -> Result<Document, Failure> {
    let mut row = Row::of(row);
    Ok(Document {
        id: row.text_within(limits::DATA_ID_BYTES_MAX)?,
        revision: row.number()?,
        body: row.text_within(limits::DOCUMENT_BYTES_MAX)?,
    })
}
