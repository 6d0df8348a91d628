//! Asks what every engine of `realm:cloud/inference` has to answer, a line for each check: `ok NAME` or
//! `FAIL NAME: why`. Models are bound to `default`, which answers, and `vectors`.
//!
//! `/ask?text=&tokens=` is one answer, `/vectors?text=` the length of a vector, `/leave?tokens=` goes away
//! when something came, `/wait?tokens=` begins an answer and computes for ever, `/stream?text=&tokens=`
//! writes as it comes.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/realm-cloud/inference.wit", world: "realm:cloud/inference-imports" });
}

use bindings::realm::cloud::inference::{self, Completion, Error, Finish, Message, Options, Role};

guests::serve!(handle);

type Check = fn() -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("whole", whole),
    ("as-it-comes", as_it_comes),
    ("conversation", conversation),
    ("stops", stops),
    ("schema", schema),
    ("vectors", vectors),
    ("no-sense", no_sense),
    ("too-large", too_large),
    ("not-bound", not_bound),
    ("at-once", at_once),
];

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let text = guests::parameter(&request, "text").unwrap_or("hello there".to_owned());
    let options = options(guests::number(&request, "tokens", 16) as u32);
    let messages = [message(Role::User, &text)];
    let said = match guests::path(&request).as_str() {
        "/ask" => inference::generate("default", &messages, &options).map(|done| done.text),
        "/vectors" => inference::embed("vectors", &[text]).map(|made| made[0].len().to_string()),
        "/leave" => inference::stream("default", &messages, &options)
            .and_then(|generation| generation.next())
            .map(|text| text.unwrap_or("none".to_owned())),
        "/wait" => {
            let begun = inference::stream("default", &messages, &options);
            let first = begun.as_ref().map(|generation| generation.next());
            if first.is_ok() {
                loop {
                    std::hint::black_box(&begun);
                }
            }
            begun.map(|_| String::new())
        }
        "/stream" => return stream(out, &messages, &options),
        _ => return guests::text(out, 200, &checked()),
    };
    match said {
        Ok(text) => guests::text(out, 200, &text),
        Err(error) => guests::text(out, 503, &format!("{error:?}")),
    }
}

/// Writes an answer as it comes.
fn stream(out: guests::ResponseOutparam, messages: &[Message], options: &Options) {
    use std::io::Write as _;

    let (body, mut stream) = guests::start(out, 200, &[("content-type", "text/plain")]);
    let end = match inference::stream("default", messages, options) {
        Err(error) => format!("{error:?}"),
        Ok(generation) => loop {
            match generation.next() {
                Ok(Some(text)) => {
                    // A caller that went away is no failure of the guest.
                    let written = stream.write_all(text.as_bytes());
                    if written.is_err() || stream.blocking_flush().is_err() {
                        return;
                    }
                }
                Ok(None) => break format!("{:?}", generation.ending().map(|end| end.finish)),
                Err(error) => break format!("{error:?}"),
            }
        },
    };
    let _ = stream.write_all(format!("\n{end}").as_bytes());
    let _ = stream.blocking_flush();
    drop(stream);
    let _ = guests::wasip2::http::types::OutgoingBody::finish(body, None);
}

fn checked() -> String {
    let mut answer = String::new();
    for (check, run) in CHECKS {
        answer += &match run() {
            Ok(()) => format!("ok {check}\n"),
            Err(why) => format!("FAIL {check}: {why}\n"),
        };
    }
    answer
}

fn message(role: Role, text: &str) -> Message {
    Message {
        role,
        text: text.to_owned(),
    }
}

/// The likeliest words: the same each time.
fn options(tokens: u32) -> Options {
    Options {
        max_tokens: Some(tokens),
        temperature: Some(0.0),
        top_p: None,
        seed: None,
        stop: Vec::new(),
        json_schema: None,
    }
}

fn ask(options: &Options) -> Result<Completion, String> {
    let messages = [message(Role::User, "hello there")];
    inference::generate("default", &messages, options).map_err(|error| format!("{error:?}"))
}

/// Whether an error is the one that is expected.
fn fails<T>(
    what: &str,
    done: Result<T, Error>,
    expected: fn(&Error) -> bool,
) -> Result<(), String> {
    match done {
        Err(error) if expected(&error) => Ok(()),
        Err(error) => Err(format!("{what}: {error:?}")),
        Ok(_) => Err(format!("{what}: no error")),
    }
}

fn is<T: PartialEq + std::fmt::Debug>(what: &str, left: T, right: T) -> Result<(), String> {
    if left == right {
        return Ok(());
    }
    Err(format!("{what}: {left:?}, not {right:?}"))
}

fn whole() -> Result<(), String> {
    let done = ask(&options(16))?;
    is("text", done.text.is_empty(), false)?;
    is("finish", done.ending.finish, Finish::Length)?;
    is("tokens out", done.ending.tokens_out, Some(16))?;
    is(
        "tokens in",
        done.ending.tokens_in.is_some_and(|n| n > 2),
        true,
    )?;
    is("the same again", ask(&options(16))?.text, done.text)?;
    is("one token", ask(&options(1))?.ending.tokens_out, Some(1))
}

fn as_it_comes() -> Result<(), String> {
    let expected = ask(&options(64))?;
    let messages = [message(Role::User, "hello there")];
    let words = |error| format!("{error:?}");
    let generation = inference::stream("default", &messages, &options(64)).map_err(words)?;
    is("no end yet", generation.ending().is_none(), true)?;
    let (mut text, mut pieces) = (String::new(), 0);
    while let Some(more) = generation.next().map_err(words)? {
        pieces += usize::from(!more.is_empty());
        text += &more;
    }
    is("text", text, expected.text)?;
    is("several pieces", pieces > 4, true)?;
    let ending = generation.ending().ok_or("no end")?;
    is("finish", ending.finish, expected.ending.finish)?;
    is("tokens", ending.tokens_out, expected.ending.tokens_out)?;
    is("over", generation.next().map_err(words)?, None)
}

fn conversation() -> Result<(), String> {
    let messages = [
        message(Role::System, "be brief"),
        message(Role::User, "hello \"there\"\n\u{1}ü€😀"),
        message(Role::Assistant, "yes?"),
        message(Role::User, "no"),
    ];
    let done = inference::generate("default", &messages, &options(8));
    let done = done.map_err(|error| format!("{error:?}"))?;
    let other = inference::generate("default", &messages[..2], &options(8));
    let other = other.map_err(|error| format!("{error:?}"))?;
    is("what was said counts", done.text == other.text, false)?;
    let more = done.ending.tokens_in > other.ending.tokens_in;
    is("all of it is read", more, true)
}

fn stops() -> Result<(), String> {
    let done = ask(&options(32))?.text;
    let stop: String = done.chars().skip(8).take(3).collect();
    let (before, _) = done.split_once(&stop).ok_or("no stop")?;
    let mut options = options(32);
    options.stop = vec!["\u{7f}".to_owned(), stop.clone()];
    let stopped = ask(&options)?;
    is("text", stopped.text.trim_end(), before.trim_end())?;
    is("finish", stopped.ending.finish, Finish::Stop)
}

fn schema() -> Result<(), String> {
    let mut options = options(256);
    let schema = r#"{"type":"object","properties":{"good":{"type":"boolean"}},"required":["good"],"additionalProperties":false}"#;
    options.json_schema = Some(schema.to_owned());
    let done = ask(&options)?;
    let plain: String = done.text.split_whitespace().collect();
    let fits = [r#"{"good":true}"#, r#"{"good":false}"#].contains(&plain.as_str());
    is(&done.text, fits, true)?;
    is("finish", done.ending.finish, Finish::Stop)
}

fn vectors() -> Result<(), String> {
    let texts = ["hello there", "good bye", "hello there"].map(str::to_owned);
    let made = inference::embed("vectors", &texts).map_err(|error| format!("{error:?}"))?;
    is("one for each", made.len(), 3)?;
    is(
        "length",
        made[0].len() >= 8 && made.iter().all(|one| one.len() == made[0].len()),
        true,
    )?;
    is(
        "numbers",
        made.iter().flatten().all(|number| number.is_finite()),
        true,
    )?;
    let near = |a: &[f32], b: &[f32]| {
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        product(a, b) / (product(a, a) * product(b, b)).sqrt()
    };
    is("the same text", near(&made[0], &made[2]) > 0.99, true)?;
    is("another text", near(&made[0], &made[1]) < 0.99, true)?;
    let many = vec!["x".to_owned(); 64];
    let made = inference::embed("vectors", &many).map_err(|error| format!("{error:?}"))?;
    is("many", made.len(), 64)
}

type Change = fn(&mut Options);

/// What no engine is asked.
fn no_sense() -> Result<(), String> {
    const WRONG: &[(&str, Change)] = &[
        ("no tokens", |options| options.max_tokens = Some(0)),
        ("tokens", |options| options.max_tokens = Some(32_769)),
        ("temperature", |options| {
            options.temperature = Some(f32::NAN)
        }),
        ("hot", |options| options.temperature = Some(2.5)),
        ("top-p", |options| options.top_p = Some(0.0)),
        ("seed", |options| options.seed = Some(u32::MAX)),
        ("stops", |options| options.stop = vec!["a".to_owned(); 5]),
        ("empty stop", |options| options.stop = vec![String::new()]),
        ("schema", |options| {
            options.json_schema = Some("[]".to_owned())
        }),
    ];
    let invalid = |error: &Error| matches!(error, Error::Invalid(_));
    let hello = [message(Role::User, "hello")];
    for (what, change) in WRONG {
        let mut options = options(4);
        change(&mut options);
        fails(
            what,
            inference::generate("default", &hello, &options),
            invalid,
        )?;
        fails(
            what,
            inference::stream("default", &hello, &options),
            invalid,
        )?;
    }
    fails(
        "nothing",
        inference::generate("default", &[], &options(4)),
        invalid,
    )?;
    let many: Vec<Message> = (0..257).map(|_| message(Role::User, "a")).collect();
    fails(
        "many",
        inference::generate("default", &many, &options(4)),
        invalid,
    )?;
    fails("no texts", inference::embed("vectors", &[]), invalid)?;
    let texts = vec!["a".to_owned(); 65];
    fails("many texts", inference::embed("vectors", &texts), invalid)?;
    fails(
        "empty text",
        inference::embed("vectors", &[String::new()]),
        invalid,
    )
}

fn too_large() -> Result<(), String> {
    let large = |error: &Error| matches!(error, Error::TooLarge(_));
    let text = "x".repeat(1024 * 1024 + 1);
    let messages = [message(Role::User, &text)];
    fails(
        "text",
        inference::generate("default", &messages, &options(4)),
        large,
    )?;
    fails("vectors", inference::embed("vectors", &[text]), large)?;
    let mut options = options(4);
    options.stop = vec!["x".repeat(257)];
    let hello = [message(Role::User, "hello")];
    fails(
        "stop",
        inference::generate("default", &hello, &options),
        large,
    )?;
    options.stop = Vec::new();
    options.json_schema = Some(format!("{{{}}}", " ".repeat(64 * 1024)));
    fails(
        "schema",
        inference::generate("default", &hello, &options),
        large,
    )
}

fn not_bound() -> Result<(), String> {
    let none = |error: &Error| matches!(error, Error::NoSuchModel);
    let hello = [message(Role::User, "hello")];
    for name in ["elsewhere", "", "*", "secrets"] {
        fails(name, inference::generate(name, &hello, &options(4)), none)?;
        fails(name, inference::stream(name, &hello, &options(4)), none)?;
        fails(name, inference::embed(name, &["a".to_owned()]), none)?;
    }
    Ok(())
}

fn at_once() -> Result<(), String> {
    let hello = [message(Role::User, "hello")];
    let begin = || inference::stream("default", &hello, &options(8));
    let mut begun = Vec::new();
    for _ in 0..4 {
        begun.push(begin().map_err(|error| format!("{error:?}"))?);
    }
    fails("a fifth", begin(), |error| {
        matches!(error, Error::Busy(None))
    })?;
    begun.pop();
    begun.push(begin().map_err(|error| format!("{error:?}"))?);
    for generation in &begun {
        while generation
            .next()
            .map_err(|error| format!("{error:?}"))?
            .is_some()
        {}
    }
    Ok(())
}
