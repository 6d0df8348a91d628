//! Calls that ask why: everything about one component, and what would run where with another manifest.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::StatusCode;
use realm_model::api::AskPlacement;
use realm_model::entry::ENTRY_BYTES_MAX;
use realm_model::name::ComponentName;

use super::{Api, Failed, UPLOADS_SPARED, bad_name, busy, failed, read_capped};
use crate::access::Caller;
use crate::event::Event;

/// The texts of an entry as JSON, which writes line breaks and quotes with one character more.
pub(crate) const PLACEMENT_BYTES_MAX: usize = ENTRY_BYTES_MAX / 2 * 3;
/// Placements at once: each holds a thread, and a copy of what is signed.
pub(super) const PLACEMENTS_MAX: usize = 4;
/// Of one key, so that nobody takes them all.
pub(super) const PLACEMENTS_PER_KEY_MAX: usize = 2;

pub(super) async fn explain(
    State(api): State<Api>,
    Path(component): Path<String>,
) -> Result<Response, Failed> {
    let component: ComponentName = component.parse().map_err(bad_name)?;
    let asked = component.clone();
    let asked = |reply| Event::AskWhy {
        component: asked,
        reply,
    };
    match api.ask(asked).await? {
        Ok(view) => Ok(Json(view).into_response()),
        Err(unknown) => {
            let message = format!("there is no component `{component}`");
            let hint = unknown.nearest.map_or_else(
                || "`realm status` lists the components".to_owned(),
                |name| format!("did you mean `{name}`? `realm status` lists the components"),
            );
            let code = "unknown-name";
            Err(failed(StatusCode::NOT_FOUND, code, &message, Some(&hint)))
        }
    }
}

pub(super) async fn placement(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Failed> {
    let spared = match caller {
        Caller::Local => 0,
        Caller::Key { .. } => UPLOADS_SPARED,
    };
    let Some(_place) = api.placements.take(caller.into(), spared) else {
        return Err(busy("the node places what others ask for"));
    };
    let bytes = read_capped(body, PLACEMENT_BYTES_MAX + 1).await?;
    if bytes.len() > PLACEMENT_BYTES_MAX {
        let message = "the body is longer than this call takes";
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        return Err(failed(status, "oversized", message, None));
    }
    let prospect = api.ask(Event::AskProspect).await?;
    // Reading and placing 20,000 components takes a while.
    let placed = tokio::task::spawn_blocking(move || {
        let asked: AskPlacement = serde_json::from_slice(&bytes).map_err(|error| {
            let status = StatusCode::BAD_REQUEST;
            failed(status, "malformed", &error.to_string(), None)
        })?;
        drop(bytes);
        let view = prospect.placement(&asked).map_err(Failed::from)?;
        Ok::<_, Failed>(Json(view).into_response())
    });
    placed.await.map_err(|error| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        failed(status, "internal", &error.to_string(), None)
    })?
}
