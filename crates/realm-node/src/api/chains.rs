//! Calls about the chains: where they stand, what is in them, both histories of one that stands still,
//! the one that extends them, and the beacon beside them.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use realm_model::beacon::BEACON_BYTES_MAX;
use realm_model::entry::{ChainId, ENTRY_BYTES_MAX, NamespaceName};
use realm_model::name::ComponentName;
use serde::Deserialize;

use super::{Api, Failed, bad_query, failed, read_capped};
use crate::event::Event;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HeadsQuery {
    namespace: Option<NamespaceName>,
    /// The component or the app whose past is wanted.
    history: Option<ComponentName>,
}

pub(super) async fn heads(
    State(api): State<Api>,
    query: Result<Query<HeadsQuery>, QueryRejection>,
) -> Result<Response, Failed> {
    let Query(HeadsQuery {
        namespace,
        history: of,
    }) = query.map_err(bad_query)?;
    let asked = |reply| Event::AskHeads {
        namespace,
        of,
        reply,
    };
    let heads = api.ask(asked).await?;
    Ok(Json(heads).into_response())
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EntriesQuery {
    from: u64,
}

pub(super) async fn entries(
    State(api): State<Api>,
    Path(chain): Path<String>,
    query: Result<Query<EntriesQuery>, QueryRejection>,
) -> Result<Response, Failed> {
    let Query(EntriesQuery { from }) = query.map_err(bad_query)?;
    let chain = parse_chain(&chain)?;
    let listed = |reply| Event::AskEntries { chain, from, reply };
    match api.ask(listed).await? {
        Ok(page) => Ok(Json(page).into_response()),
        Err(refusal) => Err(refusal.into()),
    }
}

pub(super) async fn fork(
    State(api): State<Api>,
    Path(chain): Path<String>,
) -> Result<Response, Failed> {
    let chain = parse_chain(&chain)?;
    match api.ask(|reply| Event::AskFork { chain, reply }).await? {
        Ok(Some(fork)) => Ok(Json(fork).into_response()),
        Ok(None) => Err(failed(
            StatusCode::NOT_FOUND,
            "no-fork",
            &format!("chain `{chain}` has one history here"),
            None,
        )),
        Err(refusal) => Err(refusal.into()),
    }
}

fn parse_chain(text: &str) -> Result<ChainId, Failed> {
    ChainId::of(text).ok_or_else(|| {
        failed(
            StatusCode::NOT_FOUND,
            "no-chain",
            "there is no such chain",
            None,
        )
    })
}

pub(super) async fn submit(
    State(api): State<Api>,
    Path(chain): Path<String>,
    body: Body,
) -> Result<Response, Failed> {
    let chain = parse_chain(&chain)?;
    // Read one byte more than an entry may have: the ledger says `oversized`, not the transport.
    let bytes = read_capped(body, ENTRY_BYTES_MAX + 1).await?;
    let submitted = |reply| Event::Submitted {
        chain,
        bytes,
        reply,
    };
    match api.ask(submitted).await? {
        Ok(accepted) => Ok(Json(accepted).into_response()),
        Err(refusal) => Err(refusal.into()),
    }
}

pub(super) async fn beacon(State(api): State<Api>, body: Body) -> Result<Response, Failed> {
    let bytes = read_capped(body, BEACON_BYTES_MAX + 1).await?;
    match api.ask(|reply| Event::Beacon { bytes, reply }).await? {
        Ok(taken) => Ok(Json(taken).into_response()),
        Err(refusal) => Err(refusal.into()),
    }
}
