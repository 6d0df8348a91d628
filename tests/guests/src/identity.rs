//! Says who it is: `/token?id=&audience=&lifetime=` answers with a token, `/verify?id=&audience=&token=` with what
//! one says, or why it is none; `/.well-known/jwks.json` with the public keys of `default`; `/subject` with its own name.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/realm-cloud/identity.wit", world: "realm:cloud/identity-imports" });
}

use bindings::realm::cloud::identity::Issuer;

guests::serve!(handle);

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let word = |name: &str| guests::parameter(&request, name).unwrap_or_default();
    let id = guests::parameter(&request, "id").unwrap_or("default".to_owned());
    let audience = word("audience");
    let lifetime = u32::try_from(guests::number(&request, "lifetime", 300)).unwrap_or(u32::MAX);
    let path = guests::path(&request);
    let answer = Issuer::open(&id).and_then(|issuer| match path.as_str() {
        "/token" => issuer.token(&audience, lifetime),
        "/verify" => issuer.verify(&word("token"), &audience).map(|claims| {
            format!(
                "{} {} {}",
                claims.issuer,
                claims.subject,
                claims.expires_at - claims.issued_at
            )
        }),
        "/subject" => Ok(issuer.subject()),
        _ => issuer.jwks(),
    });
    match answer {
        Ok(text) if path.ends_with(".json") => guests::json(out, 200, &text),
        Ok(text) => guests::text(out, 200, &text),
        Err(error) => guests::text(out, 403, &format!("{error:?}")),
    }
}
