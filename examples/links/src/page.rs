//! URLs, and those that are on a page: enough of both for a checker of links, and no more.

use std::collections::BTreeSet;
use std::fmt;

/// Where a link leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub is_https: bool,
    pub authority: String,
    pub path: String,
}

impl Target {
    /// A whole URL of the web, without what is behind a `#`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next()?.trim();
        let (scheme, rest) = text.split_once("://")?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/{path}"),
        };
        (!authority.is_empty()).then(|| Self {
            is_https,
            authority: authority.to_owned(),
            path,
        })
    }

    /// What a link on this page means.
    fn joined(&self, link: &str) -> Option<Self> {
        let link = link.split('#').next()?.trim();
        if link.is_empty() {
            return None;
        }
        if link.contains("://") {
            return Self::parse(link);
        }
        if let Some(rest) = link.strip_prefix("//") {
            let scheme = if self.is_https { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        // `mailto:`, `javascript:` and the like lead nowhere on the web.
        let before_path = link.split(['/', '?']).next().unwrap_or_default();
        if before_path.contains(':') {
            return None;
        }
        let path = match link.starts_with('/') {
            true => link.to_owned(),
            false => {
                let folder = self.path.split('?').next().unwrap_or("/");
                let folder = &folder[..=folder.rfind('/').unwrap_or(0)];
                format!("{folder}{link}")
            }
        };
        Some(Self {
            path,
            ..self.clone()
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// Where the page's `href`s and `src`s lead, each once.
pub fn links(page: &Target, html: &str) -> BTreeSet<Target> {
    let mut found = BTreeSet::new();
    for name in ["href=", "src="] {
        for (at, _) in html.match_indices(name) {
            let value = &html[at + name.len()..];
            let value = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => value[1..].split(quote).next(),
                Some(_) => value.split([' ', '>', '\n']).next(),
                None => None,
            };
            found.extend(value.and_then(|link| page.joined(&link.replace("&amp;", "&"))));
        }
    }
    found
}

/// `%XX` as the bytes that it stands for, in text.
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = match (first, after) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
