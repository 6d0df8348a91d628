//! What authorities look for before they give a certificate: by HTTP-01 and by TLS-ALPN-01.

use http::StatusCode;
use realm_edge::tls::{Certificate, Challenge};

use crate::secure::anybody::Anybody;
use crate::secure::{As, Authority, Secure, shown};
use crate::support::{empty, get, named, whole};

#[tokio::test]
async fn authorities_get_their_proofs() {
    let secure = Secure::with(named("app"), |_, https| https.redirect = Some(443)).await;
    let url = "http://a.example/.well-known/acme-challenge/tok-1_n";
    let challenge = Challenge::Http {
        name: "a.example".to_owned(),
        token: "tok-1_n".to_owned(),
        answer: "tok-1_n.thumb".to_owned(),
    };
    assert_eq!(
        secure.rig.send1(get(url)).await.status(),
        StatusCode::PERMANENT_REDIRECT
    );
    let number = secure.identity.answer(challenge.clone());
    let (status, headers, body) = whole(secure.rig.send1(get(url)).await).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"tok-1_n.thumb"[..]));
    assert_eq!(headers["cache-control"], "no-store");
    let posted = crate::support::request("POST", url, empty());
    assert_eq!(
        secure.rig.send1(posted).await.status(),
        StatusCode::PERMANENT_REDIRECT
    );
    // It is nobody's proof for another name.
    let other = get("http://b.example/.well-known/acme-challenge/tok-1_n");
    assert_eq!(
        secure.rig.send1(other).await.status(),
        StatusCode::PERMANENT_REDIRECT
    );
    // What is withdrawn for another order leaves this one alone.
    let anothers = secure.identity.answer_for_another(challenge);
    secure.identity.withdraw(anothers);
    assert_eq!(secure.rig.send1(get(url)).await.status(), StatusCode::OK);
    secure.identity.withdraw(number);
    assert_eq!(
        secure.rig.send1(get(url)).await.status(),
        StatusCode::PERMANENT_REDIRECT
    );

    // By TLS-ALPN-01, also where clients must show certificates.
    secure.admit(&Authority::new(), false);
    let leaf = secure.authority.leaf_with(&["a.example"], |params| {
        let digest = rcgen::CustomExtension::new_acme_identifier(&[7; 32]);
        params.custom_extensions = vec![digest];
    });
    assert!(Certificate::from_pem(leaf.chain.as_bytes(), leaf.key.as_bytes()).is_err());
    let challenge = Challenge::Alpn {
        name: "a.example".to_owned(),
        certificate: Certificate::proof(leaf.der.clone(), leaf.secret()).expect("a proof"),
    };
    let like = As {
        protocols: &["acme-tls/1"],
        ..As::default()
    };
    let connect = async |name: &str| {
        let mut config = secure.client(&like);
        config
            .dangerous()
            .set_certificate_verifier(std::sync::Arc::new(Anybody));
        secure.connect_by(name, config).await
    };
    assert!(connect("a.example").await.is_err());
    // Another node's order for the name does not take the place of this node's own.
    let anothers = secure.authority.leaf(&["a.example"]);
    let foreign = Challenge::Alpn {
        name: "a.example".to_owned(),
        certificate: Certificate::proof(anothers.der.clone(), anothers.secret()).expect("a proof"),
    };
    let number = secure.identity.answer(challenge);
    secure.identity.answer_for_another(foreign);
    let stream = connect("a.example").await.expect("connected");
    let session = stream.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(shown(session), leaf.der);
    assert!(connect("b.example").await.is_err());
    // And who asks for HTTP does not see it.
    assert!(secure.connect("a.example", &As::default()).await.is_err());
    secure.identity.withdraw(number);
    let stream = connect("a.example").await.expect("connected");
    assert_eq!(shown(stream.get_ref().1), anothers.der);
}
