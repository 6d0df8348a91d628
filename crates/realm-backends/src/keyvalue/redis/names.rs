//! Names of keys on the server, and back: which of them are a bucket's.
//!
//! Not here: what is in them.

/// The keys of one bucket.
pub(super) struct Space {
    prefix: String,
    /// What stands between the prefix and a key; empty for the bucket without a name.
    between: String,
}

/// What stands there for keys that would look like those of another bucket.
const OWN: &str = "%:";

impl Space {
    pub(super) fn new(prefix: &str, bucket: &str) -> Self {
        let mut between = String::new();
        if !bucket.is_empty() {
            between.push('%');
            for c in bucket.chars() {
                match c {
                    ':' => between.push_str("%3A"),
                    '%' => between.push_str("%25"),
                    c => between.push(c),
                }
            }
            between.push(':');
        }
        Self {
            prefix: prefix.to_owned(),
            between,
        }
    }

    /// The name of a key on the server.
    pub(super) fn name(&self, key: &str) -> String {
        let between = match &*self.between {
            "" if key.starts_with('%') => OWN,
            between => between,
        };
        [&self.prefix, between, key].concat()
    }

    /// The key of a name, if it is one of this bucket.
    pub(super) fn key<'n>(&self, name: &'n str) -> Option<&'n str> {
        let rest = name.strip_prefix(&self.prefix)?;
        if !self.between.is_empty() {
            return rest.strip_prefix(&self.between);
        }
        match rest.strip_prefix(OWN) {
            Some(key) => key.starts_with('%').then_some(key),
            None => (!rest.starts_with('%')).then_some(rest),
        }
    }

    /// A name that watchers of this bucket hear of, and that is no key's.
    pub(super) fn test(&self) -> String {
        [&self.prefix, "%%", &self.between].concat()
    }

    /// A pattern that the names of the bucket have behind something, and perhaps others.
    pub(super) fn pattern_after(&self, before: &str) -> String {
        let mut all = escaped(&[before, &self.prefix].concat());
        all.push('*');
        if !self.between.is_empty() {
            all.push_str(&escaped(&self.between));
            all.push('*');
        }
        all
    }
}

/// Text with nothing in it that a pattern would read otherwise.
fn escaped(text: &str) -> String {
    let mut all = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
            all.push('\\');
        }
        all.push(c);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_what_other_programs_expect() {
        for (bucket, key, name) in [
            ("", "color", "shop:color"),
            ("", "a:b", "shop:a:b"),
            ("users", "7", "shop:%users:7"),
            ("a:b%", "c", "shop:%a%3Ab%25:c"),
            ("", "%users:7", "shop:%:%users:7"),
        ] {
            let space = Space::new("shop:", bucket);
            assert_eq!(space.name(key), name);
            assert_eq!(space.key(name), Some(key));
        }
        let space = Space::new("shop:", "");
        for none in ["shop:%users:7", "shop:%:a", "other", "shop:%%", "shop:%"] {
            assert_eq!(space.key(none), None, "{none}");
        }
        assert_eq!(Space::new("a*", "").pattern_after("["), "\\[a\\**");
        assert_eq!(Space::new("a", "b?").pattern_after(""), "a*%b\\?:*");
    }

    proptest! {
        #[test]
        fn no_two_keys_meet(all in prop::collection::btree_set(("[a%:3]{0,3}", "[a%:3]{1,4}"), 1..60)) {
            let mut seen = BTreeMap::new();
            for (bucket, key) in &all {
                let space = Space::new("p", bucket);
                let name = space.name(key);
                prop_assert_eq!(space.key(&name), Some(key.as_str()));
                for (other, _) in &all {
                    let found = Space::new("p", other);
                    let is_own = found.key(&name).is_some();
                    prop_assert_eq!(is_own, other == bucket, "{} in {:?}", name, other);
                    let test = found.test();
                    prop_assert_eq!(space.key(&test), None);
                }
                prop_assert!(seen.insert(name, (bucket, key)).is_none());
            }
        }
    }
}
