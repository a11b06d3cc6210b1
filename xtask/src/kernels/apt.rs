//! Debian's package manager with a state of its own: it fetches packages, and neither reads nor changes what is
//! installed here. Needs no root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::{mirror, mirror::Mirror, say};
use crate::workspace;

const SOURCES_DIR: &str = "/etc/apt";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Package lists younger than this are used as they are.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) version: String,
    /// Names of the packages that it needs.
    pub(super) depends: Vec<String>,
}

/// Its state lies in one directory.
#[derive(Debug)]
pub(super) struct Apt {
    dir: PathBuf,
    /// Why lists are older than wanted, or some are not there.
    trouble: Option<String>,
}

impl Apt {
    /// Package lists of not long ago, from this machine's mirror, or older ones where it does not answer.
    /// An error says why there can be none.
    pub(super) fn open(dir: PathBuf) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            ensure!(workspace::find_program(program).is_some(), "there is no {program} here");
        }
        ensure!(Path::new(KEYRING).exists(), "Debian's keys are not here ({KEYRING})");
        let mirror = mirror::find(sources_of_this_machine().iter().map(String::as_str))
            .with_context(|| format!("apt's sources ({SOURCES_DIR}) name no mirror of Debian and of its updates"))?;
        let mut apt = Self { dir, trouble: None };
        apt.write_config(&mirror)?;
        // One suite that is gone must not keep the others away.
        apt.trouble = apt.update().err().map(|error| format!("{error:#}"));
        Ok(apt)
    }

    /// All versions of a package, newest first.
    pub(super) fn versions(&self, package: &str) -> Result<Vec<Candidate>> {
        let mut show = self.command("apt-cache");
        show.args(["show", package]);
        Ok(candidates_in(&self.output_of(&mut show)?))
    }

    /// Fetches packages with all that they need, whatever is installed here, and unpacks all of it.
    pub(super) fn unpack_with_dependencies(&self, packages: &[&str], into: &Path) -> Result<()> {
        let archives = self.dir.join("cache/archives");
        let mut install = self.command("apt-get");
        install.args(["-qq", "install", "-y", "--download-only", "--no-install-recommends"]).args(packages);
        self.output_of(&mut install)?;
        unpack_all(&archives, into)
    }

    /// Fetches packages (`name` or `name=version`) alone, and unpacks them.
    pub(super) fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let downloads = self.dir.join("downloads");
        let _ = fs::remove_dir_all(&downloads);
        fs::create_dir_all(&downloads)?;
        let mut download = self.command("apt-get");
        download.args(["-qq", "download"]).args(packages).current_dir(&downloads);
        self.output_of(&mut download)?;
        unpack_all(&downloads, into)
    }

    fn write_config(&self, mirror: &Mirror) -> Result<()> {
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        let sources = sources(mirror);
        let path = self.dir.join("sources.list");
        if fs::read_to_string(&path).ok().as_deref() != Some(&sources) {
            let _ = fs::remove_file(self.stamp());
            fs::write(path, sources)?;
        }
        fs::write(self.dir.join("status"), "")?;
        fs::write(self.dir.join("apt.conf"), config(&self.dir))?;
        Ok(())
    }

    /// Written when the lists have been fetched.
    fn stamp(&self) -> PathBuf {
        self.dir.join("lists-fetched")
    }

    fn update(&self) -> Result<()> {
        let fetched = fs::metadata(self.stamp()).and_then(|stamp| stamp.modified());
        let age = fetched.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_some_and(|age| age < LISTS_AGE_MAX) {
            return Ok(());
        }
        say("fetching package lists")?;
        // Without the option, a mirror that does not answer is a warning only.
        output_of(self.command("apt-get").args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]))?;
        fs::write(self.stamp(), "").context("the stamp of the package lists")
    }

    /// Runs to the end; an error says also what was wrong with the lists.
    fn output_of(&self, command: &mut Command) -> Result<String> {
        output_of(command).map_err(|error| match &self.trouble {
            Some(trouble) => anyhow!("{error:#}; before, {trouble}"),
            None => error,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = workspace::command(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").arg("-c").arg(self.dir.join("apt.conf"));
        command
    }
}

/// Read last by apt: what the machine's own files say of proxies and passwords holds.
fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"Dir::State "{dir}";
Dir::State::lists "{dir}/lists";
Dir::State::status "{dir}/status";
Dir::Cache "{dir}/cache";
Dir::Etc::sourcelist "{dir}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
Debug::NoLocking "true";
Acquire::Retries "2";
Acquire::http::Timeout "30";
#clear APT::Update;
#clear DPkg::Post-Invoke;
"#
    )
}

fn sources(mirror: &Mirror) -> String {
    let Mirror { main, security } = mirror;
    let line = |uri: &str, suite: &str| format!("deb [target=Packages signed-by={KEYRING}] {uri} {suite} main\n");
    [(main, "bookworm"), (security, "bookworm-security"), (security, "bullseye-security")]
        .map(|(uri, suite)| line(uri, suite))
        .concat()
}

/// The texts of apt's sources files.
fn sources_of_this_machine() -> Vec<String> {
    let dir = Path::new(SOURCES_DIR);
    let mut paths = vec![dir.join("sources.list")];
    let parts = fs::read_dir(dir.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.extend(parts.filter(|path| path.extension().is_some_and(|end| end == "list" || end == "sources")));
    paths.sort();
    paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn unpack_all(debs: &Path, into: &Path) -> Result<()> {
    for entry in fs::read_dir(debs).with_context(|| format!("the directory {}", debs.display()))? {
        let deb = entry?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            output_of(workspace::command("dpkg-deb").arg("-x").arg(&deb).arg(into))?;
            fs::remove_file(&deb)?;
        }
    }
    Ok(())
}

/// Runs to the end; the error has the program's own words: apt's first error, or the last line.
pub(super) fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name} does not start"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let first = words.lines().find_map(|line| line.strip_prefix("E: "));
        let said = first.or_else(|| words.lines().rfind(|line| !line.trim().is_empty()));
        bail!("{name} failed: {}", said.unwrap_or("it does not say why").trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads what `apt-cache show` prints: newest first, also over several suites.
fn candidates_in(text: &str) -> Vec<Candidate> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
    };
    let candidate = |stanza: &str| {
        let depends = field(stanza, "Depends").unwrap_or_default();
        let names = depends.split(", ").filter_map(|need| need.split_whitespace().next().map(str::to_owned));
        Some(Candidate { version: field(stanza, "Version")?, depends: names.collect() })
    };
    text.split("\n\n").filter_map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_what_they_need() {
        let text = "Package: l\nVersion: 6.1.192-2\nDepends: image-56 (= 6.1.192-2), base\nDescription: Version: no\n\n\
                    Package: l\nVersion: 5.10.262-1\n\n";
        let expected = [
            Candidate { version: "6.1.192-2".to_owned(), depends: vec!["image-56".to_owned(), "base".to_owned()] },
            Candidate { version: "5.10.262-1".to_owned(), depends: Vec::new() },
        ];
        assert_eq!(candidates_in(text), expected);
        assert!(candidates_in("").is_empty());
    }

    #[test]
    fn an_error_has_the_programs_words() {
        for (script, expected) in [
            ("echo W: no >&2; echo E: first >&2; echo E: no >&2; exit 1", "sh failed: first"),
            ("echo no >&2; echo last >&2; echo >&2; exit 1", "sh failed: last"),
            ("exit 1", "sh failed: it does not say why"),
        ] {
            assert_eq!(output_of(Command::new("sh").args(["-c", script])).unwrap_err().to_string(), expected);
        }
        assert_eq!(output_of(Command::new("sh").args(["-c", "echo out"])).unwrap(), "out\n");
    }
}
