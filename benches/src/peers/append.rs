//! Records one behind the other in a file laid out before, each synced: the least that durable writes can do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::scenario::Contender;

/// Bytes of a record, about what a catalog writes for a value of 100 bytes.
const RECORD: usize = 160;

/// Threads that write records into one file and sync it after each.
pub struct Append {
    threads: u64,
    each: u64,
    folder: TempDir,
}

impl Append {
    /// So many threads, of which each appends so many records.
    pub fn new(threads: u64, each: u64, conditions: &Conditions) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder);
        Ok(Self { threads, each, folder: folder.map_err(Failure::system("make a folder for records"))? })
    }
}

impl Contender for Append {
    fn name(&self) -> String {
        "fdatasync".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let path = self.folder.path().join("records");
        let file = File::options().write(true).create_new(true).open(path);
        let file = file.map_err(Failure::system("make a file for records"))?;
        // Room that is set aside, as a catalog's journal does it: the file's length needs no sync.
        let laid_out = file.set_len(self.threads * self.each * RECORD as u64).and_then(|()| file.sync_all());
        laid_out.map_err(Failure::system("lay out a file for records"))?;
        let end = AtomicU64::new(0);
        let append = || {
            (0..self.each).try_for_each(|_| {
                let at = end.fetch_add(RECORD as u64, Ordering::Relaxed);
                file.write_all_at(&[7; RECORD], at).and_then(|()| file.sync_data())
            })
        };
        let meter = Meter::start(&[])?;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(append)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("it returns its errors"))
        })
        .map_err(Failure::system("append records"))?;
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let path = self.folder.path().join("records");
        let records = std::fs::read(&path).map_err(Failure::system("read the records"))?;
        if records.contains(&0) {
            return Err(Failure::Wrong { place: "in the file of records".into() });
        }
        std::fs::remove_file(&path).map_err(Failure::system("remove the records"))
    }
}
