//! Makes and submits signed entries. The owner key is here and nowhere else.

use realm_model::api::{Accepted, Heads};
use realm_model::entry::{Body, ChainId, Payload};
use realm_model::key::SecretKey;
use realm_model::signature_file::SignatureFile;

use crate::failure::{Failure, exit};
use crate::time::now_unix_ms;

/// A signed entry of the namespace chain, and the signature as a file if it covers files.
pub(crate) struct Signed {
    pub(crate) entry: Vec<u8>,
    pub(crate) signature_file: Option<SignatureFile>,
}

/// Signs `body` as the next entry after `heads`.
pub(crate) fn sign(heads: &Heads, key: &SecretKey, body: Body) -> Result<Signed, Failure> {
    if !heads.owners.contains(&key.public()) {
        return Err(Failure::new(
            "wrong-owner",
            format!(
                "the key here ({}) is not an owner of {}",
                key.public(),
                heads.realm
            ),
        )
        .hint("`realm status` shows the owners; `--realm DIR` chooses another key")
        .exit(exit::REFUSED));
    }
    let payload = Payload {
        seq: heads.default.seq + 1,
        prev: heads.default.hash,
        authority: heads.authority,
        created_unix_s: now_unix_ms() / 1_000,
        body,
    };
    let chain = ChainId::DEFAULT;
    let signature = key.sign(&payload.message(heads.realm, chain));
    Ok(Signed {
        entry: payload.with_signatures(heads.realm, chain, &[(key.public(), signature)]),
        signature_file: SignatureFile::new(&payload, heads.realm, chain, key.public(), &signature),
    })
}

/// Submits an entry of the namespace chain.
pub(crate) async fn submit(
    client: &realm_node::Client,
    signed: &Signed,
) -> Result<Accepted, Failure> {
    Ok(client
        .submit(ChainId::DEFAULT, signed.entry.clone())
        .await?)
}
