//! A component in an OCI registry: a layer of an artifact, as `wkg`, `oras` and others push it.
//!
//! A tag is looked up once, when the pin is made. A node that has the pin asks for the bytes of that
//! digest and for no manifest, so a tag that moves changes nothing for it. Not here: layers that
//! are archives, pushing.

use bytes::Bytes;
use realm_model::digest::Digest;
use realm_model::lock::Pin;
use realm_model::manifest::RegistrySource;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::login::login;
use super::{Body, FetchError, Origins, Timeouts, collect, http};

/// Bytes of a manifest: what registries take at most.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of an answer with a token: a token has a few thousand.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Digests in a message.
const DIGESTS_SHOWN_MAX: usize = 3;

/// Manifests of artifacts, and lists of them.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// Opens the bytes of a pin from `offset` on.
pub(super) async fn open(
    source: &RegistrySource,
    origins: &Origins,
    pin: Pin,
    offset: u64,
    timeouts: Timeouts,
) -> Result<(u64, Body<'static>), FetchError> {
    let mut registry = Registry::new(source, origins, timeouts)?;
    registry.blob(pin.digest, offset, pin.size).await
}

/// All bytes of the component that the source names.
pub(super) async fn resolve(
    source: &RegistrySource,
    origins: &Origins,
    bytes_max: u64,
    timeouts: Timeouts,
) -> Result<Bytes, FetchError> {
    let mut registry = Registry::new(source, origins, timeouts)?;
    let expected = match (source.digest, &source.tag) {
        (Some(digest), _) => digest,
        (None, Some(tag)) => registry.component(tag, bytes_max).await?,
        (None, None) => return Err(registry.unusable("it has neither a tag nor a pin")),
    };
    let (_, body) = match registry.blob(expected, 0, bytes_max).await {
        Err(FetchError::Status { url, status: 404 }) if source.digest.is_some() => {
            // People copy the digest that registries show, which is that of the manifest.
            let found = registry.component(&expected.to_string(), bytes_max).await;
            return Err(match found {
                Ok(component) => FetchError::ManifestPin {
                    from: source.to_string(),
                    manifest: expected,
                    component,
                },
                Err(_) => FetchError::Status { url, status: 404 },
            });
        }
        opened => opened?,
    };
    let from = source.to_string();
    let bytes = collect(from.clone(), body, bytes_max).await?;
    let got = Digest::of(&bytes);
    match got == expected {
        true => Ok(bytes),
        false => Err(FetchError::Mismatch {
            from,
            expected,
            got,
        }),
    }
}

struct Registry<'a> {
    client: Client,
    source: &'a RegistrySource,
    origins: &'a Origins,
    scheme: &'static str,
    authorization: Option<HeaderValue>,
}

impl<'a> Registry<'a> {
    fn new(
        source: &'a RegistrySource,
        origins: &'a Origins,
        timeouts: Timeouts,
    ) -> Result<Self, FetchError> {
        Ok(Self {
            client: http::pooled(timeouts, 1)?,
            source,
            origins,
            scheme: origins.scheme_of(&source.host),
            authorization: None,
        })
    }

    async fn blob(
        &mut self,
        digest: Digest,
        offset: u64,
        bytes_max: u64,
    ) -> Result<(u64, Body<'static>), FetchError> {
        let place = format!("blobs/{digest}");
        let ask = |request| http::from_offset(request, offset);
        let (url, response) = self.get(&place, ask).await?;
        http::body_of(&url, response, offset, bytes_max)
    }

    /// The digest of the component that a tag, or the digest of a manifest, stands for.
    async fn component(&mut self, reference: &str, bytes_max: u64) -> Result<Digest, FetchError> {
        let manifest = match self.manifest(reference).await? {
            Manifest {
                manifests: Some(entries),
                ..
            } => {
                let entry = choose_entry(&entries).map_err(|why| self.unusable(why))?;
                self.manifest(&entry.digest).await?
            }
            manifest => manifest,
        };
        let layers = manifest.layers.unwrap_or_default();
        let layer = choose_layer(&layers).map_err(|why| self.unusable(why))?;
        if layer.size > bytes_max {
            return Err(FetchError::TooLarge {
                from: self.source.to_string(),
                bytes_max,
            });
        }
        let digest = layer.digest.parse();
        digest.map_err(|_| self.unusable("its layer is not named by a SHA-256"))
    }

    async fn manifest(&mut self, reference: &str) -> Result<Manifest, FetchError> {
        let place = format!("manifests/{reference}");
        let ask = |request: RequestBuilder| request.header(ACCEPT, MANIFESTS);
        let (url, response) = self.get(&place, ask).await?;
        let bytes = http::small(&url, response, MANIFEST_BYTES_MAX).await?;
        // A tag may be anything; a digest is a promise.
        if let Ok(expected) = reference.parse::<Digest>()
            && expected != Digest::of(&bytes)
        {
            return Err(FetchError::Mismatch {
                from: url,
                expected,
                got: Digest::of(&bytes),
            });
        }
        read_manifest(&bytes).map_err(|why| self.unusable(why))
    }

    /// Asks for a part of the repository; logs in if the registry wants that.
    async fn get(
        &mut self,
        place: &str,
        ask: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<(String, Response), FetchError> {
        let (host, repository) = self.there();
        let url = format!("{}://{host}/v2/{repository}/{place}", self.scheme);
        let response = self.send(&url, &ask).await?;
        if response.status() != StatusCode::UNAUTHORIZED || self.authorization.is_some() {
            return Ok((url, response));
        }
        let Some(challenge) = challenge(response.headers()) else {
            return Ok((url, response));
        };
        let Some(authorization) = self.authorize(challenge).await? else {
            return Ok((url, response));
        };
        self.authorization = Some(authorization);
        let response = self.send(&url, &ask).await?;
        Ok((url, response))
    }

    async fn send(
        &self,
        url: &str,
        ask: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, FetchError> {
        let mut request = ask(self.client.get(url));
        if let Some(authorization) = &self.authorization {
            // The client leaves it out where a redirect leads to another host.
            request = request.header(AUTHORIZATION, authorization);
        }
        request
            .send()
            .await
            .map_err(|error| http::failed(url, error))
    }

    /// What the registry wants to see, if this machine can have it.
    async fn authorize(&self, challenge: Challenge) -> Result<Option<HeaderValue>, FetchError> {
        let login = login(self.origins, &self.source.host).await?;
        let (realm, service) = match challenge {
            Challenge::Basic => {
                let Some(login) = login else { return Ok(None) };
                let request = self
                    .client
                    .get(format!("{}://{}", self.scheme, self.source.host));
                let request = request.basic_auth(login.user, Some(login.password.as_str()));
                let built = request.build().ok();
                return Ok(built.and_then(|built| built.headers().get(AUTHORIZATION).cloned()));
            }
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let Some(mut url) = self.token_url(&realm) else {
            return Err(self.unusable(
                "the registry wants to have it asked for a token over an unprotected address",
            ));
        };
        let (_, repository) = self.there();
        // The scope is ours to say: a pull of this repository, whatever the registry would offer.
        url.query_pairs_mut()
            .append_pair("scope", &format!("repository:{repository}:pull"));
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let mut request = self.client.get(url.clone());
        if let Some(login) = login {
            request = request.basic_auth(login.user, Some(login.password.as_str()));
        }
        let response = request.send().await;
        let response = response.map_err(|error| http::failed(url.as_str(), error))?;
        let answer = http::small(url.as_str(), response, ANSWER_BYTES_MAX).await?;
        match bearer(&answer) {
            Some(header) => Ok(Some(header)),
            None => Err(self.unusable("the registry gave no token")),
        }
    }

    /// Where a token is asked for: protected, unless the registry itself is not.
    fn token_url(&self, realm: &str) -> Option<Url> {
        let url = Url::parse(realm).ok()?;
        let fits = url.scheme() == "https" || (url.scheme() == "http" && self.scheme == "http");
        fits.then_some(url)
    }

    /// The host and the repository as the registry has them.
    fn there(&self) -> (&str, String) {
        let name = &self.source.repository;
        match self.source.host.as_str() {
            // Docker Hub's registry has another name, and its own images are in a folder.
            "docker.io" | "index.docker.io" => match name.contains('/') {
                true => ("registry-1.docker.io", name.clone()),
                false => ("registry-1.docker.io", format!("library/{name}")),
            },
            host => (host, name.clone()),
        }
    }

    fn unusable(&self, why: impl Into<String>) -> FetchError {
        FetchError::Unusable {
            from: self.source.to_string(),
            why: why.into(),
        }
    }
}

/// How a registry wants to be asked.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// The first way that is understood; a token before a password.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).into_iter();
    let texts = texts.filter_map(|text| text.to_str().ok());
    let mut basic = None;
    for challenge in texts
        .filter_map(|text| http_auth::parse_challenges(text).ok())
        .flatten()
    {
        let value = |name: &str| {
            let mut params = challenge.params.iter();
            let found = params.find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            let service = value("service");
            return Some(Challenge::Bearer { realm, service });
        }
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn bearer(answer: &[u8]) -> Option<HeaderValue> {
    let token: Token = serde_json::from_slice(answer).ok()?;
    let text = token.token.or(token.access_token)?;
    let mut header = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// A manifest of an artifact, or a list of them. All else in it is of no use here.
#[derive(Debug, Deserialize)]
struct Manifest {
    layers: Option<Vec<Layer>>,
    manifests: Option<Vec<ListEntry>>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct ListEntry {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
}

fn read_manifest(bytes: &[u8]) -> Result<Manifest, String> {
    serde_json::from_slice(bytes).map_err(|_| "its manifest is not of the form of OCI".to_owned())
}

/// The one for WebAssembly, or the only one.
fn choose_entry(entries: &[ListEntry]) -> Result<&ListEntry, String> {
    let is_wasm = |entry: &&ListEntry| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|platform| platform.architecture == "wasm")
    };
    let wasm: Vec<&ListEntry> = entries.iter().filter(is_wasm).collect();
    let entry = match (wasm.as_slice(), entries) {
        ([one], _) => *one,
        ([], [one]) => one,
        _ => {
            return Err(format!(
                "it is a list of {} artifacts, and not one of them alone is for WebAssembly",
                entries.len()
            ));
        }
    };
    // It becomes a part of a URL.
    match entry.digest.parse::<Digest>() {
        Ok(_) => Ok(entry),
        Err(_) => Err("a list in it is not of SHA-256".to_owned()),
    }
}

/// The layer that is WebAssembly, or the only one.
fn choose_layer(layers: &[Layer]) -> Result<&Layer, String> {
    let is_wasm =
        |kind: &str| kind == "application/wasm" || kind.to_ascii_lowercase().ends_with("+wasm");
    let wasm: Vec<&Layer> = layers
        .iter()
        .filter(|layer| is_wasm(&layer.media_type))
        .collect();
    match (wasm.as_slice(), layers) {
        ([one], _) => Ok(one),
        ([], []) => Err("its manifest has no layer".to_owned()),
        // Some tools call every file an archive; whether it is one, its bytes will show.
        ([], [one]) if !is_packed(&one.media_type) => Ok(one),
        ([], [_]) => Err("its layer is a packed archive, not a component".to_owned()),
        ([], _) => Err(format!(
            "none of its {} layers is WebAssembly",
            layers.len()
        )),
        (several, _) => {
            let shown = several.iter().take(DIGESTS_SHOWN_MAX);
            let shown: Vec<String> = shown
                .filter_map(|layer| Some(layer.digest.parse::<Digest>().ok()?.to_string()))
                .collect();
            Err(format!(
                "{} of its layers are WebAssembly: pin the one that is meant ({})",
                several.len(),
                shown.join(", ")
            ))
        }
    }
}

fn is_packed(media_type: &str) -> bool {
    [
        "+gzip", ".gzip", "+zstd", ".zstd", "+bzip2", "+xz", "tar.gz",
    ]
    .iter()
    .any(|end| media_type.ends_with(end))
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
