//! Builds the guests with a cargo of its own, and writes down where they are.
//!
//! Their target folders lie beside the one of the host's build, so that all profiles share them and
//! an unchanged guest is never built twice. A missing target or a file without an entry in its workspace's
//! `Cargo.toml` is an error here, never a test that is silently absent.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "wasm32-wasip2";

/// The workspaces: realm's own programs, and those that are built with what other projects publish.
const WORKSPACES: [&str; 2] = ["guests", "sdks"];

#[expect(clippy::print_stderr, reason = "cargo shows it when the script fails")]
fn main() {
    if let Err(message) = run() {
        eprintln!("error: {message}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    target_is_installed()?;
    let mut guests = Vec::new();
    for workspace in WORKSPACES {
        let folder = manifest_dir.join("..").join(workspace);
        watch(&folder)?;
        guests.extend(build_all(
            workspace,
            &folder,
            &target_dir_of(&out_dir).join(workspace),
        )?);
    }
    let path = out_dir.join("guests.rs");
    fs::write(&path, generate(&guests))
        .map_err(|error| format!("write `{}`: {error}", path.display()))
}

/// A component: its name, the file that says what it does, and where it is.
struct Built {
    name: String,
    source: String,
    path: PathBuf,
}

fn build_all(workspace: &str, folder: &Path, target_dir: &Path) -> Result<Vec<Built>, String> {
    build(workspace, folder, target_dir)?;
    let built = target_dir.join(TARGET).join("release/examples");
    let manifest = format!("tests/{workspace}/Cargo.toml");
    let entries = fs::read_to_string(folder.join("Cargo.toml"))
        .map_err(|error| format!("read {manifest}: {error}"))?;
    let mut guests = Vec::new();
    for name in names(&folder.join("src"))? {
        let source = format!("tests/{workspace}/src/{name}.rs");
        let path = built.join(format!("{name}.wasm"));
        // The entry is looked for as well, since a component of an earlier build may still lie there.
        let entered = entries.contains(&format!("path = \"src/{name}.rs\""));
        if !entered || !path.is_file() {
            return Err(format!("`{source}` has no `[[example]]` in {manifest}"));
        }
        guests.push(Built { name, source, path });
    }
    Ok(guests)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo sets `{name}` for a build script"))
}

fn watch(guests_dir: &Path) -> Result<(), String> {
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "src",
        "wit",
        "../../wit",
    ] {
        let path = guests_dir.join(name);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    if guests_dir.join("src").is_dir() {
        Ok(())
    } else {
        Err(format!("no guests in `{}`", guests_dir.display()))
    }
}

/// Asks the compiler, since a toolchain need not come from rustup.
fn target_is_installed() -> Result<(), String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = clean(Command::new(rustc))
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("run rustc: {error}"))?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && libraries.is_dir() {
        return Ok(());
    }
    Err(format!(
        "the test guests need the target `{TARGET}`\nhint: rustup target add {TARGET}"
    ))
}

/// The host's target folder: what carries cargo's tag above `OUT_DIR`.
fn target_dir_of(out_dir: &Path) -> &Path {
    out_dir
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .unwrap_or(out_dir)
}

fn build(workspace: &str, guests_dir: &Path, target_dir: &Path) -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = clean(Command::new(cargo))
        .current_dir(guests_dir)
        .args([
            "build",
            "--locked",
            "--release",
            "--examples",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(target_dir)
        .status()
        .map_err(|error| format!("run cargo: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the guests in tests/{workspace} do not build"))
    }
}

/// Takes away what the outer cargo set for the host: its flags, wrapper and profile are not the guests'.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = [
            "CARGO_BUILD_JOBS",
            "CARGO_HOME",
            "CARGO_HTTP",
            "CARGO_NET",
            "CARGO_REGISTR",
            "CARGO_SOURCE",
            "CARGO_TERM",
        ];
        let cargos = text.starts_with("CARGO") && !ours.iter().any(|keep| text.starts_with(keep));
        let compilers = text.starts_with("RUSTFLAGS")
            || text.starts_with("RUSTC")
            || text.starts_with("RUSTDOC");
        if cargos
            || compilers
            || ["TARGET", "HOST", "PROFILE", "OPT_LEVEL", "DEBUG", "OUT_DIR"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command
}

fn names(folder: &Path) -> Result<Vec<String>, String> {
    let entries =
        fs::read_dir(folder).map_err(|error| format!("read `{}`: {error}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| format!("read `{}`: {error}", folder.display()))?
            .path();
        let stem = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        if let (Some(stem), Some("rs")) = (stem, path.extension().and_then(|text| text.to_str()))
            && stem != "lib"
        {
            names.push(stem);
        }
    }
    names.sort();
    Ok(names)
}

fn generate(guests: &[Built]) -> String {
    let mut code = String::new();
    let mut list = String::new();
    let mut calls = String::new();
    for Built { name, source, path } in guests {
        let constant = name.to_uppercase();
        let _ = writeln!(code, "/// The component of `{source}`.");
        let _ = writeln!(
            code,
            "pub const {constant}: &str = {:?};",
            path.display().to_string()
        );
        let _ = writeln!(list, "    ({name:?}, {constant}),");
        let _ = writeln!(calls, "        $macro!({name});");
    }
    let _ = writeln!(
        code,
        "/// Every guest: its name and its path.\npub const GUESTS: &[(&str, &str)] = &[\n{list}];"
    );
    let _ = writeln!(
        code,
        "/// Calls `$macro!(name)` for every guest.\n#[macro_export]"
    );
    let _ = writeln!(
        code,
        "macro_rules! foreach_guest {{\n    ($macro:ident) => {{\n{calls}    }};\n}}"
    );
    code
}
