//! The lists of routes that want the component, and how many replicas each node shall have by them: by
//! what they mean, not by the function that is tried.

use super::Kind;

/// How long a build is tried, where it is undone.
pub(super) const DEADLINE_MS: u64 = 120_000;

/// What the manifest says of where the replicas are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lists {
    /// So many on all nodes together.
    Together,
    /// So many on each node.
    PerNode,
    /// So many on each of some nodes, by name.
    Pinned,
    /// So many on the first node by name, and for another path so many on all together.
    Both,
}

impl Lists {
    /// The manifest.
    pub(super) fn text(self, kind: &Kind) -> String {
        let Kind {
            surge,
            unavailable,
            replicas,
            ..
        } = kind;
        let more = match kind.reverts {
            true => {
                let seconds = DEADLINE_MS / 1_000;
                format!(", on_fail = 'revert', progress_deadline = '{seconds}s'")
            }
            false => String::new(),
        };
        let list = |selector: &str, path: &str, own: &str| {
            format!(
                "'{selector}' = [{{ path = '{path}', component = 'app', replicas = {replicas}, \
                 max_surge = {surge}, max_unavailable = {unavailable}{more}{own} }}]\n"
            )
        };
        let lists = match self {
            Self::Together => list("*", "/", ""),
            Self::PerNode => list("*", "/", ", per_node = true"),
            Self::Pinned => Self::pinned(kind.nodes)
                .map(|node| list(&format!("n{node}"), "/", ""))
                .collect(),
            Self::Both => list("n0", "/own", "") + &list("*", "/", ""),
        };
        let singleton = kind.singleton;
        format!("[components.app]\nsource = 'file:a'\nsingleton = {singleton}\n[routing]\n{lists}")
    }

    /// The nodes that are named.
    fn pinned(nodes: usize) -> impl Iterator<Item = usize> {
        (0..nodes).step_by(2)
    }

    /// Replicas that the nodes shall have, of which some are drained, where `share` says what placement
    /// gives each; what is wrong with that.
    pub(super) fn wanted(
        self,
        kind: &Kind,
        drained: &[bool],
        share: impl Fn(usize) -> usize,
    ) -> Result<Vec<usize>, String> {
        let replicas = kind.replicas as usize;
        let of = |node: usize| match self {
            _ if drained[node] => 0,
            Self::PerNode => replicas,
            Self::Pinned if Self::pinned(kind.nodes).any(|pinned| pinned == node) => replicas,
            Self::Pinned => 0,
            // What two lists want of one node is the same replicas.
            Self::Both if node == 0 => replicas,
            Self::Both | Self::Together => share(node),
        };
        let wanted: Vec<usize> = (0..kind.nodes).map(of).collect();
        let all: usize = wanted.iter().sum();
        let is_open = drained.contains(&false);
        let least = if is_open { replicas } else { 0 };
        let is_right = match self {
            Self::Together => all == least,
            Self::Both => (least..=2 * least).contains(&all),
            Self::PerNode | Self::Pinned => true,
        };
        match is_right {
            true => Ok(wanted),
            false => Err(format!(
                "{all} of {least} replicas have a place: {wanted:?}"
            )),
        }
    }
}
