// Convolutions of stride 1 on sm_90a, as an implicit product: a producer warp brings boxes of positions
// and of weights with TMA, two warpgroups multiply them with wgmma. Persistent blocks walk over tiles,
// output channels fastest, so that neighbours share their positions in L2.
// A tile is tile_w x (ROWS / tile_w) positions of one frame, seen through the kernel as a box that is
// moved by the kernel's position; what lies outside in space arrives as zeros. Maps: positions
// (channel, w, h, t, batch), weights (channel, kernel position, out channel, 1).
constexpr u32 ROWS = 128 * HEIGHT, CONV_THREADS = 384, CONV_STAGES = 4, CONV_STEP = 64;
constexpr u32 LEFT_BYTES = ROWS * 128, RIGHT_BYTES = BLOCK_N * 128, STAGE_BYTES = LEFT_BYTES + RIGHT_BYTES;

struct ConvTiles {
    u32 in_t, chunks, out_t, out_h, out_w, out_c, kernel_t, kernel_h, kernel_w;
    int before_t, before_h, before_w;
    u32 time_zero, tile_w, tiles_w, tiles_h, tiles_n, tiles;
};

struct Spot {
    u32 channel, w, h, t, batch;
    DEVICE_MEMBER Spot(const ConvTiles& s, u32 tile) {
        channel = tile % s.tiles_n * BLOCK_N, tile /= s.tiles_n;
        w = tile % s.tiles_w * s.tile_w, tile /= s.tiles_w;
        h = tile % s.tiles_h * (ROWS / s.tile_w), tile /= s.tiles_h;
        t = tile % s.out_t, batch = tile / s.out_t;
    }
};

// Stage and parity of a running step; never restarts at a new tile.
struct Turn {
    u32 stage = 0, parity = 0;
    DEVICE_MEMBER void next() {
        if (++stage == CONV_STAGES) stage = 0, parity ^= 1;
    }
};

DEVICE void bring(const TensorMap* x, const TensorMap* weights, u32 tiles, u32 full, u32 empty, const ConvTiles& s) {
    Turn turn;
    for (u32 tile = blockIdx.x; tile < s.tiles; tile += gridDim.x) {
        const Spot spot(s, tile);
        const u32 taps = s.kernel_t * s.kernel_h * s.kernel_w;
        for (u32 tap = 0; tap < taps; tap++) {
            int t = (int)(spot.t + tap / (s.kernel_h * s.kernel_w)) - s.before_t;
            if (!s.time_zero) t = t < 0 ? 0 : t >= (int)s.in_t ? (int)s.in_t - 1 : t;
            const int h = (int)(spot.h + tap / s.kernel_w % s.kernel_h) - s.before_h, w = (int)(spot.w + tap % s.kernel_w) - s.before_w;
            for (u32 chunk = 0; chunk < s.chunks; chunk++, turn.next()) {
                const u32 left = tiles + turn.stage * STAGE_BYTES, bar = full + 8 * turn.stage;
                barrier_wait(empty + 8 * turn.stage, turn.parity ^ 1);
                barrier_expect(bar, STAGE_BYTES);
                tma_load5(left, x, bar, chunk * CONV_STEP, w, h, t, spot.batch);
                tma_load4(left + LEFT_BYTES, weights, bar, chunk * CONV_STEP, tap, spot.channel, 0);
            }
        }
    }
}

DEVICE void convolve(const float* bias, const act* residual, act* y, u32 tiles, u32 full, u32 empty, const ConvTiles& s) {
    const u32 first = (threadIdx.x / 128 - 1) * 64 * HEIGHT, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP % 4;
    const u32 steps = s.kernel_t * s.kernel_h * s.kernel_w * s.chunks;
    Turn turn;
    KEEP_LOOP for (u32 tile = blockIdx.x; tile < s.tiles; tile += gridDim.x) {
        float acc[HEIGHT][BLOCK_N / 2];
        u32 before = 0;
        KEEP_LOOP for (u32 step = 0; step < steps; step++, turn.next()) {
            const u32 left = tiles + turn.stage * STAGE_BYTES + first * 128, right = tiles + turn.stage * STAGE_BYTES + LEFT_BYTES;
            barrier_wait(full + 8 * turn.stage, turn.parity);
            wgmma_fence();
            UNROLL for (u32 c = 0; c < CONV_STEP / 16; c++)
                UNROLL for (u32 i = 0; i < HEIGHT; i++)
                    wgmma_ss<BLOCK_N>(acc[i], descriptor(left + i * 8192 + c * 32, 16, 1024), descriptor(right + c * 32, 16, 1024), step + c != 0);
            wgmma_commit();
            // The products of the step before are done: its stage may be filled again.
            wgmma_wait<1>();
            if (step > 0 && threadIdx.x % 128 == 0) barrier_arrive(empty + 8 * before);
            before = turn.stage;
        }
        wgmma_wait<0>();
        if (threadIdx.x % 128 == 0) barrier_arrive(empty + 8 * before);
        const Spot spot(s, tile);
        UNROLL for (u32 i = 0; i < HEIGHT; i++)
            UNROLL for (u32 half = 0; half < 2; half++) {
                const u32 row = first + i * 64 + warp * 16 + lane / 4 + 8 * half, h = spot.h + row / s.tile_w, w = spot.w + row % s.tile_w;
                if (h >= s.out_h || w >= s.out_w) continue;
                const u64 start = ((((u64)spot.batch * s.out_t + spot.t) * s.out_h + h) * s.out_w + w) * s.out_c;
                UNROLL for (u32 j = 0; j < BLOCK_N / 8; j++) {
                    const u32 column = spot.channel + 8 * j + lane % 4 * 2;
                    if (column >= s.out_c) continue;
                    const u32 left = s.out_c - column;
                    const u64 at = start + column;
                    float a = acc[i][4 * j + 2 * half], b = acc[i][4 * j + 2 * half + 1];
                    if (bias) a += bias[column], b += left > 1 ? bias[column + 1] : 0.f;
                    if (residual) a += to_float(residual[at]), b += left > 1 ? to_float(residual[at + 1]) : 0.f;
                    put_pair(y + at, left, s.out_c % 2 == 0, a, b);
                }
            }
    }
}

KERNEL(CONV_THREADS, 1)
conv_hopper(GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap weights, const float* __restrict__ bias, const act* __restrict__ residual,
            act* __restrict__ y, ConvTiles s) {
    DYNAMIC_SHARED(memory);
    const u32 tiles = (shared_address(memory) + 1023) & ~1023u, full = tiles + CONV_STAGES * STAGE_BYTES, empty = full + 8 * CONV_STAGES;
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < CONV_STAGES; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, 2);
        barrier_init_done();
    }
    block_sync();
    if (threadIdx.x < 128) {
        registers_fewer<40>();
        if (threadIdx.x == 0) bring(&x, &weights, tiles, full, empty, s);
    } else {
        registers_more<232>();
        convolve(bias, residual, y, tiles, full, empty, s);
    }
}
