//! Asks models as a component built for Spin does: `?model=&text=&tokens=&temperature=` answers with the text and
//! what it took; `/vectors?model=&text=` with how many numbers there are, and what they took.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/spin-2.0.0", world: "fermyon:spin/llm-imports" });
}

use bindings::fermyon::spin::llm::{InferencingParams, generate_embeddings, infer};

guests::serve!(handle);

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let word = |name: &str| guests::parameter(&request, name).unwrap_or_default();
    let (model, text) = (word("model"), word("text"));
    let said = if guests::path(&request) == "/vectors" {
        generate_embeddings(&model, &[text.clone(), text]).map(|made| {
            let lengths: Vec<usize> = made.embeddings.iter().map(Vec::len).collect();
            format!("{lengths:?} {}", made.usage.prompt_token_count)
        })
    } else {
        let tokens = guests::number(&request, "tokens", 0);
        let params = (tokens > 0).then(|| InferencingParams {
            max_tokens: tokens as u32,
            repeat_penalty: 1.1,
            repeat_penalty_last_n_token_count: 64,
            temperature: word("temperature").parse().unwrap_or(0.0),
            top_k: 40,
            top_p: 0.9,
        });
        infer(&model, &text, params).map(|done| {
            let usage = done.usage;
            let (read, written) = (usage.prompt_token_count, usage.generated_token_count);
            format!("{read} {written} {}", done.text)
        })
    };
    match said {
        Ok(text) => guests::text(out, 200, &text),
        Err(error) => guests::text(out, 503, &format!("{error:?}")),
    }
}
