//! The reasons as codes, sentences and hints. The codes are stable, and in docs/rollouts.md.

use realm_model::manifest::NodeSelector;
use realm_model::name::NodeName;
use realm_model::why::ReasonView;

use super::Reason;
use crate::losses::Away;
use crate::text::{count, duration};

/// Names in one sentence; the others are counted.
const NAMES_MAX: usize = 5;

impl Reason {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Pinned { .. } => "pinned",
            Self::Placed { .. } => "placed",
            Self::StandsIn { .. } => "stands-in",
            Self::Everywhere => "everywhere",
            Self::NotReached { .. } => "not-reached",
            Self::Lost { .. } => "lost",
            Self::Standing { code, .. } => code,
            Self::StandsInForNobody => "cordoned",
            Self::NotListed { lists } => match lists.iter().any(is_tag) {
                true => "tag-missing",
                false => "not-listed",
            },
            Self::PathTaken { .. } => "path-taken",
            Self::Outranked { .. } => "outranked",
            Self::NoRoute => "no-route",
            Self::NodeAbsent { .. } => "node-absent",
            Self::NoNode { .. } => "no-node",
            Self::NameTaken { .. } => "name-taken",
        }
    }

    /// Whether it says why a node has replicas, and not why it has none or what is in their way.
    pub const fn is_having(&self) -> bool {
        match self {
            Self::Pinned { .. }
            | Self::Placed { .. }
            | Self::StandsIn { .. }
            | Self::Everywhere => true,
            Self::NotReached { .. }
            | Self::Lost { .. }
            | Self::Standing { .. }
            | Self::StandsInForNobody
            | Self::NotListed { .. }
            | Self::PathTaken { .. }
            | Self::Outranked { .. }
            | Self::NoRoute
            | Self::NodeAbsent { .. }
            | Self::NoNode { .. }
            | Self::NameTaken { .. } => false,
        }
    }

    /// What a person reads behind the name of the node, or of the component.
    pub fn message(&self) -> String {
        match self {
            Self::Pinned { list, replicas } => {
                format!("has {} of its own by `{list}`", of(*replicas))
            }
            Self::Placed { list, replicas } => {
                format!("ranks highest for {} of `{list}`", of(*replicas))
            }
            Self::StandsIn { base, replicas } => {
                format!("stands in for `{base}` with {}", of(*replicas))
            }
            Self::Everywhere => "runs it as every node does, since it runs by itself".to_owned(),
            Self::NotReached {
                away_ms,
                lost_after_ms,
            } => not_reached(*away_ms, *lost_after_ms),
            Self::Lost {
                away,
                lost_after_ms,
                by,
                pinned,
            } => {
                let by = names(by.iter().map(ToString::to_string).collect());
                let follows = match (pinned, by.is_empty()) {
                    (true, _) => "what is pinned to it waits for it".to_owned(),
                    (false, true) => "nobody is there to stand in".to_owned(),
                    (false, false) => format!("its replicas are on {by}"),
                };
                lost(*away, *lost_after_ms, &follows)
            }
            Self::Standing { words, .. } => (*words).to_owned(),
            Self::StandsInForNobody => "is cordoned: it stands in for nobody".to_owned(),
            Self::NotListed { lists } => not_listed(lists),
            Self::PathTaken {
                route,
                list,
                by_list,
                by,
            } => format!(
                "answers `{route}` of `{list}` with `{by}`, since `{by_list}` comes before it"
            ),
            Self::Outranked {
                list,
                replicas,
                next,
            } => {
                let replicas = of(*replicas);
                let next = match next {
                    Some(next) => format!(": with {next} it would have one"),
                    None => String::new(),
                };
                format!("is outranked for the {replicas} of `{list}`{next}")
            }
            Self::NoRoute => {
                "no route leads to it: nothing asks for it, and no node runs it".to_owned()
            }
            Self::NodeAbsent { list, .. } => match list {
                NodeSelector::Node(name) => {
                    format!("waits for node `{name}`, which is not approved")
                }
                NodeSelector::Tag(tag) => format!("waits for a node with the tag `{tag}`"),
                NodeSelector::All => "waits for a node".to_owned(),
            },
            Self::NoNode { replicas } => {
                format!("{} no node can have at present", of(*replicas))
            }
            Self::NameTaken { by, others } => {
                let others = names(others.iter().map(ToString::to_string).collect());
                format!("namespace `{by}` has the name; {others} gets no component of it")
            }
        }
    }

    /// What to do about it, where something can be done; `node` is the one that it is about.
    pub fn hint(&self, node: Option<&NodeName>) -> Option<String> {
        let node = node.map_or("NODE", NodeName::as_str);
        let hint = match self {
            Self::Pinned { .. }
            | Self::Placed { .. }
            | Self::StandsIn { .. }
            | Self::Everywhere
            | Self::PathTaken { .. } => return None,
            Self::NotReached { .. } | Self::Lost { .. } => {
                "see that the machine is on and its agent runs; `realm nodes ls` says how it is reached".to_owned()
            }
            Self::Standing { code, .. } => match *code {
                "not-approved" => {
                    format!("`realm nodes ls` shows who asks, `realm nodes approve {node}` lets it in")
                }
                "approval-expired" => format!("`realm nodes approve KEY --name {node}` renews it"),
                _ => format!("`realm nodes uncordon {node}` ends that"),
            },
            Self::StandsInForNobody => format!("`realm nodes uncordon {node}` ends that"),
            Self::NotListed { lists } => match lists.iter().find(|list| is_tag(list)) {
                Some(NodeSelector::Tag(tag)) => format!("`realm nodes tag {node} {tag}` adds it"),
                Some(_) | None if lists.is_empty() => return None,
                Some(_) | None => "`[routing]` of the manifest says where it runs".to_owned(),
            },
            Self::Outranked { .. } => {
                "more `replicas`, or a list for the node itself, bring one there".to_owned()
            }
            Self::NoRoute => "write one for it under `[routing]`".to_owned(),
            Self::NodeAbsent { list, .. } => match list {
                NodeSelector::Tag(tag) => format!("`realm nodes tag {node} {tag}` adds it to one"),
                NodeSelector::Node(_) | NodeSelector::All => {
                    "`realm nodes ls` shows the names; `realm invite` lets a machine in".to_owned()
                }
            },
            Self::NoNode { .. } => {
                "bring a node back, or let more nodes have it under `[routing]`".to_owned()
            }
            Self::NameTaken { .. } => "give one of them another name".to_owned(),
        };
        Some(hint)
    }

    /// As it leaves the agent.
    pub fn view(&self, node: Option<&NodeName>) -> ReasonView {
        ReasonView {
            code: self.code().to_owned(),
            message: self.message(),
            hint: self.hint(node),
        }
    }
}

fn not_reached(away_ms: u64, lost_after_ms: Option<u64>) -> String {
    let away = duration(away_ms);
    match lost_after_ms {
        None => format!("has not been reached for {away}: what it runs is not known"),
        Some(wait_ms) if away_ms < wait_ms => {
            let wait = duration(wait_ms);
            format!("has not been reached for {away}; after {wait} others stand in")
        }
        Some(_) => format!(
            "has not been reached for {away}; nobody stands in yet: only a tenth of the nodes counts as lost within a minute"
        ),
    }
}

fn lost(away: Option<Away>, lost_after_ms: u64, follows: &str) -> String {
    match away {
        Some(Away::For(ms)) => {
            let away = duration(ms);
            format!("has not been reached for {away}: {follows}")
        }
        Some(Away::Back(ms)) => {
            let (back, wait) = (duration(ms), duration(lost_after_ms));
            format!("has been back for {back}, and counts again after {wait}: {follows}")
        }
        None => format!("is lost: {follows}"),
    }
}

fn not_listed(lists: &[NodeSelector]) -> String {
    let (mut tags, mut others) = (Vec::new(), Vec::new());
    for list in lists {
        match list {
            NodeSelector::Tag(tag) => tags.push(tag.clone()),
            NodeSelector::Node(_) | NodeSelector::All => others.push(list.to_string()),
        }
    }
    let (tags, others) = (names(tags), names(others));
    match (tags.is_empty(), others.is_empty()) {
        (true, true) => "is in no list that leads to it".to_owned(),
        (false, true) => format!("has not the tag {tags}"),
        (false, false) => format!("has not the tag {tags}, and is not {others}"),
        (true, false) => format!("is not {others}, for which its routes are"),
    }
}

const fn is_tag(list: &NodeSelector) -> bool {
    match list {
        NodeSelector::Tag(_) => true,
        NodeSelector::Node(_) | NodeSelector::All => false,
    }
}

/// `` `a`, `b` and 3 more ``.
pub(crate) fn names(all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMES_MAX);
    let shown = all.iter().take(NAMES_MAX).map(|name| format!("`{name}`"));
    let shown = shown.collect::<Vec<String>>().join(", ");
    match more {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn of(replicas: u32) -> String {
    count(replicas as usize, "replica")
}
