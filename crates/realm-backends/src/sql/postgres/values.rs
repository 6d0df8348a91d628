//! Values on their way to a server and back.
//!
//! A parameter has the type that the same literal would have: a text takes whatever type is wanted where
//! it stands, and a number is a number. They go as text, which the server reads as the type that it
//! decided for.

use realm_model::cloud::{CloudError, SqlError, SqlValue};
use tokio_postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};
use tokio_postgres::{Column, Row};

use super::super::{Budget, payload};
use super::dates;
use bytes::{BufMut as _, BytesMut};

type BoxError = Box<dyn std::error::Error + Sync + Send>;

/// The type that a parameter is declared as.
pub(super) fn declared(value: &SqlValue) -> Type {
    match value {
        SqlValue::Null | SqlValue::Text(_) => Type::UNKNOWN,
        SqlValue::Boolean(_) => Type::BOOL,
        SqlValue::Integer(value) if i32::try_from(*value).is_ok() => Type::INT4,
        SqlValue::Integer(_) => Type::INT8,
        SqlValue::Real(_) => Type::FLOAT8,
        SqlValue::Bytes(_) => Type::BYTEA,
        SqlValue::Date(_) => Type::DATE,
        SqlValue::Time(_) => Type::TIME,
        SqlValue::Timestamp(text) if text.ends_with(['Z', 'z']) => Type::TIMESTAMPTZ,
        SqlValue::Timestamp(_) => Type::TIMESTAMP,
        SqlValue::Decimal(_) => Type::NUMERIC,
    }
}

/// A value that is bound.
#[derive(Debug)]
pub(super) struct Parameter<'a>(pub(super) &'a SqlValue);

impl ToSql for Parameter<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        match self.0 {
            SqlValue::Null => return Ok(IsNull::Yes),
            SqlValue::Boolean(value) => out.put_u8(if *value { b't' } else { b'f' }),
            SqlValue::Integer(value) => out.put_slice(value.to_string().as_bytes()),
            SqlValue::Real(value) if value.is_infinite() => {
                let infinity: &[u8] = if *value > 0.0 {
                    b"Infinity"
                } else {
                    b"-Infinity"
                };
                out.put_slice(infinity);
            }
            // Shortest digits that read back as the same number.
            SqlValue::Real(value) => out.put_slice(format!("{value:e}").as_bytes()),
            SqlValue::Bytes(bytes) => out.put_slice(bytes),
            SqlValue::Text(text)
            | SqlValue::Date(text)
            | SqlValue::Time(text)
            | SqlValue::Timestamp(text)
            | SqlValue::Decimal(text) => out.put_slice(text.as_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self.0 {
            SqlValue::Bytes(_) => Format::Binary,
            SqlValue::Null
            | SqlValue::Boolean(_)
            | SqlValue::Integer(_)
            | SqlValue::Real(_)
            | SqlValue::Text(_)
            | SqlValue::Date(_)
            | SqlValue::Time(_)
            | SqlValue::Timestamp(_)
            | SqlValue::Decimal(_) => Format::Text,
        }
    }

    to_sql_checked!();
}

/// Whether every column has a type that guests get.
pub(super) fn check(columns: &[Column]) -> Result<(), SqlError> {
    for column in columns {
        if reader(column.type_()).is_none() {
            return Err(CloudError::Invalid(format!(
                "the column `{}` is of type `{}`, which guests do not get: cast it to text",
                column.name(),
                column.type_().name()
            ))
            .into());
        }
    }
    Ok(())
}

/// A row, no larger than one may be: a number of ten bytes may have a hundred thousand digits.
pub(super) fn row(row: &Row) -> Result<Vec<SqlValue>, SqlError> {
    let mut budget = Budget::default();
    let columns = 0..row.len();
    let values = columns.map(|index| match row.try_get::<_, Option<Read>>(index) {
        Ok(value) => {
            let value = value.map_or(SqlValue::Null, |read| read.0);
            budget.take(payload(&value))?;
            Ok(value)
        }
        Err(error) => Err(CloudError::Failed(error.to_string()).into()),
    });
    values.collect()
}

/// A value that was read.
struct Read(SqlValue);

impl<'a> FromSql<'a> for Read {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, BoxError> {
        let read = reader(kind).ok_or("a type that guests do not get")?;
        Ok(Self(read(raw)?))
    }

    fn accepts(kind: &Type) -> bool {
        reader(kind).is_some()
    }
}

type Reader = fn(&[u8]) -> Result<SqlValue, BoxError>;

fn reader(kind: &Type) -> Option<Reader> {
    Some(match *kind {
        Type::BOOL => |raw| Ok(SqlValue::Boolean(raw == [1])),
        Type::INT2 => |raw| Ok(SqlValue::Integer(i16::from_be_bytes(fixed(raw)?).into())),
        Type::INT4 => |raw| Ok(SqlValue::Integer(i32::from_be_bytes(fixed(raw)?).into())),
        Type::INT8 => |raw| Ok(SqlValue::Integer(i64::from_be_bytes(fixed(raw)?))),
        Type::OID => |raw| Ok(SqlValue::Integer(u32::from_be_bytes(fixed(raw)?).into())),
        Type::FLOAT4 => |raw| Ok(SqlValue::Real(f32::from_be_bytes(fixed(raw)?).into())),
        Type::FLOAT8 => |raw| Ok(SqlValue::Real(f64::from_be_bytes(fixed(raw)?))),
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::CHAR
        | Type::UNKNOWN
        | Type::XML
        | Type::JSON
        | Type::VOID => text,
        // Its first byte is the version of what follows, which is text.
        Type::JSONB => |raw| text(raw.strip_prefix(&[1]).ok_or("an unknown form of JSON")?),
        Type::BYTEA => |raw| Ok(SqlValue::Bytes(raw.to_vec())),
        Type::DATE => |raw| Ok(SqlValue::Date(dates::date(i32::from_be_bytes(fixed(raw)?)))),
        Type::TIME => |raw| Ok(SqlValue::Time(dates::time(i64::from_be_bytes(fixed(raw)?)))),
        Type::TIMESTAMP => |raw| {
            let micros = i64::from_be_bytes(fixed(raw)?);
            Ok(SqlValue::Timestamp(dates::timestamp(micros, "")))
        },
        Type::TIMESTAMPTZ => |raw| {
            let micros = i64::from_be_bytes(fixed(raw)?);
            Ok(SqlValue::Timestamp(dates::timestamp(micros, "Z")))
        },
        Type::NUMERIC => |raw| Ok(SqlValue::Decimal(decimal(raw)?)),
        Type::UUID => |raw| Ok(SqlValue::Text(uuid(fixed(raw)?))),
        _ => return derived(kind),
    })
}

/// Types that somebody made of others.
fn derived(kind: &Type) -> Option<Reader> {
    match kind.kind() {
        Kind::Enum(_) => Some(text),
        Kind::Domain(inner) => reader(inner),
        // An extension's, that is text without regard to case.
        Kind::Simple if kind.name() == "citext" => Some(text),
        Kind::Simple
        | Kind::Pseudo
        | Kind::Array(_)
        | Kind::Range(_)
        | Kind::Multirange(_)
        | Kind::Composite(_)
        | _ => None,
    }
}

fn fixed<const N: usize>(raw: &[u8]) -> Result<[u8; N], BoxError> {
    raw.try_into()
        .map_err(|_| "a value of another length than its type has".into())
}

fn text(raw: &[u8]) -> Result<SqlValue, BoxError> {
    Ok(SqlValue::Text(std::str::from_utf8(raw)?.to_owned()))
}

fn uuid(raw: [u8; 16]) -> String {
    let number = u128::from_be_bytes(raw);
    let hex = format!("{number:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// Digits in groups of four, of which the first has the weight `10_000^weight`, and how many of them stand
/// behind the point.
fn decimal(raw: &[u8]) -> Result<String, BoxError> {
    let mut words = raw
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut word = || words.next().ok_or("a number that is cut off");
    let (n_groups, weight, sign, scale) = (word()?, word()?, word()?, word()?);
    let negative = match sign {
        0x0000 => false,
        0x4000 => true,
        0xC000 => return Ok("NaN".to_owned()),
        0xD000 => return Ok("Infinity".to_owned()),
        0xF000 => return Ok("-Infinity".to_owned()),
        _ => return Err("a number with an unknown sign".into()),
    };
    let groups: Vec<u16> = (0..n_groups).map(|_| word()).collect::<Result<_, _>>()?;
    if groups.iter().any(|group| *group > 9_999) {
        return Err("a number with unknown digits".into());
    }
    let group = |at: i32| -> u16 {
        let index = usize::try_from(at).ok();
        index
            .and_then(|index| groups.get(index))
            .copied()
            .unwrap_or(0)
    };
    let weight = i32::from(weight.cast_signed());
    let mut text = String::from(if negative { "-" } else { "" });
    if weight < 0 {
        text.push('0');
    }
    for at in 0..=weight {
        let digits = group(at);
        if at == 0 {
            text += &digits.to_string();
        } else {
            push_four(&mut text, digits);
        }
    }
    let scale = usize::from(scale);
    if scale > 0 {
        text.push('.');
        let end = text.len() + scale;
        // Groups before the first are zeros: `0.00001`.
        let n_groups = i32::try_from(scale.div_ceil(4))?;
        for at in 0..n_groups {
            push_four(&mut text, group(weight + 1 + at));
        }
        text.truncate(end);
    }
    Ok(text)
}

/// Four digits, with zeros before them.
fn push_four(text: &mut String, digits: u16) {
    const DIGITS: [char; 10] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'];
    for unit in [1_000, 100, 10, 1] {
        text.push(DIGITS[usize::from(digits / unit % 10)]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPES: &[Type] = &[
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::OID,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::TEXT,
        Type::JSONB,
        Type::BYTEA,
        Type::DATE,
        Type::TIME,
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
        Type::NUMERIC,
        Type::UUID,
    ];

    proptest! {
        /// What a server sends is a value or an error, whatever it is.
        #[test]
        fn any_bytes_are_read_or_refused(raw in prop::collection::vec(any::<u8>(), 0..24), wide: [u8; 8]) {
            for kind in TYPES {
                for raw in [&raw[..], &wide, &wide[..4]] {
                    let _ = Read::from_sql(kind, raw);
                }
            }
        }
    }

    fn number(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Vec<u8> {
        let n_groups = u16::try_from(groups.len()).unwrap();
        let head = [n_groups, weight.cast_unsigned(), sign, scale];
        let words = head.iter().chain(groups);
        words.flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn numbers_have_their_digits_all() {
        for (raw, expected) in [
            (number(0, 0, 0, &[]), "0"),
            (number(0, 0, 2, &[]), "0.00"),
            (number(0, 0x4000, 2, &[12, 5_000]), "-12.50"),
            (number(1, 0, 0, &[1]), "10000"),
            (number(2, 0, 4, &[1, 2, 3, 4]), "100020003.0004"),
            (number(-1, 0, 4, &[1]), "0.0001"),
            (number(-2, 0, 5, &[1_000]), "0.00001"),
            (number(0, 0xC000, 0, &[]), "NaN"),
        ] {
            assert_eq!(decimal(&raw).unwrap(), expected);
        }
        assert!(decimal(&number(0, 0, 0, &[10_000])).is_err());
        assert!(decimal(&number(0, 1, 0, &[1])).is_err());
        assert!(decimal(&number(0, 0, 0, &[1])[..9]).is_err());
        assert!(decimal(&[]).is_err());
        let wide = number(i16::MAX, 0, u16::MAX, &[1]);
        assert_eq!(decimal(&wide).unwrap().len(), 4 * 32_767 + 1 + 1 + 65_535);
    }
}
