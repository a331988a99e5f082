use proptest::prelude::*;

use super::*;

fn chunk(number: u8, size: u64) -> ChunkEntry {
    ChunkEntry { id: [number; 32], size, piece_size: 1 << 20, descriptor_digest: [!number; 32] }
}

fn regular(path: &str, size: u64, extents: Vec<Extent>) -> FileEntry {
    let kind = FileKind::Regular { size, digest: [7; 32], extents };
    FileEntry { path: path.into(), kind, mode: 0o644, mtime_ns: -5 }
}

fn extent(file_offset: u64, chunk: u32, chunk_offset: u64, length: u64) -> Extent {
    Extent { file_offset, chunk, chunk_offset, length }
}

fn tree(files: Vec<FileEntry>) -> Manifest {
    let sizes = files.iter().filter_map(|file| match file.kind {
        FileKind::Regular { size, .. } => Some(size),
        _ => None,
    });
    let (size, file_count) = sizes.fold((0, 0), |(size, count), one| (size + one, count + 1));
    let chunks = vec![chunk(1, 100), chunk(2, 50)];
    Manifest { shape: Shape::Tree, size, file_count, chunks, files: Files::Inline(files) }
}

fn reread(manifest: &Manifest) -> Result<Manifest, ManifestError> {
    Manifest::decode(&manifest.encode())
}

fn other(path: &str, kind: FileKind) -> FileEntry {
    FileEntry { path: path.into(), kind, mode: 0o755, mtime_ns: 0 }
}

#[test]
fn a_tree_survives_with_holes_links_and_names_that_are_not_text() {
    let link = FileKind::Symlink { target: b"../../etc/passwd".to_vec() };
    let mut files = vec![
        regular("a/b", 200, vec![extent(10, 0, 90, 10), extent(100, 1, 0, 50)]),
        regular("empty", 0, vec![]),
        other("a", FileKind::Directory),
        other("link", link),
    ];
    files[1].path = vec![0xff, 0xfe];
    let manifest = tree(files.clone());
    assert_eq!(reread(&manifest), Ok(manifest.clone()));
    assert_eq!(decode_files(&encode_files(&files)), Ok(files));
    let apart = Manifest { files: Files::Chunk(chunk(9, 5)), ..manifest };
    assert_eq!(reread(&apart), Ok(apart.clone()));
    assert_eq!(apart.all_chunks().map(|chunk| chunk.id[0]).collect::<Vec<_>>(), [1, 2, 9]);
}

#[test]
fn extents_must_lie_in_chunk_and_file_and_ascend() {
    for bad in [
        vec![extent(0, 2, 0, 1)],
        vec![extent(0, 0, 100, 1)],
        vec![extent(0, 0, u64::MAX, 2)],
        vec![extent(59, 0, 0, 2)],
        vec![extent(u64::MAX, 0, 0, 2)],
        vec![extent(0, 0, 0, 10), extent(9, 1, 0, 10)],
    ] {
        let manifest = tree(vec![regular("a", 60, bad.clone())]);
        assert!(matches!(reread(&manifest), Err(ManifestError::Inconsistent(_))), "{bad:?}");
    }
}

#[test]
fn totals_and_shapes_must_be_true() {
    let good = tree(vec![regular("a", 60, vec![])]);
    let file = Manifest { shape: Shape::File, ..good.clone() };
    assert_eq!(reread(&file), Ok(file.clone()));
    let stream = Manifest {
        files: Files::Inline(vec![regular("", 60, vec![])]),
        shape: Shape::Stream,
        ..good.clone()
    };
    assert_eq!(reread(&stream), Ok(stream.clone()));
    for bad in [
        Manifest { size: 61, ..good.clone() },
        Manifest { file_count: 2, ..good.clone() },
        Manifest { shape: Shape::Stream, ..good.clone() },
        Manifest { shape: Shape::File, ..tree(vec![regular("a", 1, vec![]), regular("b", 1, vec![])]) },
        Manifest { shape: Shape::File, ..tree(vec![other("a", FileKind::Directory)]) },
    ] {
        assert!(reread(&bad).is_err(), "{bad:?}");
    }
    let overflowing = vec![regular("a", u64::MAX, vec![]), regular("b", 2, vec![])];
    let overflowing = Manifest { size: 1, file_count: 2, files: Files::Inline(overflowing), ..good };
    assert_eq!(reread(&overflowing), Err(TOTALS));
}

#[test]
fn the_root_of_a_tree_may_have_an_entry() {
    let files = vec![other("", FileKind::Directory), regular("a", 1, vec![])];
    assert!(reread(&tree(files.clone())).is_ok());
    let link = other("", FileKind::Symlink { target: b"/etc".to_vec() });
    for bad in [vec![link], vec![regular("", 1, vec![])]] {
        assert!(matches!(reread(&tree(bad.clone())), Err(ManifestError::Path(_))), "{bad:?}");
    }
    let twice = [files.clone(), files].concat();
    assert!(matches!(reread(&tree(twice)), Err(ManifestError::Inconsistent(_))));
}

#[test]
fn nothing_is_written_through_a_link_or_twice() {
    let link = || other("a", FileKind::Symlink { target: b"/etc".to_vec() });
    for bad in [
        vec![link(), regular("a/passwd", 1, vec![])],
        vec![regular("a/b/c", 1, vec![]), link()],
        vec![regular("a", 1, vec![]), regular("a/b", 1, vec![])],
        vec![regular("a/b", 1, vec![]), other("a.b", FileKind::Directory), regular("a-b", 1, vec![]), link()],
        vec![link(), other("a/b", FileKind::Directory), regular("a/b/c", 1, vec![])],
        vec![regular("a", 1, vec![]), regular("a", 1, vec![])],
        vec![other("a", FileKind::Directory), link()],
        vec![other("a", FileKind::Symlink { target: vec![] })],
        vec![other("a", FileKind::Symlink { target: vec![b'x', 0] })],
    ] {
        assert!(matches!(reread(&tree(bad.clone())), Err(ManifestError::Inconsistent(_))), "{bad:?}");
    }
}

#[test]
fn neighbours_of_a_link_are_fine() {
    let link = other("a", FileKind::Symlink { target: b"b".to_vec() });
    let files = ["a-", "a.b", "aa", "b/a/c"].map(|path| regular(path, 1, vec![]));
    assert!(reread(&tree([files.as_slice(), &[link]].concat())).is_ok());
}

#[test]
fn other_formats_and_trailing_bytes_are_told() {
    let mut bytes = tree(vec![]).encode();
    assert_eq!(Manifest::decode(&[]), Err(ManifestError::Malformed));
    bytes.push(0);
    assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Malformed));
    bytes[0] = 2;
    assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Format(2)));
}

/// The bytes of format 1, so that no change of a type changes what old catalogs hold.
#[test]
fn format_1_is_what_it_was() {
    let manifest = Manifest {
        shape: Shape::File,
        size: 300,
        file_count: 1,
        chunks: vec![chunk(1, 300)],
        files: Files::Inline(vec![regular("f", 300, vec![extent(0, 0, 0, 300)])]),
    };
    let mut golden = vec![1, 0, 0xac, 2, 1, 1];
    golden.extend([[1; 32].as_slice(), &[0xac, 2, 0x80, 0x80, 0x40], &[254; 32]].concat());
    golden.extend([0, 1, 1, b'f', 0, 0xac, 2]);
    golden.extend([[7; 32].as_slice(), &[1, 0, 0, 0, 0xac, 2], &[0xa4, 3, 9]].concat());
    assert_eq!(manifest.encode(), golden);
}

fn kind() -> impl Strategy<Value = FileKind> {
    let extents = prop::collection::vec((1..50_u64, 1..50_u64, 0..3_u32, 0..50_u64), 0..4);
    let regular = extents.prop_map(|runs| {
        let mut at = 0;
        let extents: Vec<Extent> = runs
            .into_iter()
            .map(|(hole, length, chunk, chunk_offset)| {
                let file_offset = at + hole;
                at = file_offset + length;
                Extent { file_offset, chunk, chunk_offset, length }
            })
            .collect();
        FileKind::Regular { size: at + 3, digest: [at as u8; 32], extents }
    });
    let target = prop::collection::vec(1..=255_u8, 1..9);
    prop_oneof![regular, Just(FileKind::Directory), target.prop_map(|target| FileKind::Symlink { target })]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let names = prop::collection::btree_set("[a-z]{1,4}", 0..6);
    names.prop_flat_map(|names| {
        prop::collection::vec(kind(), names.len()).prop_map(move |kinds| {
            let entry = |(name, kind): (&String, FileKind)| other(name, kind);
            let files = names.iter().zip(kinds).map(entry).collect();
            Manifest { chunks: (0..3).map(|number| chunk(number, 100)).collect(), ..tree(files) }
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(manifest in manifest()) {
        prop_assert_eq!(reread(&manifest), Ok(manifest));
    }

    #[test]
    fn hostile_bytes_are_refused_or_consistent(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_files(&bytes);
        let format_1: Vec<u8> = std::iter::once(FORMAT).chain(bytes).collect();
        let _ = decode_files(&format_1);
        let _ = Manifest::decode(&format_1);
    }

    #[test]
    fn damage_is_refused_or_consistent(manifest in manifest(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = manifest.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(Manifest { files: Files::Inline(files), .. }) = Manifest::decode(&bytes) {
            for file in files {
                prop_assert!(stays_inside(&file.path));
            }
        }
        prop_assert!(Manifest::decode(&bytes[..at]).is_err());
    }

    #[test]
    fn paths_of_trees_stay_inside(path in "[a./\0]{0,10}") {
        let fine = stays_inside(path.as_bytes()) && !path.contains('\0');
        prop_assert_eq!(reread(&tree(vec![regular(&path, 0, vec![])])).is_ok(), fine);
        let named = Manifest { shape: Shape::File, ..tree(vec![regular(&path, 0, vec![])]) };
        prop_assert_eq!(reread(&named).is_ok(), fine && !path.contains('/'));
    }
}

/// Judged by the standard library: only plain components, written the plain way.
fn stays_inside(path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Component, Path};
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let plain: Option<Vec<&[u8]>> = path
        .components()
        .map(|part| if let Component::Normal(name) = part { Some(name.as_bytes()) } else { None })
        .collect();
    plain.is_some_and(|parts| !parts.is_empty() && parts.join(&b'/') == path.as_os_str().as_bytes())
}

#[test]
fn a_file_is_its_chunks_in_order_or_something_else() {
    let file = |extents: Vec<Extent>, size| {
        let manifest = Manifest { shape: Shape::File, ..tree(vec![regular("f", size, extents)]) };
        manifest.chunks_in_order().map(|chunks| chunks.iter().map(|chunk| chunk.id[0]).collect::<Vec<_>>())
    };
    assert_eq!(file(vec![extent(0, 1, 0, 50), extent(50, 0, 0, 100)], 150), Some(vec![2, 1]));
    assert_eq!(file(vec![extent(0, 0, 0, 100)], 100), Some(vec![1]));
    for (extents, size) in [
        (vec![], 0),
        (vec![extent(0, 0, 0, 99)], 99),
        (vec![extent(0, 0, 1, 99)], 99),
        (vec![extent(0, 0, 0, 100)], 101),
        (vec![extent(1, 0, 0, 100)], 101),
    ] {
        assert_eq!(file(extents, size), None);
    }
    let listed = Manifest { shape: Shape::File, ..tree(vec![regular("f", 100, vec![extent(0, 0, 0, 100)])]) };
    assert_eq!(Manifest { files: Files::Chunk(chunk(9, 5)), ..listed.clone() }.chunks_in_order(), None);
    assert_eq!(Manifest { shape: Shape::Tree, ..listed }.chunks_in_order(), None);
}
