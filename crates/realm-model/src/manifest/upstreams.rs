//! Reads `upstream` and the keys beside it: a component without bytes, in whose place a service beside
//! realm answers. The spelling of addresses is in [`crate::upstream`].

use super::Source;
use super::keys::COMPONENT;
use crate::codes;
use crate::fields::{Fields, Report};
use crate::upstream::{self, Scripts, Speaks, Upstream};

/// Keys that say something of any upstream.
const OF_UPSTREAMS: [&str; 8] = [
    "upstream",
    "keep_connections",
    "wall_timeout_ms",
    "max_concurrency",
    "max_request_bytes",
    "max_response_bytes",
    "websocket_idle_ms",
    "health",
];
/// Keys that say something of upstreams of FastCGI.
const OF_FASTCGI: [&str; 3] = ["root", "split", "index"];
/// Keys that say something of upstreams alone.
const OF_UPSTREAMS_ALONE: [&str; 4] = ["root", "split", "index", "keep_connections"];

/// What a usual load of a server reuses.
const HTTP_KEEP: u32 = 32;

/// The upstream in place of a `source`, if one is written.
pub(super) fn read(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    source: Option<Source>,
) -> Option<Source> {
    let Some(place) = fields.key_span("upstream") else {
        refuse(report, fields, &OF_UPSTREAMS_ALONE, |key| {
            let message = format!("`{key}` is of an upstream, and the component has none");
            (message, "add `upstream`, or take it away")
        });
        return source;
    };
    if fields.key_span("source").is_some() {
        let message = "`source` and `upstream` are two answers to who answers";
        let hint = "keep one of them; two versions of an app (`NAME@LABEL`) may have one each";
        report.error(
            codes::UPSTREAM_MISMATCH,
            place,
            message,
            Some(hint.to_owned()),
        );
    }
    let others: Vec<&str> = COMPONENT
        .keys
        .iter()
        .map(|key| key.name)
        .filter(|key| *key != "source" && !OF_UPSTREAMS.contains(key) && !OF_FASTCGI.contains(key))
        .collect();
    refuse(report, fields, &others, |key| {
        let message = format!("`{key}` is for a guest, and an upstream is none");
        (message, "take it away: the service has its own settings")
    });
    let read = fields.text(report, "upstream", upstream::read);
    let root = fields.text(report, "root", upstream::root);
    let split = fields.text(report, "split", upstream::split);
    let index = fields.text(report, "index", upstream::index);
    let keep = fields.integer(report, "keep_connections");
    let keep = keep.and_then(|keep| u32::try_from(keep).ok());
    let (address, is_fastcgi) = read?;
    if !is_fastcgi {
        refuse(report, fields, &OF_FASTCGI, |key| {
            let message = format!("`{key}` is of FastCGI, and this upstream speaks HTTP");
            (message, "take it away")
        });
        return Some(Source::Upstream(Upstream {
            address,
            speaks: Speaks::Http,
            keep: keep.unwrap_or(HTTP_KEEP),
        }));
    }
    if fields.key_span("root").is_none() {
        let message = "a FastCGI application finds no script without `root`";
        let hint = "add `root = \"/srv/www\"`, the document root as the application sees it";
        report.error(
            codes::MISSING_KEY,
            fields.place(),
            message,
            Some(hint.to_owned()),
        );
    }
    let scripts = Scripts {
        root: root?,
        split: split.unwrap_or_else(|| ".php".to_owned()),
        index: index.unwrap_or_else(|| "index.php".to_owned()),
    };
    Some(Source::Upstream(Upstream {
        address,
        speaks: Speaks::FastCgi(scripts),
        keep: keep.unwrap_or(0),
    }))
}

fn refuse(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    keys: &[&str],
    why: impl Fn(&str) -> (String, &'static str),
) {
    for key in keys {
        if let Some(span) = fields.key_span(key) {
            let (message, hint) = why(key);
            report.error(
                codes::UPSTREAM_MISMATCH,
                span,
                message,
                Some(hint.to_owned()),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::grants::Capability;
    use crate::manifest::{Mode, parse};

    /// A delegate that may reach nothing may not reach it by a service that is there already.
    #[test]
    fn an_upstream_takes_what_reaching_it_takes() {
        use Capability::{OutboundHttp, PrivateNetwork, Sockets};
        for (keys, expected) in [
            ("source = 'file:a'", vec![]),
            (
                "upstream = 'http://a.example'",
                vec![OutboundHttp, PrivateNetwork],
            ),
            (
                "upstream = 'fastcgi:unix:/a'\nroot = '/a'",
                vec![Sockets, PrivateNetwork],
            ),
        ] {
            let (manifest, problems) = parse(&format!("[components.a]\n{keys}"));
            let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
            let spec = &manifest.components[&"a".parse().expect("a name")];
            let wants: Vec<Capability> = Capability::of(spec).into_iter().collect();
            assert_eq!(wants, expected, "{keys}");
            let is_upstream = spec.mode() == Mode::Upstream;
            assert_eq!(is_upstream, spec.upstream().is_some(), "{keys}");
            assert!(spec.mode().takes_requests() && !spec.mode().is_job());
        }
    }
}
