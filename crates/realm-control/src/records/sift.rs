//! Which records make whoever reads them panic. Not who reads them, and not how a panic is caught.

use realm_model::record::KeyBytes;

use super::Records;

impl Records {
    /// The nodes whose newest records make `panics` true, which reads all that it is given. Each is
    /// tried alone, beside this node's own; if none of them does it alone, one is named without which
    /// the others do no harm. Nobody is named if it happens without the others as well.
    pub fn poisonous(&self, panics: &mut dyn FnMut(&Self) -> bool) -> Vec<KeyBytes> {
        if !panics(self) || panics(&self.only(&|_| false)) {
            return Vec::new();
        }
        let own = self.own;
        let others = || self.held.keys().filter(move |node| **node != own).copied();
        let alone: Vec<KeyBytes> = others()
            .filter(|one| panics(&self.only(&|node| node == one)))
            .collect();
        if !alone.is_empty() {
            return alone;
        }
        let together = others().find(|one| !panics(&self.only(&|node| node != one)));
        together.into_iter().collect()
    }

    /// The newest record of each node that is `wanted`, and this node's own.
    pub fn only(&self, wanted: &dyn Fn(&KeyBytes) -> bool) -> Self {
        let mut few = Self {
            held: self.held.clone(),
            ..Self::empty(self.realm, self.own)
        };
        few.held.retain(|node, _| *node == self.own || wanted(node));
        few
    }
}
