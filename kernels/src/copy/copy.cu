// Moving values: between float and bf16, and rows by their ids.
template <class From, class To>
DEVICE void cast_values(const From* from, To* to, u64 count) {
    const u64 at = ((u64)blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= count) return;
    const u32 left = count - at < 8 ? (u32)(count - at) : 8;
    float v[8];
    load_upto(from + at, left, true, v);
    store_upto(to + at, left, true, v);
}
KERNEL(256)
float_to_bf16(const float* __restrict__ from, bf16* __restrict__ to, u64 count) { cast_values(from, to, count); }
KERNEL(256)
bf16_to_float(const bf16* __restrict__ from, float* __restrict__ to, u64 count) { cast_values(from, to, count); }

// out[n] = scale * table[ids[n]]. One block a row.
KERNEL(256)
gather_rows(const act* __restrict__ table, const u32* __restrict__ ids, act* __restrict__ out, u32 width, float scale) {
    const bool wide = width % 8 == 0;
    table += (u64)ids[blockIdx.x] * width, out += (u64)blockIdx.x * width;
    for (u32 at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        float v[8];
        load_upto(table + at, width - at, wide, v);
        UNROLL for (u32 j = 0; j < 8; j++) v[j] *= scale;
        store_upto(out + at, width - at, wide, v);
    }
}

// out = mean of `inputs` tensors that lie `stride` values apart, added in order.
KERNEL(256)
average(const act* __restrict__ x, u32 inputs, u64 stride, act* __restrict__ out, u64 count) {
    const u64 at = ((u64)blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= count) return;
    const u32 left = count - at < 8 ? (u32)(count - at) : 8;
    float sum[8] = {}, v[8];
    for (u32 i = 0; i < inputs; i++) {
        load_upto(x + i * stride + at, left, stride % 8 == 0, v);
        UNROLL for (u32 j = 0; j < 8; j++) sum[j] += v[j];
    }
    UNROLL for (u32 j = 0; j < 8; j++) sum[j] /= inputs;
    store_upto(out + at, left, true, sum);
}

// Pictures in -1..1 become bytes, halves to even; what is no number becomes 0.
KERNEL(256)
to_frames(const act* __restrict__ x, u8* __restrict__ out, u64 count) {
    const u64 at = ((u64)blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= count) return;
    const u32 left = count - at < 8 ? (u32)(count - at) : 8;
    float v[8];
    load_upto(x + at, left, true, v);
    u32 bytes[2] = {0, 0};
    UNROLL for (u32 j = 0; j < 8; j++) {
        const float level = v[j] / 2.f + 0.5f;
        const u32 byte = level > 0.f ? (u32)rintf((level < 1.f ? level : 1.f) * 255.f) : 0;
        bytes[j / 4] |= byte << (8 * (j % 4));
    }
    if (left == 8) {
        ((u32*)(out + at))[0] = bytes[0], ((u32*)(out + at))[1] = bytes[1];
    } else {
        for (u32 j = 0; j < left; j++) out[at + j] = (u8)(bytes[j / 4] >> (8 * (j % 4)));
    }
}

// Values in -scale..scale that depend on the seed and the index alone: inputs of measurements, because
// zeros run faster than anything real. `hash_of` in copy/cuda.rs is the same.
DEVICE u32 hash_of(u32 x) {
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}
KERNEL(256)
random_fill(act* __restrict__ out, u64 count, u32 seed, float scale) {
    const u64 at = ((u64)blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= count) return;
    const u32 left = count - at < 8 ? (u32)(count - at) : 8;
    float v[8];
    UNROLL for (u32 j = 0; j < 8; j++) {
        const u32 bits = hash_of(hash_of((u32)(at + j) ^ seed) + (u32)((at + j) >> 32));
        v[j] = ((bits >> 8) / 8388608.f - 1.f) * scale;
    }
    store_upto(out + at, left, true, v);
}
