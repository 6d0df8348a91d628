//! A vault: pinned bytes, and everything that must not open.

use std::task::{Context, Poll, Waker};

use super::*;

const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEWER: &str = "/AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const KEY: KeyName<'_> = KeyName {
    part: "",
    name: "orders",
};
const WORDS: &[u8] = b"attack at dawn";

fn vault(secret: &str) -> Vault {
    Vault::new(secret.as_bytes(), "default", "vault").unwrap()
}

fn done<T>(mut answer: Answer<'_, T, KeysError>) -> Result<T, KeysError> {
    let mut context = Context::from_waker(Waker::noop());
    match answer.as_mut().poll(&mut context) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it does not wait for anybody"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

fn opened(vault: &Vault, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, KeysError> {
    done(vault.decrypt(KEY, sealed, context)).map(|plain| plain.to_vec())
}

/// Computed apart from this code, by other implementations of HKDF, HChaCha20, ChaCha20-Poly1305, Ed25519
/// and HMAC: what was sealed with one version opens with every later one.
#[test]
fn derivation_and_form_stay_as_they_are() {
    let vault = vault(ROOT);
    let names = vault.names(KEY).unwrap();
    for (purpose, id, key) in [
        (
            Purpose::Encrypt,
            "b3b79e39ab07205e",
            "e37a9074cf4305503fda8a78023ce74738df5216e14b8f1e6dec0a3b3c13060d",
        ),
        (
            Purpose::Wrap,
            "ef0f9640b8ac68dd",
            "175a6c8b808634069a044d998a450abf0c51401474c5c4f46ba9322102e8e706",
        ),
        (
            Purpose::Sign,
            "13f67d85e44a935d",
            "aadb7c0a071b62fe20433ca505ca1eb87896996492a74131358e0073a555a0bb",
        ),
        (
            Purpose::Mac,
            "ae799a0c52773ca8",
            "3f8c15acec1a48630f7e3a65ac7176b0ffc01322f1eda4501e4fe8e8862a61c6",
        ),
    ] {
        let derived = vault.roots.first(purpose, &names);
        assert_eq!(hex(&derived.id), id);
        assert_eq!(hex(&*derived.bytes), key);
    }
    let sealed = "01b3b79e39ab07205e6465666768696a6b6c6d6e6f707172737475767778797a7b5721847ea93cc64aff1077efab73d32f97a86e75ad0eff019934eac2cb15";
    let derived = vault.roots.first(Purpose::Encrypt, &names);
    let nonce = std::array::from_fn(|at| 100 + u8::try_from(at).unwrap());
    let made = seal_with(&derived, &nonce, WORDS, b"context").unwrap();
    assert_eq!(hex(&made), sealed);
    assert_eq!(
        opened(&vault, &bytes(sealed), b"context"),
        Ok(WORDS.to_vec())
    );
    let signed = "0113f67d85e44a935d050cd6e3f13be50d637b910cff9e8f55dc7d7f0ae276290f2b93945cfd2fae79168a7649c1d1e7781ba5435a772eb23e9db76fa216e07c630ea2fa76baba7506";
    assert_eq!(hex(&done(vault.sign(KEY, WORDS)).unwrap()), signed);
    let public = done(vault.public_keys(KEY)).unwrap();
    assert_eq!(
        hex(&public[0].key),
        "51c9c07885fe712b1e8571a5f63a58aef264392b090d82c9a247790d72d59d8c"
    );
    let code = "01ae799a0c52773ca851a5dee25f3a7d687e37ce6dc8096ddb48c9e9b1b4a52614abe07b16486a754e";
    assert_eq!(hex(&done(vault.mac(KEY, WORDS)).unwrap()), code);
}

#[test]
fn what_was_changed_anywhere_does_not_open() {
    let vault = vault(ROOT);
    let sealed = done(vault.encrypt(KEY, WORDS, b"c")).unwrap();
    let signature = done(vault.sign(KEY, WORDS)).unwrap();
    let code = done(vault.mac(KEY, WORDS)).unwrap();
    let wrapped = done(vault.data_key(KEY, b"c")).unwrap().wrapped;
    assert_eq!(
        [sealed.len(), signature.len(), code.len(), wrapped.len()],
        [WORDS.len() + 49, 73, 41, 81]
    );
    let fails = |vault: &Vault, at: usize, sealed: &[u8], wrapped: &[u8]| {
        let opened = opened(vault, sealed, b"c").unwrap_err();
        let unwrapped = done(vault.unwrap_data_key(KEY, wrapped, b"c")).map(|_| ());
        // The head says with which key: another head leads nowhere.
        let expected = match at {
            0..HEAD_BYTES => KeysError::UnknownKey,
            _ => KeysError::NotAuthentic,
        };
        assert_eq!(
            (opened, unwrapped),
            (expected.clone(), Err(expected)),
            "{at}"
        );
    };
    for bit in [0x01, 0x80] {
        let flipped = |bytes: &[u8], at: usize| {
            let mut bytes = bytes.to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bit;
            }
            bytes
        };
        for at in 0..sealed.len() {
            fails(&vault, at, &flipped(&sealed, at), &flipped(&wrapped, at));
        }
        for at in sealed.len()..wrapped.len() {
            let wrapped = flipped(&wrapped, at);
            let unwrapped = done(vault.unwrap_data_key(KEY, &wrapped, b"c"));
            assert!(matches!(unwrapped, Err(KeysError::NotAuthentic)), "{at}");
        }
        for at in 0..signature.len() {
            let verified = done(vault.verify(KEY, WORDS, &flipped(&signature, at)));
            assert_eq!(verified, Ok(false), "{at}");
        }
        for at in 0..code.len() {
            let verified = done(vault.verify_mac(KEY, WORDS, &flipped(&code, at)));
            assert_eq!(verified, Ok(false), "{at}");
        }
    }
    for length in 0..sealed.len() {
        let error = opened(&vault, &sealed[..length], b"c").unwrap_err();
        assert_eq!(error, KeysError::NotAuthentic, "{length}");
    }
    for length in 0..signature.len() {
        let verified = done(vault.verify(KEY, WORDS, &signature[..length]));
        assert_eq!(verified, Ok(false), "{length}");
    }
    for length in 0..code.len() {
        let verified = done(vault.verify_mac(KEY, WORDS, &code[..length]));
        assert_eq!(verified, Ok(false), "{length}");
    }
    let longer = |bytes: &[u8]| [bytes, b"x"].concat();
    assert_eq!(
        opened(&vault, &longer(&sealed), b"c"),
        Err(KeysError::NotAuthentic)
    );
    assert_eq!(
        done(vault.verify(KEY, WORDS, &longer(&signature))),
        Ok(false)
    );
    assert_eq!(
        done(vault.verify_mac(KEY, WORDS, &longer(&code))),
        Ok(false)
    );
    // And as they were, they are good.
    assert_eq!(opened(&vault, &sealed, b"c"), Ok(WORDS.to_vec()));
    assert_eq!(done(vault.verify(KEY, WORDS, &signature)), Ok(true));
    assert_eq!(done(vault.verify_mac(KEY, WORDS, &code)), Ok(true));
    assert_eq!(
        done(vault.verify(KEY, b"attack at dusk", &signature)),
        Ok(false)
    );
    assert_eq!(
        done(vault.verify_mac(KEY, b"attack at dusk", &code)),
        Ok(false)
    );
}

#[test]
fn another_key_context_or_purpose_is_another_matter() {
    let ours = vault(ROOT);
    let sealed = done(ours.encrypt(KEY, WORDS, b"customer 1")).unwrap();
    let again = done(ours.encrypt(KEY, WORDS, b"customer 1")).unwrap();
    assert_ne!(sealed, again);
    for context in [b"" as &[u8], b"customer 2", b"customer 1\0", b"customer "] {
        assert_eq!(
            opened(&ours, &sealed, context),
            Err(KeysError::NotAuthentic)
        );
    }
    let signature = done(ours.sign(KEY, WORDS)).unwrap();
    let code = done(ours.mac(KEY, WORDS)).unwrap();
    let data_key = done(ours.data_key(KEY, b"customer 1")).unwrap();
    let (namespace, name, part) = (
        Vault::new(ROOT.as_bytes(), "team", "vault").unwrap(),
        Vault::new(ROOT.as_bytes(), "default", "vault2").unwrap(),
        KeyName {
            part: "orders",
            name: "orders",
        },
    );
    let other_key = KeyName {
        part: "",
        name: "Orders",
    };
    for (what, vault, key) in [
        ("root", &vault(NEWER), KEY),
        ("namespace", &namespace, KEY),
        ("vault", &name, KEY),
        ("part", &ours, part),
        ("key", &ours, other_key),
    ] {
        let context = b"customer 1";
        let decrypted = done(vault.decrypt(key, &sealed, context)).map(|_| ());
        let unwrapped = done(vault.unwrap_data_key(key, &data_key.wrapped, context));
        assert_eq!(decrypted, Err(KeysError::UnknownKey), "{what}");
        assert_eq!(unwrapped.map(|_| ()), Err(KeysError::UnknownKey), "{what}");
        assert_eq!(
            done(vault.verify(key, WORDS, &signature)),
            Ok(false),
            "{what}"
        );
        assert_eq!(
            done(vault.verify_mac(key, WORDS, &code)),
            Ok(false),
            "{what}"
        );
    }
    // What is meant for one purpose means nothing to another.
    let crossed = done(ours.decrypt(KEY, &data_key.wrapped, b"customer 1"));
    assert_eq!(crossed.map(|_| ()), Err(KeysError::UnknownKey));
    let crossed = done(ours.verify_mac(KEY, WORDS, &signature));
    assert_eq!(crossed, Ok(false));
    let plain = done(ours.unwrap_data_key(KEY, &data_key.wrapped, b"customer 1")).unwrap();
    assert_eq!(*plain, *data_key.plain);
    let another = done(ours.data_key(KEY, b"customer 1")).unwrap();
    assert_ne!(*another.plain, *data_key.plain);
}

#[test]
fn an_older_root_opens_and_the_first_one_makes() {
    let (before, after) = (vault(ROOT), vault(&format!("{NEWER}\n{ROOT}")));
    let sealed = done(before.encrypt(KEY, WORDS, b"")).unwrap();
    let signature = done(before.sign(KEY, WORDS)).unwrap();
    let code = done(before.mac(KEY, WORDS)).unwrap();
    let data_key = done(before.data_key(KEY, b"")).unwrap();
    assert_eq!(opened(&after, &sealed, b""), Ok(WORDS.to_vec()));
    assert_eq!(done(after.verify(KEY, WORDS, &signature)), Ok(true));
    assert_eq!(done(after.verify_mac(KEY, WORDS, &code)), Ok(true));
    let plain = done(after.unwrap_data_key(KEY, &data_key.wrapped, b"")).unwrap();
    assert_eq!(*plain, *data_key.plain);
    let newer = done(after.encrypt(KEY, WORDS, b"")).unwrap();
    assert_eq!(opened(&before, &newer, b""), Err(KeysError::UnknownKey));
    assert_eq!(opened(&vault(NEWER), &newer, b""), Ok(WORDS.to_vec()));
    let ids = |vault: &Vault| {
        let keys = done(vault.public_keys(KEY)).unwrap();
        keys.into_iter().map(|key| key.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&after), [ids(&vault(NEWER)), ids(&before)].concat());
    // Both in another order: what was made with either opens all the same.
    let turned = vault(&format!("{ROOT}\n{NEWER}"));
    assert_eq!(opened(&turned, &newer, b""), Ok(WORDS.to_vec()));
    assert_eq!(opened(&turned, &sealed, b""), Ok(WORDS.to_vec()));
}

#[test]
fn sizes_are_bounded() {
    let vault = vault(ROOT);
    let largest = vec![7; limits::KEYED_BYTES_MAX];
    let larger = vec![7; limits::KEYED_BYTES_MAX + 1];
    let sealed = done(vault.encrypt(KEY, &largest, b"")).unwrap();
    assert_eq!(opened(&vault, &sealed, b""), Ok(largest.clone()));
    let too_large = |result: Result<(), KeysError>| {
        assert!(
            matches!(result, Err(KeysError::Cloud(CloudError::TooLarge { .. }))),
            "{result:?}"
        );
    };
    let context = vec![7; limits::CONTEXT_BYTES_MAX + 1];
    too_large(done(vault.encrypt(KEY, &larger, b"")).map(|_| ()));
    too_large(done(vault.encrypt(KEY, b"", &context)).map(|_| ()));
    too_large(done(vault.decrypt(KEY, &[&sealed[..], b"x"].concat(), b"")).map(|_| ()));
    too_large(done(vault.decrypt(KEY, &sealed, &context)).map(|_| ()));
    too_large(done(vault.sign(KEY, &larger)).map(|_| ()));
    too_large(done(vault.verify(KEY, &larger, b"")).map(|_| ()));
    too_large(done(vault.mac(KEY, &larger)).map(|_| ()));
    too_large(done(vault.verify_mac(KEY, &larger, b"")).map(|_| ()));
    too_large(done(vault.data_key(KEY, &context)).map(|_| ()));
    too_large(done(vault.unwrap_data_key(KEY, &sealed, b"")).map(|_| ()));
    assert!(done(vault.sign(KEY, &largest)).is_ok() && done(vault.mac(KEY, &largest)).is_ok());
    for name in ["", "a\n", &"x".repeat(256)] {
        let key = KeyName { part: "", name };
        let refused = done(vault.encrypt(key, b"", b""));
        assert!(
            matches!(refused, Err(KeysError::Cloud(CloudError::Invalid(_)))),
            "{name:?}"
        );
    }
}
