//! Models for guests: `realm:cloud/inference@0.1.0`, and `fermyon:spin/llm@2.0.0` over the same.
//!
//! A generation is a resource of the guest's store, and stops with it. What is asked, and what comes before
//! a guest reads it, is counted as kept for it.

mod spin;
mod typed;

use std::sync::Arc;

use realm_model::cloud::inference::{Embedded, Ending, Piece, Prompt, bytes_of, check_texts};
use realm_model::cloud::limits::{
    DIMENSION_MAX, EMBEDDED_NUMBER_BYTES, GENERATION_EVENT_BYTES_MAX, INSTANCE_GENERATIONS_MAX,
    PIECE_BYTES_MAX, PIECES_MAX,
};
use realm_model::cloud::{self as model, CloudError, InferenceError};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker};

use super::keys::View;
use super::{Cloud, Kept};
use crate::state::State;

/// What a generation keeps in the host beside what is asked: pieces that nobody read yet, and an event that
/// is not whole.
const ON_ITS_WAY_BYTES: usize = PIECES_MAX * PIECE_BYTES_MAX + 2 * GENERATION_EVENT_BYTES_MAX;

/// Counts the generations of one instance.
#[derive(Clone, Default)]
pub(super) struct Count(Arc<()>);

impl Count {
    /// One more, while it is held.
    fn more(&self) -> Result<Self, InferenceError> {
        if Arc::strong_count(&self.0) > INSTANCE_GENERATIONS_MAX {
            return Err(InferenceError::Busy(None));
        }
        Ok(self.clone())
    }
}

/// An answer that a guest waits for.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Generation {
    coming: Box<dyn model::Generation>,
    ending: Option<Ending>,
    kept: Kept,
    _count: Count,
}

impl Generation {
    async fn begin(cloud: &Cloud, name: &str, prompt: Prompt) -> Result<Self, InferenceError> {
        let opened = cloud.model(name)?;
        cloud.charge()?;
        // Before it waits for its turn: what does not fit waits for nothing.
        prompt.check()?;
        let count = cloud.generations.more()?;
        let kept = Kept::new(cloud, prompt.bytes() + ON_ITS_WAY_BYTES);
        let kept = kept.map_err(too_much)?;
        Ok(Self {
            coming: opened.store.generate(prompt).await?,
            ending: None,
            kept,
            _count: count,
        })
    }

    /// More of it; `None`: all of it came.
    async fn next(&mut self) -> Result<Option<String>, InferenceError> {
        match self.coming.next().await? {
            Piece::Text(text) => Ok(Some(text)),
            Piece::Nothing => Ok(Some(String::new())),
            Piece::End(ending) => {
                self.ending = Some(ending);
                Ok(None)
            }
        }
    }

    /// All of it.
    async fn whole(mut self) -> Result<(String, Ending), InferenceError> {
        let mut text = String::new();
        while let Some(more) = self.next().await? {
            // Twice: what is grown into is there beside what was.
            self.kept.more(2 * more.len()).map_err(too_much)?;
            text += &more;
        }
        // What ended says how.
        let ending = self.ending.ok_or(InferenceError::Malformed)?;
        Ok((text, ending))
    }
}

async fn generate(
    cloud: &Cloud,
    name: &str,
    prompt: Prompt,
) -> Result<(String, Ending), InferenceError> {
    Generation::begin(cloud, name, prompt).await?.whole().await
}

async fn embed(cloud: &Cloud, name: &str, texts: Vec<String>) -> Result<Embedded, InferenceError> {
    let opened = cloud.model(name)?;
    cloud.charge()?;
    check_texts(&texts)?;
    let vector_bytes = DIMENSION_MAX as usize * (EMBEDDED_NUMBER_BYTES + size_of::<f32>());
    let _kept =
        Kept::new(cloud, bytes_of(&texts) + texts.len() * vector_bytes).map_err(too_much)?;
    opened.store.embed(texts).await
}

/// The host keeps too much for this component already.
fn too_much(_: CloudError) -> InferenceError {
    InferenceError::Busy(None)
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    typed::link(linker)?;
    spin::link(linker)
}
