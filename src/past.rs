//! What a component or an app was before, and the entries that take it back: what `promote`, `abort` and
//! `rollback` share.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use realm_model::api::{DivisionView, HistoryView, PastView};
use realm_model::entry::{Body, RollbackBody, WeighBody, Weight};
use realm_model::lock::{Pin, version_after};
use realm_model::name::ComponentName;
use realm_model::route::share_in_words;
use realm_node::Client;

use crate::context::Context;
use crate::failure::Failure;
use crate::resolve::in_force;
use crate::sign::{self, Standing};
use crate::{output, progress};

/// Version → how many requests of all together.
pub(crate) type Division = BTreeMap<ComponentName, u32>;

/// Where a namespace stands, and what a component or an app of it was.
pub(crate) struct Past {
    pub(crate) standing: Standing,
    pub(crate) name: ComponentName,
    history: HistoryView,
}

impl Past {
    pub(crate) async fn fetch(
        client: &Client,
        of: &sign::Of,
        name: &ComponentName,
    ) -> Result<Self, Failure> {
        let heads = client.heads_with_history(of.namespace, name).await?;
        let history = heads.history.clone().unwrap_or_default();
        Ok(Self {
            standing: Standing::of(heads, of.namespace)?,
            name: name.clone(),
            history,
        })
    }

    pub(crate) const fn history(&self) -> &HistoryView {
        &self.history
    }

    /// Whether the requests of an app of this name are divided.
    pub(crate) const fn is_divided(&self) -> bool {
        !self.history.divisions.is_empty()
    }

    /// How its requests are divided now, and were before, the newest first.
    pub(crate) fn divisions(&self) -> Option<(&Division, impl Iterator<Item = Division>)> {
        let (now, before) = self.history.divisions.split_last()?;
        // Of versions that are gone nothing can be had.
        let possible = move |one: &DivisionView| {
            let there = one.weights.iter();
            let there = there.filter(|(name, _)| now.weights.contains_key(*name));
            let division: Division = there
                .map(|(name, weight)| (name.clone(), *weight))
                .collect();
            (answering(&division) > 0).then_some(division)
        };
        Some((&now.weights, before.iter().rev().filter_map(possible)))
    }

    /// What it runs with, and what it ran with before, the newest first.
    pub(crate) fn versions(&self) -> Result<(&PastView, impl Iterator<Item = &PastView>), Failure> {
        let Some((now, before)) = self.history.versions.split_last() else {
            if self.is_divided() {
                let message = format!("`{}` is an app; its versions are components", self.name);
                return Err(Failure::new("unknown-name", message)
                    .hint(format!("write `{}@LABEL`", self.name)));
            }
            let message = format!("the manifest in force has no component `{}`", self.name);
            return Err(
                Failure::new("unknown-name", message).hint("`realm status` lists the components")
            );
        };
        Ok((now, before.iter().rev()))
    }

    /// Signs another division of the requests, and waits.
    pub(crate) async fn divide(
        &self,
        context: &Context,
        client: &Client,
        division: &Division,
        wait: &progress::Wait,
    ) -> Result<ExitCode, Failure> {
        let weights = division.iter().map(|(component, weight)| Weight {
            component: component.clone(),
            weight: *weight,
        });
        let body = Body::Weigh(WeighBody {
            app: self.name.clone(),
            weights: weights.collect(),
        });
        let key = context.owner_key().await?;
        let signed = sign::sign(&self.standing, &key, body)?;
        let accepted = sign::submit(client, &signed).await?;
        output::note(&format!(
            "`{}`: {} from entry {} on",
            self.name,
            in_words(division),
            accepted.head.seq
        ));
        // Who gets nothing is not waited for: it may be what is broken.
        let heavy = division.iter().filter(|(_, weight)| **weight > 0);
        let of = heavy.map(|(component, _)| component.clone()).collect();
        progress::finish(client, &accepted, Some(&of), wait, context.json()).await
    }

    /// Signs that the component runs again as it did from an entry on, and waits.
    pub(crate) async fn go_back(
        &self,
        context: &Context,
        client: &Client,
        to: &PastView,
        wait: &progress::Wait,
    ) -> Result<ExitCode, Failure> {
        let Some((_, mut lock)) = in_force(&self.standing)? else {
            return Err(Failure::new(
                "nothing-applied",
                "no manifest is in force yet",
            ));
        };
        let pin = Pin {
            digest: to.digest,
            size: to.size,
        };
        lock.components.insert(self.name.clone(), pin);
        lock.version = version_after(lock.version).ok_or_else(|| {
            Failure::new("stale", format!("no version comes after {}", lock.version))
        })?;
        let body = Body::Rollback(RollbackBody {
            component: self.name.clone(),
            to: to.entry,
            lock: lock.to_text(),
        });
        let key = context.owner_key().await?;
        let signed = sign::sign(&self.standing, &key, body)?;
        let accepted = sign::submit(client, &signed).await?;
        output::note(&format!(
            "`{}` goes back to what version {} brought ({}), as version {}",
            self.name, to.version, to.digest, accepted.version
        ));
        output::note(
            "the manifest in your folder says otherwise: the next `realm apply` of it ends this",
        );
        let of = BTreeSet::from([self.name.clone()]);
        progress::finish(client, &accepted, Some(&of), wait, context.json()).await
    }
}

/// `green 90 %, blue 10 %`, the greatest first.
pub(crate) fn in_words(division: &Division) -> String {
    let all: u32 = division.values().sum();
    let mut parts: Vec<(&ComponentName, u32)> = division
        .iter()
        .map(|(name, weight)| (name, *weight))
        .collect();
    parts.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    let words = parts.iter().map(|(name, weight)| {
        let label = name.label().unwrap_or(name.as_str());
        format!("{label} {}", share_in_words(*weight, all))
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Versions that get requests.
pub(crate) fn answering(division: &Division) -> usize {
    division.values().filter(|weight| **weight > 0).count()
}
