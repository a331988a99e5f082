//! The signatures of requests to AWS, as a server checks them: AWS Signature Version 4 in a query, from the API reference of
//! Amazon S3, "Authenticating Requests: Using Query Parameters".

use std::fmt::Write;

use ring::{digest, hmac};

/// Somebody whose requests are known.
pub struct Signer {
    pub key: &'static str,
    pub secret: &'static str,
    pub region: &'static str,
}

impl Signer {
    /// Whether a GET of this path and query at this host was signed so.
    pub fn has_signed(&self, path: &str, host: &str, token: Option<&str>) -> bool {
        let Some((path, query)) = path.split_once('?') else { return false };
        let mut fields: Vec<&str> = query.split('&').collect();
        let of = |name: &str| {
            let value = fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            value.map(percent_decoded)
        };
        let Some(given) = of("X-Amz-Signature") else { return false };
        let time = of("X-Amz-Date").unwrap_or_default();
        let scope = format!("{}/{}/s3/aws4_request", time.split('T').next().unwrap(), self.region);
        let is_told = of("X-Amz-Algorithm").as_deref() == Some("AWS4-HMAC-SHA256")
            && of("X-Amz-Credential") == Some(format!("{}/{scope}", self.key))
            && of("X-Amz-SignedHeaders").as_deref() == Some("host")
            && of("X-Amz-Security-Token").as_deref() == token;
        fields.retain(|field| !field.starts_with("X-Amz-Signature="));
        fields.sort_unstable();
        is_told && given == self.signature(path, &fields.join("&"), host, &time, &scope)
    }

    fn signature(&self, path: &str, query: &str, host: &str, time: &str, scope: &str) -> String {
        let request = format!("GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let request = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{request}");
        let first = format!("AWS4{}", self.secret).into_bytes();
        let key = scope.split('/').fold(first, |key, part| sign(&key, part));
        hex(&sign(&key, &text))
    }
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let byte = u8::from_str_radix(&part[..2], 16).unwrap();
        text + &char::from(byte).to_string() + &part[2..]
    })
}

/// The example of the reference.
#[test]
fn the_example_of_the_reference_is_signed_as_there() {
    let signer = Signer {
        key: "AKIAIOSFODNN7EXAMPLE",
        secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        region: "us-east-1",
    };
    let path = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
                &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
                &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
                &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    assert!(signer.has_signed(path, "examplebucket.s3.amazonaws.com", None));
    assert!(!signer.has_signed(&path.replace("test", "best"), "examplebucket.s3.amazonaws.com", None));
    assert!(!signer.has_signed(path, "other.s3.amazonaws.com", None));
    assert!(!signer.has_signed("/test.txt", "examplebucket.s3.amazonaws.com", None));
}
