// RMS norm of a row of queries or keys (whole, or each head apart), then rotation, in place.
// x: act [rows, ld], of which `width` are used; cos, sin: float [rows, columns]. One block a row.
// No fast maths: angles must stay exact.
constexpr u32 ROPE_THREADS = 256;

DEVICE float head_factor(const float* head, u32 length, float eps) {
    float total = 0.f;
    for (u32 i = threadIdx.x % WARP; i < length; i += WARP) total += head[i] * head[i];
    return 1.f / sqrtf(warp_sum(total) / length + eps);
}

// What the large models have: one mean square a row, pairs half a head apart, halves in steps
// of eight. A thread keeps both halves of its pairs in registers, so the row is read and written once.
// 256 threads hold rows of up to 4096 for each of PAIR_VECTORS.
template <u32 PAIR_VECTORS>
DEVICE void turn_pairs(act* __restrict__ x, u32 ld, u32 width, u32 heads, const float* __restrict__ weight, float weight_offset, float eps,
                       const float* __restrict__ cos, const float* __restrict__ sin, u32 columns) {
    SHARED float partials[32];
    const u32 head_width = width / heads, half = head_width / 2, vectors = half / 8;
    x += (u64)blockIdx.x * ld, cos += (u64)blockIdx.x * columns, sin += (u64)blockIdx.x * columns;
    float low[PAIR_VECTORS][8], high[PAIR_VECTORS][8], total = 0.f;
    UNROLL for (u32 i = 0; i < PAIR_VECTORS; i++) {
        const u32 pair = threadIdx.x + i * blockDim.x, at = pair / vectors * head_width + pair % vectors * 8;
        if (pair * 16 >= width) break;
        load8(x + at, low[i]), load8(x + at + half, high[i]);
    }
    UNROLL for (u32 i = 0; i < PAIR_VECTORS; i++)
        if ((threadIdx.x + i * blockDim.x) * 16 < width)
            UNROLL for (u32 j = 0; j < 8; j++) total += low[i][j] * low[i][j] + high[i][j] * high[i][j];
    const float factor = 1.f / sqrtf(block_sum(total, partials) / width + eps);
    UNROLL for (u32 i = 0; i < PAIR_VECTORS; i++) {
        const u32 pair = threadIdx.x + i * blockDim.x, head = pair / vectors, inside = pair % vectors * 8, at = head * head_width + inside;
        if (pair * 16 >= width) break;
        UNROLL for (u32 j = 0; j < 8; j++) low[i][j] *= factor, high[i][j] *= factor;
        if (weight) {
            float w[8];
            load8(weight + at, w);
            UNROLL for (u32 j = 0; j < 8; j++) low[i][j] *= weight_offset + w[j];
            load8(weight + at + half, w);
            UNROLL for (u32 j = 0; j < 8; j++) high[i][j] *= weight_offset + w[j];
        }
        if (columns) {
            float c[8], s[8];
            const u32 column = (columns == half ? 0 : head * half) + inside;
            load8(cos + column, c), load8(sin + column, s);
            UNROLL for (u32 j = 0; j < 8; j++) {
                const float a = low[i][j], b = high[i][j];
                low[i][j] = a * c[j] - b * s[j], high[i][j] = b * c[j] + a * s[j];
            }
        }
        store8(x + at, low[i]), store8(x + at + half, high[i]);
    }
}

KERNEL(ROPE_THREADS)
qk_norm_rope_pairs(act* __restrict__ x, u32 ld, u32 width, u32 heads, const float* __restrict__ weight, float weight_offset, float eps,
                   const float* __restrict__ cos, const float* __restrict__ sin, u32 columns) {
    turn_pairs<1>(x, ld, width, heads, weight, weight_offset, eps, cos, sin, columns);
}

KERNEL(ROPE_THREADS)
qk_norm_rope_pairs_wide(act* __restrict__ x, u32 ld, u32 width, u32 heads, const float* __restrict__ weight, float weight_offset, float eps,
                        const float* __restrict__ cos, const float* __restrict__ sin, u32 columns) {
    turn_pairs<2>(x, ld, width, heads, weight, weight_offset, eps, cos, sin, columns);
}

// Everything else: the row waits in shared memory for its partner values.
KERNEL(ROPE_THREADS)
qk_norm_rope(act* __restrict__ x, u32 ld, u32 width, u32 heads, const float* __restrict__ weight, float weight_offset, float eps,
             const float* __restrict__ cos, const float* __restrict__ sin, u32 columns, u32 per_head, u32 interleaved) {
    DYNAMIC_SHARED(memory);
    SHARED float partials[32];
    float* const row = (float*)memory;       // [width]
    float* const factors = row + width;      // [heads]
    const u32 head_width = width / heads, half = head_width / 2;
    const bool wide = width % 8 == 0 && ld % 8 == 0;
    x += (u64)blockIdx.x * ld, cos += (u64)blockIdx.x * columns, sin += (u64)blockIdx.x * columns;
    float total = 0.f;
    for (u32 at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        float v[8];
        load_upto(x + at, width - at, wide, v);
        UNROLL for (u32 j = 0; j < 8; j++) {
            total += v[j] * v[j];
            if (at + j < width) row[at + j] = v[j];
        }
    }
    total = block_sum(total, partials);
    if (per_head)
        for (u32 head = threadIdx.x / WARP; head < heads; head += blockDim.x / WARP) {
            const float factor = head_factor(row + head * head_width, head_width, eps);
            if (threadIdx.x % WARP == 0) factors[head] = factor;
        }
    block_sync();
    const float whole = 1.f / sqrtf(total / width + eps);
    auto normal = [&](u32 at) {
        const u32 head = at / head_width;
        const float value = row[at] * (per_head ? factors[head] : whole);
        return weight ? value * (weight_offset + weight[per_head ? at - head * head_width : at]) : value;
    };
    for (u32 at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        float v[8];
        UNROLL for (u32 j = 0; j < 8; j++) {
            const u32 i = at + j;
            v[j] = 0.f;
            if (i >= width) continue;
            v[j] = normal(i);
            if (!columns) continue;
            const u32 inside = i % head_width, head = i / head_width;
            const bool second = interleaved ? i & 1 : inside >= half;
            const u32 partner = interleaved ? i ^ 1 : second ? i - half : i + half;
            const u32 pair = interleaved ? i / 2 : (columns == half ? 0 : head * half) + (second ? inside - half : inside);
            const float c = cos[pair], s = sin[pair], other = normal(partner);
            v[j] = second ? v[j] * c + other * s : v[j] * c - other * s;
        }
        store_upto(x + at, width - at, wide, v);
    }
}
