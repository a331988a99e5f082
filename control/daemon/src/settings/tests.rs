use std::os::unix::fs::PermissionsExt;

use super::*;

fn resolve(flags: Flags, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let find =
        |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    Settings::resolve_with(flags, &find)
}

fn file(text: &str, mode: u32) -> tempfile::TempPath {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn message(result: Result<Settings, SettingsError>) -> String {
    result.expect_err("the settings are refused").to_string()
}

#[test]
fn misspelt_variables_are_noticed_and_those_of_others_are_not() {
    let names =
        ["PATH", "SHOAL_CORES", "SHOAL_MAX_MEMRY", "SHOAL_SERVICE_HOST", "SHOAL_PORT_9015_TCP", "SHOALS"];
    assert_eq!(unknown_variables(names.into_iter().map(str::to_owned)), ["SHOAL_MAX_MEMRY"]);
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let config = file("name = 'from-file'\nrack = 'from-file'\njoin = 'file:1'\ncores = 3\n", 0o644);
    let flags =
        Flags { name: Some("from-flag".into()), config: Some(config.to_path_buf()), ..Flags::default() };
    let settings = resolve(flags, &[("SHOAL_NAME", "from-env"), ("SHOAL_RACK", "from-env")]).unwrap();
    assert_eq!((settings.name.as_str(), settings.rack.as_str()), ("from-flag", "from-env"));
    assert_eq!((settings.join.as_deref(), settings.cores), (Some("file:1"), 3));
}

#[test]
fn in_a_job_of_slurm_the_switch_is_the_rack_unless_one_is_given() {
    let job = [("SLURM_TOPOLOGY_ADDR", "s0.s7.n12"), ("SLURM_TOPOLOGY_ADDR_PATTERN", "switch.switch.node")];
    assert_eq!(resolve(Flags::default(), &job).unwrap().rack, "s7");
    for given in ["r1", ""] {
        let flags = Flags { rack: Some(given.into()), ..Flags::default() };
        assert_eq!(resolve(flags, &job).unwrap().rack, given);
    }
}

#[test]
fn uplinks_are_full_unless_somebody_says_that_they_are_scarce() {
    assert_eq!(resolve(Flags::default(), &[]).unwrap().uplinks, Uplinks::Full);
    assert_eq!(resolve(Flags::default(), &[("SHOAL_UPLINKS", "scarce")]).unwrap().uplinks, Uplinks::Scarce);
    let config = file("uplinks = 'scarce'\n", 0o644);
    let flags = |uplinks: Option<&str>| Flags {
        uplinks: uplinks.map(str::to_owned),
        config: Some(config.to_path_buf()),
        ..Flags::default()
    };
    assert_eq!(resolve(flags(None), &[]).unwrap().uplinks, Uplinks::Scarce);
    assert_eq!(resolve(flags(Some("full")), &[]).unwrap().uplinks, Uplinks::Full);
    assert!(message(resolve(flags(Some("4:1")), &[])).contains("--uplinks"));
}

#[test]
fn without_settings_there_are_defaults() {
    let settings = resolve(Flags::default(), &[]).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:9015");
    assert!((1..=4).contains(&settings.cores) && !settings.name.is_empty() && settings.join.is_none());
    assert!(settings.max_memory <= 16 << 30);
}

#[test]
fn an_unknown_key_of_the_file_is_named() {
    let config = file("max-memroy = '1GB'\n", 0o644);
    let text = message(resolve(Flags::default(), &[("SHOAL_CONFIG", config.to_str().unwrap())]));
    assert!(text.contains("max-memroy"), "{text}");
}

#[test]
fn a_node_is_not_open_to_the_network_by_accident() {
    let listen = |insecure| Flags { listen: Some("0.0.0.0:9015".into()), insecure, ..Flags::default() };
    assert!(matches!(resolve(listen(false), &[]), Err(SettingsError::Open(_))));
    assert!(resolve(listen(true), &[]).is_ok());
    assert!(matches!(resolve(listen(false), &[("SHOAL_INSECURE", "0")]), Err(SettingsError::Open(_))));
    let token = file("swordfish-swordfish\n", 0o600);
    assert!(resolve(Flags { token_file: Some(token.to_path_buf()), ..listen(false) }, &[]).is_ok());
}

#[test]
fn a_token_must_be_long_and_private() {
    let token = |text, mode| {
        let path = file(text, mode);
        message(resolve(Flags { token_file: Some(path.to_path_buf()), ..Flags::default() }, &[]))
    };
    assert!(token("swordfish-swordfish", 0o640).contains("chmod 600"));
    assert!(token("short\n                    ", 0o600).contains("16 characters"));
    let absent = Flags { token_file: Some("/nonexistent/token".into()), ..Flags::default() };
    assert!(message(resolve(absent, &[])).contains("/nonexistent/token"));
}

#[test]
fn memory_is_capped_by_the_machine() {
    let (bytes, note) = cap_memory(16 << 30, 8 << 30).unwrap();
    assert_eq!(bytes, 8 << 30);
    assert!(note.is_some_and(|note| note.contains("16 GiB") && note.contains("8 GiB")));
    assert_eq!(cap_memory(1 << 30, 8 << 30).unwrap(), (1 << 30, None));
    assert!(cap_memory(1, 8 << 30).is_err());
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let refused = [
        Flags { listen: Some("nonsense".into()), ..Flags::default() },
        Flags { join: Some("host".into()), ..Flags::default() },
        Flags { join: Some("host:0".into()), ..Flags::default() },
        Flags { join: Some("::1:9015".into()), ..Flags::default() },
        Flags { advertise: Some("0.0.0.0:9015".into()), ..Flags::default() },
        Flags { name: Some("a b".into()), ..Flags::default() },
        Flags { name: Some(String::new()), ..Flags::default() },
        Flags { cores: Some(0), ..Flags::default() },
        Flags { max_memory: Some("lots".into()), ..Flags::default() },
        Flags { congestion_control: Some("no such thing".into()), ..Flags::default() },
    ];
    for flags in refused {
        let shown = format!("{flags:?}");
        assert!(resolve(flags, &[]).is_err(), "{shown}");
    }
    assert!(resolve(Flags::default(), &[("SHOAL_CORES", "many")]).is_err());
    assert!(resolve(Flags { join: Some("[::1]:9015".into()), ..Flags::default() }, &[]).is_ok());
}

#[test]
fn keys_are_in_one_place() {
    let etcd = |catalog: &str| Flags { catalog: Some(catalog.into()), ..Flags::default() };
    let settings = resolve(etcd("etcd://a,b:1,c/p"), &[]).unwrap();
    assert_eq!(settings.catalog.unwrap().endpoints, ["a:2379", "b:1", "c:2379"]);
    assert!(resolve(Flags::default(), &[("SHOAL_CATALOG", "etcd://a")]).unwrap().catalog.is_some());
    let config = file("catalog = 'etcd://from-file'\n", 0o644);
    let flags = Flags { config: Some(config.to_path_buf()), ..Flags::default() };
    assert_eq!(resolve(flags, &[]).unwrap().catalog.unwrap().endpoints, ["from-file:2379"]);

    let both = message(resolve(etcd("etcd://u:secret@a"), &[("SHOAL_JOIN", "head:9015")]));
    assert!(both.contains("--join head:9015") && both.contains("--catalog etcd://a:2379/shoal"), "{both}");
    assert!(!both.contains("secret"), "{both}");
    for wrong in ["a,b", "etcd://", "etcd://u:secret@a:port"] {
        let text = message(resolve(etcd(wrong), &[]));
        assert!(text.contains("--catalog") && !text.contains("secret"), "{text}");
    }
}
