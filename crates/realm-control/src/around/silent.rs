//! Who was not reached, and has said nothing since it is again: what it said before may be gone with it.

use std::collections::BTreeSet;

use realm_model::name::NodeName;

use super::Around;

/// Which record of a node: the start of its agent, and the number since then.
pub(super) type Told = (u64, u64);

impl Around {
    /// The same where these are the numbers of the records.
    #[must_use]
    pub(crate) fn told<'a>(
        mut self,
        told: impl Iterator<Item = (&'a NodeName, Told)>,
        lost: &BTreeSet<NodeName>,
    ) -> Self {
        self.records = told
            .map(|(name, told)| (name.clone(), (told, lost.contains(name))))
            .collect();
        self
    }

    /// The same with what was remembered `before`. Of who is back nothing is up until it says so again.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        self.memory = before.memory.clone();
        let records = std::mem::take(&mut self.records);
        let silent = &mut self.memory.silent;
        silent.retain(|name, _| records.contains_key(name));
        for (name, (told, is_lost)) in records {
            match silent.get(&name) {
                _ if is_lost => {
                    silent.insert(name, told);
                }
                Some(last) if told <= *last => {
                    if let Some(said) = self.nodes.get_mut(&name) {
                        said.is_reached = false;
                    }
                }
                Some(_) => {
                    silent.remove(&name);
                }
                None => {}
            }
        }
        self
    }
}
