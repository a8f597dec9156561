// y = x / sqrt(mean over channels of x^2 + eps), then SiLU if wanted. x, y: act [pixels, channels].
// One warp a pixel, values in registers between the passes: up to 256 channels for each of VECTORS.
template <u32 VECTORS>
DEVICE void normalise_pixel(const act* x, act* y, u64 pixels, u32 channels, float eps, u32 with_silu) {
    const u64 pixel = (u64)blockIdx.x * (256 / WARP) + threadIdx.x / WARP;
    if (pixel >= pixels) return;  // whole warps leave: no barrier follows
    const bool wide = channels % 8 == 0;
    x += pixel * channels, y += pixel * channels;
    float v[VECTORS][8];
    float total = 0.f;
    UNROLL for (u32 i = 0; i < VECTORS; i++) {
        const u32 at = (threadIdx.x % WARP + i * WARP) * 8;
        load_upto(x + at, at < channels ? channels - at : 0, wide, v[i]);
        UNROLL for (u32 j = 0; j < 8; j++) total += v[i][j] * v[i][j];
    }
    const float factor = 1.f / sqrtf(warp_sum(total) / channels + eps);
    UNROLL for (u32 i = 0; i < VECTORS; i++) {
        const u32 at = (threadIdx.x % WARP + i * WARP) * 8;
        if (at >= channels) break;
        UNROLL for (u32 j = 0; j < 8; j++) v[i][j] = with_silu ? silu(v[i][j] * factor) : v[i][j] * factor;
        store_upto(y + at, channels - at, wide, v[i]);
    }
}

// Few registers leave room for more warps, which hide more of the memory's latency.
KERNEL(256)
pixel_norm(const act* __restrict__ x, act* __restrict__ y, u64 pixels, u32 channels, float eps, u32 with_silu) {
    normalise_pixel<2>(x, y, pixels, channels, eps, with_silu);
}
KERNEL(256)
pixel_norm_wide(const act* __restrict__ x, act* __restrict__ y, u64 pixels, u32 channels, float eps, u32 with_silu) {
    normalise_pixel<8>(x, y, pixels, channels, eps, with_silu);
}
