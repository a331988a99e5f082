//! Copies that leave the cache alone.

/// Copies as [`slice::copy_from_slice`] does, without reading what is overwritten into the cache first, which is a third
/// of what an ordinary copy of large memory moves. For bytes that are not looked at soon. The slices have the same
/// length.
pub fn copy_past_cache(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len(), "a copy is as long as what is copied");
    #[cfg(target_arch = "x86_64")]
    stream(to, from);
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

#[cfg(target_arch = "x86_64")]
fn stream(to: &mut [u8], from: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    #[repr(align(64))]
    struct Line([__m128i; 4]);

    // SAFETY: any bytes are a line.
    let (before, lines, _) = unsafe { to.align_to_mut::<Line>() };
    let (start, middle) = (before.len(), size_of_val(lines));
    let sources = from[start..start + middle].chunks_exact(size_of::<Line>());
    for (line, source) in lines.iter_mut().zip(sources) {
        let source = source.as_ptr().cast::<__m128i>();
        for (at, part) in line.0.iter_mut().enumerate() {
            // SAFETY: the source has four parts, which need no alignment; the line is aligned. SSE2 is part of x86-64.
            unsafe { _mm_stream_si128(part, _mm_loadu_si128(source.add(at))) };
        }
    }
    // SAFETY: SSE is part of x86-64. Without this fence such writes are not ordered with later ones.
    unsafe { _mm_sfence() };
    to[..start].copy_from_slice(&from[..start]);
    to[start + middle..].copy_from_slice(&from[start + middle..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_and_no_other() {
        let from: Vec<u8> = (0..1000).map(|at| (at % 251) as u8).collect();
        for start in 0..70 {
            for length in [0, 1, 15, 63, 64, 65, 128, 200, 500] {
                let mut to = vec![255; 700];
                copy_past_cache(&mut to[start..start + length], &from[7..7 + length]);
                assert_eq!(to[start..start + length], from[7..7 + length]);
                assert!(to[..start].iter().chain(&to[start + length..]).all(|&byte| byte == 255));
            }
        }
    }
}
