//! The names that one instance looked up, and what they resolved to.
//!
//! A rule names hosts, and a socket knows addresses: what a guest may reach by the name of a rule
//! is what that name resolved to, here, a while ago. Each instance has a table of its own, so that
//! nobody learns what a neighbour asks for. No clock and no look-up here.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an address counts as the name's after it was resolved or used: a guest that keeps its
/// address longer than most names keep theirs looks the name up again.
const KEPT: Duration = Duration::from_secs(600);
/// Addresses that are known at once; the oldest goes first. A guest that talks to more hosts
/// looks each up before it connects, as usual.
const ENTRIES_MAX: usize = 256;

/// What was looked up.
#[derive(Default)]
pub(super) struct Names(VecDeque<Entry>);

struct Entry {
    address: IpAddr,
    name: Arc<str>,
    until: Instant,
}

impl Names {
    /// Keeps what a name resolved to.
    pub(super) fn learn(&mut self, name: &str, addresses: &[IpAddr], now: Instant) {
        let name: Arc<str> = name.into();
        for &address in addresses {
            let until = now + KEPT;
            let same = |entry: &Entry| entry.address == address && entry.name == name;
            self.0.retain(|entry| !same(entry) && now < entry.until);
            if self.0.len() >= ENTRIES_MAX {
                self.0.pop_front();
            }
            let name = Arc::clone(&name);
            self.0.push_back(Entry {
                address,
                name,
                until,
            });
        }
    }

    /// Whether one of the names of an address will do; that one is kept for longer.
    pub(super) fn any(
        &mut self,
        address: IpAddr,
        now: Instant,
        mut will_do: impl FnMut(&str) -> bool,
    ) -> bool {
        let of_address = |entry: &&mut Entry| entry.address == address && now < entry.until;
        let mut entries = self.0.iter_mut().filter(of_address);
        let Some(entry) = entries.find(|entry| will_do(&entry.name)) else {
            return false;
        };
        entry.until = now + KEPT;
        true
    }

    /// The name that an address was resolved from last.
    pub(super) fn last(&self, address: IpAddr) -> Option<Arc<str>> {
        let entry = self.0.iter().rev().find(|entry| entry.address == address)?;
        Some(Arc::clone(&entry.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[track_caller]
    fn check(names: &mut Names, last: u8, now: Instant, expected: &[&str]) {
        let mut seen = Vec::new();
        names.any(address(last), now, |name| {
            seen.push(name.to_owned());
            false
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_address_has_the_names_that_resolved_to_it() {
        let now = Instant::now();
        let mut names = Names::default();
        names.learn("a", &[address(1), address(2)], now);
        names.learn("b", &[address(2)], now);
        names.learn("a", &[address(1)], now);
        check(&mut names, 1, now, &["a"]);
        check(&mut names, 2, now, &["a", "b"]);
        check(&mut names, 3, now, &[]);
        assert_eq!(names.last(address(2)).as_deref(), Some("b"));
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let start = Instant::now();
        let mut names = Names::default();
        names.learn("a", &[address(1), address(2)], start);
        assert!(names.any(address(1), start + KEPT / 2, |name| name == "a"));
        assert!(!names.any(address(2), start + KEPT / 2, |name| name == "b"));
        check(&mut names, 1, start + KEPT, &["a"]);
        check(&mut names, 2, start + KEPT, &[]);
        check(&mut names, 1, start + KEPT * 2, &[]);
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let now = Instant::now();
        let mut names = Names::default();
        for number in 0..ENTRIES_MAX {
            names.learn(&number.to_string(), &[address(1)], now);
        }
        names.learn("more", &[address(2)], now);
        assert_eq!(names.0.len(), ENTRIES_MAX);
        assert!(!names.any(address(1), now, |name| name == "0"));
        assert!(names.any(address(1), now, |name| name == "1"));
        assert!(names.any(address(2), now, |name| name == "more"));
    }
}
