//! What an entry of the namespace chain must satisfy. Not its signatures: those held already.

use std::collections::BTreeSet;
use std::sync::Arc;

use realm_model::diagnostic::{Diagnostic, Severity};
use realm_model::digest::Digest;
use realm_model::entry::{
    Body, ManifestBody, NamespaceName, Payload, PushBody, RestartBody, RollbackBody, WeighBody,
    Weight,
};
use realm_model::lock::{Lock, version_after};
use realm_model::manifest::{
    self, LABELS_MAX, MANIFEST_BYTES_MAX, Manifest, NodeSelector, RouteSpec, WEIGHT_MAX,
};
use realm_model::name::ComponentName;
use realm_model::refusal::{Refusal, RefusalCode};

use super::Effect;
use super::files::{check_files, check_source, invalid_lock};
use crate::authority::Authority;
use crate::namespace::NamespaceState;

pub(super) fn effect(
    name: NamespaceName,
    desired: &NamespaceState,
    authority: &Authority,
    payload: &Payload,
) -> Result<Effect, Refusal> {
    match &payload.body {
        Body::Manifest(body) => {
            manifest_effect(name, desired, authority, payload.authority.seq, body)
        }
        Body::Push(body) => push_effect(desired, body),
        Body::Restart(body) => {
            check_restart(desired, authority, payload.authority.seq, body)?;
            Ok(Effect::Restart(body.clone()))
        }
        Body::Weigh(body) => {
            check_weigh(desired, body)?;
            Ok(Effect::Weigh(body.clone()))
        }
        Body::Rollback(body) => rollback_effect(desired, body),
        Body::Genesis(_)
        | Body::ApproveNode(_)
        | Body::RevokeNode(_)
        | Body::SetNode(_)
        | Body::ApproveUntil(_)
        | Body::Rotate(_)
        | Body::Delegate(_)
        | Body::Undelegate(_)
        | Body::Resolve(_)
        | Body::Recover(_)
        | Body::SetBeacon(_) => Err(Refusal::new(
            RefusalCode::Malformed,
            format!(
                "a {} does not belong into a namespace chain",
                payload.body.kind()
            ),
        )),
    }
}

fn manifest_effect(
    name: NamespaceName,
    desired: &NamespaceState,
    authority: &Authority,
    authority_seq: u64,
    body: &ManifestBody,
) -> Result<Effect, Refusal> {
    if body.manifest.len() > MANIFEST_BYTES_MAX {
        return Err(Refusal::new(
            RefusalCode::Oversized,
            format!(
                "the manifest has {} bytes, at most {MANIFEST_BYTES_MAX} are taken",
                body.manifest.len()
            ),
        ));
    }
    let mut manifest = parse_manifest(&body.manifest)?;
    manifest.belong_to(name);
    let lock = parse_lock(&body.lock)?;
    check_above(desired.version, manifest.version.unwrap_or(lock.version))?;
    let owners = &authority.owners_at(authority_seq).owners;
    check_files(&manifest, &lock, owners)?;
    Ok(Effect::Manifest {
        manifest: Arc::new(manifest),
        manifest_text: body.manifest.as_str().into(),
        lock,
        lock_text: body.lock.as_str().into(),
    })
}

fn parse_manifest(text: &str) -> Result<Manifest, Refusal> {
    let (manifest, diagnostics) = manifest::parse(text);
    let errors: Vec<&Diagnostic> = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .collect();
    let message = match (errors.as_slice(), manifest) {
        ([], Some(manifest)) => return Ok(manifest),
        ([], None) => "the manifest does not parse".to_owned(),
        ([first], _) => located(first),
        ([first, rest @ ..], _) => format!("{}; and {} more", located(first), rest.len()),
    };
    Err(Refusal::new(RefusalCode::InvalidManifest, message))
}

fn located(problem: &Diagnostic) -> String {
    format!(
        "realm.toml:{}:{}: {}",
        problem.line, problem.column, problem.message
    )
}

fn parse_lock(text: &str) -> Result<Lock, Refusal> {
    Lock::parse(text).map_err(|error| invalid_lock(error.to_string()))
}

fn check_above(in_force: u64, given: u64) -> Result<(), Refusal> {
    if given > in_force {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Stale,
        format!("version {given} is not above {in_force}, the one in force"),
    ))
}

fn push_effect(desired: &NamespaceState, body: &PushBody) -> Result<Effect, Refusal> {
    let PushBody {
        component,
        manifest: pushed_onto,
        lock: text,
    } = body;
    let (Some(manifest), Some(manifest_text)) = (&desired.manifest, &desired.manifest_text) else {
        return Err(Refusal::new(
            RefusalCode::UnknownName,
            format!("there is no component `{component}`: nothing was applied yet"),
        ));
    };
    if Digest::of(manifest_text.as_bytes()) != *pushed_onto {
        return Err(Refusal::new(
            RefusalCode::Stale,
            "the push was made for another manifest than the one in force",
        ));
    }
    check_component(manifest, component)?;
    let lock = parse_lock(text)?;
    check_push_lock(desired, component, &lock)?;
    let manifest = desired
        .as_signed(component)
        .unwrap_or_else(|| Arc::clone(manifest));
    check_source(&manifest, &lock, component)?;
    Ok(Effect::Push {
        manifest,
        lock,
        lock_text: text.as_str().into(),
    })
}

fn check_push_lock(
    desired: &NamespaceState,
    component: &ComponentName,
    lock: &Lock,
) -> Result<(), Refusal> {
    check_next(desired, lock, "push")?;
    let Some(pin) = lock.components.get(component) else {
        return Err(invalid_lock(format!(
            "realm.lock has no pin of `{component}`"
        )));
    };
    let mut expected = desired.lock.components.clone();
    if expected.insert(component.clone(), *pin) == Some(*pin) {
        return Err(invalid_lock(format!(
            "the push does not change the pin of `{component}`"
        )));
    }
    if expected != lock.components {
        return Err(invalid_lock(format!(
            "a push of `{component}` changes no other pin"
        )));
    }
    Ok(())
}

/// The version of a lock is the one that follows.
fn check_next(desired: &NamespaceState, lock: &Lock, what: &str) -> Result<(), Refusal> {
    check_above(desired.version, lock.version)?;
    match version_after(desired.version) {
        Some(next) if next == lock.version => Ok(()),
        Some(next) => Err(invalid_lock(format!(
            "a {what} raises the version by one, from {} to {next}, not to {}",
            desired.version, lock.version
        ))),
        None => Err(invalid_lock(format!(
            "no version follows {}, the one in force",
            desired.version
        ))),
    }
}

fn check_weigh(desired: &NamespaceState, body: &WeighBody) -> Result<(), Refusal> {
    let WeighBody { app, weights } = body;
    let routes = desired.manifest.iter();
    let routes = routes.flat_map(|manifest| manifest.routing.values().flatten());
    let divided: Vec<&RouteSpec> = routes
        .filter(|route| route.component == *app && !route.weights.is_empty())
        .collect();
    if divided.is_empty() {
        return Err(Refusal::new(
            RefusalCode::UnknownName,
            format!("no route of the manifest in force divides the requests of `{app}`"),
        ));
    }
    let invalid = |message| Err(Refusal::new(RefusalCode::InvalidManifest, message));
    if weights.len() > LABELS_MAX || weights.iter().any(|one| one.weight > WEIGHT_MAX) {
        return invalid(format!(
            "at most {LABELS_MAX} versions have weights, of at most {WEIGHT_MAX}"
        ));
    }
    let mut named = BTreeSet::new();
    for Weight { component, .. } in weights {
        if !named.insert(component) {
            return invalid(format!("`{component}` is named twice"));
        }
        if !divided
            .iter()
            .any(|route| route.weights.contains_key(component))
        {
            return Err(Refusal::new(
                RefusalCode::UnknownName,
                format!("no route of `{app}` leads to `{component}`"),
            ));
        }
    }
    let answers = |route: &RouteSpec| {
        let mut positive = weights.iter().filter(|one| one.weight > 0);
        positive.any(|one| route.weights.contains_key(&one.component))
    };
    match divided.iter().find(|route| !answers(route)) {
        Some(route) => invalid(format!("nobody would answer `{}` of `{app}`", route.path)),
        None => Ok(()),
    }
}

fn rollback_effect(desired: &NamespaceState, body: &RollbackBody) -> Result<Effect, Refusal> {
    let RollbackBody {
        component,
        to,
        lock: text,
    } = body;
    let now = desired.manifest.as_deref();
    let now = now.and_then(|manifest| Some((manifest, manifest.components.get(component)?)));
    let (Some((manifest, wanted)), Some((before, pin))) = (now, desired.brought_by(component, *to))
    else {
        return Err(Refusal::new(
            RefusalCode::UnknownName,
            format!("entry {to} brought nothing to `{component}` that is remembered"),
        ));
    };
    // Routes and secrets are those of now: what ran otherwise needs its manifest.
    let has_secrets = before
        .grants
        .secrets
        .iter()
        .all(|name| manifest.secrets.contains_key(name));
    if (before.mode(), before.listen) != (wanted.mode(), wanted.listen) || !has_secrets {
        return Err(Refusal::new(
            RefusalCode::InvalidManifest,
            format!(
                "`{component}` ran otherwise then, or with other secrets: apply its manifest again"
            ),
        ));
    }
    let mut manifest = Manifest::clone(manifest);
    manifest
        .components
        .insert(component.clone(), before.clone());
    let lock = parse_lock(text)?;
    check_next(desired, &lock, "rollback")?;
    let mut expected = desired.lock.components.clone();
    expected.insert(component.clone(), pin);
    if expected != lock.components {
        return Err(invalid_lock(format!(
            "a rollback of `{component}` to entry {to} pins it to {}, and changes no other pin",
            pin.digest
        )));
    }
    Ok(Effect::Rollback {
        manifest: manifest.into(),
        lock,
        lock_text: text.as_str().into(),
    })
}

fn check_component(manifest: &Manifest, component: &ComponentName) -> Result<(), Refusal> {
    if manifest.components.contains_key(component) {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::UnknownName,
        format!("there is no component `{component}` in the manifest in force"),
    ))
}

fn check_restart(
    desired: &NamespaceState,
    authority: &Authority,
    authority_seq: u64,
    restart: &RestartBody,
) -> Result<(), Refusal> {
    let Some(manifest) = &desired.manifest else {
        return Err(Refusal::new(
            RefusalCode::UnknownName,
            format!(
                "there is no component `{}`: nothing was applied yet",
                restart.component
            ),
        ));
    };
    check_component(manifest, &restart.component)?;
    let known = |node: &&_| {
        manifest.nodes.contains_key(node)
            || authority.was_approved(node, authority_seq)
            || manifest
                .routing
                .contains_key(&NodeSelector::Node((*node).clone()))
    };
    match restart.nodes.iter().find(|node| !known(node)) {
        Some(node) => Err(Refusal::new(
            RefusalCode::UnknownName,
            format!("there is no node `{node}`"),
        )),
        None => Ok(()),
    }
}
