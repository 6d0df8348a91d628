//! What an engine is asked, as JSON.

use realm_model::cloud::CloudError;
use realm_model::cloud::inference::{Manner, Prompt, Role};
use serde::Serialize;
use serde_json::{Map, Value};

#[derive(Serialize)]
struct Chat<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    /// As every engine reads it; OpenAI's newest models alone want another name.
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Format>,
    /// Also of an answer that is wanted whole: who goes away is noticed, and a flood is cut.
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Format {
    r#type: &'static str,
    json_schema: Schema,
}

#[derive(Serialize)]
struct Schema {
    name: &'static str,
    strict: bool,
    schema: Map<String, Value>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// A conversation to be gone on with.
pub(super) fn chat(model: &str, prompt: &Prompt) -> Result<Vec<u8>, CloudError> {
    let Prompt { utterances, manner } = prompt;
    let Manner {
        tokens_max,
        temperature,
        top_p,
        seed,
        stops,
        json_schema,
    } = manner;
    let schema = json_schema
        .as_ref()
        .map(|schema| serde_json::from_str(schema));
    let schema = schema.transpose().map_err(unwritten)?;
    let chat = Chat {
        model,
        messages: utterances
            .iter()
            .map(|one| Message {
                role: match one.role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                },
                content: &one.text,
            })
            .collect(),
        max_tokens: *tokens_max,
        temperature: *temperature,
        top_p: *top_p,
        seed: *seed,
        stop: stops,
        response_format: schema.map(|schema| Format {
            r#type: "json_schema",
            json_schema: Schema {
                name: "answer",
                strict: true,
                schema,
            },
        }),
        stream: true,
        stream_options: StreamOptions {
            include_usage: true,
        },
    };
    serde_json::to_vec(&chat).map_err(unwritten)
}

#[derive(Serialize)]
struct Embeddings<'a> {
    model: &'a str,
    input: &'a [String],
    encoding_format: &'static str,
}

/// Texts to make vectors of.
pub(super) fn embeddings(model: &str, texts: &[String]) -> Result<Vec<u8>, CloudError> {
    let request = Embeddings {
        model,
        input: texts,
        encoding_format: "float",
    };
    serde_json::to_vec(&request).map_err(unwritten)
}

fn unwritten(_: serde_json::Error) -> CloudError {
    CloudError::Invalid("what is asked cannot be written as JSON".to_owned())
}

#[cfg(test)]
mod tests {
    use realm_model::cloud::inference::Utterance;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_prompt_is_asked_as_engines_read_it_and_no_longer_than_counted() {
        let mut prompt = Prompt {
            utterances: vec![Utterance {
                role: Role::System,
                text: "be \"brief\"\u{1}".to_owned(),
            }],
            manner: Manner {
                tokens_max: 7,
                ..Manner::default()
            },
        };
        let written = chat("m", &prompt).unwrap();
        let read: Value = serde_json::from_slice(&written).unwrap();
        let expected = json!({
            "model": "m", "messages": [{"role": "system", "content": "be \"brief\"\u{1}"}],
            "max_tokens": 7, "stream": true, "stream_options": {"include_usage": true},
        });
        assert_eq!(read, expected);
        prompt.manner = Manner {
            tokens_max: 7,
            temperature: Some(0.5),
            top_p: Some(0.25),
            seed: Some(3),
            stops: vec!["x".to_owned()],
            json_schema: Some(r#"{"type":"object"}"#.to_owned()),
        };
        let written = chat("m", &prompt).unwrap();
        assert!(written.len() < prompt.bytes() + 512);
        let read: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(read["temperature"], json!(0.5));
        assert_eq!(read["top_p"], json!(0.25));
        assert_eq!(read["seed"], json!(3));
        assert_eq!(read["stop"], json!(["x"]));
        let format = json!({
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": true, "schema": {"type": "object"}},
        });
        assert_eq!(read["response_format"], format);
    }
}
