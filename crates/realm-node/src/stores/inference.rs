//! The engine that a binding asks for a model.

use std::path::PathBuf;
use std::sync::Arc;

use realm_backends::inference::{Engine, EngineSettings, Patience};
use realm_host::Store;
use realm_model::binding::Backend;

use super::{Making, later};
use crate::error::with_causes;
use crate::event::StepFailure;

pub(super) fn make(making: &Making<'_>) -> Result<Store, StepFailure> {
    let spec = making.spec;
    let (Backend::OpenAi { server, path }, Some(model)) = (&spec.backend, &spec.model) else {
        return Err(later(making));
    };
    let scheme = if server.tls { "https" } else { "http" };
    let settings = EngineSettings {
        endpoint: format!("{scheme}://{server}{path}"),
        model: model.clone(),
        secret: making.secret()?,
        authorities: making.policy.ca_file.as_ref().map(PathBuf::from),
        room: making.room.of(making.binding),
        patience: Patience::default(),
    };
    let made = Engine::new(settings, Arc::clone(&making.watch));
    let made = made.map_err(|error| StepFailure {
        code: "backend-unusable".to_owned(),
        reason: format!("binding `{}`: {}", making.binding, with_causes(&error)),
        permanent: true,
    })?;
    Ok(Store::Inference(Arc::new(made)))
}

#[cfg(test)]
mod tests {
    use realm_backends::Unwatched;
    use realm_backends::inference::Room;
    use realm_model::cloud::InferenceError;
    use realm_model::cloud::inference::{Manner, Prompt, Role, Utterance};
    use realm_model::node_config::BackendPolicy;

    use super::*;

    #[tokio::test]
    async fn the_bindings_of_a_namespace_share_its_part_of_a_nodes_room() {
        // It takes what comes, and says nothing.
        let engine = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = engine.local_addr().unwrap().port();
        let text = format!(
            "[bindings.chat]\ninterface = 'realm:cloud/inference'\n\
             backend = 'openai+http://127.0.0.1:{port}'\nmodel = 'small'\n"
        );
        let (manifest, problems) = realm_model::manifest::parse(&text);
        let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
        let spec = manifest.bindings.values().next().unwrap();
        let (policy, queues) = (BackendPolicy::default(), super::super::Queues::default());
        let room = Room::new(4);
        let of = |binding: &str| {
            let made = make(&Making {
                binding,
                spec,
                folder: PathBuf::new(),
                policy: &policy,
                password: None,
                watch: Arc::new(Unwatched),
                queues: &queues,
                room: &room,
            });
            let Ok(Store::Inference(model)) = made else {
                panic!("no model");
            };
            model
        };
        let ask = async |binding: &str| {
            let prompt = Prompt {
                utterances: vec![Utterance {
                    role: Role::User,
                    text: "hello".to_owned(),
                }],
                manner: Manner {
                    tokens_max: 4,
                    ..Manner::default()
                },
            };
            of(binding).generate(prompt).await
        };
        let _first = ask("team/chat").await.unwrap();
        let (second, other) = tokio::join!(ask("team/search"), ask("teams/chat"));
        assert_eq!(second.err(), Some(InferenceError::Busy(None)));
        assert!(other.is_ok() && ask("chat").await.is_ok());
    }
}
