//! `realm:cloud/inference@0.1.0`.

use realm_model::cloud::inference::{self as asked, Manner, Prompt, Utterance};
use realm_model::cloud::limits::TOKENS_DEFAULT;
use realm_model::cloud::{CloudError, InferenceError};
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::super::keys::View;
use super::{Generation, Has};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/inference.wit",
        world: "realm:cloud/inference-imports",
        imports: { default: async | trappable },
        with: { "realm:cloud/inference.generation": crate::cloud::inference::Generation },
    });
}

use generated::realm::cloud::inference::{
    self, Completion, Ending, Error, Finish, Message, Options, Role,
};

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    inference::add_to_linker::<_, Has>(linker, State::keys)
}

/// What a guest reads of an error.
fn said(error: InferenceError) -> Error {
    match error {
        InferenceError::Busy(seconds) => Error::Busy(seconds),
        InferenceError::Refused => Error::Refused,
        InferenceError::TooLong => Error::TooLarge(error.to_string()),
        InferenceError::Malformed => Error::Malformed,
        InferenceError::Cloud(error) => match error {
            CloudError::NoSuchStore => Error::NoSuchModel,
            CloudError::Quota(_) => Error::Quota,
            CloudError::TooLarge { .. } => Error::TooLarge(error.to_string()),
            CloudError::Invalid(_) => Error::Invalid(error.to_string()),
            CloudError::Timeout => Error::Timeout,
            CloudError::Unsupported(_) => Error::Unsupported,
            CloudError::AccessDenied
            | CloudError::NotFound(_)
            | CloudError::Full(_)
            | CloudError::Unavailable
            | CloudError::Failed(_) => Error::Unavailable,
        },
    }
}

fn given(messages: Vec<Message>, options: Options) -> Prompt {
    let Options {
        max_tokens,
        temperature,
        top_p,
        seed,
        stop,
        json_schema,
    } = options;
    let utterance = |message: Message| Utterance {
        role: match message.role {
            Role::System => asked::Role::System,
            Role::User => asked::Role::User,
            Role::Assistant => asked::Role::Assistant,
        },
        text: message.text,
    };
    Prompt {
        utterances: messages.into_iter().map(utterance).collect(),
        manner: Manner {
            tokens_max: max_tokens.unwrap_or(TOKENS_DEFAULT),
            temperature,
            top_p,
            seed,
            stops: stop,
            json_schema,
        },
    }
}

fn ended(ending: asked::Ending) -> Ending {
    let asked::Ending {
        finish,
        tokens_in,
        tokens_out,
    } = ending;
    Ending {
        finish: match finish {
            asked::Finish::Stop => Finish::Stop,
            asked::Finish::Length => Finish::Length,
            asked::Finish::Filtered => Finish::Filtered,
            asked::Finish::Other => Finish::Other,
        },
        tokens_in,
        tokens_out,
    }
}

impl inference::Host for View<'_> {
    async fn generate(
        &mut self,
        model: String,
        messages: Vec<Message>,
        options: Options,
    ) -> Result<Result<Completion, Error>> {
        let prompt = given(messages, options);
        let answered = super::generate(self.cloud, &model, prompt).await;
        Ok(answered
            .map(|(text, ending)| Completion {
                text,
                ending: ended(ending),
            })
            .map_err(said))
    }

    async fn stream(
        &mut self,
        model: String,
        messages: Vec<Message>,
        options: Options,
    ) -> Result<Result<Resource<Generation>, Error>> {
        let prompt = given(messages, options);
        Ok(match Generation::begin(self.cloud, &model, prompt).await {
            Ok(generation) => Ok(self.table.push(generation)?),
            Err(error) => Err(said(error)),
        })
    }

    async fn embed(
        &mut self,
        model: String,
        texts: Vec<String>,
    ) -> Result<Result<Vec<Vec<f32>>, Error>> {
        let made = super::embed(self.cloud, &model, texts).await;
        Ok(made.map(|made| made.vectors).map_err(said))
    }
}

impl inference::HostGeneration for View<'_> {
    async fn next(
        &mut self,
        generation: Resource<Generation>,
    ) -> Result<Result<Option<String>, Error>> {
        let more = self.table.get_mut(&generation)?.next().await;
        Ok(more.map_err(said))
    }

    async fn ending(&mut self, generation: Resource<Generation>) -> Result<Option<Ending>> {
        Ok(self.table.get(&generation)?.ending.map(ended))
    }

    async fn drop(&mut self, generation: Resource<Generation>) -> Result<()> {
        self.table.delete(generation)?;
        Ok(())
    }
}
