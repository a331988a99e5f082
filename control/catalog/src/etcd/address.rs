//! Where etcd is, and how to speak to it: `etcd://[user:password@]host[:port],…[/prefix][?tls=…&ca=…&cert=…&key=…]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::CatalogError;

/// The port where etcd listens for clients.
const PORT: u16 = 2379;
/// Below what all of Shoal's keys lie in etcd unless the address says otherwise.
const PREFIX: &str = "shoal";
/// Most endpoints.
const ENDPOINTS_MAX: usize = 32;
/// Longest prefix, in bytes.
const PREFIX_LENGTH_MAX: usize = 128;

/// The address of an etcd cluster, as `--catalog` takes it.
///
/// `etcd://[user:password@]host[:port],…[/prefix][?OPTIONS]`. Ports are 2379 and the prefix is `shoal` unless they are
/// given; user, password, prefix and the values of options may have `%XX` escapes. Options, joined by `&`: `tls=true` (also
/// implied by any of the others), `ca=FILE` (PEM, the authorities to trust; needed for TLS), `cert=FILE` and `key=FILE`
/// (PEM, a client's certificate).
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdAddress {
    /// `host:port` of each endpoint.
    pub endpoints: Vec<String>,
    /// Below what all keys lie in etcd.
    pub prefix: String,
    /// User and password.
    pub user: Option<(String, String)>,
    /// How the connections are encrypted, if they are.
    pub tls: Option<EtcdTls>,
}

/// Files for TLS, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// The authorities that may vouch for etcd.
    pub ca: PathBuf,
    /// The certificate, and the key, that this client shows.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl FromStr for EtcdAddress {
    type Err = CatalogError;

    fn from_str(text: &str) -> Result<Self, CatalogError> {
        let rest = text.strip_prefix("etcd://").ok_or_else(|| refused(text, "it must begin with etcd://"))?;
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (rest, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (Some(credentials(user)?), hosts),
            None => (None, rest),
        };
        let endpoints = hosts.split(',').map(endpoint).collect::<Result<Vec<_>, _>>()?;
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(refused(hosts, "it has more than 32 endpoints"));
        }
        Ok(Self { endpoints, prefix: prefix_of(prefix)?, user, tls: tls(options)? })
    }
}

impl fmt::Display for EtcdAddress {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd://{}/{}", self.endpoints.join(","), self.prefix)
    }
}

impl fmt::Debug for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn refused(found: &str, reason: &'static str) -> CatalogError {
    // What stands before an @ may be a password.
    let found = found.rsplit_once('@').map_or(found, |(_, after)| after);
    CatalogError::Invalid { what: "an etcd address", found: found.chars().take(80).collect(), reason }
}

fn credentials(text: &str) -> Result<(String, String), CatalogError> {
    let (user, password) =
        text.split_once(':').ok_or_else(|| refused("user@…", "a user needs a password: user:password@"))?;
    match (unescaped(user), unescaped(password)) {
        (Some(user), _) if user.is_empty() => Err(refused(":…@…", "the user before the password is empty")),
        (Some(user), Some(password)) => Ok((user, password)),
        _ => Err(refused("user:…@…", "its user or password has an escape that is not %XX")),
    }
}

/// `host:port`, with brackets around an IPv6 address.
fn endpoint(text: &str) -> Result<String, CatalogError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| refused(text, "a '[' is not closed"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(refused(text, "what stands in brackets is no IPv6 address"));
            }
            (format!("[{host}]"), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if host.is_empty()
                || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
            {
                return Err(refused(text, "a host is a name or an address; IPv6 needs brackets"));
            }
            (host.to_owned(), port)
        }
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(format!("{host}:{PORT}")),
        None => Err(refused(text, "after the bracket comes a port or nothing")),
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
            _ => Err(refused(text, "a port is a number from 1 to 65535")),
        },
    }
}

fn prefix_of(text: &str) -> Result<String, CatalogError> {
    let prefix = unescaped(text.trim_end_matches('/'));
    match prefix.ok_or_else(|| refused(text, "its prefix has an escape that is not %XX"))? {
        prefix if prefix.is_empty() => Ok(PREFIX.into()),
        prefix if prefix.len() > PREFIX_LENGTH_MAX => {
            Err(refused(text, "its prefix is longer than 128 bytes"))
        }
        prefix if prefix.contains('\0') => Err(refused(text, "its prefix holds a NUL")),
        prefix => Ok(prefix),
    }
}

fn tls(options: &str) -> Result<Option<EtcdTls>, CatalogError> {
    let (mut wanted, mut ca, mut cert, mut key) = (None, None, None, None);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) =
            option.split_once('=').ok_or_else(|| refused(option, "an option is NAME=VALUE"))?;
        let value = unescaped(value).ok_or_else(|| refused(option, "it has an escape that is not %XX"))?;
        match (name, &*value) {
            ("tls", "true" | "1") => wanted = Some(true),
            ("tls", "false" | "0") => wanted = Some(false),
            ("tls", _) => return Err(refused(option, "tls is true or false")),
            ("ca" | "cert" | "key", "") => return Err(refused(option, "it names no file")),
            ("ca", _) => ca = Some(PathBuf::from(value)),
            ("cert", _) => cert = Some(PathBuf::from(value)),
            ("key", _) => key = Some(PathBuf::from(value)),
            _ => return Err(refused(option, "the options are tls, ca, cert and key")),
        }
    }
    let files = ca.is_some() || cert.is_some() || key.is_some();
    match wanted {
        None if !files => return Ok(None),
        Some(false) if !files => return Ok(None),
        Some(false) => return Err(refused(options, "it names files for TLS and says tls=false")),
        _ => {}
    }
    let ca = ca.ok_or_else(|| refused(options, "TLS needs ca=FILE, the authorities to trust"))?;
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(refused(options, "cert=FILE and key=FILE go together")),
    };
    Ok(Some(EtcdTls { ca, client }))
}

/// `text` with its `%XX` taken back; `None` when that does not make sense.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                (digit(rest.next())? * 16 + digit(rest.next())?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> EtcdAddress {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let address = parsed("etcd://h1");
        assert_eq!(address.endpoints, ["h1:2379"]);
        assert_eq!((&*address.prefix, address.user, address.tls), ("shoal", None, None));
    }

    #[test]
    fn everything_can_be_said() {
        let address = parsed("etcd://me:p%40ss:w@h1:1,10.0.0.2,[::1]:3/a/b?ca=/c%20a&cert=x&key=y&tls=true");
        assert_eq!(address.endpoints, ["h1:1", "10.0.0.2:2379", "[::1]:3"]);
        assert_eq!(address.prefix, "a/b");
        assert_eq!(address.user, Some(("me".into(), "p@ss:w".into())));
        let tls = EtcdTls { ca: "/c a".into(), client: Some(("x".into(), "y".into())) };
        assert_eq!(address.tls, Some(tls));
        assert_eq!(format!("{address:?}"), "etcd://h1:1,10.0.0.2:2379,[::1]:3/a/b", "no password");
        assert_eq!(parsed("etcd://h/?tls=false").tls, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_no_password_is_told() {
        let long = format!("etcd://{}", ["h"; 33].join(","));
        let texts = [
            "",
            "http://h",
            "etcd://",
            "etcd://h,",
            "etcd://h:0",
            "etcd://h:70000",
            "etcd://h:x",
            "etcd://[::1",
            "etcd://[x]",
            "etcd://[::1]2",
            "etcd://::1",
            "etcd://secret@h",
            "etcd://:secret@h",
            "etcd://a:secret%4@h",
            "etcd://a:secret@h h",
            "etcd://h/%zz",
            "etcd://h/a%00b",
            "etcd://h?tls",
            "etcd://h?tls=maybe",
            "etcd://h?tls=true",
            "etcd://h?ca=",
            "etcd://h?ca=a&cert=b",
            "etcd://h?ca=a&tls=false",
            "etcd://h?x=y",
            &long,
        ];
        for text in texts {
            let error = text.parse::<EtcdAddress>().expect_err(text).to_string();
            assert!(error.contains("etcd address") && !error.contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "(etcd://)?[a-z%@:,/?=&\\[\\]0-9]{0,40}") {
            let _ = text.parse::<EtcdAddress>();
        }

        #[test]
        fn what_is_shown_is_read_again(hosts in proptest::collection::vec("[a-z]{1,5}:[1-9]", 1..4), prefix in "[a-z]{1,4}") {
            let text = format!("etcd://{}/{prefix}", hosts.join(","));
            prop_assert_eq!(parsed(&text).to_string(), text);
        }
    }
}
