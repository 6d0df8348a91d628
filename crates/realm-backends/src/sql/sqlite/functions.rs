//! Functions of SQLite's own, made anew where their time grows faster than what they are given.
//!
//! SQLite looks at the clock between two instructions of its machine, and a function is one: nothing ends
//! it. Some take time by the product of their arguments, which is hours for values of 16 MiB. Here those
//! take linear time and give the same, or are held to what they take seconds for. What is only checked is
//! done by the function that SQLite has, in a database without tables beside it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use realm_model::cloud::limits;
use rusqlite::functions::{Context, FunctionFlags, SqlFnOutput, SubType};
use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Error, Result, ffi, params_from_iter};

/// How the words begin that say that a function got too much.
pub(super) const TOO_MUCH: &str = "too much for the function";

/// Comparisons of a set of characters in a text that is not UTF-8 with the bytes of another one: these
/// are looked at one by one.
const PAIRS_MAX: usize = 1 << 26;

/// Bytes of an object times bytes of its patch: every key of one is compared with every key of the other.
const PATCH_PRODUCT_MAX: u64 = 1 << 34;

/// Bytes that the numbers in a format ask for: those that are not shown are written all the same.
const FORMAT_WIDTHS_MAX: u64 = 4 * limits::ROW_BYTES_MAX as u64;

/// What JSON is marked with between functions.
const JSON: u32 = b'J' as u32;

/// What a function gives.
enum Given {
    Null,
    Integer(i64),
    /// Bytes of a text: SQLite's may be none of UTF-8.
    Text(Vec<u8>),
    Blob(Vec<u8>),
    Json(Vec<u8>),
}

impl SqlFnOutput for Given {
    fn to_sql(&self) -> Result<(ToSqlOutput<'_>, SubType)> {
        let (value, mark) = match self {
            Self::Null => (ValueRef::Null, None),
            Self::Integer(value) => (ValueRef::Integer(*value), None),
            Self::Text(bytes) => (ValueRef::Text(bytes), None),
            Self::Blob(bytes) => (ValueRef::Blob(bytes), None),
            Self::Json(bytes) => (ValueRef::Text(bytes), Some(JSON)),
        };
        Ok((ToSqlOutput::Borrowed(value), mark))
    }
}

impl From<ValueRef<'_>> for Given {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null | ValueRef::Real(_) => Self::Null,
            ValueRef::Integer(value) => Self::Integer(value),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

/// Puts them in the place of those that a connection has.
pub(super) fn replace_in(connection: &Connection) -> Result<()> {
    let usual = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    let plain = Arc::new(Plain::default());
    let own = Arc::clone(&plain);
    connection.create_scalar_function("instr", 2, usual, move |context| {
        instr(context.get_raw(0), context.get_raw(1), &own)
    })?;
    let own = Arc::clone(&plain);
    connection.create_scalar_function("replace", 3, usual, move |context| {
        let texts = own.texts(context)?;
        match texts.as_slice() {
            [Some(text), Some(old), new] => replaced(text, old, new.as_deref()),
            _ => Ok(Given::Null),
        }
    })?;
    for (name, ends) in [
        ("ltrim", Ends::LEFT),
        ("rtrim", Ends::RIGHT),
        ("trim", Ends::BOTH),
    ] {
        let own = Arc::clone(&plain);
        connection.create_scalar_function(name, 2, usual, move |context| {
            let texts = own.texts(context)?;
            match texts.as_slice() {
                [Some(text), Some(set)] => trimmed(text, set, ends),
                _ => Ok(Given::Null),
            }
        })?;
    }
    let own = Arc::clone(&plain);
    connection.create_scalar_function("unhex", 2, usual, move |context| {
        let texts = own.texts(context)?;
        Ok(match texts.as_slice() {
            [Some(text), Some(between)] => unhexed(text, between),
            _ => Given::Null,
        })
    })?;
    for name in ["printf", "format"] {
        let own = Arc::clone(&plain);
        connection.create_scalar_function(name, -1, usual, move |context| {
            if context.is_empty() {
                return Ok(Given::Null);
            }
            if let ValueRef::Text(format) | ValueRef::Blob(format) = context.get_raw(0)
                && widths(format) > FORMAT_WIDTHS_MAX
            {
                return Err(too_much(name));
            }
            own.call(name, context)
        })?;
    }
    for name in ["json_patch", "jsonb_patch"] {
        let own = Arc::clone(&plain);
        let flags = usual | FunctionFlags::SQLITE_RESULT_SUBTYPE;
        connection.create_scalar_function(name, 2, flags, move |context| {
            let bytes = |at| match context.get_raw(at) {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
                ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
            };
            if bytes(0) * bytes(1) > PATCH_PRODUCT_MAX {
                return Err(too_much(name));
            }
            let given = own.call(name, context)?;
            Ok(if let Given::Text(text) = given {
                Given::Json(text)
            } else {
                given
            })
        })?;
    }
    Ok(())
}

fn too_much(name: &str) -> Error {
    let own = ffi::Error::new(ffi::SQLITE_ERROR);
    Error::SqliteFailure(own, Some(format!("{TOO_MUCH} `{name}`")))
}

/// A database without tables, which has the functions that SQLite brings. It comes to be when it is needed.
#[derive(Default)]
struct Plain(Mutex<Option<Connection>>);

impl Plain {
    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        // A connection is whole between two calls: no panic can leave it torn.
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match &mut *connection {
            Some(connection) => connection,
            empty @ None => {
                let made = Connection::open_in_memory()?;
                let bytes_max = i32::try_from(limits::ROW_BYTES_MAX).unwrap_or(i32::MAX);
                made.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH, bytes_max)?;
                empty.insert(made)
            }
        };
        work(connection)
    }

    /// What the function of this name gives for the same arguments.
    fn call(&self, name: &str, context: &Context<'_>) -> Result<Given> {
        let places: Vec<_> = (1..=context.len()).map(|at| format!("?{at}")).collect();
        let call = format!("SELECT {name}({})", places.join(", "));
        let arguments = (0..context.len()).map(|at| Argument(context.get_raw(at)));
        let given = self.with(|connection| {
            let mut call = connection.prepare_cached(&call)?;
            call.query_row(params_from_iter(arguments), |row| {
                Ok(Given::from(row.get_ref(0)?))
            })
        });
        given.map_err(|error| match error.sqlite_error() {
            // With words a code would be lost on its way through SQLite.
            Some(own) if own.extended_code != ffi::SQLITE_ERROR => Error::SqliteFailure(*own, None),
            Some(_) | None => error,
        })
    }

    /// The arguments as texts.
    fn texts(&self, context: &Context<'_>) -> Result<Vec<Option<Vec<u8>>>> {
        (0..context.len())
            .map(|at| self.text(context.get_raw(at)))
            .collect()
    }

    /// A value as a text.
    fn text(&self, value: ValueRef<'_>) -> Result<Option<Vec<u8>>> {
        Ok(match value {
            ValueRef::Null => None,
            ValueRef::Integer(value) => Some(value.to_string().into_bytes()),
            // SQLite has digits of its own.
            ValueRef::Real(value) => self.with(|connection| {
                let mut cast = connection.prepare_cached("SELECT CAST(?1 AS TEXT)")?;
                let text: Value = cast.query_row([value], |row| row.get(0))?;
                Ok(match text {
                    Value::Text(text) => Some(text.into_bytes()),
                    Value::Null | Value::Integer(_) | Value::Real(_) | Value::Blob(_) => None,
                })
            })?,
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        })
    }
}

struct Argument<'a>(ValueRef<'a>);

impl ToSql for Argument<'_> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// A byte within a character, which none begins with.
const fn goes_on(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

fn instr(haystack: ValueRef<'_>, needle: ValueRef<'_>, plain: &Plain) -> Result<Given> {
    let bytes = matches!((haystack, needle), (ValueRef::Blob(_), ValueRef::Blob(_)));
    let (Some(haystack), Some(needle)) = (plain.text(haystack)?, plain.text(needle)?) else {
        return Ok(Given::Null);
    };
    let found = match needle.first() {
        // Characters are looked at where one begins, and at the beginning.
        Some(first) if !bytes && goes_on(*first) => haystack.starts_with(&needle).then_some(0),
        _ => memchr::memmem::find(&haystack, &needle),
    };
    let place = found.map_or(0, |at| {
        let before = haystack.get(1..=at).unwrap_or_default();
        1 + if bytes {
            at
        } else {
            before.iter().filter(|byte| !goes_on(**byte)).count()
        }
    });
    Ok(Given::Integer(i64::try_from(place).unwrap_or(i64::MAX)))
}

fn replaced(text: &[u8], old: &[u8], new: Option<&[u8]>) -> Result<Given> {
    // As SQLite has it: a text that begins with a zero byte is taken for an empty one here.
    if old.first().is_none_or(|first| *first == 0) {
        return Ok(Given::Text(text.to_vec()));
    }
    let Some(new) = new else {
        return Ok(Given::Null);
    };
    let finder = memchr::memmem::Finder::new(old);
    let n_found = finder.find_iter(text).count();
    let n_bytes = text.len() - n_found * old.len() + n_found.saturating_mul(new.len());
    if n_bytes > limits::ROW_BYTES_MAX {
        return Err(Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_TOOBIG),
            None,
        ));
    }
    let mut made = Vec::with_capacity(n_bytes);
    let mut done = 0;
    for at in finder.find_iter(text) {
        made.extend_from_slice(&text[done..at]);
        made.extend_from_slice(new);
        done = at + old.len();
    }
    made.extend_from_slice(&text[done..]);
    Ok(Given::Text(made))
}

/// Where a text is trimmed.
#[derive(Clone, Copy)]
struct Ends {
    left: bool,
    right: bool,
}

impl Ends {
    const LEFT: Self = Self {
        left: true,
        right: false,
    };
    const RIGHT: Self = Self {
        left: false,
        right: true,
    };
    const BOTH: Self = Self {
        left: true,
        right: true,
    };
}

fn trimmed(text: &[u8], set: &[u8], ends: Ends) -> Result<Given> {
    let set = until_zero(set);
    let trimmed = match (std::str::from_utf8(text), std::str::from_utf8(set)) {
        (Ok(text), Ok(set)) => {
            let set: HashSet<char> = set.chars().collect();
            let is_in = |c| set.contains(&c);
            let text = if ends.left {
                text.trim_start_matches(is_in)
            } else {
                text
            };
            let text = if ends.right {
                text.trim_end_matches(is_in)
            } else {
                text
            };
            text.as_bytes()
        }
        _ => trimmed_bytes(text, set, ends)?,
    };
    Ok(Given::Text(trimmed.to_vec()))
}

/// What is no UTF-8: a part of a character may be taken away.
fn trimmed_bytes<'a>(mut text: &'a [u8], set: &[u8], ends: Ends) -> Result<&'a [u8]> {
    let mut one_by_one = Vec::new();
    let mut rest = set;
    while let Some(first) = rest.first() {
        let more = rest[1..].iter().take_while(|byte| goes_on(**byte)).count();
        let n = 1 + if *first >= 0xC0 { more } else { 0 };
        one_by_one.push(&rest[..n]);
        rest = &rest[n..];
    }
    if one_by_one.len().saturating_mul(text.len()) > PAIRS_MAX {
        return Err(too_much("trim"));
    }
    while ends.left
        && let Some(one) = one_by_one.iter().find(|one| text.starts_with(one))
    {
        text = &text[one.len()..];
    }
    while ends.right
        && let Some(one) = one_by_one.iter().find(|one| text.ends_with(one))
    {
        text = &text[..text.len() - one.len()];
    }
    Ok(text)
}

fn until_zero(text: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    &text[..end]
}

fn unhexed(text: &[u8], between: &[u8]) -> Given {
    let mut passed = HashSet::new();
    let mut rest = between;
    while let Some((character, after)) = character(rest) {
        passed.insert(character);
        rest = after;
    }
    let mut rest = until_zero(text);
    let mut bytes = Vec::with_capacity(rest.len() / 2);
    while let Some(&first) = rest.first() {
        if let Some(high) = digit(first) {
            let Some(low) = rest.get(1).copied().and_then(digit) else {
                return Given::Null;
            };
            bytes.push(high << 4 | low);
            rest = &rest[2..];
        } else if let Some((character, after)) = character(rest)
            && passed.contains(&character)
        {
            rest = after;
        } else {
            return Given::Null;
        }
    }
    Given::Blob(bytes)
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The first character as SQLite reads it, whatever the bytes are, and what comes after it.
fn character(text: &[u8]) -> Option<(u32, &[u8])> {
    let (&first, rest) = text.split_first()?;
    if first < 0xC0 {
        return Some((first.into(), rest));
    }
    let begun = match first {
        0xC0..=0xDF => first & 0x1F,
        0xE0..=0xEF => first & 0x0F,
        0xF0..=0xF7 => first & 0x07,
        0xF8..=0xFB => first & 0x03,
        0xFC..=0xFD => first & 0x01,
        _ => 0,
    };
    let n = rest.iter().take_while(|byte| goes_on(**byte)).count();
    let read = rest[..n].iter().fold(u32::from(begun), |read, byte| {
        (read << 6).wrapping_add(u32::from(byte & 0x3F))
    });
    let is_none = read < 0x80 || read & 0xFFFF_F800 == 0xD800 || read & 0xFFFF_FFFE == 0xFFFE;
    Some((if is_none { 0xFFFD } else { read }, &rest[n..]))
}

/// The sum of all numbers in the directives of a format.
fn widths(format: &[u8]) -> u64 {
    let mut sum = 0_u64;
    let mut rest = until_zero(format);
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = &rest[at + 1..];
        let mut number = 0_u64;
        while let Some((&byte, after)) = rest.split_first() {
            match byte {
                b'0'..=b'9' => number = number.saturating_mul(10) + u64::from(byte - b'0'),
                b'-' | b'+' | b' ' | b'#' | b'!' | b',' | b'l' | b'*' | b'.' => {
                    // SQLite reads it as a number of 32 bits.
                    sum = sum.saturating_add(number.min(u64::from(u32::MAX)));
                    number = 0;
                }
                _ => break,
            }
            rest = after;
        }
        sum = sum.saturating_add(number.min(u64::from(u32::MAX)));
        // `%%` is one directive, not the beginning of another.
        rest = rest.get(1..).unwrap_or_default();
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connections() -> (Connection, Connection) {
        let own = Connection::open_in_memory().unwrap();
        replace_in(&own).unwrap();
        (own, Connection::open_in_memory().unwrap())
    }

    /// What a statement gives, with what kind of value it is.
    fn asked(connection: &Connection, statement: &str, arguments: &[Value]) -> Result<String> {
        let mut prepared = connection.prepare(statement)?;
        prepared.query_row(params_from_iter(arguments), |row| {
            Ok(format!("{:?}", row.get_ref(0)?))
        })
    }

    fn check(statement: &str, arguments: &[Value]) {
        let (own, plain) = connections();
        let expected = asked(&plain, statement, arguments);
        let found = asked(&own, statement, arguments);
        let of = |result: Result<String>| result.map_err(|error| error.to_string());
        assert_eq!(of(found), of(expected), "{statement} {arguments:?}");
    }

    /// Values that meet in each other, of every kind.
    fn any_value() -> impl Strategy<Value = Value> {
        let bytes = prop::sample::select(vec![
            0, b'a', b'b', b'1', b'F', b' ', b'.', 0x80, 0xBF, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0,
            0xFE, 0xFF,
        ]);
        prop_oneof![
            Just(Value::Null),
            (-20..120_i64).prop_map(Value::Integer),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_map(Value::Real),
            (-50..50_i32).prop_map(|n| Value::Real(f64::from(n) / 4.0)),
            "[ab1F .\u{e9}\u{20ac}\u{1F980}\0]{0,8}".prop_map(Value::Text),
            "[ab]{0,12}".prop_map(Value::Text),
            "[0-9a-fA-F -]{0,12}".prop_map(Value::Text),
            prop::collection::vec(bytes, 0..8).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_500))]

        #[test]
        fn they_give_what_sqlite_gives(a in any_value(), b in any_value(), c in any_value(), casts in 0..8_u8) {
            let spelt = |at: u8| if casts >> at & 1 == 1 {
                format!("CAST(?{} AS TEXT)", at + 1)
            } else {
                format!("?{}", at + 1)
            };
            let (x, y, z) = (spelt(0), spelt(1), spelt(2));
            for name in ["instr", "trim", "ltrim", "rtrim", "unhex"] {
                check(&format!("SELECT {name}({x}, {y})"), &[a.clone(), b.clone()]);
            }
            check(&format!("SELECT replace({x}, {y}, {z})"), &[a.clone(), b.clone(), c.clone()]);
            check(&format!("SELECT printf('%s|%d|%5.2f', {x}, {y}, {z})"), &[a, b, c]);
        }

        #[test]
        fn patches_are_what_sqlite_makes_of_them(a in r#"(\{("[ab]":[01],){0,3}"[abc]":(null|2|\{"a":1\})\}|\[1\]|[ab{])"#, b in r#"\{"[abc]":(null|\{"a":null\}|3)\}"#) {
            let (a, b) = (Value::Text(a), Value::Text(b));
            check("SELECT json_patch(?1, ?2)", &[a.clone(), b.clone()]);
            check("SELECT hex(jsonb_patch(?1, ?2))", &[a.clone(), b.clone()]);
            // What a function gives is JSON to the next one.
            check("SELECT json_array(json_patch(?1, ?2))", &[a, b]);
        }
    }

    #[test]
    fn what_is_special_is_the_same() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (statement, arguments) in [
            (
                "SELECT instr(?1, ?2)",
                vec![text("\u{e9}a\u{e9}b"), text("b")],
            ),
            ("SELECT instr(?1, ?2)", vec![text("abc"), text("")]),
            ("SELECT instr(?1, ?2)", vec![text(""), text("a")]),
            ("SELECT instr(?1, ?2)", vec![Value::Real(1e15), text(".")]),
            ("SELECT replace(?1, ?2, NULL)", vec![text("abc"), text("")]),
            ("SELECT replace(?1, ?2, NULL)", vec![text("abc"), text("b")]),
            (
                "SELECT replace(?1, ?2, 'aa')",
                vec![text("aaaaa"), text("aa")],
            ),
            ("SELECT printf()", vec![]),
            ("SELECT format(NULL, 1)", vec![]),
            (
                "SELECT printf('%*d|%.*f|%%|%5%|%', 4, 1, 2, 3.14159)",
                vec![],
            ),
            (
                "SELECT printf('%,d %q %Q %w', 1234567, 'a''b', NULL, 'x\"')",
                vec![],
            ),
            ("SELECT json_patch('{', '{}')", vec![]),
            ("SELECT json_patch(NULL, '{}')", vec![]),
            ("SELECT unhex('ab cd', ' ')", vec![]),
            ("SELECT unhex('a bcd', ' ')", vec![]),
            ("SELECT unhex('ab')", vec![]),
            ("SELECT trim('  a ')", vec![]),
        ] {
            check(statement, &arguments);
        }
    }

    #[test]
    fn widths_are_all_numbers_of_all_directives() {
        for (format, sum) in [
            ("", 0),
            ("100", 0),
            ("%d 5 %12d", 12),
            ("%%100", 0),
            ("%-5.10f%,20d", 35),
            ("%*.7g%.99999999999d", 7 + u64::from(u32::MAX)),
            ("%5", 5),
        ] {
            assert_eq!(widths(format.as_bytes()), sum, "{format}");
        }
    }

    #[test]
    fn indexes_and_checks_may_use_them() {
        let (own, _) = connections();
        own.set_db_config(
            rusqlite::config::DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
            false,
        )
        .unwrap();
        own.execute_batch(
            "CREATE TABLE t (a TEXT CHECK (instr(a, '@') > 0), b TEXT AS (replace(a, '@', ' at ')) STORED);
            CREATE INDEX i ON t (trim(a, 'x'));
            CREATE VIEW v AS SELECT printf('<%s>', b) AS c FROM t;
            INSERT INTO t (a) VALUES ('xa@bx');",
        )
        .unwrap();
        let found = asked(&own, "SELECT c FROM v", &[]).unwrap();
        assert_eq!(found, format!("{:?}", ValueRef::Text(b"<xa at bx>")));
        assert!(own.execute("INSERT INTO t (a) VALUES ('ab')", []).is_err());
    }
}
