//! Which of several tasks this process is.

use crate::bench::BenchError;

/// A launcher, and the variables in which it tells a task what it is; of several the first that is there counts.
struct Launcher {
    name: &'static str,
    rank: &'static [&'static str],
    tasks: &'static [&'static str],
    /// What names the run.
    run: &'static [&'static str],
}

/// All that are known. One that runs within another one's allocation comes first.
const LAUNCHERS: [Launcher; 5] = [
    Launcher {
        name: "Open MPI",
        rank: &["OMPI_COMM_WORLD_RANK"],
        tasks: &["OMPI_COMM_WORLD_SIZE"],
        run: &["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
    },
    Launcher { name: "Flux", rank: &["FLUX_TASK_RANK"], tasks: &["FLUX_JOB_SIZE"], run: &["FLUX_JOB_ID"] },
    Launcher {
        name: "PMI",
        rank: &["PMI_RANK"],
        tasks: &["PMI_SIZE"],
        run: &["PMI_JOBID", "HYDRA_JOBID", "SLURM_JOB_ID"],
    },
    Launcher {
        name: "Slurm",
        rank: &["SLURM_PROCID"],
        tasks: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        run: &["SLURM_JOB_ID"],
    },
    Launcher {
        name: "PMIx",
        rank: &["PMIX_RANK"],
        tasks: &["PMIX_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        run: &["PMIX_NAMESPACE"],
    },
];

/// A task among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    /// Its number, from zero.
    pub rank: u32,
    /// How many there are.
    pub tasks: u32,
    /// What tells this run from others, where the launcher says; of letters, digits, `.`, `_` and `-`.
    pub run: Option<String>,
    /// Who has started them.
    pub launcher: &'static str,
}

impl Rank {
    /// The only task.
    pub fn alone() -> Self {
        Self { rank: 0, tasks: 1, run: None, launcher: "none" }
    }

    /// As the environment says.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, BenchError> {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name));
        let number = |names: &[&str]| first(names)?.trim().parse::<u32>().ok();
        let found = LAUNCHERS.iter().find_map(|launcher| {
            let (rank, tasks) = (number(launcher.rank)?, number(launcher.tasks)?);
            (rank < tasks).then(|| (launcher.name, rank, tasks, first(launcher.run)))
        });
        let (launcher, rank, tasks, mut run) = found.ok_or(BenchError::NotLaunched)?;
        if launcher == "Slurm" {
            run = run.map(|job| format!("{job}.{}", variable("SLURM_STEP_ID").unwrap_or_default()));
        }
        Ok(Self { rank, tasks, run: run.map(|run| fit_for_a_name(&run)), launcher })
    }

    /// As `RANK/TASKS` says.
    pub fn parse(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('/').and_then(|(rank, tasks)| Some((rank.parse().ok()?, tasks.parse().ok()?)));
        match numbers {
            Some((rank, tasks)) if rank < tasks => Ok(Self { rank, tasks, run: None, launcher: "shoal" }),
            _ => Err(format!("'{text}' is not RANK/TASKS")),
        }
    }

    /// Which of so many receivers this task hosts. The first task hosts the origin, and receivers only when it is alone.
    pub fn share(&self, receivers: u32) -> std::ops::Range<u32> {
        if self.tasks == 1 {
            return 0..receivers;
        }
        if self.rank == 0 {
            return 0..0;
        }
        let (hosts, at) = (u64::from(self.tasks - 1), u64::from(self.rank - 1));
        let bound = |at: u64| (u64::from(receivers) * at / hosts) as u32;
        bound(at)..bound(at + 1)
    }
}

fn fit_for_a_name(text: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    text.chars().map(|letter| if fits(letter) { letter } else { '_' }).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(variables: &[(&str, &str)]) -> Result<Rank, BenchError> {
        let find = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned());
        Rank::of_environment(find)
    }

    #[test]
    fn launchers_are_told_apart() {
        let slurm =
            [("SLURM_PROCID", "3"), ("SLURM_NTASKS", "8"), ("SLURM_JOB_ID", "77"), ("SLURM_STEP_ID", "0")];
        let of_slurm = rank(&slurm).unwrap();
        assert_eq!((of_slurm.rank, of_slurm.tasks, of_slurm.run.as_deref()), (3, 8, Some("77.0")));
        let mut both =
            vec![("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("PMIX_NAMESPACE", "a/b@1")];
        both.extend(slurm);
        let of_mpi = rank(&both).unwrap();
        assert_eq!((of_mpi.rank, of_mpi.tasks, of_mpi.run.as_deref()), (1, 2, Some("a_b_1")));
        assert_eq!(rank(&[("PMI_RANK", "0"), ("PMI_SIZE", "4")]).unwrap().tasks, 4);
        let pmix = rank(&[("PMIX_RANK", "1"), ("SLURM_NTASKS", "4")]).unwrap();
        assert_eq!((pmix.rank, pmix.tasks), (1, 4));
    }

    #[test]
    fn without_a_launcher_there_is_no_rank() {
        assert!(rank(&[]).is_err());
        assert!(rank(&[("SLURM_PROCID", "8"), ("SLURM_NTASKS", "8")]).is_err());
        assert!(rank(&[("SLURM_PROCID", "x"), ("SLURM_NTASKS", "8")]).is_err());
        assert!(Rank::parse("4/4").is_err() && Rank::parse("4").is_err());
        assert_eq!(Rank::parse("3/4").unwrap().tasks, 4);
    }

    #[test]
    fn every_receiver_has_one_task() {
        for tasks in 1..9 {
            let all: Vec<u32> =
                (0..tasks).flat_map(|rank| Rank { rank, tasks, ..Rank::alone() }.share(21)).collect();
            assert_eq!(all, Vec::from_iter(0..21));
        }
    }
}
