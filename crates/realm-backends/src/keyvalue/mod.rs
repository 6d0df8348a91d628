//! Values by key: a file of the node's own, Redis or Valkey, and key-value buckets of NATS JetStream.
//!
//! Not here: buckets that a component may open, and how much it may keep in them.

mod embedded;
mod iterations;
mod nats;
mod redis;

pub use self::nats::Nats;
pub use self::redis::Redis;
pub use embedded::Embedded;

use realm_model::cloud::{
    Check, CloudError, Edit, check_key, check_ttl, check_value, limits, within,
};

/// Checks the keys of a batch.
fn check_keys(keys: &[String]) -> Result<(), CloudError> {
    check_count(keys.len())?;
    keys.iter().try_for_each(|key| check_key(key))
}

/// Checks a batch of values: its bytes.
fn check_batch(pairs: &[(String, Vec<u8>)]) -> Result<usize, CloudError> {
    check_count(pairs.len())?;
    let mut n_bytes = 0;
    for (key, value) in pairs {
        check_key(key)?;
        check_value(value)?;
        n_bytes += key.len() + value.len();
    }
    within("the batch", n_bytes, limits::BATCH_BYTES_MAX)?;
    Ok(n_bytes)
}

/// Checks a transaction: its bytes.
fn check_commit(checks: &[Check], edits: &[Edit]) -> Result<usize, CloudError> {
    check_count(checks.len() + edits.len())?;
    let mut n_bytes = 0;
    for check in checks {
        check_key(&check.key)?;
        n_bytes += check.key.len();
    }
    for edit in edits {
        match edit {
            Edit::Set(key, value, ttl) => {
                check_key(key)?;
                check_value(value)?;
                check_ttl(*ttl)?;
                n_bytes += key.len() + value.len();
            }
            Edit::Delete(key) => {
                check_key(key)?;
                n_bytes += key.len();
            }
        }
    }
    within("the transaction", n_bytes, limits::BATCH_BYTES_MAX)?;
    Ok(n_bytes)
}

fn check_count(n: usize) -> Result<(), CloudError> {
    if n <= limits::BATCH_MAX {
        return Ok(());
    }
    Err(CloudError::Invalid(format!(
        "{n} keys in one call, at most {} are taken",
        limits::BATCH_MAX
    )))
}
