//! Who is there, which version, is the token right.
//!
//! Every connection begins with it, and nothing else is read before it is over:
//!
//! 1. initiator → acceptor: [`Hello`] with a nonce;
//! 2. acceptor → initiator: [`Challenge`] with a nonce and a proof of the token;
//! 3. initiator → acceptor: [`Proof`] of the token;
//! 4. acceptor → initiator: [`Welcome`], or at any point [`Refuse`] and the end.
//!
//! A proof is BLAKE3 keyed with the token over the role of the prover and both sides' messages, so that it
//! cannot be replayed nor reflected. Without a token the key is that of the empty token. The token authenticates; it
//! does not encrypt what follows.

use rkyv::{Archive, Deserialize, Serialize};

use super::control::NodeId;
use super::frame::{VERSION, VERSION_MIN};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Role {
    /// A client: the messages of [`super::session`].
    Client,
    /// A node's control runtime: [`super::control`] and forwarded client messages.
    Control,
    /// A shard to a shard: [`super::data`].
    Data(ShardPair),
}

/// The two ends of a data connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ShardPair {
    /// The initiator's shard.
    pub from: u16,
    /// The acceptor's shard.
    pub to: u16,
}

/// The initiator's first message.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest protocol version it speaks.
    pub version_min: u16,
    /// Newest protocol version it speaks.
    pub version_max: u16,
    /// What the connection is for.
    pub role: Role,
    /// The initiator's node id, or 0 for a client.
    pub node: NodeId,
    /// The node it wants to reach, or 0 when any will do.
    pub expected_node: NodeId,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
}

/// The acceptor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Challenge {
    /// The version chosen.
    pub version: u16,
    /// The acceptor's node id.
    pub node: NodeId,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
    /// The acceptor's proof.
    pub proof: [u8; 32],
}

/// The initiator's proof.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Proof {
    /// The proof.
    pub proof: [u8; 32],
}

/// The handshake is over. On the local socket the arena's descriptors travel with it: read-only first, then
/// read-write.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Welcome {
    /// The acceptor's name.
    pub name: String,
    /// Bytes of the acceptor's arena when its descriptors travel with this message, else 0.
    pub arena_size: u64,
    /// How many shards the acceptor runs.
    pub shards: u16,
}

/// The connection ends here.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Refuse {
    /// Why, and what to do.
    pub reason: String,
}

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// No common version.
    #[error(
        "the peer speaks protocol versions {0} to {1}, this build {VERSION_MIN} to {VERSION}; upgrade the older side"
    )]
    Version(u16, u16),
    /// The token is missing or wrong.
    #[error("the peer does not prove the cluster token; start both sides with the same --token-file")]
    Token,
    /// Another node than the one wanted answered.
    #[error(
        "node {found:016x} answers where node {expected:016x} was expected; its address has passed to another node"
    )]
    WrongNode {
        /// Who was wanted.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// The peer refused.
    #[error("refused: {0}")]
    Refused(String),
}

/// The secret that makes a cluster.
#[derive(Clone)]
pub struct Token {
    key: [u8; 32],
}

impl Token {
    /// The key of a token text; surrounding white space does not count.
    pub fn new(text: &str) -> Self {
        Self { key: blake3::derive_key("shoal 2026-11 cluster token", text.trim().as_bytes()) }
    }

    /// Whether it is the token of this text. The time that it takes does not tell how far they agree.
    pub fn is_of(&self, text: &str) -> bool {
        equal(&self.key, &Token::new(text).key)
    }

    fn proof(&self, prover: &[u8], hello: &Hello, version: u16, node: NodeId, nonce: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let role = match hello.role {
            Role::Client => [0, 0, 0],
            Role::Control => [1, 0, 0],
            Role::Data(ShardPair { from, to }) => [2, from, to],
        };
        hasher.update(prover);
        for number in [hello.version_min, hello.version_max, version].into_iter().chain(role) {
            hasher.update(&number.to_le_bytes());
        }
        for number in [hello.node, hello.expected_node, node] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&hello.nonce).update(nonce);
        hasher.finalize().into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Hello {
    /// A hello of this build's versions. `nonce` must be fresh random bytes.
    pub fn new(role: Role, node: NodeId, expected_node: NodeId, nonce: [u8; 32]) -> Self {
        Self { version_min: VERSION_MIN, version_max: VERSION, role, node, expected_node, nonce }
    }
}

/// The acceptor's step 2. `nonce` must be fresh random bytes.
pub fn challenge(
    hello: &Hello,
    token: &Token,
    node: NodeId,
    nonce: [u8; 32],
) -> Result<Challenge, HandshakeError> {
    let version = hello.version_max.min(VERSION);
    if hello.version_min > version || version < VERSION_MIN {
        return Err(HandshakeError::Version(hello.version_min, hello.version_max));
    }
    if hello.expected_node != 0 && hello.expected_node != node {
        return Err(HandshakeError::WrongNode { expected: hello.expected_node, found: node });
    }
    Ok(Challenge { version, node, nonce, proof: token.proof(b"acceptor", hello, version, node, &nonce) })
}

/// The initiator's step 3: checks the acceptor and proves itself.
pub fn prove(hello: &Hello, challenge: &Challenge, token: &Token) -> Result<Proof, HandshakeError> {
    let Challenge { version, node, nonce, proof } = challenge;
    if !(hello.version_min..=hello.version_max).contains(version) {
        return Err(HandshakeError::Version(*version, *version));
    }
    if !equal(proof, &token.proof(b"acceptor", hello, *version, *node, nonce)) {
        return Err(HandshakeError::Token);
    }
    Ok(Proof { proof: token.proof(b"initiator", hello, *version, *node, nonce) })
}

/// The acceptor's step 4: checks the initiator.
pub fn check(
    hello: &Hello,
    challenge: &Challenge,
    proof: &Proof,
    token: &Token,
) -> Result<(), HandshakeError> {
    let right = token.proof(b"initiator", hello, challenge.version, challenge.node, &challenge.nonce);
    if equal(&proof.proof, &right) { Ok(()) } else { Err(HandshakeError::Token) }
}

/// Compares without telling by its time where the first difference is.
fn equal(left: &[u8; 32], right: &[u8; 32]) -> bool {
    blake3::Hash::from_bytes(*left) == blake3::Hash::from_bytes(*right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello::new(Role::Control, 7, 9, [1; 32])
    }

    #[test]
    fn the_same_token_is_accepted_on_both_sides() {
        let token = Token::new("swordfish-swordfish\n");
        let challenge = challenge(&hello(), &token, 9, [2; 32]).unwrap();
        let proof = prove(&hello(), &challenge, &Token::new("swordfish-swordfish")).unwrap();
        assert_eq!(check(&hello(), &challenge, &proof, &token), Ok(()));
    }

    #[test]
    fn a_token_is_told_from_another_by_its_text() {
        let token = Token::new("swordfish-swordfish\n");
        assert!(token.is_of("swordfish-swordfish") && !token.is_of("swordfish") && !token.is_of(""));
        assert!(Token::new("").is_of(""));
    }

    #[test]
    fn another_token_is_refused_on_both_sides() {
        let (ours, theirs) = (Token::new("a"), Token::new("b"));
        let challenge = challenge(&hello(), &theirs, 9, [2; 32]).unwrap();
        assert_eq!(prove(&hello(), &challenge, &ours), Err(HandshakeError::Token));
        assert_eq!(
            check(&hello(), &challenge, &Proof { proof: [0; 32] }, &theirs),
            Err(HandshakeError::Token)
        );
    }

    #[test]
    fn a_proof_is_neither_reflected_nor_replayed() {
        let token = Token::new("a");
        let first = challenge(&hello(), &token, 9, [2; 32]).unwrap();
        let reflected = Proof { proof: first.proof };
        assert_eq!(check(&hello(), &first, &reflected, &token), Err(HandshakeError::Token));
        let proof = prove(&hello(), &first, &token).unwrap();
        let second = challenge(&hello(), &token, 9, [3; 32]).unwrap();
        assert_eq!(check(&hello(), &second, &proof, &token), Err(HandshakeError::Token));
    }

    #[test]
    fn versions_and_nodes_must_fit() {
        let token = Token::new("");
        let mut newer = hello();
        (newer.version_min, newer.version_max) = (VERSION + 1, VERSION + 2);
        assert!(matches!(challenge(&newer, &token, 9, [0; 32]), Err(HandshakeError::Version(..))));
        assert!(matches!(challenge(&hello(), &token, 8, [0; 32]), Err(HandshakeError::WrongNode { .. })));
    }
}
