// The product that `linear` and the convolutions share on every card since sm_80:
// 128 x 128 outputs a block, 64 of K a step, three stages of cp.async, eight warps of 64 x 32.
constexpr u32 TILE_M = 128, TILE_N = 128, TILE_K = 64, STAGES = 3, TILE_THREADS = 256;
constexpr u32 TILE_BYTES = 128 * TILE_K * 2;                 // one operand of one stage
constexpr u32 TILE_SHARED = STAGES * 2 * TILE_BYTES;         // 96 KiB
constexpr u32 ROWS_A_THREAD = TILE_M * 8 / TILE_THREADS;     // 16-byte chunks that a thread brings

// Eight values from `row + at` into a chunk; `left` of them exist. Slow where rows are not 16-byte aligned.
DEVICE void stage_chunk(u32 to, const bf16* row, u32 at, u32 left, bool wide) {
    if (wide) return copy_async16(to, row + (left ? at : 0), left > 0);
    u32 pairs[4];
    UNROLL for (u32 i = 0; i < 4; i++) {
        const u32 low = 2 * i < left ? row[at + 2 * i].bits : 0, high = 2 * i + 1 < left ? row[at + 2 * i + 1].bits : 0;
        pairs[i] = high << 16 | low;
    }
    store_shared16(to, pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Rows of a matrix [rows, ld]; rows beyond the end and columns beyond `k` are zeros.
struct MatrixRows {
    const bf16* values;
    u32 ld, first, rows, k;
    DEVICE_MEMBER void load(u32 tile, u32 step) const {
        const u32 chunk = threadIdx.x % 8, at = step * TILE_K + chunk * 8;
        UNROLL for (u32 i = 0; i < ROWS_A_THREAD; i++) {
            const u32 row = threadIdx.x / 8 + i * (TILE_THREADS / 8);
            const bool inside = first + row < rows && at < k;
            stage_chunk(tile + swizzled<8>(row, chunk), values + (u64)(inside ? first + row : 0) * ld, at, inside ? k - at : 0, (k | ld) % 8 == 0);
        }
    }
};

DEVICE void multiply_step(u32 left, u32 right, float (&acc)[4][4][4]) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 row = warp / 4 * 64 + (lane & 15), column = warp % 4 * 32 + (lane & 7) + (lane >> 4 << 3);
    UNROLL for (u32 k = 0; k < TILE_K / 16; k++) {
        u32 a[4][4], b[2][4];
        UNROLL for (u32 i = 0; i < 4; i++) load_matrix4(a[i], left + swizzled<8>(row + 16 * i, 2 * k + (lane >> 4)));
        UNROLL for (u32 j = 0; j < 2; j++) load_matrix4(b[j], right + swizzled<8>(column + 16 * j, 2 * k + (lane >> 3 & 1)));
        UNROLL for (u32 i = 0; i < 4; i++)
            UNROLL for (u32 j = 0; j < 4; j++) mma_bf16(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

// acc += left right^T over `steps` steps of K.
template <class Left, class Right>
DEVICE void multiply(u32 shared, const Left& left, const Right& right, u32 steps, float (&acc)[4][4][4]) {
    const u32 rights = shared + STAGES * TILE_BYTES;
    UNROLL for (u32 step = 0; step < STAGES - 1; step++) {
        if (step < steps) left.load(shared + step * TILE_BYTES, step), right.load(rights + step * TILE_BYTES, step);
        copy_async_commit();
    }
    KEEP_LOOP for (u32 step = 0; step < steps; step++) {
        copy_async_wait<STAGES - 2>();
        block_sync();  // everybody's part has come, and nobody reads the stage that is filled next
        const u32 next = step + STAGES - 1, stage = step % STAGES;
        if (next < steps) left.load(shared + next % STAGES * TILE_BYTES, next), right.load(rights + next % STAGES * TILE_BYTES, next);
        copy_async_commit();
        multiply_step(shared + stage * TILE_BYTES, rights + stage * TILE_BYTES, acc);
    }
}

// Calls use(row, column, value, value of column + 1) for each pair that this thread holds.
template <class Use>
DEVICE void for_each_pair(u32 first_row, u32 first_column, const float (&acc)[4][4][4], Use use) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 row = first_row + warp / 4 * 64 + lane / 4, column = first_column + warp % 4 * 32 + lane % 4 * 2;
    UNROLL for (u32 i = 0; i < 4; i++)
        UNROLL for (u32 half = 0; half < 2; half++)
            UNROLL for (u32 j = 0; j < 4; j++) use(row + 16 * i + 8 * half, column + 8 * j, acc[i][j][2 * half], acc[i][j][2 * half + 1]);
}

// Which tile a block computes: groups of eight rows of tiles, so that neighbours share operands in L2.
DEVICE void tile_of(u32 block, u32 tiles_m, u32 tiles_n, u32& m, u32& n) {
    const u32 group = block / (8 * tiles_n), first = group * 8, height = tiles_m - first < 8 ? tiles_m - first : 8;
    const u32 inside = block - group * 8 * tiles_n;
    m = first + inside % height, n = inside / height;
}
