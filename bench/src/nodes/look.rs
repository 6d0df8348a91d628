//! What an agent says of the realm: in its status, and in its log, which is read after the fact so
//! that looking costs nothing while something is measured.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::Value;

/// What a node says of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sees {
    /// How each node is reached: `here`, `direct`, `indirect`, `lost`, `unknown`.
    states: BTreeMap<String, String>,
    /// Nodes that have in force what this one has, by their own word.
    in_step: usize,
}

impl Sees {
    pub(crate) fn of(status: &Value) -> Result<Self> {
        let mut sees = Self::default();
        for node in status["nodes"].as_array().context("no nodes")? {
            let name = node["name"].as_str().context("a node without a name")?;
            let state = node["reach"]["state"].as_str().context("no state")?;
            sees.states.insert(name.to_owned(), state.to_owned());
            let here = state == "here";
            sees.in_step += usize::from(here || node["said"]["in_step"] == true);
        }
        Ok(sees)
    }

    pub(crate) fn count(&self, state: &str) -> usize {
        self.states.values().filter(|one| *one == state).count()
    }

    pub(crate) fn is(&self, name: &str, state: &str) -> bool {
        self.states.get(name).is_some_and(|one| one == state)
    }

    /// Whether `count` nodes are reached, and all of them have in force what this one has.
    pub(crate) fn is_whole(&self, count: usize) -> bool {
        let reached = ["here", "direct", "indirect"].map(|state| self.count(state));
        reached.iter().sum::<usize>() == count && self.in_step == count
    }
}

/// When each entry of the default chain was accepted, in microseconds since 1970, by its number:
/// the line is written once the entry is on the disk, before it is acted on.
pub(crate) fn accepted(log: &str) -> BTreeMap<u64, i64> {
    let line = |line: &str| {
        let (time, rest) = line.split_once(' ')?;
        let rest = rest.split_once("entry accepted chain=\"default\" seq=")?.1;
        let seq = rest.split(' ').next()?.parse().ok()?;
        let time: Timestamp = time.parse().ok()?;
        Some((seq, time.as_microsecond()))
    };
    log.lines().filter_map(line).collect()
}

/// When a blob came to a node that fetched it, in microseconds since 1970, and who gave it.
pub(crate) fn fetched(log: &str, digest: &str) -> Option<(i64, String)> {
    let line = |line: &str| {
        let (time, rest) = line.split_once(' ')?;
        let rest = rest.split_once(" fetched digest=")?.1;
        let from = rest.strip_prefix(digest)?.trim().strip_prefix("from=")?;
        let time: Timestamp = time.parse().ok()?;
        Some((time.as_microsecond(), from.trim_matches('"').to_owned()))
    };
    log.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_log_says_when_an_entry_was_accepted() {
        let log = "answering on http://127.0.0.1:1\n\
            2026-11-21T11:20:48.558941Z  INFO entry accepted chain=\"authority\" seq=9 kind=\"x\"\n\
            2026-11-21T11:20:48.558941Z  INFO entry accepted chain=\"default\" seq=27 kind=\"manifest\"\n\
            2026-11-21T11:20:49.000001Z  INFO something else\n";
        let expected = BTreeMap::from([(27, 1_795_260_048_558_941)]);
        assert_eq!(accepted(log), expected);
    }

    #[test]
    fn the_log_says_who_gave_what_was_fetched() {
        let log = "2026-11-21T11:20:47.000000Z  INFO fetched digest=sha256:ab from=\"n002\"\n\
            2026-11-21T11:20:48.558941Z  INFO fetched digest=sha256:cd from=\"http://a/b\"\n";
        let check = |digest: &str| fetched(log, digest);
        let expected = (1_795_260_048_558_941, "http://a/b".to_owned());
        assert_eq!(check("sha256:cd"), Some(expected));
        assert_eq!(check("sha256:a"), None);
        assert_eq!(check("sha256:ef"), None);
    }

    #[test]
    fn a_status_is_whole_when_all_are_reached_and_in_step() {
        let check = |state: &str, in_step: bool, expected: bool| {
            let status = json!({ "nodes": [
                { "name": "a", "reach": { "state": "here" } },
                { "name": "b", "reach": { "state": state }, "said": { "in_step": in_step } },
            ]});
            let sees = Sees::of(&status).unwrap();
            assert_eq!(sees.is_whole(2), expected, "{state}");
            assert!(sees.is("b", state));
        };
        check("direct", true, true);
        check("indirect", true, true);
        check("indirect", false, false);
        check("lost", true, false);
        assert!(Sees::of(&json!({})).is_err());
    }
}
