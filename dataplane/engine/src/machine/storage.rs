//! The file system of the data directory.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatFs};
use rustix::io::Errno;

use super::{CANNOT_RUN, Finding, show};

/// Below so many free bytes a node is told to be short of space.
const SHORT_OF_SPACE: u64 = 10 << 30;

pub(super) fn probe(data_dir: &Path) -> Vec<Finding> {
    let Some(existing) = nearest_existing(data_dir) else {
        return vec![unusable(data_dir, "neither it nor any folder above it can be reached")];
    };
    let Ok(system) = rustix::fs::statfs(&existing) else {
        return vec![unusable(&existing, "its file system does not answer")];
    };
    vec![space(&existing, &system), direct(&existing, &system)]
}

fn nearest_existing(data_dir: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(data_dir).ok()?;
    absolute.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

fn unusable(path: &Path, why: &str) -> Finding {
    let found = format!("{}: {why}", path.display());
    Finding::new("data directory", found, CANNOT_RUN).remedy("choose another --data-dir")
}

fn space(path: &Path, system: &StatFs) -> Finding {
    if rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        return unusable(path, "this user may not write there");
    }
    let free = u64::try_from(system.f_bsize).unwrap_or(0).saturating_mul(system.f_bavail);
    let found = format!("{} on {}, {} free", path.display(), name_of(system), show(free));
    let finding = Finding::new("data directory", found, "chunks and the catalog are kept there");
    if free < SHORT_OF_SPACE { finding.remedy("choose a --data-dir on a larger device") } else { finding }
}

/// Tries to open a file without a name, which is gone when it is closed.
fn direct(path: &Path, system: &StatFs) -> Finding {
    let flags = OFlags::TMPFILE | OFlags::DIRECT | OFlags::RDWR | OFlags::CLOEXEC;
    let (topic, remedy) = ("O_DIRECT", "put --data-dir on ext4 or xfs on NVMe");
    match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) if is_in_memory(system) => Finding::new(
            topic,
            format!("{} keeps files in memory", name_of(system)),
            "durable means nothing there",
        )
        .remedy(remedy),
        Ok(_) => {
            Finding::new(topic, format!("{} takes it", name_of(system)), "chunk files bypass the page cache")
        }
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Finding::new(
            topic,
            "could not be tried: this user may not write there",
            "tried again when a node starts",
        ),
        Err(error) => {
            let found = format!("{} refuses it: {}", name_of(system), std::io::Error::from(error));
            Finding::new(topic, found, "chunk files go through the page cache").remedy(remedy)
        }
    }
}

fn is_in_memory(system: &StatFs) -> bool {
    matches!(name_of(system).as_str(), "tmpfs" | "ramfs")
}

/// Magic numbers from linux/magic.h and the file systems' own headers.
fn name_of(system: &StatFs) -> String {
    let name = match system.f_type as u32 {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0x0bd0_0bd0 => "lustre",
        0x00c3_6400 => "ceph",
        0x6573_5546 => "fuse",
        0xf2f5_2010 => "f2fs",
        0x0102_1997 => "9p",
        0xca45_1a4e => "bcachefs",
        other => return format!("a file system of type {other:#x}"),
    };
    name.to_owned()
}
