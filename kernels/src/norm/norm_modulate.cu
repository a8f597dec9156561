// y = norm(x) * (offset + weight) * (1 + scale) + shift, one block a row, values in registers between
// the two passes. x, y: act [rows, width]; moves 2 values of act an element.
constexpr u32 NORM_THREADS = 256;

// VECTORS of 8 values a thread: rows of up to 2048 for each.
template <u32 VECTORS>
DEVICE void normalise_row(const act* __restrict__ x, act* __restrict__ y, const float* __restrict__ weight, float weight_offset, const float* __restrict__ shift,
              const float* __restrict__ scale, const u32* __restrict__ shift_groups, u32 shift_stride, const u32* __restrict__ scale_groups,
              u32 scale_stride, u32 kind, float eps, u32 width) {
    SHARED float partials[2][32];
    const u32 row = blockIdx.x;
    const bool wide = width % 8 == 0;
    x += (u64)row * width, y += (u64)row * width;
    float v[VECTORS][8];
    float total = 0.f;
    UNROLL for (u32 i = 0; i < VECTORS; i++) {
        const u32 at = (threadIdx.x + i * blockDim.x) * 8;
        load_upto(x + at, at < width ? width - at : 0, wide, v[i]);
        UNROLL for (u32 j = 0; j < 8; j++) total += kind == 2 ? v[i][j] : v[i][j] * v[i][j];
    }
    float mean = 0.f, factor = 1.f;
    if (kind == 2) {
        mean = block_sum(total, partials[0]) / width;
        total = 0.f;
        UNROLL for (u32 i = 0; i < VECTORS; i++) {
            const u32 at = (threadIdx.x + i * blockDim.x) * 8;
            UNROLL for (u32 j = 0; j < 8; j++) {
                const float centred = v[i][j] - mean;
                if (at + j < width) total += centred * centred;
            }
        }
    }
    if (kind != 0) factor = 1.f / sqrtf(block_sum(total, partials[1]) / width + eps);
    const u64 shift_row = row_start(shift_groups, shift_stride, row), scale_row = row_start(scale_groups, scale_stride, row);
    UNROLL for (u32 i = 0; i < VECTORS; i++) {
        const u32 at = (threadIdx.x + i * blockDim.x) * 8;
        if (at >= width) break;
        const u32 count = width - at;
        float w[8];
        UNROLL for (u32 j = 0; j < 8; j++) v[i][j] = (v[i][j] - mean) * factor;
        if (weight) {
            load_upto(weight + at, count, wide, w);
            UNROLL for (u32 j = 0; j < 8; j++) v[i][j] *= weight_offset + w[j];
        }
        if (scale) {
            load_upto(scale + scale_row + at, count, wide, w);
            UNROLL for (u32 j = 0; j < 8; j++) v[i][j] *= 1.f + w[j];
            load_upto(shift + shift_row + at, count, wide, w);
            UNROLL for (u32 j = 0; j < 8; j++) v[i][j] += w[j];
        }
        store_upto(y + at, count, wide, v[i]);
    }
}

// Few registers leave room for more rows at once, which hide more of the memory's latency.
KERNEL(NORM_THREADS)
norm_modulate(const act* __restrict__ x, act* __restrict__ y, const float* __restrict__ weight, float weight_offset, const float* __restrict__ shift,
              const float* __restrict__ scale, const u32* __restrict__ shift_groups, u32 shift_stride, const u32* __restrict__ scale_groups,
              u32 scale_stride, u32 kind, float eps, u32 width) {
    normalise_row<2>(x, y, weight, weight_offset, shift, scale, shift_groups, shift_stride, scale_groups, scale_stride, kind, eps, width);
}
KERNEL(NORM_THREADS)
norm_modulate_wide(const act* __restrict__ x, act* __restrict__ y, const float* __restrict__ weight, float weight_offset, const float* __restrict__ shift,
                   const float* __restrict__ scale, const u32* __restrict__ shift_groups, u32 shift_stride, const u32* __restrict__ scale_groups,
                   u32 scale_stride, u32 kind, float eps, u32 width) {
    normalise_row<4>(x, y, weight, weight_offset, shift, scale, shift_groups, shift_stride, scale_groups, scale_stride, kind, eps, width);
}
