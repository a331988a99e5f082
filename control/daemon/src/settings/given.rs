//! Settings as their sources give them: flags, the environment, a file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Flags, SettingsError, read_file, refuse};

/// Settings as one source gives them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Given {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) listen: Option<String>,
    pub(super) advertise: Option<String>,
    pub(super) max_memory: Option<String>,
    pub(super) cores: Option<u16>,
    pub(super) join: Option<String>,
    pub(super) catalog: Option<String>,
    pub(super) name: Option<String>,
    pub(super) rack: Option<String>,
    pub(super) uplinks: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) insecure: Option<bool>,
    pub(super) prefault: Option<bool>,
    pub(super) congestion_control: Option<String>,
    pub(super) transports: Option<String>,
    pub(super) rdma: Option<String>,
    pub(super) gpu_memory: Option<String>,
    pub(super) emulate_gpus: Option<String>,
    pub(super) allow_send: Option<Vec<String>>,
    pub(super) allow_source: Option<Vec<String>>,
    pub(super) source_ca: Option<PathBuf>,
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,
}

impl Given {
    pub(super) fn from_flags(flags: Flags) -> Self {
        Self {
            data_dir: flags.data_dir,
            listen: flags.listen,
            advertise: flags.advertise,
            max_memory: flags.max_memory,
            cores: flags.cores,
            join: flags.join,
            catalog: flags.catalog,
            name: flags.name,
            rack: flags.rack,
            uplinks: flags.uplinks,
            token_file: flags.token_file,
            insecure: flags.insecure.then_some(true),
            prefault: flags.prefault.then_some(true),
            congestion_control: flags.congestion_control,
            transports: flags.transports,
            rdma: flags.rdma,
            gpu_memory: flags.gpu_memory,
            emulate_gpus: flags.emulate_gpus,
            allow_send: Some(flags.allow_send).filter(|places| !places.is_empty()),
            allow_source: Some(flags.allow_source).filter(|roots| !roots.is_empty()),
            source_ca: flags.source_ca,
            config: flags.config,
        }
    }

    pub(super) fn from_environment(
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let cores = environment("SHOAL_CORES").map(|text| parse_count("SHOAL_CORES", &text)).transpose()?;
        let switch = |name| environment(name).map(|text| parse_switch(name, &text)).transpose();
        Ok(Self {
            data_dir: environment("SHOAL_DATA_DIR").map(PathBuf::from),
            listen: environment("SHOAL_LISTEN"),
            advertise: environment("SHOAL_ADVERTISE"),
            max_memory: environment("SHOAL_MAX_MEMORY"),
            cores,
            join: environment("SHOAL_JOIN"),
            catalog: environment("SHOAL_CATALOG"),
            name: environment("SHOAL_NAME"),
            rack: environment("SHOAL_RACK"),
            uplinks: environment("SHOAL_UPLINKS"),
            token_file: environment("SHOAL_TOKEN_FILE").map(PathBuf::from),
            insecure: switch("SHOAL_INSECURE")?,
            prefault: switch("SHOAL_PREFAULT")?,
            congestion_control: environment("SHOAL_CONGESTION_CONTROL"),
            transports: environment("SHOAL_TRANSPORTS"),
            rdma: environment("SHOAL_RDMA"),
            gpu_memory: environment("SHOAL_GPU_MEMORY"),
            emulate_gpus: environment("SHOAL_EMULATE_GPUS"),
            allow_send: environment("SHOAL_ALLOW_SEND").map(|text| split(&text)),
            allow_source: environment("SHOAL_ALLOW_SOURCE").map(|text| split(&text)),
            source_ca: environment("SHOAL_SOURCE_CA").map(PathBuf::from),
            config: environment("SHOAL_CONFIG").map(PathBuf::from),
        })
    }

    pub(super) fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let text = read_file("the configuration file", path)?;
        toml::from_str(&text).map_err(|error| SettingsError::Config {
            path: path.to_owned(),
            message: error.to_string().trim().to_owned(),
        })
    }

    pub(super) fn or(self, next: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(next.data_dir),
            listen: self.listen.or(next.listen),
            advertise: self.advertise.or(next.advertise),
            max_memory: self.max_memory.or(next.max_memory),
            cores: self.cores.or(next.cores),
            join: self.join.or(next.join),
            catalog: self.catalog.or(next.catalog),
            name: self.name.or(next.name),
            rack: self.rack.or(next.rack),
            uplinks: self.uplinks.or(next.uplinks),
            token_file: self.token_file.or(next.token_file),
            insecure: self.insecure.or(next.insecure),
            prefault: self.prefault.or(next.prefault),
            congestion_control: self.congestion_control.or(next.congestion_control),
            transports: self.transports.or(next.transports),
            rdma: self.rdma.or(next.rdma),
            gpu_memory: self.gpu_memory.or(next.gpu_memory),
            emulate_gpus: self.emulate_gpus.or(next.emulate_gpus),
            allow_send: self.allow_send.or(next.allow_send),
            allow_source: self.allow_source.or(next.allow_source),
            source_ca: self.source_ca.or(next.source_ca),
            config: self.config.or(next.config),
        }
    }
}

/// The parts of a list with commas.
fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn parse_count(setting: &'static str, text: &str) -> Result<u16, SettingsError> {
    text.trim().parse().or_else(|_| refuse(setting, text, "it must be a whole number"))
}

fn parse_switch(setting: &'static str, text: &str) -> Result<bool, SettingsError> {
    match text.trim() {
        "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        _ => refuse(setting, text, "it must be 1 or 0"),
    }
}
