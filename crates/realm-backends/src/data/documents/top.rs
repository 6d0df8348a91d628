//! The first documents of an order among many that come in any order: as many as a page may have, and no
//! more bytes than that.

use std::collections::BTreeMap;

use realm_model::cloud::documents::{Document, Page, Standing};
use realm_model::cloud::limits;

pub(super) struct Top {
    limit: usize,
    /// Only what stands behind this.
    after: Option<Standing>,
    found: BTreeMap<Standing, Document>,
    bytes: usize,
    /// The first that had no room: neither has anything behind it.
    beyond: Option<Standing>,
}

impl Top {
    pub(super) fn new(limit: usize, after: Option<Standing>) -> Self {
        Self {
            limit,
            after,
            found: BTreeMap::new(),
            bytes: 0,
            beyond: None,
        }
    }

    pub(super) fn offer(&mut self, standing: Standing, document: Document) {
        let is_before = self.after.as_ref().is_some_and(|after| standing <= *after);
        let is_beyond = self
            .beyond
            .as_ref()
            .is_some_and(|beyond| standing >= *beyond);
        if is_before || is_beyond {
            return;
        }
        self.bytes += size(&standing, &document);
        self.found.insert(standing, document);
        while self.found.len() > self.limit || self.bytes > limits::FOUND_BYTES_MAX {
            let Some((standing, document)) = self.found.pop_last() else {
                return;
            };
            self.bytes -= size(&standing, &document);
            self.beyond = Some(standing);
        }
    }

    /// What it holds.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether something had no room: of what comes sorted nothing has any more.
    pub(super) fn is_over(&self) -> bool {
        self.beyond.is_some()
    }

    pub(super) fn page(self) -> Page {
        let last = self.found.last_key_value();
        Page {
            cursor: last
                .filter(|_| self.beyond.is_some())
                .map(|(standing, _)| standing.cursor()),
            documents: self.found.into_values().collect(),
        }
    }
}

fn size(standing: &Standing, document: &Document) -> usize {
    document.body.len() + document.id.len() + standing.bytes()
}
