//! A realm with approved nodes and a manifest, made once for all seeds: signing is what costs.

use std::sync::LazyLock;

use realm_model::key::SecretKey;

use crate::testing::{Realm, approval_of, beacon_rule, key};

/// A realm and the keys of its nodes.
pub(crate) struct Template {
    pub(crate) realm: Realm,
    pub(crate) keys: Vec<SecretKey>,
}

const MANIFEST: &str = r#"
[components.orders]
source = "file:orders.wasm"

[routing]
"node-0" = [{ path = "/orders/...", component = "orders" }]
"#;

static SMALL: LazyLock<Vec<Template>> = LazyLock::new(|| (0..10).map(Template::make).collect());

impl Template {
    /// Seconds between two beacons.
    pub(crate) const BEACON_EVERY_S: u32 = 5;

    /// A realm of `n` nodes.
    pub(crate) fn make(n: usize) -> Self {
        let keys: Vec<SecretKey> = (0..n).map(|i| key(&format!("node-{i}"))).collect();
        let mut realm = Realm::found();
        for (i, key) in keys.iter().enumerate() {
            let approval = approval_of(&format!("node-{i}"), key.public(), &[]);
            realm.submit(approval).expect("an approval");
        }
        if n > 0 {
            realm
                .submit(beacon_rule(Self::BEACON_EVERY_S))
                .expect("a rule");
            realm.apply(MANIFEST, &[("orders", "1")]);
        }
        Self { realm, keys }
    }

    /// One that was made before, for up to 9 nodes.
    pub(crate) fn small(n: usize) -> &'static Self {
        &SMALL[n]
    }
}
