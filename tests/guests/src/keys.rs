//! Uses keys as every vault has to give them, a line for each check: `ok NAME` or `FAIL NAME: why`.
//! `/?vault=` names the vault.
//!
//! `/seal?vault=&name=&text=&context=` and `/sign?vault=&name=&text=` answer in hexadecimal, `/open?..&sealed=` and
//! `/verify?..&text=&sealed=` take that; `/public?..` lists public keys.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/realm-cloud/keys.wit", world: "realm:cloud/keys-imports" });
}

use std::fmt::Write as _;

use bindings::realm::cloud::keys::{Error, Key};

guests::serve!(handle);

type Check = fn(&str) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("there-and-back", there_and_back),
    ("twice", twice),
    ("context", context),
    ("changed", changed),
    ("names", names),
    ("signatures", signatures),
    ("codes", codes),
    ("data-keys", data_keys),
    ("purposes", purposes),
    ("sizes", sizes),
    ("not-bound", not_bound),
];

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let word = |name: &str| guests::parameter(&request, name).unwrap_or_default();
    let vault = guests::parameter(&request, "vault").unwrap_or("default".to_owned());
    let key = || Key::open(&vault, &word("name"));
    let (text, context) = (word("text").into_bytes(), word("context").into_bytes());
    let sealed = bytes(&word("sealed"));
    let answer = match guests::path(&request).as_str() {
        "/seal" => key().and_then(|key| key.encrypt(&text, &context)).map(hex),
        "/open" => key()
            .and_then(|key| key.decrypt(&sealed, &context))
            .map(text_of),
        "/sign" => key().and_then(|key| key.sign(&text)).map(hex),
        "/verify" => key()
            .and_then(|key| key.verify(&text, &sealed))
            .map(|good| good.to_string()),
        "/public" => key().and_then(|key| key.public_keys()).map(|keys| {
            let lines = keys
                .into_iter()
                .map(|one| hex(one.id) + " " + &hex(one.key));
            lines.collect::<Vec<_>>().join("\n")
        }),
        _ => Ok(checks(&vault)),
    };
    match answer {
        Ok(text) => guests::text(out, 200, &text),
        Err(error) => guests::text(out, 500, &format!("{error:?}")),
    }
}

fn checks(vault: &str) -> String {
    let mut lines = String::new();
    for (name, check) in CHECKS {
        let line = match check(vault) {
            Ok(()) => format!("ok {name}"),
            Err(why) => format!("FAIL {name}: {why}"),
        };
        writeln!(lines, "{line}").expect("a String takes any text");
    }
    lines
}

fn hex(bytes: Vec<u8>) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let pairs = pairs.filter_map(|pair| str::from_utf8(pair).ok());
    pairs
        .filter_map(|pair| u8::from_str_radix(pair, 16).ok())
        .collect()
}

fn key(vault: &str, name: &str) -> Result<Key, String> {
    Key::open(vault, name).map_err(|error| format!("open {name}: {error:?}"))
}

/// What a call has to give.
fn expect<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: Result<T, Error>,
    expected: T,
) -> Result<(), String> {
    match found {
        Ok(found) if found == expected => Ok(()),
        found => Err(format!("{what}: {}", cut(&format!("{found:?}")))),
    }
}

/// How a call has to fail.
fn refused<T: std::fmt::Debug>(
    what: &str,
    found: Result<T, Error>,
    expected: fn(&Error) -> bool,
) -> Result<(), String> {
    match found {
        Err(error) if expected(&error) => Ok(()),
        found => Err(format!("{what}: {}", cut(&format!("{found:?}")))),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

fn not_authentic(error: &Error) -> bool {
    matches!(error, Error::NotAuthentic)
}

fn unknown(error: &Error) -> bool {
    matches!(error, Error::UnknownKey)
}

fn invalid(error: &Error) -> bool {
    matches!(error, Error::Invalid(_))
}

fn there_and_back(vault: &str) -> Result<(), String> {
    let key = key(vault, "orders")?;
    for plaintext in [&b""[..], b"attack at dawn", &[0; 5_000]] {
        let sealed = key
            .encrypt(plaintext, b"row 7")
            .map_err(|error| format!("{error:?}"))?;
        if sealed.len() != plaintext.len() + 49 || sealed[0] != 1 {
            return Err(format!("{} bytes of {}", sealed.len(), plaintext.len()));
        }
        if !plaintext.is_empty()
            && sealed
                .windows(plaintext.len())
                .any(|part| part == plaintext)
        {
            return Err("the plaintext is in it".to_owned());
        }
        // Another handle is the same key.
        let again = self::key(vault, "orders")?;
        expect(
            "decrypt",
            again.decrypt(&sealed, b"row 7"),
            plaintext.to_vec(),
        )?;
    }
    Ok(())
}

fn twice(vault: &str) -> Result<(), String> {
    let key = key(vault, "orders")?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let sealed = key
            .encrypt(b"x", b"")
            .map_err(|error| format!("{error:?}"))?;
        if !seen.insert(sealed[9..33].to_vec()) {
            return Err("a nonce came twice".to_owned());
        }
    }
    Ok(())
}

fn context(vault: &str) -> Result<(), String> {
    let key = key(vault, "orders")?;
    let sealed = key
        .encrypt(b"x", b"row 7")
        .map_err(|error| format!("{error:?}"))?;
    for other in [&b""[..], b"row 8", b"row 77"] {
        refused("decrypt", key.decrypt(&sealed, other), not_authentic)?;
    }
    expect("decrypt", key.decrypt(&sealed, b"row 7"), b"x".to_vec())
}

fn changed(vault: &str) -> Result<(), String> {
    let key = key(vault, "orders")?;
    let sealed = key
        .encrypt(b"text", b"")
        .map_err(|error| format!("{error:?}"))?;
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        let expected = if at < 9 { unknown } else { not_authentic };
        refused(&format!("byte {at}"), key.decrypt(&changed, b""), expected)?;
        refused(
            &format!("{at} bytes"),
            key.decrypt(&sealed[..at], b""),
            not_authentic,
        )?;
    }
    Ok(())
}

fn names(vault: &str) -> Result<(), String> {
    let sealed = key(vault, "a")?
        .encrypt(b"x", b"")
        .map_err(|error| format!("{error:?}"))?;
    for other in ["b", "A", "a ", "\u{e4}"] {
        refused(other, key(vault, other)?.decrypt(&sealed, b""), unknown)?;
    }
    for none in ["", "a\n", &"x".repeat(256)] {
        refused("name", Key::open(vault, none).map(|_| ()), invalid)?;
    }
    key(vault, &"x".repeat(255)).map(|_| ())
}

fn signatures(vault: &str) -> Result<(), String> {
    let (key, other) = (key(vault, "a")?, self::key(vault, "b")?);
    let signature = key.sign(b"text").map_err(|error| format!("{error:?}"))?;
    expect("again", key.sign(b"text"), signature.clone())?;
    expect("verify", key.verify(b"text", &signature), true)?;
    expect("another text", key.verify(b"test", &signature), false)?;
    expect("another key", other.verify(b"text", &signature), false)?;
    for at in 0..signature.len() {
        let mut changed = signature.clone();
        changed[at] ^= 1;
        expect("changed", key.verify(b"text", &changed), false)?;
    }
    expect("nothing", key.verify(b"text", b""), false)?;
    let public = key.public_keys().map_err(|error| format!("{error:?}"))?;
    let first = public.first().ok_or("there is no public key")?;
    if first.id != signature[1..9] || first.key.len() != 32 || signature.len() != 73 {
        return Err("the id of the signature is not that of the first key".to_owned());
    }
    Ok(())
}

fn codes(vault: &str) -> Result<(), String> {
    let (key, other) = (key(vault, "a")?, self::key(vault, "b")?);
    let code = key.mac(b"text").map_err(|error| format!("{error:?}"))?;
    expect("again", key.mac(b"text"), code.clone())?;
    expect("verify", key.verify_mac(b"text", &code), true)?;
    expect("another text", key.verify_mac(b"test", &code), false)?;
    expect("another key", other.verify_mac(b"text", &code), false)?;
    expect("shorter", key.verify_mac(b"text", &code[..40]), false)
}

fn data_keys(vault: &str) -> Result<(), String> {
    let key = key(vault, "files")?;
    let one = key
        .make_data_key(b"f1")
        .map_err(|error| format!("{error:?}"))?;
    let two = key
        .make_data_key(b"f1")
        .map_err(|error| format!("{error:?}"))?;
    if one.key.len() != 32 || one.wrapped.len() != 81 || one.key == two.key {
        return Err("not a key of 32 bytes, or the same again".to_owned());
    }
    expect("unwrap", key.unwrap_data_key(&one.wrapped, b"f1"), one.key)?;
    refused(
        "another context",
        key.unwrap_data_key(&one.wrapped, b"f2"),
        not_authentic,
    )?;
    let other = self::key(vault, "other")?;
    refused(
        "another key",
        other.unwrap_data_key(&one.wrapped, b"f1"),
        unknown,
    )
}

fn purposes(vault: &str) -> Result<(), String> {
    let key = key(vault, "a")?;
    let data_key = key
        .make_data_key(b"")
        .map_err(|error| format!("{error:?}"))?;
    refused("a data key", key.decrypt(&data_key.wrapped, b""), unknown)?;
    let code = key.mac(b"text").map_err(|error| format!("{error:?}"))?;
    expect("a code", key.verify(b"text", &code), false)
}

fn sizes(vault: &str) -> Result<(), String> {
    let key = key(vault, "a")?;
    let most = vec![7; 1024 * 1024];
    let more = vec![7; 1024 * 1024 + 1];
    let context = vec![7; 8 * 1024];
    let sealed = key
        .encrypt(&most, &context)
        .map_err(|error| format!("{error:?}"))?;
    expect("the largest", key.decrypt(&sealed, &context), most.clone())?;
    refused("plaintext", key.encrypt(&more, b""), invalid)?;
    refused("context", key.encrypt(b"", &more[..8 * 1024 + 1]), invalid)?;
    refused(
        "ciphertext",
        key.decrypt(&vec![1; 1024 * 1024 + 50], b""),
        invalid,
    )?;
    refused("sign", key.sign(&more), invalid)?;
    refused("mac", key.mac(&more), invalid)?;
    refused("wrapped", key.unwrap_data_key(&[1; 82], b""), invalid)
}

fn not_bound(_: &str) -> Result<(), String> {
    for vault in ["elsewhere", "", "*", "../default"] {
        let opened = Key::open(vault, "a").map(|_| ());
        refused(vault, opened, |error| matches!(error, Error::NoSuchVault))?;
    }
    Ok(())
}
