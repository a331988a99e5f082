//! Sources that are objects of S3: what they are called, where they are asked for, and how the node proves who asks.

use std::time::Duration;

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use url::Url;

/// How long a signed request may be used, which is sent at once.
const SIGNATURE_TIME: Duration = Duration::from_secs(300);
/// Longest key of an object, in bytes (Amazon S3 User Guide, "Naming Amazon S3 objects").
const KEY_LENGTH_MAX: usize = 1024;

/// An object, or the beginning of the names of several: `s3://BUCKET/KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectName {
    pub(super) bucket: String,
    pub(super) key: String,
}

impl ObjectName {
    /// The bucket and key of what follows `s3://`. The key is taken as it is, without escapes.
    pub(super) fn parse(rest: &str) -> Result<Self, &'static str> {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        // What stands here becomes part of a path or of a host's name.
        if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(is_fine) || bucket.contains("..") {
            return Err("this is no name of a bucket; write s3://BUCKET/KEY");
        }
        // No URL has such parts: a client takes them for steps in the path.
        if key.split('/').any(|part| matches!(part, "." | "..")) {
            return Err("a key with '.' or '..' between slashes cannot be asked for");
        }
        if key.len() > KEY_LENGTH_MAX {
            return Err("the key of an object has at most 1024 bytes");
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// Whether an object is this one, or lies below it.
    pub(super) fn holds(&self, object: &Self) -> bool {
        let rest = object.key.strip_prefix(&self.key);
        let at_end = |rest: &str| {
            rest.is_empty() || rest.starts_with('/') || self.key.is_empty() || self.key.ends_with('/')
        };
        self.bucket == object.bucket && rest.is_some_and(at_end)
    }
}

/// Where objects are asked for, and as whom: what the variables say that AWS's own programs read.
#[derive(Debug, Clone)]
pub(super) struct Store {
    /// The server, when it is not Amazon's.
    endpoint: Option<Url>,
    region: String,
    /// Who asks; nobody when there are none.
    credentials: Option<Credentials>,
}

impl Store {
    /// What the environment says.
    pub(super) fn of(environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let first = |names: [&str; 2]| names.into_iter().find_map(environment);
        let endpoint = first(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        let endpoint = endpoint.map(|text| {
            let url = Url::parse(&text).ok().filter(|url| url.has_host());
            let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
            url.ok_or_else(|| "AWS_ENDPOINT_URL is no URL that begins with http:// or https://".to_owned())
        });
        let region = first(["AWS_REGION", "AWS_DEFAULT_REGION"]).unwrap_or_else(|| "us-east-1".to_owned());
        if !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err("AWS_REGION is no name of a region".to_owned());
        }
        let (key, secret) = (environment("AWS_ACCESS_KEY_ID"), environment("AWS_SECRET_ACCESS_KEY"));
        let credentials = match (key, secret, environment("AWS_SESSION_TOKEN")) {
            (Some(key), Some(secret), Some(token)) => Some(Credentials::new_with_token(key, secret, token)),
            (Some(key), Some(secret), None) => Some(Credentials::new(key, secret)),
            (None, None, _) => None,
            _ => return Err("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are given together".to_owned()),
        };
        Ok(Self { endpoint: endpoint.transpose()?, region, credentials })
    }

    /// Where an object is asked for, signed if the node is somebody.
    pub(super) fn url_of(&self, object: &ObjectName) -> Result<Url, &'static str> {
        if object.key.is_empty() {
            return Err("it names a bucket and no object");
        }
        let is_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let (endpoint, style) = match &self.endpoint {
            Some(endpoint) => (endpoint.clone(), UrlStyle::Path),
            // A certificate of Amazon's vouches for one label before its own name.
            None if object.bucket.bytes().all(is_host) => (self.amazon()?, UrlStyle::VirtualHost),
            None => (self.amazon()?, UrlStyle::Path),
        };
        let bucket = Bucket::new(endpoint, style, object.bucket.clone(), self.region.clone());
        let bucket = bucket.map_err(|_| "its bucket has no address")?;
        Ok(bucket.get_object(self.credentials.as_ref(), &object.key).sign(SIGNATURE_TIME))
    }

    fn amazon(&self) -> Result<Url, &'static str> {
        let country = if self.region.starts_with("cn-") { ".cn" } else { "" };
        let text = format!("https://s3.{}.amazonaws.com{country}", self.region);
        Url::parse(&text).map_err(|_| "AWS_REGION is no name of a region")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        ObjectName::parse(text).unwrap()
    }

    fn store(variables: &[(&str, &str)]) -> Result<Store, String> {
        Store::of(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn names_are_buckets_and_keys() {
        assert_eq!(
            name("data.sets/a b/c?#%2F"),
            ObjectName { bucket: "data.sets".into(), key: "a b/c?#%2F".into() }
        );
        for text in
            ["", "ab", "a/b", "b@cket/a", "b:1/a", "b..b/a", "bucket/../a", "bucket/a/./b", "bucket/.."]
        {
            assert!(ObjectName::parse(text).is_err(), "{text}");
        }
        assert!(name("bucket/sets").holds(&name("bucket/sets/a")) && name("bucket").holds(&name("bucket/a")));
        assert!(name("bucket/sets/").holds(&name("bucket/sets/a")));
        assert!(
            !name("bucket/sets").holds(&name("bucket/setsx")) && !name("bucket").holds(&name("bucket2/a"))
        );
    }

    #[test]
    fn objects_are_asked_for_where_the_variables_say() {
        let open = store(&[]).unwrap();
        let url = |store: &Store, text: &str| store.url_of(&name(text)).map(|url| url.to_string());
        assert_eq!(url(&open, "bucket/a b").unwrap(), "https://bucket.s3.us-east-1.amazonaws.com/a%20b");
        assert_eq!(url(&open, "data.sets/a").unwrap(), "https://s3.us-east-1.amazonaws.com/data.sets/a");
        assert!(url(&open, "bucket").is_err());
        let own = [
            ("AWS_ENDPOINT_URL", "http://[::1]:9000"),
            ("AWS_REGION", "here"),
            ("AWS_ACCESS_KEY_ID", "me"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token"),
        ];
        let signed = url(&store(&own).unwrap(), "bucket/a").unwrap();
        assert!(
            signed.starts_with("http://[::1]:9000/bucket/a?X-Amz-Algorithm=AWS4-HMAC-SHA256&"),
            "{signed}"
        );
        assert!(signed.contains("here%2Fs3%2Faws4_request") && signed.contains("X-Amz-Security-Token=token"));
        assert!(!signed.contains("secret") && !format!("{:?}", store(&own)).contains("secret"));
        for wrong in [&own[2..3], &[("AWS_ENDPOINT_URL", "minio:9000")], &[("AWS_REGION", "a/b")]] {
            assert!(store(wrong).is_err(), "{wrong:?}");
        }
    }
}
