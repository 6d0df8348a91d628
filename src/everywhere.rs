//! A component over all nodes, as the one that answers knows them.

use realm_model::view::{ComponentState, ComponentView, OnNodeView};

/// Replicas that are healthy, and that are wanted.
pub(crate) fn count(component: &ComponentView) -> (u64, u64) {
    // A node without a network tells of itself alone.
    if component.nodes.is_empty() {
        return (component.healthy.into(), component.wanted.into());
    }
    // Nodes say what they like: the sum of two has more bits than either.
    let nodes = component.nodes.values();
    nodes.fold((0, 0), |(healthy, wanted), node| {
        (
            healthy + u64::from(node.healthy),
            wanted + u64::from(node.wanted),
        )
    })
}

/// Whether no node shall run it, as far as is known: `realm explain` says why.
pub(crate) fn is_nowhere(component: &ComponentView) -> bool {
    component.state == ComponentState::Idle && count(component).1 == 0
}

/// The state of the node that answers, if it has one and something is to be said of it; else the others' if they
/// agree, and otherwise that some of it is missing.
pub(crate) fn state(component: &ComponentView) -> ComponentState {
    use ComponentState::{
        Backoff, Degraded, Done, Draining, Failed, Healthy, Idle, Running, Scheduled, Starting,
        Updating,
    };
    let nodes = || component.nodes.values();
    let lacks = |node: &&OnNodeView| node.state.is_none() || node.healthy < node.wanted;
    let is_coming = |node: &OnNodeView| matches!(node.state, Some(Starting | Updating));
    match component.state {
        Healthy if nodes().any(|node| lacks(&node) && !is_coming(node)) => Degraded,
        Healthy if nodes().any(is_coming) => Updating,
        Idle => {
            let mut states: Vec<_> = nodes().filter_map(|node| node.state).collect();
            states.dedup();
            match (states.as_slice(), nodes().any(|node| node.state.is_none())) {
                ([one], false) => *one,
                ([], false) => Idle,
                (_, _) => Degraded,
            }
        }
        state @ (Starting | Healthy | Updating | Degraded | Draining | Backoff | Failed
        | Running | Scheduled | Done) => state,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[track_caller]
    fn check(own: ComponentState, others: &[(Option<ComponentState>, u32)], expected: &str) {
        let mut nodes = BTreeMap::new();
        let own_node = (own != ComponentState::Idle).then_some((Some(own), 1));
        for (index, (state, healthy)) in own_node.iter().chain(others).enumerate() {
            let node = OnNodeView {
                state: *state,
                wanted: 1,
                healthy: *healthy,
                why: None,
            };
            nodes.insert(format!("n{index}").parse().unwrap(), node);
        }
        let component = ComponentView {
            name: "app".parse().unwrap(),
            state: own,
            wanted: 1,
            healthy: 1,
            old: 0,
            digest: None,
            routes: Vec::new(),
            waiting_on: Vec::new(),
            restarts: 0,
            nodes,
        };
        let (healthy, wanted) = count(&component);
        let told = format!("{:?} {healthy}/{wanted}", state(&component));
        assert_eq!(told, expected, "{own:?} {others:?}");
    }

    #[test]
    fn what_is_missing_on_another_node_is_missing() {
        use ComponentState::{Backoff, Failed, Healthy, Idle, Running, Starting, Updating};
        check(Healthy, &[], "Healthy 1/1");
        check(Healthy, &[(Some(Healthy), 1)], "Healthy 2/2");
        check(Healthy, &[(None, 0)], "Degraded 1/2");
        check(Healthy, &[(Some(Failed), 0)], "Degraded 1/2");
        check(Healthy, &[(Some(Starting), 0)], "Updating 1/2");
        check(Healthy, &[(Some(Updating), 1)], "Updating 2/2");
        check(Healthy, &[(Some(Updating), 0), (None, 0)], "Degraded 1/3");
        check(Backoff, &[(Some(Healthy), 1)], "Backoff 2/2");
        check(Running, &[(None, 0)], "Running 1/2");
        check(Idle, &[], "Idle 1/1");
        check(Idle, &[(Some(Healthy), 1)], "Healthy 1/1");
        check(
            Idle,
            &[(Some(Healthy), 1), (Some(Failed), 0)],
            "Degraded 1/2",
        );
        check(Idle, &[(None, 0)], "Degraded 0/1");
    }
}
