// o = softmax(scale q k^T + mask) v with mma.sync, for every card since sm_80. Online softmax; one
// block for BLOCK_Q queries of a head; K and V double buffered with cp.async.
// q bf16 [queries, ld_q], k, v bf16 [keys, ld_k], head h at column h * d; o bf16 [queries, heads * d].
// list u32 [heads or 1, blocks of queries, list_most] names the blocks of keys that a block of queries sees, in
// order, and counts how many; LISTS says whether there is one: without, its reading would cost 5 % more instructions.
// HEAD (64, 128 or 256) is d rounded up: a narrower head is filled with zeros.
constexpr u32 WARPS = HEAD == 64 ? 4 : 8, ROW_TILES = HEAD == 64 ? 2 : 1;
constexpr u32 BLOCK_Q = WARPS * ROW_TILES * 16, BLOCK_K = HEAD == 256 ? 32 : 64, CHUNKS = HEAD / 8;
constexpr u32 KEY_BYTES = BLOCK_K * HEAD * 2;
constexpr float HIDDEN = -1e30f;

struct AttentionShape {
    u32 queries, keys, heads, key_heads, d, ld_q, ld_k, ld_o;
    u32 visible_keys;        // keys from here on are hidden
    u32 causal, first, window;  // keys first..=query, of these the last `window` (0: all)
    float scale;
    u32 list_head, list_most;  // lists from one head to the next (0: all share them), places of a list
};

template <u32 ROWS>
DEVICE void load_rows(u32 to, const bf16* from, u32 ld, u32 first, u32 rows, u32 d) {
    UNROLL for (u32 i = 0; i < ROWS * CHUNKS / (WARPS * WARP); i++) {
        const u32 index = threadIdx.x + i * WARPS * WARP, row = index / CHUNKS, chunk = index % CHUNKS;
        const bool inside = first + row < rows && chunk * 8 < d;
        copy_async16(to + swizzled<CHUNKS>(row, chunk), from + (inside ? (u64)(first + row) * ld + chunk * 8 : 0), inside);
    }
}

KERNEL(WARPS* WARP)
attention_mma(const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v, const float* __restrict__ mask,
              const u32* __restrict__ list, const u32* __restrict__ counts, bf16* __restrict__ o, float* __restrict__ lse, AttentionShape s) {
    DYNAMIC_SHARED(memory);
    const u32 queries = (shared_address(memory) + 127) & ~127u, keys = queries + BLOCK_Q * HEAD * 2, values = keys + 2 * KEY_BYTES;
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, head = blockIdx.y, first_q = blockIdx.x * BLOCK_Q;
    const u32 key_head = head * s.key_heads / s.heads;
    q += head * s.d, k += key_head * s.d, v += key_head * s.d, o += head * s.d;
    u32 end = s.visible_keys, start = 0;
    if (s.causal) {
        const u32 last = first_q + BLOCK_Q, oldest = s.window && first_q + 1 > s.window ? first_q + 1 - s.window : 0;
        end = end < last ? end : last;
        start = (oldest > s.first ? oldest : s.first) / BLOCK_K * BLOCK_K;
    }
    u32 left = 0;  // blocks of the list that are to come
    if (LISTS) {
        const u32 tile = head * s.list_head + blockIdx.x;
        list += (u64)tile * s.list_most, left = counts[tile], start = *list * BLOCK_K;
    }
    load_rows<BLOCK_Q>(queries, q, s.ld_q, first_q, s.queries, s.d);
    load_rows<BLOCK_K>(keys, k, s.ld_k, start, s.keys, s.d);
    copy_async_commit();
    load_rows<BLOCK_K>(values, v, s.ld_k, start, s.keys, s.d);
    copy_async_commit();

    const float scale_log2 = s.scale * 1.4426950408889634f;
    float out[ROW_TILES][HEAD / 8][4] = {}, top[ROW_TILES][2], sum[ROW_TILES][2] = {};
    UNROLL for (u32 i = 0; i < ROW_TILES; i++) top[i][0] = top[i][1] = HIDDEN;
    u32 stage = 0;
    KEEP_LOOP for (u32 at = start, next; LISTS ? left > 0 : at < end; at = next, stage ^= 1) {
        copy_async_wait<1>();
        block_sync();
        const bool more = LISTS ? --left > 0 : at + BLOCK_K < end;
        next = LISTS && more ? *++list * BLOCK_K : at + BLOCK_K;
        if (more) load_rows<BLOCK_K>(keys + (stage ^ 1) * KEY_BYTES, k, s.ld_k, next, s.keys, s.d);
        copy_async_commit();
        float score[ROW_TILES][BLOCK_K / 8][4] = {};
        UNROLL for (u32 c = 0; c < HEAD / 16; c++) {
            u32 a[ROW_TILES][4];
            UNROLL for (u32 i = 0; i < ROW_TILES; i++)
                load_matrix4(a[i], queries + swizzled<CHUNKS>((warp * ROW_TILES + i) * 16 + (lane & 15), 2 * c + (lane >> 4)));
            UNROLL for (u32 n = 0; n < BLOCK_K / 16; n++) {
                u32 b[4];
                load_matrix4(b, keys + stage * KEY_BYTES + swizzled<CHUNKS>(n * 16 + (lane & 7) + (lane >> 4 << 3), 2 * c + (lane >> 3 & 1)));
                UNROLL for (u32 i = 0; i < ROW_TILES; i++) {
                    mma_bf16(score[i][2 * n], a[i], b[0], b[1]);
                    mma_bf16(score[i][2 * n + 1], a[i], b[2], b[3]);
                }
            }
        }
        u32 p[ROW_TILES][BLOCK_K / 16][4];
        const bool partly = s.causal || mask || at + BLOCK_K > end;
        UNROLL for (u32 i = 0; i < ROW_TILES; i++) {
            const u32 row = first_q + (warp * ROW_TILES + i) * 16 + lane / 4;
            if (partly) UNROLL for (u32 n = 0; n < BLOCK_K / 8; n++)
                UNROLL for (u32 e = 0; e < 4; e++) {
                    const u32 key = at + n * 8 + lane % 4 * 2 + (e & 1), query = row + 8 * (e >> 1);
                    bool hidden = key >= end;
                    if (s.causal) hidden = hidden || key > query || key < s.first || (s.window && key + s.window <= query);
                    if (mask && !hidden) score[i][n][e] += mask[key] / s.scale;
                    if (hidden) score[i][n][e] = HIDDEN;
                }
            UNROLL for (u32 r = 0; r < 2; r++) {
                float high = top[i][r];
                UNROLL for (u32 n = 0; n < BLOCK_K / 8; n++) high = fmaxf(high, fmaxf(score[i][n][2 * r], score[i][n][2 * r + 1]));
                high = fmaxf(high, shuffle_xor(high, 1));
                high = fmaxf(high, shuffle_xor(high, 2));
                const float shrink = exp2_fast((top[i][r] - high) * scale_log2), shift = high * scale_log2;
                top[i][r] = high;
                float added = 0.f;
                UNROLL for (u32 n = 0; n < BLOCK_K / 8; n++) {
                    const float x = exp2_fast(fmaf(score[i][n][2 * r], scale_log2, -shift));
                    const float y = exp2_fast(fmaf(score[i][n][2 * r + 1], scale_log2, -shift));
                    added += x + y;
                    p[i][n / 2][n % 2 * 2 + r] = pack_bf16(x, y);
                }
                sum[i][r] = sum[i][r] * shrink + added;
                UNROLL for (u32 n = 0; n < HEAD / 8; n++) out[i][n][2 * r] *= shrink, out[i][n][2 * r + 1] *= shrink;
            }
        }
        copy_async_wait<1>();
        block_sync();
        if (more) load_rows<BLOCK_K>(values + (stage ^ 1) * KEY_BYTES, v, s.ld_k, next, s.keys, s.d);
        copy_async_commit();
        UNROLL for (u32 c = 0; c < BLOCK_K / 16; c++)
            UNROLL for (u32 n = 0; n < HEAD / 16; n++) {
                u32 b[4];
                load_matrix4_transposed(b, values + stage * KEY_BYTES + swizzled<CHUNKS>(c * 16 + (lane & 15), 2 * n + (lane >> 4)));
                UNROLL for (u32 i = 0; i < ROW_TILES; i++) {
                    mma_bf16(out[i][2 * n], p[i][c], b[0], b[1]);
                    mma_bf16(out[i][2 * n + 1], p[i][c], b[2], b[3]);
                }
            }
    }
    UNROLL for (u32 i = 0; i < ROW_TILES; i++)
        UNROLL for (u32 r = 0; r < 2; r++) {
            float total = sum[i][r];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            const u32 row = first_q + (warp * ROW_TILES + i) * 16 + lane / 4 + 8 * r;
            if (row >= s.queries) continue;
            const bool blind = top[i][r] <= 0.5f * HIDDEN;  // a query that sees nothing gives zeros
            const float factor = blind ? 0.f : 1.f / total;
            bf16* const at = o + (u64)row * s.ld_o + lane % 4 * 2;
            UNROLL for (u32 n = 0; n < HEAD / 8; n++)
                if (n * 8 < s.d) *(u32*)(at + n * 8) = pack_bf16(out[i][n][2 * r] * factor, out[i][n][2 * r + 1] * factor);
            if (lse && lane % 4 == 0) lse[(u64)head * s.queries + row] = blind ? -INFINITE : top[i][r] * s.scale + logf(total);
        }
}
