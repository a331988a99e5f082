//! Debian's own kernel, as it is, in QEMU: with KVM where that boots it, and in software everywhere else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::cache::{Cache, empty, remove};
use super::kernel::SERIES;
use super::machine::{Kernel, Machine};
use super::packages::{Apt, Closure, require, suite};
use super::pipeline::{feed, program, run};
use super::{Device, Error};

const QEMU: &str = "qemu-system-x86";
const INITRAMFS: &str = include_str!("../../../../soft-roce/initramfs");
/// What init asks of the kernel that Debian builds as modules: the host's files, the link and its faults, verbs.
const DRIVERS: &[&str] = &[
    "9pnet_virtio",
    "9p",
    "overlay",
    "veth",
    "sch_netem",
    "sch_tbf",
    "tcp_diag",
    "rdma_rxe",
    "ib_uverbs",
    "ib_umad",
    "rdma_ucm",
];
/// Kernel settings: an end that QEMU notices, and nothing that only costs time under emulation.
const SETTINGS: &str = "console=ttyS0 quiet panic=-1 oops=panic random.trust_cpu=on mitigations=off nokaslr \
    no_timer_check tsc=reliable init_on_alloc=0";
/// The one with verbs and 9p; those for clouds have neither.
pub(super) const FLAVOUR: &str = "-amd64";
const READ_ONLY: &str = ",readonly=on";
const READ_WRITE: &str = "";
const KVM: &str = "/dev/kvm";
/// How long KVM may take to boot the kernel once: many times what it needs, as some of them never end.
const PROBE: Duration = Duration::from_secs(20);

/// QEMU, a kernel and its initramfs.
#[derive(Clone, Debug)]
pub(super) struct Stock {
    qemu: PathBuf,
    folder: PathBuf,
    accelerator: Accelerator,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Accelerator {
    Kvm,
    Software,
}

impl Stock {
    /// QEMU and the kernel, made ready if they are not there.
    pub(super) fn ready(cache: &Cache, packages: &Path) -> Result<Self, Error> {
        let qemu = cache.entry("qemu", &[&suite()?, QEMU], |folder| {
            eprintln!("soft-roce: fetching QEMU (45 MB), once");
            Apt::open(cache)?.unpack(&[QEMU], Closure::Whole, folder)
        })?;
        let busybox = packages.join("usr/bin/busybox");
        let ingredients = [SERIES, INITRAMFS, &DRIVERS.join(" ")];
        let folder = cache.entry("stock-kernel", &ingredients, |folder| make(cache, &busybox, folder))?;
        Ok(Self { qemu, folder, accelerator: Accelerator::Software })
    }

    /// With KVM, if it boots this kernel: that it is there proves nothing. What one boot showed is remembered beside the
    /// kernel.
    pub(super) fn accelerated(self, machine: &Machine) -> Result<Self, Error> {
        if fs::File::options().read(true).write(true).open(KVM).is_err() {
            return Ok(self);
        }
        let remembered = self.folder.join("accelerator");
        let fast = Self { accelerator: Accelerator::Kvm, ..self.clone() };
        let boots = match fs::read_to_string(&remembered) {
            Ok(text) => text == Accelerator::Kvm.name(),
            Err(_) => {
                eprintln!("soft-roce: finding out whether KVM boots the kernel, once");
                let kernel = Kernel::Stock(fast.clone());
                let probe = Machine { kernel, device: Device::None, time_limit: PROBE, ..machine.clone() }
                    .starts()?;
                let found = if probe { Accelerator::Kvm } else { Accelerator::Software };
                write(&remembered, found.name().as_bytes())?;
                probe
            }
        };
        Ok(if boots { fast } else { self })
    }

    /// How QEMU runs the kernel, and what stands in for a processor.
    pub(super) fn description(&self) -> String {
        format!("{} with {}", self.folder.display(), self.accelerator.name())
    }

    /// Adds QEMU and its settings to a command line.
    pub(super) fn words(&self, machine: &Machine, run: &Path, command: &mut Command) {
        // Its own loader, so that it needs no library of this machine.
        let usr = self.qemu.join("usr");
        let libraries = usr.join("lib/x86_64-linux-gnu");
        command.arg(self.qemu.join("lib64/ld-linux-x86-64.so.2")).arg("--library-path").arg(&libraries);
        command.arg(usr.join("bin/qemu-system-x86_64")).env("QEMU_MODULE_DIR", libraries.join("qemu"));
        command.arg("-L").arg(usr.join("share/qemu")).arg("-L").arg(usr.join("share/seabios"));
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.args(["-accel", self.accelerator.setting(), "-cpu", "max"]);
        command.args(["-m", &format!("{}M", machine.memory_mib), "-smp", &machine.cpus.to_string()]);
        command.arg("-kernel").arg(self.folder.join("vmlinuz"));
        command.arg("-initrd").arg(self.folder.join("initramfs"));
        command.arg("-append").arg(settings(machine, run));
        streams(command);
        let shares = machine.shares.iter().enumerate();
        let shares = shares.map(|(number, share)| shared(share, &Machine::tag(number), READ_WRITE));
        let own = [
            shared(Path::new("/"), "host", READ_ONLY),
            shared(&machine.packages, "packages", READ_ONLY),
            shared(run, "run", READ_WRITE),
        ];
        for folder in own.into_iter().chain(shares) {
            command.arg("-virtfs").arg(folder);
        }
    }
}

/// What the kernel is told, and through it what its first processes are.
fn settings(machine: &Machine, run: &Path) -> OsString {
    let mut settings = OsString::from(SETTINGS);
    for (name, value) in [
        ("run", run.as_os_str()),
        ("packages", machine.packages.as_os_str()),
        ("device", machine.device.name().as_ref()),
        ("files", "9p".as_ref()),
        ("output", "vport0p1".as_ref()),
        ("errors", "vport0p2".as_ref()),
    ] {
        settings.push(format!(" {name}="));
        settings.push(value);
    }
    settings
}

/// The kernel's messages go to standard output, and what the command writes to descriptors 3 and 4. QEMU opens each
/// once more as a file: as a standard stream it would have its input watched, and at the end of that shut the output.
fn streams(command: &mut Command) {
    for (name, descriptor) in [("log", 1), ("output", 3), ("errors", 4)] {
        command.args(["-chardev", &format!("file,id={name},path=/dev/fd/{descriptor},append=on")]);
    }
    command.args(["-serial", "chardev:log", "-device", "virtio-serial"]);
    for (number, name) in [(1, "output"), (2, "errors")] {
        command.args(["-device", &format!("virtserialport,nr={number},chardev={name}")]);
    }
}

impl Accelerator {
    fn setting(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Software => "tcg,thread=multi,tb-size=512",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Software => "software emulation",
        }
    }
}

/// A folder for the kernel, with the caller's rights. A comma in its name is written twice.
fn shared(folder: &Path, tag: &str, mode: &str) -> OsString {
    let path = folder.to_string_lossy().replace(',', ",,");
    format!("local,path={path},mount_tag={tag},security_model=none,multidevs=remap{mode}").into()
}

/// Leaves in `folder` the kernel, the initramfs with its drivers, and the version that they are of.
fn make(cache: &Cache, busybox: &Path, folder: &Path) -> Result<(), Error> {
    require("xz", "install xz-utils")?;
    let apt = Apt::open(cache)?;
    let version = apt.newest("linux-binary-", SERIES, FLAVOUR)? + FLAVOUR;
    eprintln!("soft-roce: fetching Debian's Linux {version} (175 MB), once");
    let parts = folder.join("parts");
    empty(&parts)?;
    fetch(&apt, &version, folder, &parts)?;
    let kernel = parts.join(&version);
    let image = kernel.join("vmlinuz");
    fs::rename(&image, folder.join("vmlinuz")).map_err(|source| Error::File {
        action: "move",
        path: image,
        source,
    })?;
    let root = folder.join("root");
    fill(&root, busybox, &version, &modules(&kernel)?)?;
    let pack = r#"cd "$1" && find . | "$2" cpio -o -H newc >"$3""#;
    let mut archive = program("sh", ["-c", pack, "sh"]);
    archive.arg(&root).arg(busybox).arg(folder.join("initramfs"));
    run(archive)?;
    write(&folder.join("version"), version.as_bytes())?;
    remove(&root)?;
    remove(&parts)
}

/// Fetches image and modules of a kernel and unpacks them into `parts`, by way of another folder.
fn fetch(apt: &Apt, version: &str, folder: &Path, parts: &Path) -> Result<(), Error> {
    for part in ["linux-binary-", "linux-modules-"] {
        let package = apt.download(&format!("{part}{version}"), folder)?;
        let mut archive = program("dpkg-deb", ["--fsys-tarfile"]);
        archive.arg(&package);
        let mut files = program("tar", ["-x", "--no-same-owner", "--strip-components=4", "-C"]);
        files.arg(parts).args(["--wildcards", "./usr/lib/modules/*"]);
        feed([archive, files])?;
        fs::remove_file(&package).map_err(|source| Error::File {
            action: "remove",
            path: package,
            source,
        })?;
    }
    Ok(())
}

/// The files of the initramfs.
fn fill(
    root: &Path,
    busybox: &Path,
    version: &str,
    modules: &BTreeMap<String, PathBuf>,
) -> Result<(), Error> {
    for part in ["bin", "dev", "drivers", "host"] {
        empty(&root.join(part))?;
    }
    let copied = fs::copy(busybox, root.join("bin/busybox"));
    copied.map_err(|source| Error::File { action: "copy", path: busybox.to_owned(), source })?;
    let init = root.join("init");
    write(&init, INITRAMFS.as_bytes())?;
    let executable = fs::set_permissions(&init, fs::Permissions::from_mode(0o755));
    executable.map_err(|source| Error::File { action: "change", path: init, source })?;
    let read = |name: &str| {
        unpacked(
            modules
                .get(name)
                .ok_or_else(|| Error::Driver { name: name.to_owned(), kernel: version.to_owned() })?,
        )
    };
    let mut drivers = Vec::new();
    for name in DRIVERS {
        take(name, &read, &mut drivers)?;
    }
    for (number, (name, bytes)) in drivers.iter().enumerate() {
        write(&root.join(format!("drivers/{number:02}-{name}.ko")), bytes)?;
    }
    Ok(())
}

/// The files of a kernel's modules by their names.
fn modules(kernel: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut found = BTreeMap::new();
    let mut folders = vec![kernel.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |source| Error::File { action: "list", path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)?.flatten() {
            let name = entry.file_name().to_string_lossy().replace('-', "_");
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = name.strip_suffix(".ko.xz") {
                found.insert(name.to_owned(), entry.path());
            }
        }
    }
    Ok(found)
}

/// A module as the kernel loads it.
fn unpacked(file: &Path) -> Result<Vec<u8>, Error> {
    let mut unpack = program("xz", ["-dc"]);
    let output = unpack.arg(file).output();
    let output = output.map_err(|source| Error::Spawn { program: "xz".into(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Program { program: format!("xz -dc {}", file.display()), output: reason })
}

/// Takes a module after all that it needs, unless it is taken already.
fn take(
    name: &str,
    read: &impl Fn(&str) -> Result<Vec<u8>, Error>,
    taken: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Error> {
    if taken.iter().any(|(other, _)| other == name) {
        return Ok(());
    }
    let bytes = read(name)?;
    for needed in dependencies(&bytes) {
        take(&needed, read, taken)?;
    }
    taken.push((name.to_owned(), bytes));
    Ok(())
}

/// What a module says of the modules that it needs: a list in its section .modinfo.
fn dependencies(module: &[u8]) -> Vec<String> {
    let head = b"\0depends=";
    let Some(start) = module.windows(head.len()).position(|window| window == head) else {
        return Vec::new();
    };
    let text = module[start + head.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(text).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_name_what_they_need() {
        let module = b"\x7fELF\0license=GPL\0depends=ib_core,udp-tunnel\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["ib_core", "udp_tunnel"]);
        assert!(dependencies(b"\0depends=\0").is_empty() && dependencies(b"").is_empty());
    }

    #[test]
    fn a_module_comes_after_what_it_needs_and_once() {
        let read = |name: &str| match name {
            "a" => Ok(b"\0depends=b,c\0".to_vec()),
            "b" => Ok(b"\0depends=c\0".to_vec()),
            "c" => Ok(Vec::new()),
            other => Err(Error::Driver { name: other.to_owned(), kernel: "1".to_owned() }),
        };
        let mut taken = Vec::new();
        take("a", &read, &mut taken).unwrap();
        take("c", &read, &mut taken).unwrap();
        assert!(taken.iter().map(|(name, _)| name).eq(["c", "b", "a"]));
        assert!(take("d", &read, &mut taken).is_err());
    }

    #[test]
    fn a_folder_with_a_comma_is_one_word() {
        let word = shared(Path::new("/a,b"), "t", READ_ONLY);
        assert_eq!(word, "local,path=/a,,b,mount_tag=t,security_model=none,multidevs=remap,readonly=on");
    }
}
