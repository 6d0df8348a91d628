//! Which component answers which host and path. Pure matching; not how a request travels.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::ComponentName;

/// The path part of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathPattern {
    /// `/health`: this path alone.
    Exact(String),
    /// `/auth/...`: `/auth`, `/auth/` and all below it; kept as `/auth` (the root as ``).
    Prefix(String),
}

/// The host part of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostPattern {
    /// `shop.example.com`, lower case, without port or trailing dot.
    Exact(String),
    /// `*.example.com`: any name below the suffix (kept without `*.`).
    Below(String),
}

/// One route of a node: what the edge matches a request against.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// `None`: any host.
    pub host: Option<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// The component that answers; the app whose versions do, if they have weights.
    pub component: ComponentName,
    /// Versions of the app, and how many requests of all together each one gets. Empty: the component
    /// itself answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<ComponentName, u32>,
}

impl PathPattern {
    /// Whether a request path (without query) matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    /// Order of preference: an exact path first, then the longest prefix.
    pub fn precedence(&self) -> (bool, usize) {
        match self {
            Self::Exact(path) => (true, path.len()),
            Self::Prefix(path) => (false, path.len()),
        }
    }
}

impl HostPattern {
    /// Whether a host (lower case, without port or trailing dot) matches.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Below(suffix) => host
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }

    /// Order of preference: an exact host first, then the longest suffix.
    pub fn precedence(&self) -> (bool, usize) {
        match self {
            Self::Exact(host) => (true, host.len()),
            Self::Below(suffix) => (false, suffix.len()),
        }
    }
}

/// The components that answer where these are `component` and `weights` of a route.
pub(crate) fn answering<'a>(
    component: &'a ComponentName,
    weights: &'a BTreeMap<ComponentName, u32>,
) -> impl Iterator<Item = &'a ComponentName> {
    let one = weights.is_empty().then_some(component);
    one.into_iter().chain(weights.keys())
}

/// A weight as its share of all of them together, rounded down to tenths of a hundredth where that says
/// more: `75 %`, `33.3 %`.
pub fn share_in_words(weight: u32, all: u32) -> String {
    let thousandths = u64::from(weight) * 1_000 / u64::from(all.max(1));
    match thousandths % 10 {
        0 => format!("{} %", thousandths / 10),
        tenth => format!("{}.{tenth} %", thousandths / 10),
    }
}

impl Route {
    /// The components that answer: the one, or the versions that have weights.
    pub fn answering(&self) -> impl Iterator<Item = &ComponentName> {
        answering(&self.component, &self.weights)
    }

    /// Sorts routes so that the first match is the right one: exact host, longest host suffix,
    /// any host; then exact path, longest prefix. Equal ones stay in the order of the manifest.
    pub fn sort(routes: &mut [Self]) {
        routes.sort_by_key(|route| {
            std::cmp::Reverse((
                route.host.as_ref().map(HostPattern::precedence),
                route.path.precedence(),
            ))
        });
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}/..."),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let auth = PathPattern::Prefix("/auth".to_owned());
        for (path, expected) in [
            ("/auth", true),
            ("/auth/", true),
            ("/auth/login", true),
            ("/authority", false),
            ("/", false),
        ] {
            assert_eq!(auth.matches(path), expected, "{path}");
        }
        assert!(PathPattern::Prefix(String::new()).matches("/anything"));
        assert!(PathPattern::Prefix(String::new()).matches("/"));
    }

    #[test]
    fn a_host_suffix_needs_a_label_before_it() {
        let below = HostPattern::Below("example.com".to_owned());
        assert!(below.matches("shop.example.com"));
        assert!(below.matches("a.b.example.com"));
        assert!(!below.matches("example.com"));
        assert!(!below.matches(".example.com"));
        assert!(!below.matches("badexample.com"));
    }

    #[test]
    fn the_most_specific_route_comes_first() {
        let route = |host: Option<HostPattern>, path| Route {
            weights: BTreeMap::new(),
            host,
            path,
            component: "a".parse().expect("a name"),
        };
        let host = |host: &str| Some(HostPattern::Exact(host.to_owned()));
        let below = |host: &str| Some(HostPattern::Below(host.to_owned()));
        let prefix = |path: &str| PathPattern::Prefix(path.to_owned());
        let exact = |path: &str| PathPattern::Exact(path.to_owned());
        let sorted = vec![
            route(host("a.b"), prefix("")),
            route(below("x.a.b"), exact("/")),
            route(below("a.b"), prefix("/long")),
            route(None, exact("/x")),
            route(None, prefix("/x/y")),
            route(None, prefix("/x")),
        ];
        let mut shuffled: Vec<_> = sorted.iter().rev().cloned().collect();
        Route::sort(&mut shuffled);
        assert_eq!(shuffled, sorted);
    }
}
