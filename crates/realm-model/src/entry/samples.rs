//! Bodies for the tests of entries, beyond those that stand there.

use super::{Body, RollbackBody, WeighBody, Weight};

pub(super) fn weigh() -> Body {
    let weight = |component: &str, weight| Weight {
        component: component.parse().expect("a name"),
        weight,
    };
    Body::Weigh(WeighBody {
        app: "orders".parse().expect("a name"),
        weights: vec![weight("orders@blue", 900), weight("orders@green", 0)],
    })
}

pub(super) fn rollback() -> Body {
    Body::Rollback(RollbackBody {
        component: "orders".parse().expect("a name"),
        to: 3,
        lock: "version = 4\n".to_owned(),
    })
}
