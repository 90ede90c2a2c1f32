//! `herold-bindgen LIBRARY CONFIG FOLDER LANGUAGE...`: writes the sources for other languages from what
//! is in the library, which must not be stripped. `cargo xtask bindings` runs it.

use std::process::ExitCode;

use uniffi::{GenerateOptions, TargetLanguage, generate};

const USAGE: &str = "herold-bindgen LIBRARY CONFIG FOLDER [kotlin] [swift] [python]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [library, config, folder, languages @ ..] = words.as_slice() else {
        return failed(&USAGE);
    };
    let language = |word: &String| match word.as_str() {
        "kotlin" => Some(TargetLanguage::Kotlin),
        "swift" => Some(TargetLanguage::Swift),
        "python" => Some(TargetLanguage::Python),
        _ => None,
    };
    let Some(languages) = languages.iter().map(language).collect() else { return failed(&USAGE) };
    let options = GenerateOptions {
        languages,
        source: library.into(),
        out_dir: folder.into(),
        config_override: Some(config.into()),
        format: false,
        crate_filter: None,
        metadata_no_deps: true,
    };
    match generate(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("{error:#}")),
    }
}

fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
