//! Copies that leave behind what it takes to compute a checksum.
//!
//! A copy and a checksum of what was copied read the bytes twice, and what is overwritten once more. Where the processor
//! multiplies polynomials in registers of 512 bits, both are done with one read: the bytes go from a register to their
//! place, past the cache, and the same register is folded into a few that stand for all bytes so far. So what is
//! checked is what was written, even if somebody changes the source meanwhile.
//!
//! Folding (V. Gopal et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction, Intel 2009) moves
//! bytes onto later ones without changing their remainder. Here it stops at [`CONDENSED_LENGTH`] bytes, whose checksum
//! is that of all; computing it is left to whoever knows checksums.

use std::sync::atomic::AtomicU8;

/// Bytes that stand for all that were copied.
pub const CONDENSED_LENGTH: usize = 256;

/// Copies bytes, and keeps a few that have the same CRC-64/NVME (NVM Express NVM Command Set specification).
pub struct Condenser {
    #[cfg(target_arch = "x86_64")]
    lanes: x86_64::Lanes,
    is_empty: bool,
}

impl Condenser {
    /// One that has copied nothing, where the processor has what it takes.
    pub fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return x86_64::is_possible().then(|| Self { lanes: x86_64::Lanes::default(), is_empty: true });
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Copies from one slice to another of the same length. Gives how many bytes were copied: all but a last part of less
    /// than [`CONDENSED_LENGTH`], or none if `to` does not begin at a multiple of 64.
    pub fn copy(&mut self, to: &mut [u8], from: &[u8]) -> usize {
        assert_eq!(to.len(), from.len(), "a copy is as long as what is copied");
        // SAFETY: as many bytes can be read as are written, and what is borrowed for writing is elsewhere.
        unsafe { self.copy_from(to, from.as_ptr()) }
    }

    /// As [`Condenser::copy`], of bytes that others may write meanwhile: each is read once.
    pub fn copy_shared(&mut self, to: &mut [u8], from: &[AtomicU8]) -> usize {
        assert_eq!(to.len(), from.len(), "a copy is as long as what is copied");
        // SAFETY: as many bytes can be read as are written, and what is borrowed for writing is elsewhere. They are read by
        // instructions that the compiler knows nothing of, for which it does not matter who else writes.
        unsafe { self.copy_from(to, from.as_ptr().cast()) }
    }

    /// # Safety
    ///
    /// `from` must begin as many bytes as `to` has, that can be read and are not among those.
    unsafe fn copy_from(&mut self, to: &mut [u8], from: *const u8) -> usize {
        #[cfg(target_arch = "x86_64")]
        if x86_64::is_aligned(to) {
            let length = to.len() - to.len() % CONDENSED_LENGTH;
            if length > 0 {
                // SAFETY: there is a condenser only where `is_possible` said yes; the caller vouches for the bytes.
                unsafe { x86_64::copy(&mut self.lanes, self.is_empty, &mut to[..length], from) };
                self.is_empty = false;
            }
            return length;
        }
        let _ = (to, from);
        0
    }

    /// Bytes with the same checksum as all that were copied, if any were.
    pub fn finish(self) -> Option<[u8; CONDENSED_LENGTH]> {
        #[cfg(target_arch = "x86_64")]
        return (!self.is_empty).then(|| self.lanes.bytes());
        #[cfg(not(target_arch = "x86_64"))]
        None
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m512i, _mm_sfence, _mm512_clmulepi64_epi128, _mm512_set_epi64, _mm512_setzero_si512,
        _mm512_stream_si512, _mm512_ternarylogic_epi64, _mm512_xor_si512,
    };

    use super::CONDENSED_LENGTH;

    /// The polynomial of CRC-64/NVME, the highest power in the lowest bit.
    const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
    /// What the first 8 bytes of a message are combined with, and so must be before they are folded.
    const INITIAL: u64 = u64::MAX;
    const LANES: usize = CONDENSED_LENGTH / size_of::<__m512i>();
    /// Bits from a lane to where it is folded to.
    const DISTANCE: u32 = CONDENSED_LENGTH as u32 * 8;
    /// What the lower half of 128 bits is multiplied with, which is 64 bits further from the end, and the upper one.
    /// The product of two reflected numbers is one bit too low, hence one power less.
    const FACTORS: [u64; 2] = [power(DISTANCE + 63), power(DISTANCE - 1)];

    /// What stands for all bytes so far.
    #[derive(Default)]
    pub(super) struct Lanes([[u64; 8]; LANES]);

    impl Lanes {
        pub(super) fn bytes(&self) -> [u8; CONDENSED_LENGTH] {
            let mut bytes = [0; CONDENSED_LENGTH];
            let words = self.0.iter().flatten();
            bytes
                .chunks_exact_mut(8)
                .zip(words)
                .for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
            bytes
        }
    }

    pub(super) fn is_possible() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vpclmulqdq")
    }

    pub(super) fn is_aligned(bytes: &[u8]) -> bool {
        bytes.as_ptr().cast::<__m512i>().is_aligned()
    }

    /// x to so many, modulo the polynomial, reflected.
    const fn power(exponent: u32) -> u64 {
        let (mut value, mut done) = (1 << 63, 0);
        while done < exponent {
            value = (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 };
            done += 1;
        }
        value
    }

    /// `to` is aligned and a multiple of [`CONDENSED_LENGTH`].
    ///
    /// # Safety
    ///
    /// `from` must begin as many bytes, that can be read.
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    pub(super) unsafe fn copy(kept: &mut Lanes, is_first: bool, to: &mut [u8], from: *const u8) {
        let [low, high] = FACTORS.map(u64::cast_signed);
        let factors = _mm512_set_epi64(high, low, high, low, high, low, high, low);
        let mut lanes = [_mm512_setzero_si512(); LANES];
        for (lane, words) in lanes.iter_mut().zip(&kept.0) {
            // SAFETY: both are 64 bytes, of which any are valid.
            *lane = unsafe { std::mem::transmute::<[u64; 8], __m512i>(*words) };
        }
        // Lanes of zero stay zero when they are folded, so that the first bytes are taken as they are.
        let mut initial =
            _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, if is_first { INITIAL.cast_signed() } else { 0 });
        if !is_first {
            // It was taken out when the lanes were kept.
            lanes[0] = _mm512_xor_si512(lanes[0], first_word());
        }
        for (number, to) in to.chunks_exact_mut(CONDENSED_LENGTH).enumerate() {
            let to = to.as_mut_ptr().cast::<__m512i>();
            for (at, lane) in lanes.iter_mut().enumerate() {
                // SAFETY: both blocks have so many lanes, and those to be written are aligned.
                let bytes = unsafe {
                    let bytes = read_once(from.add(number * CONDENSED_LENGTH).cast::<__m512i>().add(at));
                    _mm512_stream_si512(to.add(at), bytes);
                    bytes
                };
                let lower = _mm512_clmulepi64_epi128::<0x00>(*lane, factors);
                let upper = _mm512_clmulepi64_epi128::<0x11>(*lane, factors);
                *lane = _mm512_ternarylogic_epi64::<0x96>(lower, upper, bytes);
            }
            lanes[0] = _mm512_xor_si512(lanes[0], initial);
            initial = _mm512_setzero_si512();
        }
        _mm_sfence();
        // As bytes of a message, with which it is combined again.
        lanes[0] = _mm512_xor_si512(lanes[0], first_word());
        for (words, lane) in kept.0.iter_mut().zip(lanes) {
            // SAFETY: both are 64 bytes, of which any are valid.
            *words = unsafe { std::mem::transmute::<__m512i, [u64; 8]>(lane) };
        }
    }

    /// Reads 64 bytes wherever they begin, once: what is folded has to be what is written.
    ///
    /// # Safety
    ///
    /// The bytes can be read.
    #[target_feature(enable = "avx512f")]
    unsafe fn read_once(from: *const __m512i) -> __m512i {
        let bytes;
        // SAFETY: the caller vouches for the bytes; nothing else is touched. An assembly that is not said to be pure is
        // neither repeated nor left out.
        unsafe {
            asm!("vmovdqu64 {bytes}, [{from}]", from = in(reg) from, bytes = lateout(zmm_reg) bytes,
                options(nostack, preserves_flags, readonly));
        }
        bytes
    }

    /// The initial value, where the first bytes are.
    #[target_feature(enable = "avx512f")]
    fn first_word() -> __m512i {
        _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, INITIAL.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use crc_fast::{CrcAlgorithm, Digest, checksum};

    use super::*;

    #[repr(align(64))]
    struct Aligned([u8; LENGTH]);

    const LENGTH: usize = 5000;

    #[test]
    fn what_is_left_has_the_checksum_of_all() {
        let mut from = Aligned([0; LENGTH]);
        from.0
            .iter_mut()
            .zip(0u32..)
            .for_each(|(byte, at)| *byte = (at.wrapping_mul(2_654_435_761) >> 13) as u8);
        for length in [0, 1, 255, 256, 257, 512, 1000, 2048, LENGTH] {
            for turn in [256, 512, 1024, 8192] {
                let Some(mut condenser) = Condenser::new() else { return };
                let (from, mut to) = (&from.0[..length], Aligned([0; LENGTH]));
                let mut copied = 0;
                for step in from.chunks(turn) {
                    copied += condenser.copy(&mut to.0[copied..copied + step.len()], step);
                }
                assert_eq!(copied, length / CONDENSED_LENGTH * CONDENSED_LENGTH);
                assert!(to.0[..copied] == from[..copied] && to.0[copied..].iter().all(|&byte| byte == 0));
                let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
                condenser.finish().iter().for_each(|condensed| digest.update(condensed));
                digest.update(&from[copied..]);
                assert_eq!(digest.finalize(), checksum(CrcAlgorithm::Crc64Nvme, from), "{length} in {turn}");
            }
        }
    }

    #[test]
    fn what_is_to_begin_elsewhere_is_not_copied() {
        let Some(mut condenser) = Condenser::new() else { return };
        let (from, mut to) = (Aligned([7; LENGTH]), Aligned([0; LENGTH]));
        assert_eq!(condenser.copy(&mut to.0[1..1025], &from.0[..1024]), 0);
        assert!(to.0.iter().all(|&byte| byte == 0) && condenser.finish().is_none());
    }

    #[test]
    fn bytes_may_come_from_anywhere_and_be_shared() {
        let bytes: Vec<u8> = (0..1200_u32).map(|at| (at * 7 + at / 251) as u8).collect();
        let shared: Vec<AtomicU8> = bytes.iter().copied().map(AtomicU8::new).collect();
        for start in [0, 1, 16, 63] {
            let Some(mut condenser) = Condenser::new() else { return };
            let mut to = Aligned([0; LENGTH]);
            assert_eq!(condenser.copy_shared(&mut to.0[..1100], &shared[start..start + 1100]), 1024);
            assert!(to.0[..1024] == bytes[start..start + 1024] && to.0[1024] == 0);
            let condensed = condenser.finish().unwrap();
            let crc = |bytes: &[u8]| checksum(CrcAlgorithm::Crc64Nvme, bytes);
            assert_eq!(crc(&condensed), crc(&bytes[start..start + 1024]));
        }
    }
}
