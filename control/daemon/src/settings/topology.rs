//! Where the node stands, as the manager of the job that it runs in tells.

use flow::limits::NAME_LENGTH_MAX;

/// The switch that the node hangs on, for a rack, when it runs in a job of SLURM that knows the network as a tree (`srun(1)`):
/// `SLURM_TOPOLOGY_ADDR` names the switches from the top down to the node, with periods between them, and
/// `SLURM_TOPOLOGY_ADDR_PATTERN` says what each is, such as `switch.switch.node`.
pub(super) fn rack(environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let address = environment("SLURM_TOPOLOGY_ADDR")?;
    let pattern = environment("SLURM_TOPOLOGY_ADDR_PATTERN")?;
    // The name of the node, which comes last, may have periods itself.
    let parts = pattern.split('.').zip(address.split('.'));
    let (_, switch) = parts.filter(|(kind, _)| *kind == "switch").last()?;
    let is_fine = !switch.is_empty() && switch.len() <= NAME_LENGTH_MAX;
    is_fine.then(|| switch.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rack_of(address: &str, pattern: &str) -> Option<String> {
        let set = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        rack(&|name: &str| match name {
            "SLURM_TOPOLOGY_ADDR" => set(address),
            "SLURM_TOPOLOGY_ADDR_PATTERN" => set(pattern),
            _ => None,
        })
    }

    #[test]
    fn the_switch_next_to_the_node_is_its_rack() {
        assert_eq!(rack_of("spine.leaf7.node12", "switch.switch.node").as_deref(), Some("leaf7"));
        assert_eq!(rack_of("leaf7.node12.example.com", "switch.node").as_deref(), Some("leaf7"));
    }

    #[test]
    fn without_a_switch_the_rack_is_unknown() {
        assert_eq!(rack_of("node12", "node"), None);
        assert_eq!(rack_of("", "switch.node"), None);
        assert_eq!(rack_of("leaf7.node12", ""), None);
        assert_eq!(rack_of(".node12", "switch.node"), None);
        assert_eq!(rack_of(&format!("{}.node12", "x".repeat(1000)), "switch.node"), None);
    }
}
