//! Inputs that reach deep: whole messages, manifests and footers, for mutation to start from.

use std::fs;
use std::path::Path;

use engine::Footer;
use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::wire::frame::HEADER_LENGTH;
use plan::manifest::{ChunkEntry, Extent, FileEntry, FileKind, Files, Manifest, Shape, encode_files};

/// Seeds for one target; none for a name that is not a target's.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "frame" => frames(),
        "message" => frames().iter().map(|frame| [&frame[6..8], &frame[HEADER_LENGTH..]].concat()).collect(),
        "descriptor" => {
            let descriptions = frames().into_iter().filter(|frame| frame[6..8] == [28, 0]);
            descriptions.map(|frame| frame[HEADER_LENGTH..].to_vec()).collect()
        }
        "manifest" => manifest_bytes(),
        "footer" => [1, 4096, 3 << 20, 80 << 20].map(footer_bytes).to_vec(),
        _ => Vec::new(),
    }
}

/// Manifests of every shape.
pub fn manifests() -> Vec<Manifest> {
    let regular =
        |path: &str, size| file(path, FileKind::Regular { size, digest: [5; 32], extents: extents(size) });
    let link = FileKind::Symlink { target: b"../else/where".to_vec() };
    let tree = vec![
        file("a", FileKind::Directory),
        regular("a/empty", 0),
        regular("a/b", 300),
        file("a/link", link),
        regular("c", 9),
    ];
    vec![
        manifest(Shape::File, 300, Files::Inline(vec![regular("name", 300)])),
        manifest(Shape::Stream, 300, Files::Inline(vec![regular("", 300)])),
        manifest(Shape::Tree, 309, Files::Inline(tree)),
        manifest(Shape::Tree, 309, Files::Chunk(chunk(2))),
    ]
}

/// The golden vectors of all messages.
fn frames() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../dataplane/flow/tests/golden");
    let files = fs::read_dir(folder).expect("the golden vectors are part of the repository");
    let mut paths: Vec<_> = files.filter_map(|file| file.ok().map(|file| file.path())).collect();
    paths.sort();
    let texts = paths.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.map(|text| bytes_of(&text)).filter(|frame| frame.len() >= HEADER_LENGTH).collect()
}

fn bytes_of(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn manifest_bytes() -> Vec<Vec<u8>> {
    let lists = manifests().into_iter().filter_map(|manifest| match manifest.files {
        Files::Inline(files) => Some(encode_files(&files)),
        Files::Chunk(_) => None,
    });
    manifests().iter().map(Manifest::encode).chain(lists).collect()
}

fn manifest(shape: Shape, size: u64, files: Files) -> Manifest {
    let file_count = if shape == Shape::Tree { 3 } else { 1 };
    Manifest { shape, size, file_count, chunks: vec![chunk(0), chunk(1)], files }
}

fn chunk(number: u8) -> ChunkEntry {
    ChunkEntry { id: [number; 32], size: 200, piece_size: 1 << 20, descriptor_digest: [9; 32] }
}

fn file(path: &str, kind: FileKind) -> FileEntry {
    FileEntry { path: path.into(), kind, mode: 0o644, mtime_ns: 1_790_000_000_123_456_789 }
}

/// The file's bytes but a hole of 50 bytes, from the first chunk and then the second.
fn extents(size: u64) -> Vec<Extent> {
    match size {
        0..=50 => Vec::new(),
        _ => vec![
            Extent { file_offset: 0, chunk: 0, chunk_offset: 0, length: 50 },
            Extent { file_offset: 100, chunk: 1, chunk_offset: 0, length: (size - 100).min(200) },
        ],
    }
}

/// The length of the file, then the footer.
fn footer_bytes(size: u64) -> Vec<u8> {
    let geometry = Geometry::of(size).expect("the seeds are within the limits");
    let checksums =
        (0..geometry.pieces().into()).map(|piece: u64| piece.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let footer = Footer::encode(&Descriptor { id: ChunkId([3; 32]), geometry, checksums });
    let file_length = size.next_multiple_of(4096) + footer.len() as u64;
    [&file_length.to_le_bytes()[..], &footer].concat()
}
