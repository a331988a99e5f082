//! Processes that come from another.

use std::collections::HashMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Numbers of all processes that come from a process, parents before their children.
pub fn descendants(process: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    // Without /proc nothing would run at all; what ends while it is read is gone.
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent_of(&stat) {
            children.entry(parent).or_default().push(number);
        }
    }
    let mut found = children.remove(&process).unwrap_or_default();
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    found
}

/// Kills a process and all that come from it.
pub fn kill_with_descendants(process: u32) {
    // Parents first, so that none starts another in the place of a child that has gone.
    for number in [process].into_iter().chain(descendants(process)) {
        if let Some(number) = i32::try_from(number).ok().and_then(Pid::from_raw) {
            // This fails only when it has ended already.
            let _ = kill_process(number, Signal::KILL);
        }
    }
}

/// The second word behind the name, which is in parentheses and may hold any letter.
fn parent_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn grandchildren_are_found_and_end_too() {
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'sleep 1000 & echo $!; wait'; true"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let sleeper: u32 = line.trim().parse().unwrap();
        let found = descendants(child.id());
        assert_eq!((found.len(), found.last()), (2, Some(&sleeper)), "{found:?}");
        kill_with_descendants(child.id());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        // It has the other end of the pipe, too.
        assert_eq!(output.read_line(&mut line).unwrap(), 0);
    }

    #[test]
    fn names_may_look_like_anything() {
        assert_eq!(parent_of("7 (a) b (c) S 5 7 7 0"), Some(5));
        assert_eq!(parent_of(""), None);
    }
}
