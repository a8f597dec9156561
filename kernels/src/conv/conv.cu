// Every convolution as an implicit product with mma.sync: rows are output positions, K runs over
// kernel positions and then input channels. x bf16 [batch, time, height, width, channel], weights bf16
// [out][kernel position][in], y act [batch, out_time, out_height, out_width, out]. Sequences have
// time = height = 1. Borders: outside in time is the nearest frame (or zero), outside in space is zero
// (or mirrored), done by arithmetic on coordinates, so no padded copy exists.
struct ConvShape {
    u32 batch, in_t, in_h, in_w, in_c;
    u32 out_t, out_h, out_w, out_c;
    u32 kernel_t, kernel_h, kernel_w;
    u32 stride_t, stride_h, stride_w, dilation_w;
    int before_t, before_h, before_w;
    u32 time_zero, mirrored;
};

// A coordinate of the input, or -1 where the border is zero.
DEVICE int mirrored_at(int at, u32 length, bool mirror) {
    if (at >= 0 && at < (int)length) return at;
    if (!mirror) return -1;
    return at < 0 ? -at : 2 * ((int)length - 1) - at;
}

struct Positions {
    const bf16* x;
    const ConvShape& s;
    u32 first, rows, chunks;  // chunks: steps of K that one kernel position takes
    DEVICE_MEMBER void load(u32 tile, u32 step) const {
        const u32 chunk = threadIdx.x % 8, tap = step / chunks, at = step % chunks * TILE_K + chunk * 8;
        const int i = tap / (s.kernel_h * s.kernel_w), j = tap / s.kernel_w % s.kernel_h, k = tap % s.kernel_w;
        UNROLL for (u32 r = 0; r < ROWS_A_THREAD; r++) {
            const u32 row = threadIdx.x / 8 + r * (TILE_THREADS / 8), position = first + row;
            const u32 w = position % s.out_w, h = position / s.out_w % s.out_h, frame = position / (s.out_w * s.out_h);
            int t = (int)(frame % s.out_t * s.stride_t) + i - s.before_t;
            const bool outside = t < 0 || t >= (int)s.in_t;
            t = t < 0 ? 0 : t >= (int)s.in_t ? (int)s.in_t - 1 : t;
            const int y = mirrored_at((int)(h * s.stride_h) + j - s.before_h, s.in_h, s.mirrored);
            const int z = mirrored_at((int)(w * s.stride_w) + k * (int)s.dilation_w - s.before_w, s.in_w, s.mirrored);
            const bool inside = position < rows && at < s.in_c && !(outside && s.time_zero) && y >= 0 && z >= 0;
            const u64 pixel = inside ? (((u64)(frame / s.out_t) * s.in_t + t) * s.in_h + y) * s.in_w + z : 0;
            stage_chunk(tile + swizzled<8>(row, chunk), x + pixel * s.in_c, at, inside ? s.in_c - at : 0, s.in_c % 8 == 0);
        }
    }
};

struct Kernels {
    const bf16* weights;
    u32 first, out_c, in_c, taps, chunks;
    DEVICE_MEMBER void load(u32 tile, u32 step) const {
        const u32 chunk = threadIdx.x % 8, tap = step / chunks, at = step % chunks * TILE_K + chunk * 8;
        UNROLL for (u32 i = 0; i < ROWS_A_THREAD; i++) {
            const u32 row = threadIdx.x / 8 + i * (TILE_THREADS / 8), out = first + row;
            const bool inside = out < out_c && at < in_c;
            const u64 start = inside ? ((u64)out * taps + tap) * in_c : 0;
            stage_chunk(tile + swizzled<8>(row, chunk), weights + start, at, inside ? in_c - at : 0, in_c % 8 == 0);
        }
    }
};

KERNEL(TILE_THREADS)
conv(const bf16* __restrict__ x, const bf16* __restrict__ weights, const float* __restrict__ bias, const act* __restrict__ residual,
     act* __restrict__ y, ConvShape s) {
    DYNAMIC_SHARED(memory);
    const u32 shared = (shared_address(memory) + 127) & ~127u;
    const u32 rows = s.batch * s.out_t * s.out_h * s.out_w;
    u32 m, n;
    tile_of(blockIdx.x, (rows + TILE_M - 1) / TILE_M, (s.out_c + TILE_N - 1) / TILE_N, m, n);
    m *= TILE_M, n *= TILE_N;
    const u32 chunks = (s.in_c + TILE_K - 1) / TILE_K, taps = s.kernel_t * s.kernel_h * s.kernel_w;
    float acc[4][4][4] = {};
    multiply(shared, Positions{x, s, m, rows, chunks}, Kernels{weights, n, s.out_c, s.in_c, taps, chunks}, taps * chunks, acc);
    for_each_pair(m, n, acc, [&](u32 row, u32 column, float a, float b) {
        if (row >= rows || column >= s.out_c) return;
        const u32 left = s.out_c - column;
        const u64 at = (u64)row * s.out_c + column;
        if (bias) a += bias[column], b += left > 1 ? bias[column + 1] : 0.f;
        if (residual) a += to_float(residual[at]), b += left > 1 ? to_float(residual[at + 1]) : 0.f;
        put_pair(y + at, left, s.out_c % 2 == 0, a, b);
    });
}
