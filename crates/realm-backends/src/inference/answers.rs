//! What an engine answers, as values that make sense. Bytes without I/O: all of them are a stranger's.

use realm_model::cloud::InferenceError;
use realm_model::cloud::inference::{Embedded, Finish};
use realm_model::cloud::limits::DIMENSION_MAX;
use serde::Deserialize;
use serde_json::Value;

/// What an event of a generation says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// More of the answer; often nothing.
    pub(super) text: String,
    /// Why it ended, if it did.
    pub(super) finish: Option<Finish>,
    /// Tokens of the prompt and of the answer, where it says so.
    pub(super) tokens: Option<(u32, u32)>,
}

/// An event of a generation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A part of the answer.
    Said(Said),
    /// All of it came.
    Done,
    /// The engine could not go on.
    Broken,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    index: Option<u64>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// Reads the data of an event.
pub(super) fn event(data: &[u8]) -> Result<Event, InferenceError> {
    if data.trim_ascii() == b"[DONE]" {
        return Ok(Event::Done);
    }
    let chunk: Chunk = serde_json::from_slice(data).map_err(|_| InferenceError::Malformed)?;
    if chunk.error.is_some() {
        return Ok(Event::Broken);
    }
    let mut said = Said {
        tokens: chunk.usage.map(|usage| {
            let number = |tokens: Option<u64>| tokens.unwrap_or(0).try_into().unwrap_or(u32::MAX);
            (number(usage.prompt_tokens), number(usage.completion_tokens))
        }),
        ..Said::default()
    };
    // One answer was asked for.
    let mut choices = chunk.choices.into_iter().flatten();
    if let Some(choice) = choices.find(|choice| choice.index.unwrap_or(0) == 0) {
        said.text = choice
            .delta
            .and_then(|delta| delta.content)
            .unwrap_or_default();
        said.finish = choice.finish_reason.map(|reason| match reason.as_str() {
            "stop" => Finish::Stop,
            "length" => Finish::Length,
            "content_filter" => Finish::Filtered,
            _ => Finish::Other,
        });
    }
    Ok(Event::Said(said))
}

#[derive(Deserialize)]
struct Vectors {
    data: Vec<One>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct One {
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// Reads the vectors of `n_texts` texts: one for each, of one length, of numbers.
pub(super) fn vectors(body: &[u8], n_texts: usize) -> Result<Embedded, InferenceError> {
    let read: Vectors = serde_json::from_slice(body).map_err(|_| InferenceError::Malformed)?;
    let length = read.data.first().map_or(0, |one| one.embedding.len());
    if read.data.len() != n_texts || !(1..=DIMENSION_MAX as usize).contains(&length) {
        return Err(InferenceError::Malformed);
    }
    let mut vectors = vec![Vec::new(); n_texts];
    for (place, One { index, embedding }) in read.data.into_iter().enumerate() {
        let good = embedding.len() == length && embedding.iter().all(|number| number.is_finite());
        match vectors.get_mut(index.unwrap_or(place)) {
            Some(vector) if good && vector.is_empty() => *vector = embedding,
            Some(_) | None => return Err(InferenceError::Malformed),
        }
    }
    let tokens_in = read.usage.and_then(|usage| usage.prompt_tokens);
    Ok(Embedded {
        vectors,
        tokens_in: tokens_in.map(|tokens| tokens.try_into().unwrap_or(u32::MAX)),
    })
}

/// What the body of a refusal means: that the prompt is too long, or nothing that is known.
pub(super) fn refusal(body: &[u8]) -> InferenceError {
    const TOO_LONG: [&str; 2] = ["exceed_context_size_error", "context_length_exceeded"];
    let Ok(read) = serde_json::from_slice::<Value>(body) else {
        return InferenceError::Refused;
    };
    let mut words = ["code", "type"]
        .iter()
        .filter_map(|key| read["error"][key].as_str());
    if words.any(|word| TOO_LONG.contains(&word)) {
        return InferenceError::TooLong;
    }
    InferenceError::Refused
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(data: &str, expected: Option<Event>) {
        assert_eq!(event(data.as_bytes()).ok(), expected, "{data}");
    }

    fn said(text: &str, finish: Option<Finish>, tokens: Option<(u32, u32)>) -> Option<Event> {
        Some(Event::Said(Said {
            text: text.to_owned(),
            finish,
            tokens,
        }))
    }

    #[test]
    fn events_are_read_as_engines_send_them() {
        // llama.cpp: a beginning, a word, an end, what it took.
        check(
            r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}"#,
            said("", None, None),
        );
        check(
            r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" do"}}],"id":"x"}"#,
            said(" do", None, None),
        );
        check(
            r#"{"choices":[{"finish_reason":"length","index":0,"delta":{}}]}"#,
            said("", Some(Finish::Length), None),
        );
        check(
            r#"{"choices":[],"usage":{"completion_tokens":4,"prompt_tokens":24,"total_tokens":28}}"#,
            said("", None, Some((24, 4))),
        );
        check(" [DONE]", Some(Event::Done));
        check(
            r#"{"error":{"code":500,"message":"secret"}}"#,
            Some(Event::Broken),
        );
        // Thinking is not said aloud; other answers than the first were not asked for.
        check(
            r#"{"choices":[{"delta":{"reasoning_content":"hm"}}],"usage":null}"#,
            said("", None, None),
        );
        check(
            r#"{"choices":[{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}]}"#,
            said("a", None, None),
        );
        for (word, finish) in [
            ("stop", Finish::Stop),
            ("content_filter", Finish::Filtered),
            ("tool_calls", Finish::Other),
        ] {
            let data = format!(r#"{{"choices":[{{"finish_reason":"{word}","delta":null}}]}}"#);
            check(&data, said("", Some(finish), None));
        }
        check(
            r#"{"choices":null,"usage":{"prompt_tokens":99999999999}}"#,
            said("", None, Some((u32::MAX, 0))),
        );
    }

    #[test]
    fn events_that_make_no_sense_are_none() {
        for data in [
            "",
            "hello",
            "[]x",
            "{",
            r#"{"choices":{}}"#,
            r#"{"choices":[{"delta":{"content":7}}]}"#,
            r#"{"choices":[{"delta":{"content":"\ud800"}}]}"#,
            r#"{"usage":{"prompt_tokens":-1}}"#,
            "{\"choices\":[{\"delta\":{\"content\":\"\u{1}\"}}]}",
        ] {
            check(data, None);
        }
        assert!(event(b"{\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}").is_err());
        let deep = format!("{}{}", r#"{"error":"#, "[".repeat(100_000));
        check(&deep, None);
    }

    #[track_caller]
    fn read(body: &str, n_texts: usize, expected: Option<&[&[f32]]>) {
        let read = vectors(body.as_bytes(), n_texts).ok();
        let read: Option<Vec<Vec<f32>>> = read.map(|read| read.vectors);
        let expected = expected.map(|all| {
            all.iter()
                .map(|one| one.to_vec())
                .collect::<Vec<Vec<f32>>>()
        });
        assert_eq!(read, expected, "{body}");
    }

    #[test]
    fn vectors_are_one_for_each_text_of_one_length_and_of_numbers() {
        read(
            r#"{"data":[{"index":1,"embedding":[3,4]},{"index":0,"embedding":[1,-2.5e0]}],"usage":{"prompt_tokens":3}}"#,
            2,
            Some(&[&[1.0, -2.5], &[3.0, 4.0]]),
        );
        read(
            r#"{"data":[{"embedding":[1]},{"embedding":[2]}]}"#,
            2,
            Some(&[&[1.0], &[2.0]]),
        );
        let long = |n: usize| format!(r#"{{"data":[{{"embedding":[{}1]}}]}}"#, "1,".repeat(n - 1));
        assert!(vectors(long(4_096).as_bytes(), 1).is_ok());
        read(&long(4_097), 1, None);
        for (body, n_texts) in [
            (r#"{"data":[{"embedding":[1]}]}"#, 2),
            (r#"{"data":[{"embedding":[1]},{"embedding":[2]}]}"#, 1),
            (r#"{"data":[]}"#, 1),
            (r#"{"data":[{"embedding":[]}]}"#, 1),
            (r#"{"data":[{"embedding":[1]},{"embedding":[1,2]}]}"#, 2),
            (
                r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[2]}]}"#,
                2,
            ),
            (
                r#"{"data":[{"index":0,"embedding":[1]},{"index":2,"embedding":[2]}]}"#,
                2,
            ),
            (r#"{"data":[{"index":-1,"embedding":[1]}]}"#, 1),
            (r#"{"data":[{"embedding":[NaN]}]}"#, 1),
            (r#"{"data":[{"embedding":[null]}]}"#, 1),
            (r#"{"data":[{"embedding":[1e39]}]}"#, 1),
            (r#"{"data":[{"embedding":[1e999]}]}"#, 1),
            (r#"{"data":[{"embedding":"AAAA"}]}"#, 1),
            (r#"{"data":[{"embedding":[[1]]}]}"#, 1),
            (r#"{"error":{}}"#, 1),
            ("", 1),
        ] {
            read(body, n_texts, None);
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_is_told_from_what_else_is_refused() {
        for (body, expected) in [
            (
                r#"{"error":{"code":400,"type":"exceed_context_size_error"}}"#,
                InferenceError::TooLong,
            ),
            (
                r#"{"error":{"code":"context_length_exceeded"}}"#,
                InferenceError::TooLong,
            ),
            (
                r#"{"error":{"type":"invalid_request_error"}}"#,
                InferenceError::Refused,
            ),
            (r#"{"error":"no"}"#, InferenceError::Refused),
            (r#"["a"]"#, InferenceError::Refused),
            ("<html>", InferenceError::Refused),
        ] {
            assert_eq!(refusal(body.as_bytes()), expected, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = event(&bytes);
            let _ = vectors(&bytes, 1);
            let _ = refusal(&bytes);
        }
    }
}
