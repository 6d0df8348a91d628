//! Texts, in the index of words that each database has: FTS5 of SQLite, `tsvector` of PostgreSQL.
//!
//! Both get words that were cut and folded by `realm_model::cloud::search`, and neither cuts them again:
//! so both find the same texts. How good a text is, each says in its own way.

use realm_model::cloud::documents::{Place, check_collection, check_id};
use realm_model::cloud::search::{Hit, Look, PartWords, Search, Terms, Text, Weight, check_text};
use realm_model::cloud::{Answer, CloudError, DataError, Session, SqlValue, limits};

use super::dialect::{Dialect, Ground, Part};
use super::steps::{Failure, Load, Pace, Row, first, number, rows, strange, text};
use super::{Database, work};

mod spelling;

impl Search for Database {
    fn put<'a>(&'a self, at: Place<'a>, own: &'a Text) -> Answer<'a, (), DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            let put = Put {
                at,
                own,
                words: check_text(own)?,
            };
            self.with(at, Part::Texts, &put).await
        })
    }

    fn delete<'a>(&'a self, at: Place<'a>, id: &'a str) -> Answer<'a, bool, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_id(id)?;
            self.with(at, Part::Texts, &Delete { at, id }).await
        })
    }

    fn search<'a>(&'a self, at: Place<'a>, look: &'a Look) -> Answer<'a, Vec<Hit>, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            let (most, far) = (limits::HITS_MAX, limits::OFFSET_MAX);
            if !(1..=most).contains(&look.limit) || look.offset > far {
                let why = format!("1 to {most} texts are found at a time, behind {far} at most");
                return Err(CloudError::Invalid(why).into());
            }
            let find = Find {
                at,
                look,
                terms: Terms::of(&look.query)?,
            };
            self.with(at, Part::Texts, &find).await
        })
    }
}

struct Put<'a> {
    at: Place<'a>,
    own: &'a Text,
    words: Vec<PartWords>,
}
work!(Put -> ());

impl Put<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<(), Failure> {
        let own = [
            text(self.at.collection),
            text(&self.own.id),
            text(&kept(&self.own.parts)),
            text(&self.own.attributes),
        ];
        ground.begin(session).await?;
        match ground.dialect {
            Dialect::Sqlite => {
                let write = "INSERT INTO realm_texts (collection, id, parts, attributes) \
                    VALUES ($1, $2, $3, $4) ON CONFLICT (collection, id) DO UPDATE \
                    SET parts = excluded.parts, attributes = excluded.attributes RETURNING row";
                let row = first(session, write, &own).await?.ok_or_else(strange)?;
                let row = number(Row::of(row).number()?);
                session.execute(FORGET, std::slice::from_ref(&row)).await?;
                let add = "INSERT INTO realm_text_words (rowid, space, a, b, c, d) \
                    VALUES ($1, $2, $3, $4, $5, $6)";
                let space = text(&spelling::space(self.at.collection));
                let columns = spelling::columns(&self.words).map(SqlValue::Text);
                let values: Vec<_> = [row, space].into_iter().chain(columns).collect();
                session.execute(add, &values).await?;
            }
            Dialect::Postgres => {
                let write = "INSERT INTO realm_texts (collection, id, parts, attributes, words) \
                    VALUES ($1, $2, $3, $4, CAST($5 AS pg_catalog.tsvector)) \
                    ON CONFLICT (collection, id) DO UPDATE SET parts = excluded.parts, \
                    attributes = excluded.attributes, words = excluded.words";
                let words = text(&spelling::vector(&self.words));
                session
                    .execute(write, &[&own[..], &[words]].concat())
                    .await?;
            }
        }
        Ok(session.commit().await?)
    }
}

const FORGET: &str = "DELETE FROM realm_text_words WHERE rowid = $1";

struct Delete<'a> {
    at: Place<'a>,
    id: &'a str,
}
work!(Delete -> bool);

impl Delete<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<bool, Failure> {
        let own = [text(self.at.collection), text(self.id)];
        let delete = "DELETE FROM realm_texts WHERE collection = $1 AND id = $2";
        ground.begin(session).await?;
        let was_there = match ground.dialect {
            Dialect::Sqlite => {
                let found = first(session, &format!("{delete} RETURNING row"), &own).await?;
                if let Some(row) = &found {
                    session.execute(FORGET, row).await?;
                }
                found.is_some()
            }
            Dialect::Postgres => session.execute(delete, &own).await? == 1,
        };
        session.commit().await?;
        Ok(was_there)
    }
}

struct Find<'a> {
    at: Place<'a>,
    look: &'a Look,
    terms: Terms,
}
work!(Find -> Vec<Hit>);

impl Find<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Vec<Hit>, Failure> {
        // All of it as it was at one moment.
        session.begin().await?;
        let (ask, asked) = match ground.dialect {
            // Words of a title count most; that it is in this index does not count.
            Dialect::Sqlite => (
                "SELECT t.id, -bm25(realm_text_words, 0.0, 10.0, 4.0, 2.0, 1.0) \
                 FROM realm_text_words JOIN realm_texts AS t ON t.row = realm_text_words.rowid \
                 WHERE realm_text_words MATCH $1 AND t.collection = $2 \
                 ORDER BY 2 DESC, 1 LIMIT $3 OFFSET $4",
                spelling::matching(self.at.collection, &self.terms),
            ),
            Dialect::Postgres => (
                "SELECT t.id, CAST(pg_catalog.ts_rank(CAST('{0.1, 0.2, 0.4, 1.0}' AS real[]), \
                 t.words, CAST($1 AS pg_catalog.tsquery)) AS DOUBLE PRECISION) \
                 FROM realm_texts AS t \
                 WHERE t.words @@ CAST($1 AS pg_catalog.tsquery) AND t.collection = $2 \
                 ORDER BY 2 DESC, 1 LIMIT $3 OFFSET $4",
                spelling::query(&self.terms),
            ),
        };
        let values = [
            text(&asked),
            text(self.at.collection),
            number(self.look.limit.into()),
            number(self.look.offset.into()),
        ];
        let mut hits = Vec::new();
        let mut load = Load::none(self.at.meter);
        let mut pace = Pace::default();
        let limit = usize::try_from(self.look.limit).unwrap_or(usize::MAX);
        for mut row in rows(session, ask, &values, limit).await? {
            let Some(SqlValue::Real(score)) = row.pop() else {
                return Err(strange());
            };
            let id = Row::of(row).text_within(limits::DATA_ID_BYTES_MAX)?;
            let read =
                "SELECT parts, attributes FROM realm_texts WHERE collection = $1 AND id = $2";
            let found = first(session, read, &[text(self.at.collection), text(&id)]).await?;
            let mut found = Row::of(found.ok_or_else(strange)?);
            let kept = found.text_within(KEPT_BYTES_MAX)?;
            let parts = read_parts(&kept).ok_or_else(strange)?;
            let hit = Hit {
                id,
                score,
                snippet: self.terms.snippet(&parts),
                attributes: found.text_within(limits::ATTRIBUTES_BYTES_MAX)?,
            };
            drop(parts);
            load.more(hit.snippet.text.len() + hit.attributes.len())?;
            hits.push(hit);
            pace.spend(kept.len()).await;
        }
        session.roll_back().await?;
        Ok(hits)
    }
}

/// Bytes of a text as it is kept: what stands before a part has no more than ten.
const KEPT_BYTES_MAX: usize = limits::TEXT_BYTES_MAX + 10 * limits::PARTS_MAX;

/// Parts as they are kept: the letter of each, its bytes, a colon, the text.
fn kept(parts: &[(Weight, String)]) -> String {
    let one =
        |(weight, text): &(Weight, String)| format!("{}{}:{text}", weight.letter(), text.len());
    parts.iter().map(one).collect()
}

fn read_parts(mut kept: &str) -> Option<Vec<(Weight, String)>> {
    let mut parts = Vec::new();
    while !kept.is_empty() {
        if parts.len() == limits::PARTS_MAX {
            return None;
        }
        let weight = Weight::ALL
            .into_iter()
            .find(|weight| kept.starts_with(weight.letter()))?;
        let (bytes, rest) = kept.get(1..)?.split_once(':')?;
        let (text, rest) = rest.split_at_checked(bytes.parse().ok()?)?;
        parts.push((weight, text.to_owned()));
        kept = rest;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_as_they_are_kept() {
        let parts = vec![
            (Weight::Title, "a: 5:".to_owned()),
            (Weight::Note, String::new()),
            (Weight::Body, "\u{1F980}A1:".to_owned()),
        ];
        assert_eq!(read_parts(&kept(&parts)), Some(parts));
        for spoilt in ["X1:a", "A", "A1", "A2:a", "A1:\u{e9}", "A-1:a", "\u{e9}"] {
            assert_eq!(read_parts(spoilt), None, "{spoilt}");
        }
    }
}
