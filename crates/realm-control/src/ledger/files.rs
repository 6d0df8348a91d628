//! What a manifest and a lock must satisfy together, whoever signed them and whatever is in force:
//! the same for an entry that arrives and for the files on somebody's disk.

use realm_model::key::PublicKey;
use realm_model::lock::{Lock, VERSION_MAX};
use realm_model::manifest::Manifest;
use realm_model::name::ComponentName;
use realm_model::refusal::{Refusal, RefusalCode};

/// Names in one message: enough to see what is meant, short enough for one line.
const NAMES_SHOWN_MAX: usize = 3;

/// Checks that an agent of a realm with these owners can take the two files together: the manifest
/// names one of the owners or none, both have one version, and the lock pins exactly the
/// manifest's components, as their sources say. Not checked: whether the version is above the one
/// in force, and the signature.
///
/// A push raises the version of the lock alone: after one, leave the manifest's out.
pub fn check_files(manifest: &Manifest, lock: &Lock, owners: &[PublicKey]) -> Result<(), Refusal> {
    check_owner(manifest, owners)?;
    check_versions(manifest, lock)?;
    check_cover(manifest, lock)?;
    for component in manifest.components.keys() {
        check_source(manifest, lock, component)?;
    }
    Ok(())
}

pub(super) fn invalid_lock(message: String) -> Refusal {
    Refusal::new(RefusalCode::InvalidLock, message)
}

/// The pin is the one that the source names, if it names one.
pub(super) fn check_source(
    manifest: &Manifest,
    lock: &Lock,
    component: &ComponentName,
) -> Result<(), Refusal> {
    let spec = manifest.components.get(component);
    let pin = lock.components.get(component);
    let (Some(spec), Some(pin)) = (spec, pin) else {
        return Ok(());
    };
    match spec.source.pinned() {
        Some(pinned) if pinned != pin.digest => Err(Refusal::new(
            RefusalCode::DigestMismatch,
            format!(
                "the source of component `{component}` names {pinned}, realm.lock {}",
                pin.digest
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

fn check_owner(manifest: &Manifest, owners: &[PublicKey]) -> Result<(), Refusal> {
    match manifest.owner {
        Some(owner) if !owners.contains(&owner) => Err(Refusal::new(
            RefusalCode::WrongOwner,
            format!("the manifest names the owner {owner}, which is none of this realm's"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn check_versions(manifest: &Manifest, lock: &Lock) -> Result<(), Refusal> {
    if let Some(version) = manifest.version
        && version != lock.version
    {
        return Err(invalid_lock(format!(
            "realm.lock is of version {}, the manifest of version {version}",
            lock.version
        )));
    }
    if lock.version > VERSION_MAX {
        return Err(invalid_lock(format!(
            "realm.lock is of version {}, the highest one is {VERSION_MAX}",
            lock.version
        )));
    }
    Ok(())
}

fn check_cover(manifest: &Manifest, lock: &Lock) -> Result<(), Refusal> {
    let missing = names(
        manifest
            .components
            .keys()
            .filter(|component| !lock.components.contains_key(*component)),
    );
    if let Some(missing) = missing {
        return Err(invalid_lock(format!("realm.lock has no pin of {missing}")));
    }
    let surplus = names(
        lock.components
            .keys()
            .filter(|component| !manifest.components.contains_key(*component)),
    );
    surplus.map_or(Ok(()), |surplus| {
        Err(invalid_lock(format!(
            "realm.lock pins {surplus}, which the manifest does not have"
        )))
    })
}

fn names<'a>(components: impl Iterator<Item = &'a ComponentName>) -> Option<String> {
    let components: Vec<String> = components.map(|name| format!("`{name}`")).collect();
    let (shown, rest) = components.split_at(components.len().min(NAMES_SHOWN_MAX));
    match (shown, rest) {
        ([], _) => None,
        (shown, []) => Some(shown.join(", ")),
        (shown, rest) => Some(format!("{} and {} more", shown.join(", "), rest.len())),
    }
}

#[cfg(test)]
mod tests {
    use realm_model::digest::Digest;
    use realm_model::manifest;

    use super::*;
    use crate::testing::{key, lock};

    const ORDERS: &str = "[components.orders]\nsource = \"file:orders.wasm\"\n";

    fn check(text: &str, lock: &Lock, expected: Result<(), (RefusalCode, &str)>) {
        let (manifest, problems) = manifest::parse(text);
        let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
        let owners = [key("owner").public()];
        match (check_files(&manifest, lock, &owners), expected) {
            (Ok(()), Ok(())) => {}
            (Err(refusal), Err((code, part))) => {
                assert_eq!(refusal.code, code, "{refusal}");
                assert!(refusal.message.contains(part), "`{part}` in `{refusal}`");
            }
            (seen, expected) => panic!("{seen:?} instead of {expected:?} for {text}"),
        }
    }

    #[test]
    fn files_that_no_agent_takes_are_refused_before_they_are_sent() {
        let fit = lock(7, &[("orders", "1")]);
        let versioned = |version: u64| format!("version = {version}\n{ORDERS}");
        let owned = |owner: &str| {
            let key = key(owner).public();
            format!("{ORDERS}[owner]\npubkey = \"{key}\"\n")
        };
        let sourced = |source: &str| ORDERS.replace("file:orders.wasm", source);
        let pinned = |build: &str| {
            let digest = Digest::of(build.as_bytes());
            sourced(&format!("https://a.example/o.wasm@{digest}"))
        };
        for text in [ORDERS.to_owned(), versioned(7), owned("owner"), pinned("1")] {
            check(&text, &fit, Ok(()));
        }
        for source in [
            "registry:ghcr.io/acme/orders:1.2",
            "s3://acme/orders.wasm",
            "p2p:orders",
        ] {
            check(&sourced(source), &fit, Ok(()));
        }
        let unfit = RefusalCode::InvalidLock;
        let cases = [
            (
                versioned(8),
                unfit,
                "of version 7, the manifest of version 8",
            ),
            (owned("thief"), RefusalCode::WrongOwner, "none of this"),
            (pinned("2"), RefusalCode::DigestMismatch, "realm.lock sha"),
        ];
        for (text, code, part) in cases {
            check(&text, &fit, Err((code, part)));
        }
        check(ORDERS, &lock(7, &[]), Err((unfit, "no pin of `orders`")));
        let upstream = "[components.orders]\nupstream = \"http://127.0.0.1:3000\"\n";
        let of = |address: &str| lock(7, &[("orders", &format!("realm upstream 1\n{address}"))]);
        check(upstream, &of("http://127.0.0.1:3000"), Ok(()));
        let other = (RefusalCode::DigestMismatch, "realm.lock sha");
        check(upstream, &of("http://127.0.0.1:3001"), Err(other));
        check(upstream, &fit, Err(other));
        let surplus = lock(7, &[("orders", "1"), ("auth", "1")]);
        check(ORDERS, &surplus, Err((unfit, "pins `auth`, which")));
    }

    #[test]
    fn a_version_leaves_room_for_the_next() {
        let of = |version| lock(version, &[("orders", "1")]);
        check(ORDERS, &of(VERSION_MAX), Ok(()));
        for version in [VERSION_MAX + 1, u64::MAX] {
            let refused = (RefusalCode::InvalidLock, "the highest one is");
            check(ORDERS, &of(version), Err(refused));
        }
    }
}
