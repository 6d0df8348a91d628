//! `realm secret ls`: each secret with who can open it and who should.

use std::collections::BTreeSet;
use std::process::ExitCode;

use realm_model::name::{ComponentName, NodeName};
use serde::Serialize;

use super::At;
use super::roster::Roster;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;

#[derive(Serialize)]
struct Row {
    name: String,
    /// Components that list it, or bind a store that is asked with it.
    components: Vec<ComponentName>,
    /// Nodes that can open it. Null: it was made with another tool, and does not say.
    nodes: Option<BTreeSet<NodeName>>,
    /// Recipients that are no nodes of this realm as far as they are known here: owners, and nodes that
    /// were not heard of.
    others: Option<usize>,
    /// Nodes that may run one of the components and cannot open it.
    missing: BTreeSet<NodeName>,
    /// Nodes that can open it and do not need it.
    needless: BTreeSet<NodeName>,
    /// The name that it was sealed under, `NAMESPACE/NAME` of another namespace, if that is another one:
    /// it opens nowhere.
    sealed_as: Option<String>,
}

pub(super) async fn run(context: &Context, at: &At) -> Result<ExitCode, Failure> {
    let manifest = at.read(context)?;
    let roster = Roster::of(context).await?;
    let known = roster.marks();
    let rows = manifest.secrets.iter().map(|(name, sealed)| {
        let components = manifest.components.iter();
        let components = components.filter(|(_, spec)| spec.grants.secret_names().contains(name));
        let needed = roster.may_need(&manifest, name);
        let label = sealed.label();
        let marks = label.as_ref().map(|label| &label.marks);
        let nodes = marks.map(|marks| {
            let nodes = marks.iter().filter_map(|mark| known.get(mark));
            nodes.map(|node| (*node).clone()).collect::<BTreeSet<_>>()
        });
        let difference = |one: &BTreeSet<NodeName>, other: &BTreeSet<NodeName>| {
            one.difference(other).cloned().collect::<BTreeSet<_>>()
        };
        Row {
            components: components.map(|(name, _)| name.clone()).collect(),
            others: marks.map(|marks| {
                let others = marks.iter().filter(|mark| !known.contains_key(mark));
                others.count()
            }),
            missing: nodes
                .as_ref()
                .map_or_else(BTreeSet::new, |nodes| difference(&needed, nodes)),
            needless: nodes
                .as_ref()
                .map_or_else(BTreeSet::new, |nodes| difference(nodes, &needed)),
            nodes,
            sealed_as: label
                .map(|label| match label.namespace == at.namespace {
                    true => label.name,
                    false => format!("{}/{}", label.namespace.as_str(), label.name),
                })
                .filter(|sealed| sealed != name),
            name: name.clone(),
        }
    });
    let rows: Vec<Row> = rows.collect();
    if context.json() {
        output::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        output::note("no secrets; `realm secret set NAME` makes one");
        return Ok(ExitCode::SUCCESS);
    }
    let header = ["SECRET", "COMPONENTS", "OPENS ON", "OTHERS", "MISSING"];
    output::data(&output::table(&header, rows.iter().map(cells).collect()));
    for row in &rows {
        if let Some(before) = &row.sealed_as {
            output::note(&format!(
                "`{}` was sealed as `{before}` and opens nowhere: write it there again, or `realm secret rotate` it",
                row.name
            ));
        }
    }
    if rows.iter().any(|row| !row.missing.is_empty()) {
        output::note(
            "`realm secret reseal` seals to the nodes that are missing, then `realm apply`",
        );
    }
    if rows.iter().any(|row| !row.needless.is_empty()) {
        output::note(
            "some are sealed to nodes that do not need them: `realm secret reseal` leaves them out; \
             `realm secret rotate` changes what they know",
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(row: &Row) -> Vec<String> {
    let names = |nodes: &BTreeSet<NodeName>| match nodes.is_empty() {
        true => "-".to_owned(),
        false => nodes
            .iter()
            .map(NodeName::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let components: Vec<&str> = row.components.iter().map(ComponentName::as_str).collect();
    vec![
        row.name.clone(),
        match components.is_empty() {
            true => "-".to_owned(),
            false => components.join(", "),
        },
        row.nodes.as_ref().map_or_else(|| "?".to_owned(), names),
        row.others
            .map_or_else(|| "?".to_owned(), |others| others.to_string()),
        names(&row.missing),
    ]
}
