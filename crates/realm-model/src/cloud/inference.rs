//! Models that guests ask: what a prompt may be, checked once for every engine, and what comes back. Not
//! here: which model it is, and how an engine is asked.

use super::limits::{
    EMBEDDED_BYTES_MAX, EMBEDDED_TEXTS_MAX, PROMPT_BYTES_MAX, PROMPT_MESSAGES_MAX,
    SCHEMA_BYTES_MAX, STOP_BYTES_MAX, STOPS_MAX, TOKENS_MAX,
};
use super::{Answer, CloudError, within};

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Who made the app: how the model shall behave.
    System,
    /// Who asks.
    User,
    /// The model, earlier.
    Assistant,
}

/// What somebody said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    /// Who.
    pub role: Role,
    /// What.
    pub text: String,
}

/// How a model answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Manner {
    /// Tokens at most.
    pub tokens_max: u32,
    /// 0: the likeliest words; up to 2. `None`: as the engine has it.
    pub temperature: Option<f32>,
    /// Only the likeliest words that have this probability together. `None`: as the engine has it.
    pub top_p: Option<f32>,
    /// Where chance begins. `None`: somewhere.
    pub seed: Option<u32>,
    /// Texts before which the answer ends.
    pub stops: Vec<String>,
    /// The schema of the answer, as JSON: it is JSON then.
    pub json_schema: Option<String>,
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// What was said, in order.
    pub utterances: Vec<Utterance>,
    /// How to answer.
    pub manner: Manner,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model, or one of the stops, ended it.
    Stop,
    /// It has as many tokens or bytes as it may.
    Length,
    /// The engine's operator does not let it say that.
    Filtered,
    /// The engine says something else.
    Other,
}

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub finish: Finish,
    /// Tokens of the prompt, where the engine says so.
    pub tokens_in: Option<u32>,
    /// Tokens of the answer, where the engine says so.
    pub tokens_out: Option<u32>,
}

/// What comes of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text, which is not empty.
    Text(String),
    /// Nothing came in the time of a call: more may.
    Nothing,
    /// All of it came.
    End(Ending),
}

/// Vectors of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// One for each text, in their order, all of one length.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of the texts, where the engine says so.
    pub tokens_in: Option<u32>,
}

/// Why a model did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// As with every other backend.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// Too many ask; in so many seconds there may be room, where that is known.
    #[error("the model has no room for this at this time")]
    Busy(Option<u32>),
    /// The engine does not take what it is asked.
    #[error("the model does not take this")]
    Refused,
    /// The model does not read that much.
    #[error("the prompt is longer than the model reads")]
    TooLong,
    /// What the engine answers makes no sense.
    #[error("the model's engine answered what makes no sense")]
    Malformed,
}

/// A model.
pub trait Inference: Send + Sync {
    /// Begins to answer. What the engine says against it comes with the first piece.
    fn generate(&self, prompt: Prompt) -> Answer<'_, Box<dyn Generation>, InferenceError>;

    /// Makes vectors of texts.
    fn embed(&self, texts: Vec<String>) -> Answer<'_, Embedded, InferenceError>;
}

/// An answer as it comes. The engine stops when this is dropped.
pub trait Generation: Send {
    /// The next piece; after the last one, or an error, the same again.
    fn next(&mut self) -> Answer<'_, Piece, InferenceError>;
}

fn invalid<T>(words: impl Into<String>) -> Result<T, CloudError> {
    Err(CloudError::Invalid(words.into()))
}

impl Prompt {
    /// Whether every engine can be asked this.
    ///
    /// # Errors
    /// In words for the guest.
    pub fn check(&self) -> Result<(), CloudError> {
        let n_utterances = self.utterances.len();
        if !(1..=PROMPT_MESSAGES_MAX).contains(&n_utterances) {
            return invalid(format!(
                "a prompt has 1 to {PROMPT_MESSAGES_MAX} messages, not {n_utterances}"
            ));
        }
        let n_bytes = self.utterances.iter().map(|one| one.text.len()).sum();
        within("the prompt", n_bytes, PROMPT_BYTES_MAX)?;
        self.manner.check()
    }

    /// Bytes of what an engine is sent of it, at most.
    pub fn bytes(&self) -> usize {
        let Manner {
            stops, json_schema, ..
        } = &self.manner;
        let texts = self.utterances.iter().map(|one| &one.text);
        let texts = texts.chain(stops).chain(json_schema);
        texts.map(|text| written(text)).sum()
    }
}

/// Bytes of a text in JSON, and what stands around it.
fn written(text: &str) -> usize {
    let of = |byte| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    64 + text.bytes().map(of).sum::<usize>()
}

impl Manner {
    fn check(&self) -> Result<(), CloudError> {
        let Self {
            tokens_max,
            temperature,
            top_p,
            seed,
            stops,
            json_schema,
        } = self;
        if !(1..=TOKENS_MAX).contains(tokens_max) {
            return invalid(format!(
                "a generation has 1 to {TOKENS_MAX} tokens, not {tokens_max}"
            ));
        }
        if temperature.is_some_and(|value| !(0.0..=2.0).contains(&value)) {
            return invalid("a temperature is from 0 to 2");
        }
        if top_p.is_some_and(|value| !(value > 0.0 && value <= 1.0)) {
            return invalid("a probability is above 0 and at most 1");
        }
        // Engines take this number for none.
        if *seed == Some(u32::MAX) {
            return invalid("a seed is less than 4,294,967,295");
        }
        if stops.len() > STOPS_MAX {
            return invalid(format!("a generation has {STOPS_MAX} stops at most"));
        }
        for stop in stops {
            within("a stop", stop.len(), STOP_BYTES_MAX)?;
            if stop.is_empty() {
                return invalid("a stop has no text");
            }
        }
        if let Some(schema) = json_schema {
            within("the schema", schema.len(), SCHEMA_BYTES_MAX)?;
            if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(schema).is_err() {
                return invalid("the schema is no object of JSON");
            }
        }
        Ok(())
    }
}

/// Whether every engine can be asked for vectors of these texts.
///
/// # Errors
/// In words for the guest.
pub fn check_texts(texts: &[String]) -> Result<(), CloudError> {
    if !(1..=EMBEDDED_TEXTS_MAX).contains(&texts.len()) {
        return invalid(format!(
            "vectors are made of 1 to {EMBEDDED_TEXTS_MAX} texts, not {}",
            texts.len()
        ));
    }
    // Some engines take none for an error, and others make NaN of it.
    if texts.iter().any(String::is_empty) {
        return invalid("a text is empty");
    }
    let n_bytes = texts.iter().map(String::len).sum();
    within("what vectors are made of", n_bytes, EMBEDDED_BYTES_MAX)
}

/// Bytes of what an engine is sent for these texts, at most.
pub fn bytes_of(texts: &[String]) -> usize {
    texts.iter().map(|text| written(text)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt() -> Prompt {
        Prompt {
            utterances: vec![Utterance {
                role: Role::User,
                text: "hello".to_owned(),
            }],
            manner: Manner {
                tokens_max: 16,
                ..Manner::default()
            },
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Prompt), expected: Option<&str>) {
        let mut prompt = prompt();
        change(&mut prompt);
        let said = prompt.check().err().map(|error| error.to_string());
        match (&said, expected) {
            (None, None) => {}
            (Some(said), Some(expected)) => assert!(said.contains(expected), "{said}"),
            _ => panic!("{said:?}, not {expected:?}"),
        }
    }

    #[test]
    fn prompts_are_within_what_every_engine_takes() {
        check(|_| (), None);
        check(|prompt| prompt.utterances.clear(), Some("1 to 256"));
        check(
            |prompt| prompt.utterances = vec![prompt.utterances[0].clone(); 257],
            Some("not 257"),
        );
        let text = |n| move |prompt: &mut Prompt| prompt.utterances[0].text = "x".repeat(n);
        check(text(PROMPT_BYTES_MAX), None);
        check(text(PROMPT_BYTES_MAX + 1), Some("the prompt has 1048577"));
        check(|prompt| prompt.manner.tokens_max = 0, Some("not 0"));
        check(|prompt| prompt.manner.tokens_max = TOKENS_MAX, None);
        check(
            |prompt| prompt.manner.tokens_max = TOKENS_MAX + 1,
            Some("tokens"),
        );
        for (value, expected) in [
            (0.0, None),
            (2.0, None),
            (2.1, Some("temperature")),
            (-0.1, Some("temperature")),
            (f32::NAN, Some("temperature")),
            (f32::INFINITY, Some("temperature")),
        ] {
            check(|prompt| prompt.manner.temperature = Some(value), expected);
        }
        for (value, expected) in [
            (1.0, None),
            (0.0, Some("probability")),
            (1.1, Some("probability")),
            (f32::NAN, Some("probability")),
        ] {
            check(|prompt| prompt.manner.top_p = Some(value), expected);
        }
        check(|prompt| prompt.manner.seed = Some(u32::MAX), Some("seed"));
        let stops = |stops: &[String]| {
            let stops = stops.to_vec();
            move |prompt: &mut Prompt| prompt.manner.stops = stops
        };
        check(stops(&vec!["a".to_owned(); 4]), None);
        check(stops(&vec!["a".to_owned(); 5]), Some("4 stops"));
        check(stops(&[String::new()]), Some("no text"));
        check(stops(&["a".repeat(257)]), Some("a stop has 257"));
        let schema =
            |text: String| move |prompt: &mut Prompt| prompt.manner.json_schema = Some(text);
        check(schema(r#"{"type":"object"}"#.to_owned()), None);
        check(schema("[]".to_owned()), Some("no object"));
        check(schema(r#"{"a":1}{}"#.to_owned()), Some("no object"));
        check(
            schema(format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200))),
            Some("no object"),
        );
        check(
            schema(format!("{{{}}}", " ".repeat(SCHEMA_BYTES_MAX))),
            Some("the schema has"),
        );
    }

    #[test]
    fn texts_of_vectors_are_within_what_every_engine_takes() {
        let check = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            check_texts(&texts).is_ok()
        };
        assert!(check(&["a"]));
        assert!(check(&["a"; 64]));
        assert!(!check(&["a"; 65]));
        assert!(!check(&[]));
        assert!(!check(&["a", ""]));
        assert!(!check(&["a".repeat(EMBEDDED_BYTES_MAX).as_str(), "b"]));
    }

    #[test]
    fn what_is_sent_is_counted_as_it_is_written() {
        let mut prompt = prompt();
        for text in ["plain", "\"\\\n\u{1}\u{7f}", "ü€😀", "\0\0\0"] {
            prompt.utterances[0].text = text.to_owned();
            let written = serde_json::to_string(text).unwrap();
            assert!(prompt.bytes() >= written.len(), "{text:?}");
            assert!(prompt.bytes() <= written.len() + 64 + 8, "{text:?}");
        }
    }
}
