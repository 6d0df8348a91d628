//! What a route says of who answers: one component, or several versions of an app with a weight each.
//! Not how many replicas they have: that is `upkeep`.

use std::collections::BTreeMap;

use super::read::Components;
use crate::codes;
use crate::fields::{Fields, Report, cut, fits, text_of};
use crate::name::ComponentName;

/// Versions between which a route divides its requests: two in most cases, a few in an experiment.
pub const LABELS_MAX: usize = 16;
/// The greatest weight: fine enough for one request in a thousand.
pub const WEIGHT_MAX: u32 = 1_000;

/// Who answers.
pub(super) struct Answering {
    pub(super) component: ComponentName,
    /// Empty: the component itself.
    pub(super) weights: BTreeMap<ComponentName, u32>,
}

impl Answering {
    pub(super) fn components(&self) -> impl Iterator<Item = &ComponentName> {
        crate::route::answering(&self.component, &self.weights)
    }
}

/// Reads `component` and `weights` of a route.
pub(super) fn read(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    components: &Components<'_>,
) -> Option<Answering> {
    if fields.key_span("weights").is_none() {
        return Some(Answering {
            component: one(report, fields, components)?,
            weights: BTreeMap::new(),
        });
    }
    let app = app(report, fields);
    let weights = weights(report, fields, app.as_ref(), components);
    Some(Answering {
        component: app?,
        weights: weights?,
    })
}

fn one(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    components: &Components<'_>,
) -> Option<ComponentName> {
    let value = fields.value(report, "component")?;
    let (text, span) = text_of(report, value, "a component's name")?;
    let known = text
        .parse()
        .ok()
        .filter(|name| components.names.contains(name));
    if known.is_none() && !report.is_broken() {
        // The least of all labels: its versions follow in the order of names.
        let least = text.parse::<ComponentName>().ok();
        let least = least.and_then(|app| app.labelled("0").ok());
        let version = least.and_then(|least| components.names.range(least..).next());
        let version = version.filter(|version| version.app() == text);
        let label = version.and_then(ComponentName::label);
        let near = report.nearest(text, components.names.iter().map(ComponentName::as_str));
        let hint = match (label, near) {
            (Some(label), _) => format!("add `weights = {{ {} = 100 }}`", cut(label)),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => format!("add `[components.{}]`", cut(text)),
        };
        let message = format!("no component `{}` under `[components]`", cut(text));
        report.error(codes::UNKNOWN_COMPONENT, span, message, Some(hint));
    }
    known
}

/// The app whose versions have weights.
fn app(report: &mut Report<'_>, fields: &Fields<'_, '_>) -> Option<ComponentName> {
    let value = fields.value(report, "component")?;
    let (text, span) = text_of(report, value, "a component's name")?;
    match text.parse::<ComponentName>() {
        Ok(name) if name.label().is_none() => Some(name),
        Ok(name) => {
            let message = format!("`{name}` is one version, and `weights` divides between several");
            let hint = format!("write `component = \"{}\"`", name.app());
            report.error(codes::BAD_VALUE, span, message, Some(hint));
            None
        }
        Err(error) => {
            report.error(codes::BAD_NAME, span, error.to_string(), None);
            None
        }
    }
}

fn weights(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    app: Option<&ComponentName>,
    components: &Components<'_>,
) -> Option<BTreeMap<ComponentName, u32>> {
    let span = fields.value_span("weights");
    let written = fields.integer_table(report, "weights")?;
    fits(report, "weights", written.len(), LABELS_MAX, span.clone());
    let app = app?;
    let mut weights = BTreeMap::new();
    let mut is_sound = true;
    for ((label, span), weight) in written.into_iter().take(LABELS_MAX) {
        let name = match app.labelled(&label) {
            Ok(name) if name.label() == Some(&label) => name,
            Ok(_) | Err(_) => {
                let message = format!("`{}` is not a label", cut(&label));
                let hint = "a label has letters, digits, `-` and `_`".to_owned();
                report.error(codes::BAD_NAME, span, message, Some(hint));
                is_sound = false;
                continue;
            }
        };
        if !components.names.contains(&name) {
            if !report.is_broken() {
                let message = format!("no component `{name}` under `[components]`");
                let hint = format!("add `[components.\"{name}\"]`");
                report.error(codes::UNKNOWN_COMPONENT, span, message, Some(hint));
            }
            is_sound = false;
            continue;
        }
        let Some(weight) = weight.and_then(|weight| u32::try_from(weight).ok()) else {
            is_sound = false;
            continue;
        };
        weights.insert(name, weight);
    }
    if is_sound && weights.values().all(|weight| *weight == 0) {
        let message = match weights.is_empty() {
            true => "`weights` names no version: nobody would answer",
            false => "every weight is 0: nobody would answer",
        };
        let hint = "write `weights = { blue = 100, green = 0 }`".to_owned();
        report.error(codes::OUT_OF_RANGE, span, message, Some(hint));
        return None;
    }
    // What is wrong in it was reported; the rest of the route is read on.
    (!weights.is_empty()).then_some(weights)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    const VERSIONS: &str = "[components.'a@blue']\nsource = 'file:a'\n[components.'a@green']\nsource = 'file:b'\n[components.b]\nsource = 'file:b'\n[routing]\n'*' = [";

    /// Who answers with which weight, or the problems: code, line and column.
    #[track_caller]
    fn check(routes: &str, expected: &[&str]) {
        let text = format!("{VERSIONS}{routes}]");
        let (manifest, problems) = parse(&text);
        let seen: Vec<String> = match manifest {
            Some(manifest) => {
                let routes = manifest.routing.values().flatten();
                let each = routes.map(|route| {
                    let weights = route.weights.iter();
                    let weights: Vec<String> = weights
                        .map(|(name, weight)| format!("{name} {weight}"))
                        .collect();
                    let replicas = route.upkeep.replicas;
                    format!("{} = {} x{replicas}", route.component, weights.join(" "))
                });
                each.collect()
            }
            None => problems
                .iter()
                .map(|one| {
                    let hint = one.hint.as_deref().unwrap_or_default();
                    format!("{} {}:{} {hint}", one.code, one.line, one.column)
                })
                .collect(),
        };
        assert_eq!(seen, expected, "{problems:#?}");
    }

    #[test]
    fn weights_divide_between_versions() {
        check(
            "{ path = '/', component = 'a', weights = { blue = 90, green = 10 } }",
            &["a = a@blue 90 a@green 10 x1"],
        );
        check(
            "{ path = '/', component = 'a', weights = { green = 0, blue = 1 } }",
            &["a = a@blue 1 a@green 0 x1"],
        );
        check("{ path = '/', component = 'a@blue' }", &["a@blue =  x1"]);
    }

    #[test]
    fn versions_between_which_requests_are_divided_are_kept_alike() {
        check(
            "{ path = '/', component = 'a', weights = { blue = 1, green = 1 }, replicas = 3 }, { path = '/next', component = 'a@green' }",
            &["a = a@blue 1 a@green 1 x3", "a@green =  x3"],
        );
        check(
            "{ path = '/', component = 'a', weights = { blue = 1, green = 1 }, replicas = 3 }, { path = '/next', component = 'a@green', replicas = 2 }",
            &["replicas-disagree 8:142 it holds for the component: write it on one route"],
        );
        check(
            "{ path = '/', component = 'a@blue', replicas = 3 }, { path = '/next', component = 'a@green', replicas = 2 }",
            &["a@blue =  x3", "a@green =  x2"],
        );
    }

    #[test]
    fn what_is_wrong_with_weights_is_said() {
        for (keys, expected) in [
            (
                "component = 'a', weights = { blue = 0, green = 0 }",
                "out-of-range 8:49 write `weights = { blue = 100, green = 0 }`",
            ),
            (
                "component = 'a', weights = {}",
                "out-of-range 8:49 write `weights = { blue = 100, green = 0 }`",
            ),
            (
                "component = 'a', weights = { blue = 1001 }",
                "out-of-range 8:58 ",
            ),
            (
                "component = 'a', weights = { blue = '1' }",
                "wrong-type 8:58 write it as `1`",
            ),
            ("component = 'a', weights = 1", "wrong-type 8:49 "),
            (
                "component = 'a', weights = { red = 1, blue = 1 }",
                "unknown-component 8:51 add `[components.\"a@red\"]`",
            ),
            (
                "component = 'a', weights = { 'x@y' = 1, blue = 1 }",
                "bad-name 8:51 a label has letters, digits, `-` and `_`",
            ),
            (
                "component = 'a@blue', weights = { blue = 1 }",
                "bad-value 8:34 write `component = \"a\"`",
            ),
            (
                "component = 'a'",
                "unknown-component 8:34 add `weights = { blue = 100 }`",
            ),
        ] {
            check(&format!("{{ path = '/', {keys} }}"), &[expected]);
        }
        let many: Vec<String> = (0..17).map(|index| format!("l{index} = 1")).collect();
        let text = format!(
            "{VERSIONS}{{ path = '/', component = 'a', weights = {{ {} }} }}]",
            many.join(", ")
        );
        let (_, problems) = parse(&text);
        assert!(
            problems.iter().any(|one| one.code == "too-large"),
            "{problems:#?}"
        );
    }
}
