//! Writes the seeds of a target into a folder: `seeds TARGET FOLDER`.

fn main() {
    let mut words = std::env::args().skip(1);
    let (Some(target), Some(folder)) = (words.next(), words.next()) else {
        panic!("usage: seeds TARGET FOLDER");
    };
    for (number, seed) in realm_fuzz_checks::seeds(&target).iter().enumerate() {
        std::fs::write(format!("{folder}/seed-{number}"), seed).expect("the folder is there");
    }
}
