//! Tokens: what they say, and what is none.

use std::task::{Context, Poll, Waker};

use serde_json::{Value, json};

use super::*;

const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEWER: &str = "/AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NOW: u64 = 1_800_000_000;
const FOR: &str = "https://pay.example";

fn issuer(secret: &str, name: &str) -> Issuer {
    let made = Issuer::new(secret.as_bytes(), "default", name, "https://shop.example");
    Issuer {
        clock: || NOW,
        ..made.unwrap()
    }
}

/// Later, or earlier.
fn at(issuer: Issuer, clock: fn() -> u64) -> Issuer {
    Issuer { clock, ..issuer }
}

fn done<T>(mut answer: Answer<'_, T, IdentityError>) -> Result<T, IdentityError> {
    let mut context = Context::from_waker(Waker::noop());
    match answer.as_mut().poll(&mut context) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it does not wait for anybody"),
    }
}

fn orders() -> ComponentName {
    "orders@blue".parse().unwrap()
}

fn token(issuer: &Issuer) -> String {
    done(issuer.token(&orders(), FOR, 300)).unwrap()
}

fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn refused(issuer: &Issuer, token: &str) -> IdentityError {
    done(issuer.verify(token, FOR)).expect_err(token)
}

/// `x` and `kid` were computed apart from this code.
#[test]
fn a_token_says_who_asks() {
    let issuer = issuer(ROOT, "id");
    let token = token(&issuer);
    let kid = "Z3suWxFvDDk13OQ8_PFhF0de8r-7m3MAS-WD2anUa1g";
    assert_eq!(
        part(&token, 0),
        json!({"alg": "EdDSA", "kid": kid, "typ": "JWT"})
    );
    let claims = part(&token, 1);
    let id = claims["jti"].as_str().unwrap();
    assert_eq!(id.len(), 22);
    assert_eq!(
        claims,
        json!({
            "iss": "https://shop.example", "sub": "realm/default/orders", "aud": FOR,
            "iat": NOW, "nbf": NOW, "exp": NOW + 300, "jti": id,
        })
    );
    let verified = done(issuer.verify(&token, FOR)).unwrap();
    assert_eq!(
        verified,
        Claims {
            issuer: "https://shop.example".to_owned(),
            subject: "realm/default/orders".to_owned(),
            audience: FOR.to_owned(),
            issued_at: NOW,
            expires_at: NOW + 300,
            id: id.to_owned(),
        }
    );
    let jwks: Value = serde_json::from_str(&done(issuer.jwks()).unwrap()).unwrap();
    assert_eq!(
        jwks,
        json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid,
            "x": "2zTTwRgf9BbbGqG0u9-vvLUoJk9XKJUWyE7qyld04Jc",
        }]})
    );
    assert_ne!(self::token(&issuer), token);
}

#[test]
fn a_forged_token_is_none() {
    let ours = issuer(ROOT, "id");
    let good = token(&ours);
    let [head, claims, signature]: [&str; 3] =
        good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let none = encoded(&json!({"alg": "none", "typ": "JWT"}));
    let kid = part(&good, 0)["kid"].clone();
    let hmac = encoded(&json!({"alg": "HS256", "kid": kid, "typ": "JWT"}));
    // The public key as the key of an HMAC: what a verifier does who believes the header.
    let public = signing(&ours.roots.first(Purpose::Token, &ours.names())).public();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes());
    let coded = aws_lc_rs::hmac::sign(&key, format!("{hmac}.{claims}").as_bytes());
    let coded = URL_SAFE_NO_PAD.encode(coded);
    // A key of somebody else, under our name.
    let theirs = SecretKey::from_seed(&[9; 32]);
    let signed = format!("{head}.{claims}");
    let stolen = URL_SAFE_NO_PAD.encode(theirs.sign(signed.as_bytes()).as_bytes());
    let jwk = encoded(&json!({
        "alg": "EdDSA", "kid": kid, "typ": "JWT",
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": coordinate(&theirs.public())},
    }));
    let inline = format!("{jwk}.{claims}");
    let inline_signed = URL_SAFE_NO_PAD.encode(theirs.sign(inline.as_bytes()).as_bytes());
    let mut admin = part(&good, 1);
    admin["sub"] = json!("realm/default/admin");
    let admin = encoded(&admin);
    for forged in [
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{head}.{claims}."),
        format!("{head}.{claims}"),
        format!("{hmac}.{claims}.{coded}"),
        format!("{hmac}.{claims}.{signature}"),
        format!("{head}.{claims}.{stolen}"),
        format!("{inline}.{inline_signed}"),
        format!("{head}.{admin}.{signature}"),
        format!("{head}.{claims}.{signature}="),
        format!("{head}.{claims}.{signature}."),
        format!(".{good}"),
        format!("{good}\n"),
        format!("{}.{claims}.{signature}", head.trim_end_matches('0')) + "A",
        String::new(),
        "..".to_owned(),
        "x".repeat(TOKEN_BYTES_MAX + 1),
    ] {
        assert_eq!(refused(&ours, &forged), IdentityError::NotAuthentic);
    }
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_eq!(refused(&ours, &changed), IdentityError::NotAuthentic);
    }
    // Of another binding, another namespace, another root: another key.
    let namespace = Issuer::new(ROOT.as_bytes(), "team", "id", "https://shop.example").unwrap();
    for other in [issuer(ROOT, "id2"), issuer(NEWER, "id"), namespace] {
        let theirs = done(other.token(&orders(), FOR, 3_600)).unwrap();
        assert_eq!(refused(&ours, &theirs), IdentityError::NotAuthentic);
    }
    let renamed = Issuer {
        issuer: "https://new.example".to_owned(),
        ..issuer(ROOT, "id")
    };
    assert_eq!(refused(&renamed, &good), IdentityError::NotAuthentic);
    assert!(done(ours.verify(&good, FOR)).is_ok());
}

#[test]
fn a_token_is_for_a_while_and_for_one() {
    let good = token(&issuer(ROOT, "id"));
    let seen = |clock: fn() -> u64, audience: &str| {
        let verifier = at(issuer(ROOT, "id"), clock);
        done(verifier.verify(&good, audience)).map(|claims| claims.subject)
    };
    let subject = Ok("realm/default/orders".to_owned());
    assert_eq!(seen(|| NOW + 299, FOR), subject);
    assert_eq!(seen(|| NOW + 359, FOR), subject);
    assert_eq!(seen(|| NOW + 360, FOR), Err(IdentityError::Expired));
    assert_eq!(seen(|| u64::MAX, FOR), Err(IdentityError::Expired));
    assert_eq!(seen(|| NOW - 60, FOR), subject);
    assert_eq!(seen(|| NOW - 61, FOR), Err(IdentityError::Expired));
    assert_eq!(seen(|| 0, FOR), Err(IdentityError::Expired));
    for other in ["https://pay.example/", "https://other.example", "x"] {
        assert_eq!(seen(|| NOW, other), Err(IdentityError::OtherAudience));
    }
    let issuer = issuer(ROOT, "id");
    for (audience, lifetime_sec) in [(FOR, 0), (FOR, 3_601), ("", 1), ("a\n", 1)] {
        let refused = done(issuer.token(&orders(), audience, lifetime_sec));
        assert!(matches!(
            refused,
            Err(IdentityError::Cloud(CloudError::Invalid(_)))
        ));
    }
    let longest = done(issuer.token(&orders(), &"x".repeat(NAME_BYTES_MAX), 3_600)).unwrap();
    assert!(done(issuer.verify(&longest, &"x".repeat(NAME_BYTES_MAX))).is_ok());
}

#[test]
fn tokens_of_an_older_root_are_good_until_it_goes() {
    let (before, after) = (
        issuer(ROOT, "id"),
        issuer(&format!("{NEWER}\n{ROOT}"), "id"),
    );
    let old = token(&before);
    assert!(done(after.verify(&old, FOR)).is_ok());
    let new = token(&after);
    assert_eq!(refused(&before, &new), IdentityError::NotAuthentic);
    let jwks: Value = serde_json::from_str(&done(after.jwks()).unwrap()).unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
    assert_eq!(jwks["keys"][0]["kid"], part(&new, 0)["kid"]);
    assert_eq!(jwks["keys"][1]["kid"], part(&old, 0)["kid"]);
}
