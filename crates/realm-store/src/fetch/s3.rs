//! An object in S3, or in what speaks its protocol: a signed URL, and then a GET like any other.
//!
//! The credentials go to the server that the settings of this machine name and to no other: a
//! manifest may name any, and is asked for without them. Not here: lists, uploads.

use std::time::Duration;

use realm_model::manifest::ObjectSource;
use reqwest::Url;
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};

use super::{Body, FetchError, Origins, Timeouts, http};

/// How long a signed URL holds: for the one request that it is made for, on clocks that differ.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);
/// Where nothing else is said, as Amazon has it.
const REGION: &str = "us-east-1";

/// Opens the object from `offset` on.
pub(super) async fn open(
    source: &ObjectSource,
    origins: &Origins,
    offset: u64,
    bytes_max: u64,
    timeouts: Timeouts,
) -> Result<(u64, Body<'static>), FetchError> {
    let url = url(source, origins)?;
    http::get_from(url.as_str(), offset, bytes_max, timeouts).await
}

fn url(source: &ObjectSource, origins: &Origins) -> Result<Url, FetchError> {
    let settings = &origins.s3;
    let region = source.region.as_ref().or(settings.region.as_ref());
    let region = region.map_or(REGION, String::as_str);
    let named = source.endpoint.as_ref().or(settings.endpoint.as_ref());
    let endpoint = match named {
        Some(endpoint) => endpoint.clone(),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    // A name with a dot has no certificate below Amazon's.
    let style = match named.is_none() && !source.bucket.contains('.') {
        true => UrlStyle::VirtualHost,
        false => UrlStyle::Path,
    };
    let bad = || FetchError::Setting {
        what: "address of an S3 server",
        value: http::shown(&endpoint),
    };
    let parsed = Url::parse(&endpoint).map_err(|_| bad())?;
    let bucket = Bucket::new(parsed, style, source.bucket.clone(), region.to_owned());
    let bucket = bucket.map_err(|_| bad())?;
    let credentials = credentials(source, origins);
    let action = bucket.get_object(credentials, &source.key);
    Ok(action.sign(SIGNED_FOR))
}

/// Those of this machine, if the source does not lead elsewhere.
fn credentials<'a>(source: &ObjectSource, origins: &'a Origins) -> Option<&'a Credentials> {
    let plain = |endpoint: &String| endpoint.trim_end_matches('/').to_owned();
    let ours = origins.s3.endpoint.as_ref().map(plain);
    match source.endpoint.as_ref().map(plain) {
        Some(theirs) if Some(&theirs) != ours.as_ref() => None,
        Some(_) | None => origins.s3.credentials.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::S3Settings;
    use super::*;

    const KEY: &str = "AKIAIOSFODNN7EXAMPLE";

    fn check(endpoint: Option<&str>, region: Option<&str>, ours: Option<&str>, expected: &str) {
        let source = ObjectSource {
            bucket: "acme".to_owned(),
            key: "a/orders 1%20@x.wasm".to_owned(),
            endpoint: endpoint.map(str::to_owned),
            region: region.map(str::to_owned),
            digest: None,
        };
        let origins = Origins {
            s3: S3Settings {
                endpoint: ours.map(str::to_owned),
                region: Some("eu-central-1".to_owned()),
                credentials: Some(Credentials::new(KEY, "hush")),
            },
            ..Origins::default()
        };
        let url = url(&source, &origins).expect("a URL");
        let signed = url.query().is_some_and(|query| query.contains(KEY));
        let seen = format!(
            "{} {}",
            http::shown(url.as_str()),
            if signed { "signed" } else { "anonymous" }
        );
        let path = "a/orders%201%2520%40x.wasm";
        assert_eq!(seen, expected.replace("KEY", path), "{url}");
        if signed {
            let region = region.unwrap_or("eu-central-1");
            assert!(url.as_str().contains(&format!("%2F{region}%2Fs3")), "{url}");
        }
        assert!(!url.as_str().contains("hush"));
    }

    #[test]
    fn credentials_go_to_the_server_of_this_machine_alone() {
        let (mine, other) = (Some("http://127.0.0.1:9000"), Some("https://s3.example"));
        let amazon = "https://acme.s3.eu-central-1.amazonaws.com/KEY signed";
        check(None, None, None, amazon);
        check(
            None,
            Some("us-west-2"),
            None,
            &amazon.replace("eu-central-1", "us-west-2"),
        );
        check(None, None, mine, "http://127.0.0.1:9000/acme/KEY signed");
        check(
            None,
            None,
            Some("http://127.0.0.1:9000/"),
            "http://127.0.0.1:9000/acme/KEY signed",
        );
        check(mine, None, mine, "http://127.0.0.1:9000/acme/KEY signed");
        check(
            mine,
            None,
            Some("http://127.0.0.1:9000/"),
            "http://127.0.0.1:9000/acme/KEY signed",
        );
        check(other, None, mine, "https://s3.example/acme/KEY anonymous");
        check(
            other,
            Some("a"),
            None,
            "https://s3.example/acme/KEY anonymous",
        );
        // The same host under another scheme is another server.
        check(
            Some("https://127.0.0.1:9000"),
            None,
            mine,
            "https://127.0.0.1:9000/acme/KEY anonymous",
        );
    }

    #[test]
    fn a_bucket_with_a_dot_stands_in_the_path() {
        let source = ObjectSource {
            bucket: "acme.builds".to_owned(),
            key: "a".to_owned(),
            endpoint: None,
            region: None,
            digest: None,
        };
        let url = url(&source, &Origins::default()).expect("a URL");
        assert_eq!(
            url.as_str(),
            "https://s3.us-east-1.amazonaws.com/acme.builds/a"
        );
    }

    #[test]
    fn a_setting_that_is_no_address_is_told_without_what_is_secret() {
        for endpoint in ["s3.example.com", "ftp://a", "http://"] {
            let origins = Origins {
                s3: S3Settings {
                    endpoint: Some(endpoint.to_owned()),
                    ..S3Settings::default()
                },
                ..Origins::default()
            };
            let source = ObjectSource {
                bucket: "acme".to_owned(),
                key: "a".to_owned(),
                endpoint: None,
                region: None,
                digest: None,
            };
            let error = url(&source, &origins).expect_err(endpoint);
            assert_eq!(error.code(), "bad-source-setting", "{error}");
        }
    }
}
