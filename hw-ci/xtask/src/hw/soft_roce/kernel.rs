//! Builds the User Mode Linux kernel from Debian's source, once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;
use super::cache::{Cache, remove};
use super::packages::{Apt, Closure, require};
use super::pipeline::{feed, program, run};

/// The series that the configuration is for: its rxe knows network namespaces. The newest patch level is taken.
pub(super) const SERIES: &str = "7.2";
const CONFIGURATION: &str = include_str!("../../../../soft-roce/kernel.config");
/// What the build runs besides make and gcc.
const TOOLS: &[&str] = &["bc", "bison", "flex", "m4"];
/// Sources that this kernel has no use for, most of the bytes. What describes them to the build stays.
const LEFT_OUT: [&str; 7] = [
    "*/arch/arm*/*.[chsS]",
    "*/drivers/gpu/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/drivers/net/[ew]*/*.[ch]",
    "*/drivers/staging/*.[ch]",
    "*/sound/*.[ch]",
    "*.dts*",
];

/// The kernel, built if it is not there.
pub(super) fn ready(cache: &Cache) -> Result<PathBuf, Error> {
    let folder = cache.entry("kernel", &[SERIES, CONFIGURATION], |folder| build(cache, folder))?;
    Ok(folder.join("linux"))
}

/// Leaves in `folder` the kernel, its whole configuration, and the version that it is of.
fn build(cache: &Cache, folder: &Path) -> Result<(), Error> {
    for tool in ["make", "gcc", "strip", "nice"] {
        require(tool, "install gcc and make: the kernel is built here, once")?;
    }
    eprintln!("soft-roce: fetching the kernel's source (165 MB), once");
    let (tools, tree) = (folder.join("tools"), folder.join("tree"));
    let apt = Apt::open(cache)?;
    apt.unpack(TOOLS, Closure::Lacking, &tools)?;
    let source = format!("linux-source-{SERIES}");
    let package = apt.download(&source, folder)?;
    unpack(&package, &source, &tree)?;

    let version = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
    eprintln!("soft-roce: building the kernel of {version}, some minutes, once");
    let configuration = folder.join("kernel.config");
    write(&configuration, CONFIGURATION)?;
    let mut configure = make(&tools, &tree);
    configure.arg("allnoconfig").env("KCONFIG_ALLCONFIG", &configuration);
    run(configure)?;
    let taken = tree.join(".config");
    let read = |source| Error::File { action: "read", path: taken.clone(), source };
    let whole = fs::read_to_string(&taken).map_err(read)?;
    if let Some(line) = refused(CONFIGURATION, &whole) {
        return Err(Error::Configuration(line.to_owned()));
    }
    let mut compile = make(&tools, &tree);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    compile.arg(format!("-j{jobs}")).arg("linux");
    run(compile)?;

    let mut strip = program("strip", ["-o"]);
    strip.arg(folder.join("linux")).arg(tree.join("linux"));
    run(strip)?;
    write(&configuration, &whole)?;
    write(&folder.join("version"), &version)?;
    remove(&tree)?;
    remove(&tools)?;
    fs::remove_file(&package).map_err(|source| Error::File { action: "remove", path: package, source })
}

fn unpack(package: &Path, source: &str, tree: &Path) -> Result<(), Error> {
    fs::create_dir_all(tree).map_err(|source| Error::File {
        action: "make",
        path: tree.to_owned(),
        source,
    })?;
    let mut archive = program("dpkg-deb", ["--fsys-tarfile"]);
    archive.arg(package);
    let inner = format!("./usr/src/{source}.tar.xz");
    let mut files = program("tar", ["-x", "--strip-components=1", "-C"]);
    files.arg(tree).args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}")));
    feed([archive, program("tar", ["-xO", &inner]), program("xz", ["-dc", "-T0"]), files])
}

/// make for User Mode Linux with the tools that were unpacked, at the lowest priority.
fn make(tools: &Path, tree: &Path) -> Command {
    let usr = tools.join("usr");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(usr.join("bin")).chain(std::env::split_paths(&path));
    let libraries = usr.join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let mut command = program("nice", ["-n", "19", "make", "--silent", "ARCH=um"]);
    command
        .env("PATH", std::env::join_paths(folders).unwrap_or(path))
        .env("BISON_PKGDATADIR", usr.join("share/bison"))
        .env("M4", usr.join("bin/m4"))
        .env("LD_LIBRARY_PATH", libraries)
        .env_remove("MAKEFLAGS")
        .current_dir(tree);
    command
}

/// The first line that was asked for and is not in the configuration that came of it.
fn refused<'a>(asked: &'a str, whole: &str) -> Option<&'a str> {
    let settings = asked.lines().filter(|line| line.starts_with("CONFIG_") || line.ends_with(" is not set"));
    settings.into_iter().find(|setting| !whole.lines().any(|line| line == *setting))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_was_not_taken_is_named() {
        let asked = "# words\nCONFIG_A=y\n# CONFIG_B is not set\n";
        assert_eq!(refused(asked, "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\n"), None);
        assert_eq!(refused(asked, "CONFIG_A=y\nCONFIG_B=y\n"), Some("# CONFIG_B is not set"));
    }

    #[test]
    fn the_configuration_names_what_the_lane_is_for() {
        for name in ["RDMA_RXE", "RDMA_SIW", "VETH", "NET_SCH_NETEM", "HOSTFS", "OVERLAY_FS"] {
            assert!(CONFIGURATION.lines().any(|line| line == format!("CONFIG_{name}=y")), "{name}");
        }
    }
}
