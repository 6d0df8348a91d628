//! What the front door does with the requests of a component before anybody answers them: who is let
//! through, how often, and whether what was answered before will do. Values and pure decisions; not where a
//! request comes from (the edge).
//!
//! Rules fail towards refusing: a rule that refuses is met by any reading of a path and any line of a
//! header, one that lets through only by all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::block::Block;
use crate::observed::Revision;
use crate::route::{HostPattern, PathPattern};

/// Rules of one component: each request is held against them, one after the other.
pub const RULES_MAX: usize = 64;
/// Items of one list of a rule.
pub const RULE_ITEMS_MAX: usize = 256;
/// Bytes of what the value of a header is compared with.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// What holds for the requests of a component.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Front {
    /// How many requests of one client are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_client: Option<PerClient>,
    /// Who is let through; the first rule that is met decides, and without one a request passes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Whether nodes keep answers and give them to others who ask the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cache: bool,
}

/// A component's [`Front`] where it is in force, and the revision that shall answer behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fronted {
    /// What holds.
    pub front: Front,
    /// What shall run, wherever it does.
    pub revision: Option<Revision>,
}

/// A bucket of requests for each client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PerClient {
    /// Requests that it fills up with each second.
    pub requests_per_sec: u32,
    /// Requests that it holds.
    pub burst: u32,
}

/// One rule: all of its conditions must be met, each by one of its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// What becomes of a request that meets it.
    pub action: RuleAction,
    /// Where the client is.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_texts")]
    pub clients: Vec<Block>,
    /// The host that is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_texts")]
    pub hosts: Vec<HostPattern>,
    /// The method, as it is sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The path, without the query.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_texts")]
    pub paths: Vec<PathPattern>,
    /// Headers by name, in lower case: each of them must be met.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, ValuePattern>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// It is refused.
    Deny,
    /// No later rule is asked.
    Allow,
}

/// What the value of a header is: `*` is any, `*bot*` has `bot` in it, `bot*` begins with it, `*bot`
/// ends with it, and anything else is the whole value. Letters are compared without their case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValuePattern {
    /// Without the stars, in lower case.
    text: String,
    open_before: bool,
    open_behind: bool,
}

/// Not a [`ValuePattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValuePatternError {
    /// A star within.
    #[error("a `*` can only stand at its beginning and at its end")]
    StarWithin,
    /// Nothing at all.
    #[error("it is empty, and `*` is any value")]
    Empty,
    /// Too long.
    #[error("it has more than {PATTERN_BYTES_MAX} characters")]
    TooLong,
    /// What no header has.
    #[error("it has a character that no header can have")]
    Character,
}

/// A request as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks.
    pub client: IpAddr,
    /// How.
    pub method: &'a str,
    /// The host as routes match it: lower case, without port or trailing dot.
    pub host: &'a str,
    /// The path as it is sent, and as others may read it: at least one.
    pub readings: &'a [&'a str],
}

/// The number of the rule that refuses a request, from 0; `None` lets it through. `values` gives the
/// lines of a header.
pub fn refused_by<'v, V>(
    rules: &[Rule],
    asked: &Asked<'_>,
    values: impl Fn(&str) -> V,
) -> Option<usize>
where
    V: Iterator<Item = &'v [u8]>,
{
    let met = rules.iter().position(|rule| rule.is_met(asked, &values))?;
    (rules[met].action == RuleAction::Deny).then_some(met)
}

impl Front {
    /// Whether nothing is asked of requests.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Rule {
    fn is_met<'v, V>(&self, asked: &Asked<'_>, values: &impl Fn(&str) -> V) -> bool
    where
        V: Iterator<Item = &'v [u8]>,
    {
        let is_path_met = || match self.action {
            RuleAction::Deny => asked.readings.iter().any(|path| self.is_path(path)),
            RuleAction::Allow => asked.readings.iter().all(|path| self.is_path(path)),
        };
        let is_header = |(name, pattern): (&String, &ValuePattern)| {
            let mut lines = values(name).peekable();
            match self.action {
                RuleAction::Deny => lines.any(|line| pattern.matches(line)),
                RuleAction::Allow => {
                    lines.peek().is_some() && lines.all(|line| pattern.matches(line))
                }
            }
        };
        // Many guests take `post` for POST.
        let is_method = |one: &String| match self.action {
            RuleAction::Deny => one.eq_ignore_ascii_case(asked.method),
            RuleAction::Allow => one == asked.method,
        };
        (self.clients.is_empty() || self.clients.iter().any(|one| one.contains(asked.client)))
            && (self.methods.is_empty() || self.methods.iter().any(is_method))
            && (self.hosts.is_empty() || self.hosts.iter().any(|one| one.matches(asked.host)))
            && (self.paths.is_empty() || is_path_met())
            && self.headers.iter().all(is_header)
    }
}

impl Rule {
    fn is_path(&self, path: &str) -> bool {
        self.paths.iter().any(|pattern| pattern.matches(path))
    }
}

impl ValuePattern {
    /// Whether a value is what it says.
    pub fn matches(&self, value: &[u8]) -> bool {
        let (text, value) = (self.text.as_bytes(), value.trim_ascii());
        let is_at = |at: usize| {
            let part = value.get(at..at + text.len());
            part.is_some_and(|part| part.eq_ignore_ascii_case(text))
        };
        let Some(last) = value.len().checked_sub(text.len()) else {
            return false;
        };
        match (self.open_before, self.open_behind) {
            (true, true) => (0..=last).any(is_at),
            (true, false) => is_at(last),
            (false, true) => is_at(0),
            (false, false) => last == 0 && is_at(0),
        }
    }
}

impl FromStr for ValuePattern {
    type Err = ValuePatternError;

    fn from_str(text: &str) -> Result<Self, ValuePatternError> {
        if text.is_empty() {
            return Err(ValuePatternError::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(ValuePatternError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(ValuePatternError::Character);
        }
        let (open_before, rest) = match text.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (open_behind, rest) = match rest.strip_suffix('*') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.contains('*') {
            return Err(ValuePatternError::StarWithin);
        }
        // What a field's value cannot have at its ends (RFC 9110 §5.5) is not compared either.
        let text = rest.trim_ascii().to_ascii_lowercase();
        if text.is_empty() && !open_before && !open_behind {
            return Err(ValuePatternError::Empty);
        }
        let is_any = text.is_empty();
        Ok(Self {
            text,
            open_before: open_before || is_any,
            open_behind: open_behind || is_any,
        })
    }
}

impl fmt::Display for ValuePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = |open| if open { "*" } else { "" };
        match self.text.is_empty() {
            true => f.write_str("*"),
            false => write!(
                f,
                "{}{}{}",
                star(self.open_before),
                self.text,
                star(self.open_behind)
            ),
        }
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        })
    }
}

impl fmt::Display for PerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests_per_sec,
            burst,
        } = self;
        write!(
            f,
            "{{ requests_per_sec = {requests_per_sec}, burst = {burst} }}"
        )
    }
}

/// As a manifest writes it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            action,
            clients,
            hosts,
            methods,
            paths,
            headers,
        } = self;
        write!(f, "{{ action = \"{action}\"")?;
        list(f, "clients", clients)?;
        list(f, "hosts", hosts)?;
        list(f, "methods", methods)?;
        list(f, "paths", paths)?;
        if !headers.is_empty() {
            let pairs = headers.iter();
            let pairs = pairs.map(|(name, pattern)| format!("{name} = {:?}", pattern.to_string()));
            let pairs: Vec<String> = pairs.collect();
            write!(f, ", headers = {{ {} }}", pairs.join(", "))?;
        }
        f.write_str(" }")
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, key: &str, items: &[T]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let items: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    write!(f, ", {key} = [{}]", items.join(", "))
}

impl Serialize for ValuePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn as_texts<T: fmt::Display, S: Serializer>(items: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(action: RuleAction, paths: &[&str]) -> Rule {
        let prefix = |path: &&str| PathPattern::Prefix((*path).to_owned());
        Rule {
            action,
            clients: Vec::new(),
            hosts: Vec::new(),
            methods: Vec::new(),
            paths: paths.iter().map(prefix).collect(),
            headers: BTreeMap::new(),
        }
    }

    fn deny(paths: &[&str]) -> Rule {
        rule(RuleAction::Deny, paths)
    }

    fn allow(paths: &[&str]) -> Rule {
        rule(RuleAction::Allow, paths)
    }

    /// `GET` of a path by 203.0.113.7, with these headers.
    fn ask(rules: &[Rule], readings: &[&str], headers: &[(&str, &str)]) -> Option<usize> {
        let asked = Asked {
            client: "203.0.113.7".parse().unwrap(),
            method: "GET",
            host: "a.example",
            readings,
        };
        let values = |name: &str| {
            let name = name.to_owned();
            let lines = headers.iter().filter(move |(known, _)| *known == name);
            lines.map(|(_, value)| value.as_bytes())
        };
        refused_by(rules, &asked, values)
    }

    #[test]
    fn a_deny_knows_a_method_however_it_is_spelt_and_an_allow_only_as_it_is() {
        let met = |action, method| {
            let one = Rule {
                action,
                methods: vec!["POST".to_owned()],
                ..deny(&[])
            };
            let asked = Asked {
                client: "203.0.113.7".parse().unwrap(),
                method,
                host: "a.example",
                readings: &["/"],
            };
            refused_by(&[one, deny(&[])], &asked, |_| std::iter::empty())
        };
        assert_eq!(met(RuleAction::Deny, "post"), Some(0));
        assert_eq!(met(RuleAction::Allow, "POST"), None);
        assert_eq!(met(RuleAction::Allow, "post"), Some(1));
    }

    #[test]
    fn the_first_rule_that_is_met_decides() {
        let rules = [allow(&["/admin/open"]), deny(&["/admin"]), deny(&["/old"])];
        assert_eq!(ask(&rules, &["/"], &[]), None);
        assert_eq!(ask(&rules, &["/admin/open/x"], &[]), None);
        assert_eq!(ask(&rules, &["/admin"], &[]), Some(1));
        assert_eq!(ask(&rules, &["/administration"], &[]), None);
        assert_eq!(ask(&rules, &["/old/x"], &[]), Some(2));
        assert_eq!(ask(&[deny(&[])], &["/"], &[]), Some(0));
    }

    #[test]
    fn a_rule_is_met_by_all_of_its_conditions() {
        let mut one = deny(&["/a", "/b"]);
        one.clients = vec!["203.0.113.0/24".parse().unwrap()];
        one.methods = vec!["GET".to_owned(), "POST".to_owned()];
        one.hosts = vec![HostPattern::Below("example".to_owned())];
        one.headers = [("x-kind".to_owned(), "*bot*".parse().unwrap())].into();
        let met = [("x-kind", "A Bot!")];
        let ask = |rule: &Rule| ask(std::slice::from_ref(rule), &["/b"], &met);
        assert_eq!(ask(&one), Some(0));
        let others: [fn(&mut Rule); 5] = [
            |rule| rule.clients = vec!["203.0.112.0/24".parse().unwrap()],
            |rule| rule.methods = vec!["POST".to_owned()],
            |rule| rule.hosts = vec![HostPattern::Exact("b.example".to_owned())],
            |rule| rule.paths = vec![PathPattern::Exact("/b/".to_owned())],
            |rule| {
                rule.headers
                    .insert("x-other".to_owned(), "*".parse().unwrap());
            },
        ];
        for (index, change) in others.iter().enumerate() {
            let mut other = one.clone();
            change(&mut other);
            assert_eq!(ask(&other), None, "{index}");
        }
    }

    #[test]
    fn what_is_read_in_two_ways_is_refused_by_either_and_let_through_by_both() {
        let (open, shut) = ("/open/x", "/admin/x");
        assert_eq!(ask(&[deny(&["/admin"])], &[open, shut], &[]), Some(0));
        let rules = [allow(&["/open"]), deny(&[])];
        assert_eq!(ask(&rules, &[open], &[]), None);
        assert_eq!(ask(&rules, &[open, shut], &[]), Some(1));
        assert_eq!(ask(&rules, &[open, "/open/y"], &[]), None);
    }

    #[test]
    fn one_bad_line_of_a_header_refuses_and_one_good_line_does_not_let_through() {
        let with = |mut rule: Rule| {
            rule.headers = [("x-key".to_owned(), "good".parse().unwrap())].into();
            rule
        };
        let (good, bad) = (("x-key", "good"), ("x-key", "bad"));
        assert_eq!(ask(&[with(deny(&[]))], &["/"], &[bad, good]), Some(0));
        let rules = [with(allow(&[])), deny(&[])];
        assert_eq!(ask(&rules, &["/"], &[good]), None);
        assert_eq!(ask(&rules, &["/"], &[bad, good]), Some(1));
        assert_eq!(ask(&rules, &["/"], &[]), Some(1));
    }

    #[test]
    fn values_are_compared_from_where_no_star_stands() {
        let check = |pattern: &str, matching: &[&str], others: &[&str]| {
            let pattern: ValuePattern = pattern.parse().unwrap();
            for value in matching {
                assert!(pattern.matches(value.as_bytes()), "{pattern}: {value}");
            }
            for value in others {
                assert!(!pattern.matches(value.as_bytes()), "{pattern}: {value}");
            }
        };
        check("*", &["", "x"], &[]);
        check("**", &["", "x"], &[]);
        check("Bot", &["bot", " BOT "], &["", "bots", "a bot"]);
        check("bot*", &["bot", "Bots"], &["", "a bot", "bo"]);
        check("*bot", &["bot", "a Bot"], &["", "bots"]);
        check("*bot*", &["bot", "robots"], &["", "bo"]);
    }

    #[test]
    fn a_star_stands_at_an_end() {
        use ValuePatternError::{Character, Empty, StarWithin, TooLong};
        let check = |text: &str, expected| {
            assert_eq!(text.parse::<ValuePattern>().map(drop), Err(expected));
        };
        check("", Empty);
        check("a*b", StarWithin);
        check("***", StarWithin);
        check("a\nb", Character);
        check(&"a".repeat(PATTERN_BYTES_MAX + 1), TooLong);
    }

    proptest! {
        #[test]
        fn a_pattern_reads_as_it_is_written(text in "\\*?[ -)+-~]{0,20}\\*?") {
            if let Ok(pattern) = text.parse::<ValuePattern>() {
                prop_assert_eq!(pattern.to_string().parse::<ValuePattern>(), Ok(pattern));
            }
        }

        #[test]
        fn a_value_is_compared_as_a_search_of_texts_would(
            text in "[ab]{0,3}", value in "[abAB]{0,6}", before: bool, behind: bool,
        ) {
            let star = |open: bool| if open { "*" } else { "" };
            let written = format!("{}{text}{}", star(before), star(behind));
            if let Ok(pattern) = written.parse::<ValuePattern>() {
                let lower = value.to_ascii_lowercase();
                let expected = match (before, behind) {
                    _ if text.is_empty() => true,
                    (true, true) => lower.contains(&text),
                    (true, false) => lower.ends_with(&text),
                    (false, true) => lower.starts_with(&text),
                    (false, false) => lower == text,
                };
                prop_assert_eq!(pattern.matches(value.as_bytes()), expected);
            }
        }

        #[test]
        fn another_reading_of_a_path_never_opens_what_is_shut(
            first in "/[ab]{0,2}", second in "/[ab]{0,2}", open in "/[ab]", shut in "/[ab]",
        ) {
            let rules = [allow(&[open.as_str()]), deny(&[shut.as_str()])];
            let alone = [first.as_str(), second.as_str()].map(|path| ask(&rules, &[path], &[]));
            let both = ask(&rules, &[&first, &second], &[]);
            prop_assert!(both.is_some() || alone.iter().all(Option::is_none));
        }
    }
}
