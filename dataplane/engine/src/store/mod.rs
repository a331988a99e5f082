//! Chunk files on NVMe.
/// Footer.
pub struct Footer;
