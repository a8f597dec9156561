//! Where things lie in shared memory and in registers, in Rust: the same maths as `source/layout.cuh`, with
//! its proofs. The emulator's own model is a third one, so a slip in any of them shows.

/// Byte of a 16-byte chunk in a tile whose rows have `chunks` chunks.
pub fn swizzled(chunks: u32, row: u32, chunk: u32) -> u32 {
    row * chunks * 16 + ((chunk ^ (row & 7)) << 4)
}

/// Descriptor of a wgmma operand with 128-byte swizzle.
pub fn descriptor(at: u32, leading_bytes: u32, stride_bytes: u32) -> u64 {
    u64::from((at & 0x3ffff) >> 4)
        | u64::from(leading_bytes >> 4) << 16
        | u64::from(stride_bytes >> 4) << 32
        | 1 << 62
}

/// Row and column of accumulator register `i` of a thread of a warpgroup.
pub fn accumulator(thread: u32, i: u32) -> (u32, u32) {
    let (warp, lane) = (thread / 32, thread % 32);
    (
        16 * warp + lane / 4 + 8 * (i >> 1 & 1),
        8 * (i >> 2) + 2 * (lane % 4) + (i & 1),
    )
}

/// Row and column (of 16) of half `half` of register `i` of a thread's left fragment.
pub fn left_fragment(thread: u32, i: u32, half: u32) -> (u32, u32) {
    let (warp, lane) = (thread / 32, thread % 32);
    (
        16 * warp + lane / 4 + 8 * (i & 1),
        2 * (lane % 4) + half + 8 * (i >> 1),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn chunks_never_share_a_place_and_a_column_of_eight_rows_meets_all_banks() {
        for chunks in [8, 16, 32] {
            let places: BTreeSet<u32> = (0..64)
                .flat_map(|row| (0..chunks).map(move |chunk| swizzled(chunks, row, chunk)))
                .collect();
            assert_eq!(places.len() as u32, 64 * chunks);
            assert_eq!(places.last(), Some(&(64 * chunks * 16 - 16)));
            for chunk in 0..chunks {
                let banks: BTreeSet<u32> = (8..16)
                    .map(|row| swizzled(chunks, row, chunk) / 16 % 8)
                    .collect();
                assert_eq!(
                    banks.len(),
                    8,
                    "eight rows of {chunks} chunks meet eight groups of banks"
                );
            }
        }
    }

    #[test]
    fn eight_chunks_a_row_is_the_swizzle_of_tma() {
        for row in 0..64 {
            for chunk in 0..8 {
                let linear = row * 128 + chunk * 16;
                assert_eq!(swizzled(8, row, chunk), linear ^ ((linear >> 7 & 7) << 4));
            }
        }
    }

    #[test]
    fn a_descriptor_holds_what_was_put_in() {
        for at in (0..227 << 10).step_by(1024) {
            for (leading, stride) in [(16, 1024), (16_384, 1024), (22_528, 1024)] {
                let d = descriptor(at, leading, stride);
                assert_eq!((d & 0x3fff) << 4, u64::from(at));
                assert_eq!((d >> 16 & 0x3fff) << 4, u64::from(leading));
                assert_eq!((d >> 32 & 0x3fff) << 4, u64::from(stride));
                assert_eq!(d >> 62, 1);
            }
        }
    }

    #[test]
    fn scores_packed_in_pairs_are_the_left_fragment_of_the_next_product() {
        for thread in 0..128 {
            for step in 0..8 {
                for i in 0..4 {
                    for half in 0..2 {
                        let (row, column) = accumulator(thread, 8 * step + 2 * i + half);
                        assert_eq!((row, column - 16 * step), left_fragment(thread, i, half));
                    }
                }
            }
        }
    }

    #[test]
    fn accumulators_cover_the_tile_once() {
        let places: BTreeSet<(u32, u32)> = (0..128)
            .flat_map(|thread| (0..64).map(move |i| accumulator(thread, i)))
            .collect();
        assert_eq!(places.len(), 64 * 128);
        assert_eq!(places.last(), Some(&(63, 127)));
    }
}
