//! Debian's packages, fetched into the cache and unpacked there. Nothing is installed, and the machine's own lists of
//! packages stay as they are. apt checks the signature of the lists, and by them the digest of each package.

use std::fs;
use std::path::{Path, PathBuf};

use super::Error;
use super::cache::{Cache, empty, remove};
use super::pipeline::{feed, program, run};

/// What runs inside the kernel and is seldom installed. The rest comes from the machine's own root.
const PROGRAMS: &[&str] = &[
    "busybox-static",
    "ibverbs-providers",
    "ibverbs-utils",
    "iproute2",
    "libibverbs1",
    "librdmacm1",
    "libucx0",
    "perftest",
    "rdmacm-utils",
];
/// Where the kernel's source comes from: the release after the one that the programs are for may have a newer one.
const SOURCE_SUITE: &str = "trixie-backports";
/// What nobody reads in a folder of unpacked packages.
const UNREAD: [&str; 3] = ["./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";
const NETWORK: &str = "the machine needs a Debian mirror within reach: see the sources in /etc/apt";

/// The folder with what runs inside the kernel, made if it is not there.
pub(super) fn ready(cache: &Cache) -> Result<PathBuf, Error> {
    let suite = suite()?;
    cache.entry("packages", &[&suite, &PROGRAMS.join(" ")], |folder| {
        eprintln!("soft-roce: fetching the programs of Debian {suite}, once");
        Apt::open(cache)?.unpack(PROGRAMS, Closure::Lacking, folder)
    })
}

/// What is fetched along with packages.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Closure {
    /// What they need and the machine lacks.
    Lacking,
    /// All that they need, down to the libc, whatever the machine has.
    Whole,
}

/// apt with lists and folders of its own.
pub(super) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Reads what the mirror has.
    pub(super) fn open(cache: &Cache) -> Result<Self, Error> {
        for tool in ["apt-get", "dpkg-deb", "tar", "xz"] {
            require(tool, "the lane is made of Debian's packages: use Debian, or a container of it")?;
        }
        let suite = suite()?;
        let apt = Self { folder: cache.folder().join("apt") };
        empty(&apt.folder.join("lists/partial"))?;
        let settings = configuration(&apt.folder.display().to_string());
        for (name, text) in [("sources.list", sources(&mirror(), &suite)), ("apt.conf", settings)] {
            let path = apt.folder.join(name);
            fs::write(&path, text).map_err(|source| Error::File { action: "write", path, source })?;
        }
        run(apt.get(&["update"])).map_err(|error| missing("the lists of packages", error))?;
        Ok(apt)
    }

    /// Fetches packages, with what they need, and unpacks them into a folder.
    pub(super) fn unpack(&self, packages: &[&str], closure: Closure, folder: &Path) -> Result<(), Error> {
        let archives = self.folder.join("archives");
        empty(&archives.join("partial"))?;
        let mut fetch = self.get(&["--yes", "--download-only", "--reinstall", "install"]);
        fetch.args(packages);
        if closure == Closure::Whole {
            fetch.args(["-o", "Dir::State::status=/dev/null"]);
        }
        run(fetch).map_err(|error| missing(&packages.join(" "), error))?;
        merge_directories(folder)?;
        for package in listed(&archives)? {
            let mut unpack = program("tar", ["-x", "--keep-directory-symlink", "--no-same-owner", "-C"]);
            unpack.arg(folder).args(UNREAD.map(|pattern| format!("--exclude={pattern}")));
            let mut archive = program("dpkg-deb", ["--fsys-tarfile"]);
            archive.arg(&package);
            feed([archive, unpack])?;
        }
        remove(&archives)
    }

    /// Fetches one package into a folder; where it lies.
    pub(super) fn download(&self, package: &str, folder: &Path) -> Result<PathBuf, Error> {
        let mut fetch = self.get(&["download", package]);
        fetch.current_dir(folder);
        run(fetch).map_err(|error| missing(package, error))?;
        let begins = format!("{package}_");
        let names =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begins));
        let found = listed(folder)?.into_iter().find(names);
        found.ok_or_else(|| Error::Missing { what: format!("apt did not fetch {package}"), remedy: NETWORK })
    }

    /// The newest version of a series of packages whose names differ in it alone.
    pub(super) fn newest(&self, before: &str, series: &str, after: &str) -> Result<String, Error> {
        let mut list = program("apt-cache", ["-c"]);
        list.arg(self.folder.join("apt.conf")).args(["pkgnames", &format!("{before}{series}.")]);
        let listed = list.output();
        let listed = listed.map_err(|source| Error::Spawn { program: "apt-cache".into(), source })?;
        newest(&String::from_utf8_lossy(&listed.stdout), before, series, after).ok_or_else(|| {
            let what = format!("{SOURCE_SUITE} has no {before}{series}…{after}");
            Error::Missing { what, remedy: NETWORK }
        })
    }

    fn get(&self, words: &[&str]) -> std::process::Command {
        // Read after the machine's own settings, which may name a proxy.
        let mut command = program("apt-get", ["-qq", "-c"]);
        command.arg(self.folder.join("apt.conf")).args(words);
        command
    }
}

impl Drop for Apt {
    /// The lists are most of what it keeps, and stale by the time that they would be of use again.
    fn drop(&mut self) {
        let _ = remove(&self.folder);
    }
}

/// Refuses to go on without a program.
pub(super) fn require(tool: &str, remedy: &'static str) -> Result<(), Error> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&folders).any(|folder| folder.join(tool).is_file()) {
        return Ok(());
    }
    Err(Error::Missing { what: format!("there is no {tool} here"), remedy })
}

/// Of names such as `before7.2.12+deb13after`, what stands between in the one with the greatest patch level.
fn newest(names: &str, before: &str, series: &str, after: &str) -> Option<String> {
    let versions = names.lines().filter_map(|name| name.strip_prefix(before)?.strip_suffix(after));
    let levels = versions.filter_map(|version| {
        let level = version.strip_prefix(series)?.strip_prefix('.')?;
        let (level, rest) = level.split_once('+')?;
        // Flavours, as in `+deb13-cloud`, have their word before the end.
        Some((level.parse::<u32>().ok()?, version)).filter(|_| !rest.contains('-'))
    });
    levels.max().map(|(_, version)| version.to_owned())
}

fn missing(what: &str, error: Error) -> Error {
    let reason = match error {
        Error::Program { output, .. } => output,
        error => error.to_string(),
    };
    Error::Missing { what: format!("cannot fetch {what}: {reason}"), remedy: NETWORK }
}

/// The machine's own release of Debian: its programs run on the machine's own libc.
pub(super) fn suite() -> Result<String, Error> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release(&text).ok_or_else(|| Error::Missing {
        what: "this machine does not run a release of Debian".into(),
        remedy: "run it on Debian, or in a container of it",
    })
}

fn release(text: &str) -> Option<String> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME"))?
}

/// The mirror that the machine's own sources name first.
fn mirror() -> String {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.into_iter().find_map(|text| debian_mirror(&text)).unwrap_or_else(|| MIRROR.to_owned())
}

fn debian_mirror(sources: &str) -> Option<String> {
    let lines = sources.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace).map(|word| word.trim_end_matches('/'));
    let mirror = words.find(|word| word.starts_with("http") && word.ends_with("/debian"))?;
    Some(mirror.to_owned())
}

fn sources(mirror: &str, suite: &str) -> String {
    [suite, SOURCE_SUITE].map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")).concat()
}

fn configuration(folder: &str) -> String {
    format!(
        r#"Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "{folder}/lists";
Dir::Cache "{folder}";
Dir::Cache::Archives "{folder}/archives/";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
APT::Update::Error-Mode "any";
APT::Install-Recommends "0";
APT::Sandbox::User "root";
Debug::NoLocking "1";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"#
    )
}

/// Debian's root has its folders under usr, and packages of a release may name either.
fn merge_directories(folder: &Path) -> Result<(), Error> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let failed = |source| Error::File { action: "make", path: folder.join(name), source };
        fs::create_dir_all(folder.join("usr").join(name)).map_err(failed)?;
        std::os::unix::fs::symlink(format!("usr/{name}"), folder.join(name)).map_err(failed)?;
    }
    Ok(())
}

/// The packages in a folder.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File { action: "list", path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?.flatten().map(|entry| entry.path());
    Ok(entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_debians_alone() {
        let debian = "NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(release(debian).as_deref(), Some("bookworm"));
        assert_eq!(release("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
        assert_eq!(release(""), None);
    }

    #[test]
    fn the_newest_kernel_is_of_the_series_and_of_no_flavour() {
        let names =
            ["9+deb13-amd64", "12+deb13-amd64", "13+deb13-cloud-amd64", "14+deb13-arm64", "x+deb13-amd64"];
        let names = names.map(|end| format!("linux-binary-7.2.{end}")).join("\n")
            + "\nlinux-binary-7.21.1+deb13-amd64";
        let found = newest(&names, "linux-binary-", "7.2", "-amd64");
        assert_eq!(found.as_deref(), Some("7.2.12+deb13"));
        assert_eq!(newest(&names, "linux-binary-", "7.3", "-amd64"), None);
    }

    #[test]
    fn the_mirror_is_read_from_both_forms_of_sources() {
        let lines = "# deb http://old/debian a main\ndeb https://a.example/debian/ bookworm main\n";
        assert_eq!(debian_mirror(lines).as_deref(), Some("https://a.example/debian"));
        let fields = "Types: deb\nURIs: http://b.example/debian\nSuites: bookworm\n";
        assert_eq!(debian_mirror(fields).as_deref(), Some("http://b.example/debian"));
        assert_eq!(debian_mirror("URIs: http://b.example/debian-security\n"), None);
    }
}
