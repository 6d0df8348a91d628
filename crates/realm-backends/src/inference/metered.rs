//! What the models that a component asks have read and written for it: counted for the operator.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use realm_model::cloud::inference::{Embedded, Prompt};
use realm_model::cloud::inference::{Ending, Piece};
use realm_model::cloud::{Answer, Generation, Inference, InferenceError};

/// What components of a node asked for. Cheap to clone.
#[derive(Clone, Default)]
pub struct Spending(Arc<Mutex<BTreeMap<String, Weak<Spent>>>>);

/// What one component asked for: there for as long as the component is.
#[derive(Default)]
pub struct Spent {
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
    /// By how they ended.
    requests: [AtomicU64; End::ALL.len()],
}

/// How a request to a model ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As it should.
    Done,
    /// With an error.
    Failed,
    /// Nobody wanted the rest.
    Cancelled,
}

impl End {
    const ALL: [Self; 3] = [Self::Done, Self::Failed, Self::Cancelled];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Spending {
    /// That of a component.
    pub fn of(&self, component: &str) -> Arc<Spent> {
        // A map whose entries are written at once: no panic can leave it torn.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spent) = all.get(component).and_then(Weak::upgrade) {
            return spent;
        }
        let spent = Arc::new(Spent::default());
        all.insert(component.to_owned(), Arc::downgrade(&spent));
        spent
    }

    /// A part of the metrics page, in Prometheus' text format; empty where no component asks a model.
    pub fn page(&self) -> String {
        let all: Vec<(String, Arc<Spent>)> = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, spent| spent.strong_count() > 0);
            let spent = all.iter();
            spent
                .filter_map(|(name, spent)| Some((name.clone(), spent.upgrade()?)))
                .collect()
        };
        let mut text = String::new();
        if all.is_empty() {
            return text;
        }
        // Writing to a String does not fail: results of `write!` here say nothing.
        text +=
            "# HELP inference_tokens_total Tokens that models read and wrote for a component.\n";
        text += "# TYPE inference_tokens_total counter\n";
        for (name, spent) in &all {
            for (direction, n) in [("in", &spent.tokens_in), ("out", &spent.tokens_out)] {
                let n = n.load(Ordering::Relaxed);
                let _ = writeln!(
                    text,
                    "inference_tokens_total{{component=\"{name}\",direction=\"{direction}\"}} {n}"
                );
            }
        }
        text += "# HELP inference_requests_total Requests of a component to models, by how they ended.\n";
        text += "# TYPE inference_requests_total counter\n";
        for (name, spent) in &all {
            for end in End::ALL {
                let n = spent.requests[end as usize].load(Ordering::Relaxed);
                let result = end.as_str();
                let _ = writeln!(
                    text,
                    "inference_requests_total{{component=\"{name}\",result=\"{result}\"}} {n}"
                );
            }
        }
        text
    }
}

impl Spent {
    fn add(&self, tokens_in: u64, tokens_out: u64) {
        self.tokens_in.fetch_add(tokens_in, Ordering::Relaxed);
        self.tokens_out.fetch_add(tokens_out, Ordering::Relaxed);
    }

    fn end(&self, end: End) {
        self.requests[end as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// A model, as one component asks it.
pub struct Metered {
    model: Arc<dyn Inference>,
    spent: Arc<Spent>,
}

impl Metered {
    /// What comes of `model` is counted as spent.
    pub fn new(model: Arc<dyn Inference>, spent: Arc<Spent>) -> Self {
        Self { model, spent }
    }
}

impl Inference for Metered {
    fn generate(&self, prompt: Prompt) -> Answer<'_, Box<dyn Generation>, InferenceError> {
        Box::pin(async move {
            let begun = self.model.generate(prompt).await;
            let begun = begun.inspect_err(|_| self.spent.end(End::Failed))?;
            Ok(Box::new(Counted {
                generation: begun,
                spent: Arc::clone(&self.spent),
                pieces: 0,
                is_over: false,
            }) as Box<dyn Generation>)
        })
    }

    fn embed(&self, texts: Vec<String>) -> Answer<'_, Embedded, InferenceError> {
        Box::pin(async move {
            let made = self.model.embed(texts).await;
            match &made {
                Ok(made) => {
                    self.spent.add(made.tokens_in.unwrap_or(0).into(), 0);
                    self.spent.end(End::Done);
                }
                Err(_) => self.spent.end(End::Failed),
            }
            made
        })
    }
}

/// A generation that is counted when it is over.
struct Counted {
    generation: Box<dyn Generation>,
    spent: Arc<Spent>,
    /// Pieces that came: as many tokens at the least, where nobody says how many.
    pieces: u64,
    is_over: bool,
}

impl Counted {
    fn over(&mut self, end: End, ending: Option<Ending>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let tokens_in = ending.and_then(|ending| ending.tokens_in).unwrap_or(0);
        let tokens_out = ending.and_then(|ending| ending.tokens_out).map(u64::from);
        self.spent
            .add(tokens_in.into(), tokens_out.unwrap_or(self.pieces));
        self.spent.end(end);
    }
}

impl Generation for Counted {
    fn next(&mut self) -> Answer<'_, Piece, InferenceError> {
        Box::pin(async move {
            let came = self.generation.next().await;
            match &came {
                Ok(Piece::Text(_)) => self.pieces += 1,
                Ok(Piece::Nothing) => {}
                Ok(Piece::End(ending)) => self.over(End::Done, Some(*ending)),
                Err(_) => self.over(End::Failed, None),
            }
            came
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.over(End::Cancelled, None);
    }
}
