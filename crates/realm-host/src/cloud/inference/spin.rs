//! `fermyon:spin/llm@2.0.0`: what components built for Spin ask. A prompt is the one message of a
//! conversation; penalties for repetition and `top-k`, which engines do not have in common, say nothing.

use realm_model::cloud::inference::{Manner, Prompt, Role, Utterance};
use realm_model::cloud::limits::{TOKENS_DEFAULT, TOKENS_MAX};
use realm_model::cloud::{CloudError, InferenceError};
use wasmtime::Result;
use wasmtime::component::Linker;

use super::super::keys::View;
use super::Has;
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/spin-2.0.0",
        world: "fermyon:spin/llm-imports",
        imports: { default: async | trappable },
    });
}

use generated::fermyon::spin::llm::{
    self, EmbeddingsResult, EmbeddingsUsage, Error, InferencingParams, InferencingResult,
    InferencingUsage,
};

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    llm::add_to_linker::<_, Has>(linker, State::keys)
}

/// What a guest reads of an error.
fn said(error: InferenceError) -> Error {
    let words = error.to_string();
    match error {
        InferenceError::TooLong => Error::InvalidInput(words),
        InferenceError::Busy(_) | InferenceError::Refused | InferenceError::Malformed => {
            Error::RuntimeError(words)
        }
        InferenceError::Cloud(error) => match error {
            CloudError::NoSuchStore => Error::ModelNotSupported,
            CloudError::TooLarge { .. } | CloudError::Invalid(_) => Error::InvalidInput(words),
            CloudError::AccessDenied
            | CloudError::Quota(_)
            | CloudError::NotFound(_)
            | CloudError::Full(_)
            | CloudError::Unsupported(_)
            | CloudError::Timeout
            | CloudError::Unavailable
            | CloudError::Failed(_) => Error::RuntimeError(words),
        },
    }
}

fn given(prompt: String, params: Option<InferencingParams>) -> Prompt {
    let manner = match params {
        Some(params) => Manner {
            tokens_max: params.max_tokens.min(TOKENS_MAX),
            temperature: Some(params.temperature),
            top_p: Some(params.top_p),
            ..Manner::default()
        },
        None => Manner {
            tokens_max: TOKENS_DEFAULT,
            ..Manner::default()
        },
    };
    Prompt {
        utterances: vec![Utterance {
            role: Role::User,
            text: prompt,
        }],
        manner,
    }
}

impl llm::Host for View<'_> {
    async fn infer(
        &mut self,
        model: String,
        prompt: String,
        params: Option<InferencingParams>,
    ) -> Result<Result<InferencingResult, Error>> {
        let answered = super::generate(self.cloud, &model, given(prompt, params)).await;
        Ok(answered
            .map(|(text, ending)| InferencingResult {
                text,
                usage: InferencingUsage {
                    prompt_token_count: ending.tokens_in.unwrap_or(0),
                    generated_token_count: ending.tokens_out.unwrap_or(0),
                },
            })
            .map_err(said))
    }

    async fn generate_embeddings(
        &mut self,
        model: String,
        texts: Vec<String>,
    ) -> Result<Result<EmbeddingsResult, Error>> {
        let made = super::embed(self.cloud, &model, texts).await;
        Ok(made
            .map(|made| EmbeddingsResult {
                embeddings: made.vectors,
                usage: EmbeddingsUsage {
                    prompt_token_count: made.tokens_in.unwrap_or(0),
                },
            })
            .map_err(said))
    }
}
