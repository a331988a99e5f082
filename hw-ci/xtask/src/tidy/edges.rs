//! Which crate may import which.

use cargo_metadata::Metadata;

use super::Finding;

/// What a crate of the workspace may import from the workspace.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Allowed {
    Only(&'static [&'static str]),
    Anything,
}

use Allowed::{Anything, Only};

/// The map of the project. A crate that is not in it may not exist.
const EDGES: &[(&str, Allowed)] = &[
    ("verbs", Only(&[])),
    ("ucx", Only(&[])),
    ("cuda", Only(&[])),
    ("pymemory", Only(&[])),
    ("flow", Only(&[])),
    ("memory", Only(&[])),
    ("engine", Only(&["verbs", "ucx", "cuda", "flow", "memory"])),
    ("plan", Only(&[])),
    ("catalog", Only(&["plan"])),
    ("client", Only(&["flow", "memory", "plan"])),
    ("daemon", Only(&["flow", "memory", "engine", "plan", "catalog"])),
    ("cli", Only(&["client", "daemon", "flow", "plan", "sim"])),
    ("python", Only(&["client", "flow", "plan", "pymemory"])),
    ("sim", Only(&["flow", "plan"])),
    ("hostile", Anything),
    ("suites", Anything),
    ("benches", Anything),
    ("xtask", Only(&[])),
];

/// Crates that no other may import. What runs real nodes in `suites` serves the benchmarks too.
const LEAVES: &[&str] = &["cli", "python", "hostile", "benches", "xtask"];

pub(super) fn check(metadata: &Metadata, findings: &mut Vec<Finding>) {
    let packages = metadata.workspace_packages();
    for package in &packages {
        // A dependency with a path is one of ours, whether it is for production, tests or build scripts.
        let imports = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
        for import in imports {
            findings.extend(refusal(&package.name, &import.name));
        }
        if !EDGES.iter().any(|(name, _)| *name == package.name.as_str()) {
            let text = "is not in the map of crates; a crate exists only where the compiler must hold a wall: use a \
                        module, or add it to the table in hw-ci/xtask/src/tidy/edges.rs and to ARCHITECTURE.md";
            findings.push(Finding::error(package.name.as_str(), text));
        }
    }
}

/// Why `from` may not import `to`, if it may not.
fn refusal(from: &str, to: &str) -> Option<Finding> {
    let (_, allowed) = EDGES.iter().find(|(name, _)| *name == from)?;
    // A test target may name its own crate.
    let fine = from == to
        || match allowed {
            Anything => !LEAVES.contains(&to) || to == "cli",
            Only(names) => names.contains(&to),
        };
    let may = match allowed {
        Only([]) => "nothing of ours".to_owned(),
        Only(names) => names.join(", "),
        Anything => "anything but test crates".to_owned(),
    };
    let text = format!(
        "imports {to}, and may import {may}; see the map in ARCHITECTURE.md for where the code belongs"
    );
    (!fine).then(|| Finding::error(format!("crate {from}"), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_edges_are_named() {
        let finding = refusal("client", "engine").unwrap();
        assert!(finding.fails && finding.place == "crate client" && finding.text.contains("imports engine"));
        assert!(refusal("plan", "engine").is_some() && refusal("engine", "plan").is_some());
        assert!(refusal("daemon", "sim").is_some() && refusal("suites", "xtask").is_some());
    }

    #[test]
    fn the_map_itself_is_allowed() {
        assert_eq!(refusal("catalog", "plan"), None);
        assert_eq!(refusal("suites", "sim"), None);
    }
}
