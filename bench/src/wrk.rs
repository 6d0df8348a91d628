//! The load generator: `wrk`, with a script that sets the request and prints exact figures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// What wrk's own summary rounds away, as one line of JSON.
const SCRIPT_END: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'FIGURES {"requests":%d,"microseconds":%d,"bytes":%d,"p50_us":%d,"p90_us":%d,"p99_us":%d,"max_us":%d,' ..
    '"connect_errors":%d,"read_errors":%d,"write_errors":%d,"bad_statuses":%d,"timeouts":%d}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max, e.connect, e.read, e.write, e.status, e.timeout))
end
"#;

/// What every request of a case is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    Get,
    /// The same, each in a connection of its own.
    GetAndClose,
    /// Bytes, all the same.
    Post(usize),
    /// A text; without `]==]` in it.
    PostJson(&'static str),
}

impl Request {
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Get | Self::GetAndClose => "GET",
            Self::Post(_) | Self::PostJson(_) => "POST",
        }
    }

    pub(crate) fn body(self) -> Vec<u8> {
        match self {
            Self::Get | Self::GetAndClose => Vec::new(),
            Self::Post(bytes) => vec![b'x'; bytes],
            Self::PostJson(text) => text.as_bytes().to_vec(),
        }
    }

    fn script(self) -> String {
        match self {
            Self::Get => String::new(),
            Self::GetAndClose => "wrk.headers[\"connection\"] = \"close\"\n".to_owned(),
            Self::Post(bytes) => {
                format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {bytes})\n")
            }
            Self::PostJson(text) => format!(
                "wrk.method = \"POST\"\nwrk.headers[\"content-type\"] = \"application/json\"\n\
                 wrk.body = [==[{text}]==]\n"
            ),
        }
    }
}

/// What one run gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) microseconds: u64,
    pub(crate) bytes: u64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
    pub(crate) connect_errors: u64,
    pub(crate) read_errors: u64,
    pub(crate) write_errors: u64,
    pub(crate) bad_statuses: u64,
    pub(crate) timeouts: u64,
}

impl Figures {
    pub(crate) fn errors(&self) -> u64 {
        self.connect_errors
            + self.read_errors
            + self.write_errors
            + self.bad_statuses
            + self.timeouts
    }
}

/// wrk with its pinned settings.
#[derive(Debug, Clone)]
pub(crate) struct Wrk {
    pub(crate) threads: u32,
    pub(crate) connections: u32,
    script: PathBuf,
}

impl Wrk {
    /// Writes the script for one case into `folder`.
    pub(crate) fn new(
        folder: &Path,
        threads: u32,
        connections: u32,
        what: Request,
    ) -> Result<Self> {
        let script = folder.join("wrk.lua");
        fs::write(&script, what.script() + SCRIPT_END)
            .with_context(|| format!("`{}` cannot be written", script.display()))?;
        Ok(Self {
            threads,
            connections,
            script,
        })
    }

    pub(crate) fn run(&self, url: &str, time: Duration) -> Result<Figures> {
        let output = Command::new("wrk")
            .arg(format!("-t{}", self.threads))
            .arg(format!("-c{}", self.connections))
            .arg(format!("-d{}s", time.as_secs().max(1)))
            .arg("-s")
            .arg(&self.script)
            .arg(url)
            .output()
            .context("`wrk` does not start")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("wrk failed on {url}: {}{said}", why.trim());
        }
        parse(&said)
    }
}

fn parse(said: &str) -> Result<Figures> {
    let line = said.lines().find_map(|line| line.strip_prefix("FIGURES "));
    let line = line.with_context(|| format!("wrk printed no figures: {said}"))?;
    serde_json::from_str(line).with_context(|| format!("`{line}` does not parse"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_wrk_says() {
        let said = "Running 1s test\nFIGURES {\"requests\":5,\"microseconds\":6,\"bytes\":7,\"p50_us\":8,\
                    \"p90_us\":9,\"p99_us\":10,\"max_us\":11,\"connect_errors\":1,\"read_errors\":2,\
                    \"write_errors\":3,\"bad_statuses\":4,\"timeouts\":5}\n";
        let got = parse(said).unwrap();
        assert_eq!((got.requests, got.p99_us, got.errors()), (5, 10, 15));
        assert!(parse("Running 1s test\n").is_err());
    }

    #[test]
    fn the_body_of_the_script_is_the_body_that_is_checked() {
        assert_eq!(Request::Post(3).body(), b"xxx");
        assert!(Request::Post(3).script().contains("string.rep(\"x\", 3)"));
        assert!(Request::PostJson("{}").script().contains("[==[{}]==]"));
    }
}
