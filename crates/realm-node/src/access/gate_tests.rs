//! Who comes through the gate, and who does not.

use realm_model::key::SecretKey;
use realm_model::request::DEADLINE_MS;

use super::*;

/// An agent that runs for a while already.
const NOW: u64 = 1_790_000_000_000;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn realm() -> RealmId {
    RealmId::new(Digest::of(b"realm"))
}

fn gate() -> Gate {
    Gate {
        born_unix_ms: NOW - 1_000_000,
        ..Gate::new(realm(), key(2).public())
    }
}

fn signed(target: u8, deadline: u64) -> SignedRequest {
    let asked = Asked {
        realm: realm(),
        target: key(target).public(),
        method: "POST",
        path: "/v1/exec",
    };
    SignedRequest::sign(&asked, Digest::of(b""), [1; 16], deadline, &key(1))
}

/// The answer to a request of key 1, which has this role, at this time.
fn ask(
    gate: &Gate,
    call: Call,
    mouth: Mouth,
    signed: Option<&SignedRequest>,
    role: Option<Role>,
    now: u64,
) -> Result<Caller, &'static str> {
    let line = ("POST", "/v1/exec");
    let claim = gate.claim(call, mouth, signed, line, now);
    let asked = claim.and_then(|claim| match claim {
        Claim::Local => Ok(Caller::Local),
        Claim::Key(key) => gate.admit(call, (key, role), signed, now),
    });
    asked.map_err(|denied| denied.code())
}

const OWNER: Option<Role> = Some(Role::Owner);

fn owner() -> Result<Caller, &'static str> {
    Ok(Caller::Key {
        key: key(1).public(),
        role: Role::Owner,
    })
}

#[test]
fn a_connection_proves_what_it_proves() {
    let gate = gate();
    let peer = Mouth::Peer(key(1).public());
    let check = |call, mouth, role, expected| {
        assert_eq!(ask(&gate, call, mouth, None, role, NOW), expected);
    };
    check(Call::Submit, Mouth::Socket, None, Ok(Caller::Local));
    check(Call::Submit, peer, OWNER, owner());
    check(Call::Submit, peer, None, Err("unauthorized"));
    check(Call::Submit, peer, Some(Role::Reader), Err("forbidden"));
    check(Call::Submit, Mouth::Relayed, OWNER, Err("unauthorized"));
    // Commands want a signature whatever the mouth.
    check(Call::Exec, Mouth::Socket, None, Err("unauthorized"));
    check(Call::Exec, peer, OWNER, Err("unauthorized"));
}

#[test]
fn case_32_a_command_is_signed_for_this_node_soon_and_once() {
    let gate = gate();
    let check = |request: &SignedRequest, role, now, expected| {
        for mouth in [Mouth::Relayed, Mouth::Peer(key(1).public()), Mouth::Socket] {
            let asked = ask(&gate, Call::Exec, mouth, Some(request), role, now);
            assert_eq!(asked, expected, "{mouth:?}");
        }
    };
    let request = signed(2, NOW + DEADLINE_MS);
    // For another node; after the deadline; before its time; by a key that was revoked.
    check(
        &signed(3, NOW + DEADLINE_MS),
        OWNER,
        NOW,
        Err("wrong-target"),
    );
    check(&request, OWNER, NOW + DEADLINE_MS, Err("clock"));
    check(
        &signed(2, NOW + DEADLINE_MS_MAX + 1),
        OWNER,
        NOW,
        Err("clock"),
    );
    check(&request, None, NOW, Err("unauthorized"));
    check(
        &request,
        Some(Role::Delegate { may_exec: false }),
        NOW,
        Err("forbidden"),
    );
    // None of these used it up. Once it is answered, it is.
    let first = ask(
        &gate,
        Call::Exec,
        Mouth::Relayed,
        Some(&request),
        OWNER,
        NOW,
    );
    assert_eq!(first, owner());
    check(&request, OWNER, NOW, Err("replayed-request"));
    check(
        &request,
        OWNER,
        NOW + DEADLINE_MS - 1,
        Err("replayed-request"),
    );
}

#[test]
fn a_restarted_agent_takes_nothing_that_it_may_have_answered() {
    let gate = Gate {
        born_unix_ms: NOW,
        ..gate()
    };
    let check = |deadline, now, expected| {
        let request = signed(2, deadline);
        let asked = ask(
            &gate,
            Call::Exec,
            Mouth::Relayed,
            Some(&request),
            OWNER,
            now,
        );
        assert_eq!(asked, expected, "{deadline} {now}");
    };
    check(NOW + DEADLINE_MS, NOW + 1, Err("clock"));
    check(NOW + DEADLINE_MS_MAX - 1, NOW + 1, Err("clock"));
    check(NOW + DEADLINE_MS_MAX, NOW + 1, owner());
    check(
        NOW + DEADLINE_MS_MAX + DEADLINE_MS,
        NOW + DEADLINE_MS_MAX,
        owner(),
    );
}

#[test]
fn a_signature_counts_before_the_connection() {
    let gate = gate();
    let request = signed(2, NOW + DEADLINE_MS);
    // A node passes on what the owner asks.
    let mouth = Mouth::Peer(key(9).public());
    let asked = ask(&gate, Call::Submit, mouth, Some(&request), OWNER, NOW);
    assert_eq!(asked, owner());
}

#[test]
fn a_flood_of_refusals_is_one_line_a_second() {
    let gate = gate();
    let began = Instant::now();
    let check = |code, after_ms, expected| {
        let now = began + Duration::from_millis(after_ms);
        assert_eq!(gate.may_say(code, now), expected, "{code} after {after_ms}");
    };
    check("unauthorized", 0, Some(0));
    for after_ms in 0..999 {
        check("unauthorized", after_ms, None);
    }
    check("forbidden", 500, Some(0));
    check("unauthorized", 1_000, Some(999));
    check("unauthorized", 1_001, None);
}

#[test]
fn who_has_no_role_loses_the_connection() {
    let check = |denied: Denied, expected: Option<&str>| {
        let response = denied.into_response();
        let header = response.headers().get(header::CONNECTION);
        assert_eq!(header.map(|value| value.to_str().unwrap()), expected);
    };
    check(Denied::Stranger(key(1).public()), Some("close"));
    check(Denied::Forbidden(Role::Reader), None);
    // The same connection asks again with another clock.
    check(RequestError::Clock(5).into(), None);
}
