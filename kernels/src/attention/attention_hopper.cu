// o = softmax(scale q k^T) v on sm_90a: a producer warpgroup brings tiles with TMA, CONSUMERS
// warpgroups of 64 queries each multiply with wgmma. Persistent blocks walk over (head, query tile),
// queries fastest, so that the K and V of one head stay in L2.
// Tensor maps are (d, row, head, 1) with boxes of 64 x rows and 128-byte swizzle, so a tile of HEAD
// columns is HEAD/64 sub-tiles. o bf16 [queries, heads * HEAD]; lse float [heads, queries] or null.
// list u32 [heads or 1, query tiles, list_most] names the blocks of keys that each tile sees, in order, and
// counts how many; null: all. A tile that sees none gives zeros. Tiles are dealt out as without lists, so
// blocks are done together when tiles see about as many.
constexpr u32 SUBTILES = HEAD / 64, QUERY_ROWS = 64 * CONSUMERS;
constexpr u32 QUERY_SUBTILE = QUERY_ROWS * 128, KEY_SUBTILE = BLOCK_K * 128;
constexpr u32 QUERY_TILE = QUERY_SUBTILE * SUBTILES, KEY_TILE = KEY_SUBTILE * SUBTILES;
constexpr u32 HOPPER_THREADS = 128 * (CONSUMERS + 1);
constexpr float HIDDEN = -1e30f;
// Barriers, after the tiles: q_full, q_empty, then k_full, v_full, k_empty, v_empty for each stage.
constexpr u32 Q_FULL = 0, Q_EMPTY = 8, K_FULL = 16, V_FULL = K_FULL + 8 * KEY_STAGES, K_EMPTY = V_FULL + 8 * KEY_STAGES,
              V_EMPTY = K_EMPTY + 8 * KEY_STAGES;

struct HopperShape {
    u32 queries, keys, heads, key_heads, ld_o, tiles;
    float scale_log2;
    u32 list_head, list_most;  // lists from one head to the next (0: all share them), places of a list
};

// The blocks of keys that a tile of queries sees.
struct Seen {
    const u32* ids;  // null: all
    u32 count;
    DEVICE_MEMBER u32 id(u32 j) const { return ids ? ids[j] : j; }
};
struct Lists {
    const u32 *ids, *counts;
    DEVICE_MEMBER Seen of(u32 head, u32 query_tile, const HopperShape& s) const {
        if (!ids) return Seen{ids, (s.keys + BLOCK_K - 1) / BLOCK_K};
        const u32 at = head * s.list_head + query_tile;
        return Seen{ids + (u64)at * s.list_most, counts[at]};
    }
};

// Which stage a running block number uses, and the parity of its turn. Never restarts at a new tile.
DEVICE u32 stage_of(u32 block) { return block % KEY_STAGES; }
DEVICE u32 turn_of(u32 block) { return block / KEY_STAGES & 1; }

struct Consumer {
    u32 queries, keys, values;         // shared addresses; queries at this warpgroup's first row
    float score[BLOCK_K / 2], out[HEAD / 2];
    u32 p[BLOCK_K / 16][4];
    float top[2], sum[2], shrink[2];

    DEVICE_MEMBER void multiply_keys(u32 stage) {
        wgmma_fence();
        UNROLL for (u32 c = 0; c < HEAD / 16; c++) {
            const u64 left = descriptor(queries + c / 4 * QUERY_SUBTILE + c % 4 * 32, 16, 1024);
            const u64 right = descriptor(keys + stage * KEY_TILE + c / 4 * KEY_SUBTILE + c % 4 * 32, 16, 1024);
            wgmma_ss<BLOCK_K>(score, left, right, c != 0);
        }
        wgmma_commit();
    }
    DEVICE_MEMBER void multiply_values(u32 stage) {
        wgmma_fence();
        UNROLL for (u32 c = 0; c < BLOCK_K / 16; c++)
            wgmma_rs<HEAD>(out, p[c], descriptor(values + stage * KEY_TILE + c * 2048, KEY_SUBTILE, 1024), 1);
        wgmma_commit();
    }
    // Scores become weights; `first` is the key of column 0.
    DEVICE_MEMBER void softmax(u32 first, u32 keys, float scale_log2) {
        if (first + BLOCK_K > keys) UNROLL for (u32 i = 0; i < BLOCK_K / 2; i++)
            if (first + 8 * (i / 4) + threadIdx.x % 4 * 2 + i % 2 >= keys) score[i] = HIDDEN;
        UNROLL for (u32 r = 0; r < 2; r++) {
            float high = top[r];
            UNROLL for (u32 i = 0; i < BLOCK_K / 8; i++) high = fmaxf(high, fmaxf(score[4 * i + 2 * r], score[4 * i + 2 * r + 1]));
            high = fmaxf(high, shuffle_xor(high, 1));
            high = fmaxf(high, shuffle_xor(high, 2));
            const float shift = high * scale_log2;
            shrink[r] = exp2_fast(fmaf(top[r], scale_log2, -shift));
            top[r] = high;
            float added = 0.f;
            UNROLL for (u32 i = 0; i < BLOCK_K / 8; i++) {
                const float a = exp2_fast(fmaf(score[4 * i + 2 * r], scale_log2, -shift));
                const float b = exp2_fast(fmaf(score[4 * i + 2 * r + 1], scale_log2, -shift));
                score[4 * i + 2 * r] = a, score[4 * i + 2 * r + 1] = b, added += a + b;
            }
            sum[r] = sum[r] * shrink[r] + added;
        }
    }
    // Four neighbouring pairs of scores are exactly the left fragment of one step of K.
    DEVICE_MEMBER void pack() {
        UNROLL for (u32 c = 0; c < BLOCK_K / 16; c++)
            UNROLL for (u32 i = 0; i < 4; i++) p[c][i] = pack_bf16(score[8 * c + 2 * i], score[8 * c + 2 * i + 1]);
    }
    DEVICE_MEMBER void rescale() {
        UNROLL for (u32 i = 0; i < HEAD / 2; i++) out[i] *= shrink[i / 2 % 2];
    }
};

DEVICE void produce(const TensorMap* q, const TensorMap* k, const TensorMap* v, Lists lists, u32 tiles, u32 bars, const HopperShape& s) {
    const u32 query_tiles = (s.queries + QUERY_ROWS - 1) / QUERY_ROWS;
    const u32 keys = tiles + QUERY_TILE, values = keys + KEY_STAGES * KEY_TILE;
    u32 block = 0, round = 0;
    for (u32 tile = blockIdx.x; tile < s.tiles; tile += gridDim.x) {
        const int head = tile / query_tiles, key_head = head * (int)s.key_heads / (int)s.heads, row = tile % query_tiles * QUERY_ROWS;
        const Seen seen = lists.of(head, tile % query_tiles, s);
        if (!seen.count) continue;
        barrier_wait(bars + Q_EMPTY, (round++ & 1) ^ 1);
        barrier_expect(bars + Q_FULL, QUERY_TILE);
        for (u32 i = 0; i < SUBTILES; i++) tma_load4(tiles + i * QUERY_SUBTILE, q, bars + Q_FULL, i * 64, row, head, 0);
        for (u32 j = 0; j < seen.count; j++, block++) {
            const u32 stage = stage_of(block), empty = turn_of(block) ^ 1;
            const int key = seen.id(j) * BLOCK_K;
            barrier_wait(bars + K_EMPTY + 8 * stage, empty);
            barrier_expect(bars + K_FULL + 8 * stage, KEY_TILE);
            for (u32 i = 0; i < SUBTILES; i++)
                tma_load4(keys + stage * KEY_TILE + i * KEY_SUBTILE, k, bars + K_FULL + 8 * stage, i * 64, key, key_head, 0);
            barrier_wait(bars + V_EMPTY + 8 * stage, empty);
            barrier_expect(bars + V_FULL + 8 * stage, KEY_TILE);
            for (u32 i = 0; i < SUBTILES; i++)
                tma_load4(values + stage * KEY_TILE + i * KEY_SUBTILE, v, bars + V_FULL + 8 * stage, i * 64, key, key_head, 0);
        }
    }
}

DEVICE void consume(bf16* o, float* lse, Lists lists, u32 tiles, u32 bars, const HopperShape& s) {
    const u32 group = threadIdx.x / 128 - 1, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP % 4;
    const bool elected = threadIdx.x % 128 == 0;
    const u32 query_tiles = (s.queries + QUERY_ROWS - 1) / QUERY_ROWS;
    Consumer c;
    c.queries = tiles + group * 64 * 128, c.keys = tiles + QUERY_TILE, c.values = c.keys + KEY_STAGES * KEY_TILE;
    // Two warpgroups take turns at the matrix units. The first turn is given once a kernel: the turn
    // that is left over at the end of a tile is the credit of the next.
    if (CONSUMERS == 2 && group == 1) named_arrive(1, 256);
    u32 block = 0, round = 0;
    KEEP_LOOP for (u32 tile = blockIdx.x; tile < s.tiles; tile += gridDim.x) {
        const u32 head = tile / query_tiles;
        const Seen seen = lists.of(head, tile % query_tiles, s);
        UNROLL for (u32 i = 0; i < HEAD / 2; i++) c.out[i] = 0.f;
        c.top[0] = c.top[1] = HIDDEN, c.sum[0] = c.sum[1] = 0.f;
        if (seen.count) {
            // Where the keys end when the blocks are laid side by side: only the last one can reach beyond it.
            const u32 blocks = seen.count, keys = s.keys - (seen.id(blocks - 1) + 1 - blocks) * BLOCK_K;
            barrier_wait(bars + Q_FULL, round++ & 1);
            barrier_wait(bars + K_FULL + 8 * stage_of(block), turn_of(block));
            c.multiply_keys(stage_of(block));
            wgmma_wait<0>();
            if (elected) barrier_arrive(bars + K_EMPTY + 8 * stage_of(block));
            c.softmax(0, keys, s.scale_log2);
            c.pack();
            KEEP_LOOP for (u32 j = 1; j < blocks; j++) {
                const u32 before = stage_of(block), turn = turn_of(block);
                block++;
                barrier_wait(bars + K_FULL + 8 * stage_of(block), turn_of(block));
                if (CONSUMERS == 2) named_sync(1 + group, 256);
                c.multiply_keys(stage_of(block));
                barrier_wait(bars + V_FULL + 8 * before, turn);
                c.multiply_values(before);
                if (CONSUMERS == 2) named_arrive(2 - group, 256);
                wgmma_wait<1>();
                if (elected) barrier_arrive(bars + K_EMPTY + 8 * stage_of(block));
                c.softmax(j * BLOCK_K, keys, s.scale_log2);
                wgmma_wait<0>();
                if (elected) barrier_arrive(bars + V_EMPTY + 8 * before);
                c.rescale();
                c.pack();
            }
            if (elected) barrier_arrive(bars + Q_EMPTY);
            barrier_wait(bars + V_FULL + 8 * stage_of(block), turn_of(block));
            c.multiply_values(stage_of(block));
            wgmma_wait<0>();
            if (elected) barrier_arrive(bars + V_EMPTY + 8 * stage_of(block));
            block++;
        }
        const u32 first = tile % query_tiles * QUERY_ROWS + group * 64 + warp * 16 + lane / 4;
        UNROLL for (u32 r = 0; r < 2; r++) {
            float total = c.sum[r];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            const u32 row = first + 8 * r;
            if (row >= s.queries) continue;
            const float factor = seen.count ? 1.f / total : 0.f;
            u32* const at = (u32*)(o + (u64)row * s.ld_o + head * HEAD) + lane % 4;
            UNROLL for (u32 i = 0; i < HEAD / 8; i++) at[4 * i] = pack_bf16(c.out[4 * i + 2 * r] * factor, c.out[4 * i + 2 * r + 1] * factor);
            if (lse && lane % 4 == 0) lse[(u64)head * s.queries + row] = seen.count ? c.top[r] * s.scale_log2 * 0.6931471806f + logf(total) : -INFINITE;
        }
    }
    // The credit that is still out belongs to nobody: take it, so that no barrier is left half full.
    if (CONSUMERS == 2 && group == 0) named_sync(1, 256);
}

KERNEL(HOPPER_THREADS, 1)
attention_hopper(GRID_CONSTANT TensorMap q, GRID_CONSTANT TensorMap k, GRID_CONSTANT TensorMap v, const u32* __restrict__ list,
                 const u32* __restrict__ counts, bf16* __restrict__ o, float* __restrict__ lse, HopperShape s) {
    DYNAMIC_SHARED(memory);
    const Lists lists{list, counts};
    const u32 tiles = (shared_address(memory) + 1023) & ~1023u, bars = tiles + QUERY_TILE + 2 * KEY_STAGES * KEY_TILE;
    if (threadIdx.x == 0) {
        barrier_init(bars + Q_FULL, 1);
        barrier_init(bars + Q_EMPTY, CONSUMERS);
        for (u32 i = 0; i < KEY_STAGES; i++) {
            barrier_init(bars + K_FULL + 8 * i, 1);
            barrier_init(bars + V_FULL + 8 * i, 1);
            barrier_init(bars + K_EMPTY + 8 * i, CONSUMERS);
            barrier_init(bars + V_EMPTY + 8 * i, CONSUMERS);
        }
        barrier_init_done();
    }
    block_sync();
    if (threadIdx.x < 128) {
        registers_fewer<CONSUMERS == 2 ? 24 : 32>();
        if (threadIdx.x == 0) produce(&q, &k, &v, lists, tiles, bars, s);
    } else {
        registers_more<CONSUMERS == 2 ? 240 : 160>();
        consume(o, lse, lists, tiles, bars, s);
    }
}
