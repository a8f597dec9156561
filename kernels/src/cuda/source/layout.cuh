// Where things lie in shared memory. `cuda/layout.rs` has the same maths with its proofs.

// Byte of a 16-byte chunk in a tile whose rows have CHUNKS chunks: eight rows in a column meet eight
// different banks.
template <u32 CHUNKS>
DEVICE u32 swizzled(u32 row, u32 chunk) {
    return row * CHUNKS * 16 + ((chunk ^ (row & 7)) << 4);
}

// Descriptor of a wgmma operand in tiles of 128-byte swizzle that begin at multiples of 1024 bytes.
DEVICE u64 descriptor(u32 at, u32 leading_bytes, u32 stride_bytes) {
    return (u64)((at & 0x3ffff) >> 4) | (u64)(leading_bytes >> 4) << 16 | (u64)(stride_bytes >> 4) << 32 | 1ull << 62;
}
