// y = epilogue(x W^T + bias) with mma.sync: x bf16 [m, k], W bf16 [n, k], y act [m, n].
// Epilogue: 0 none, 1 gelu (tanh form), 2 silu, 3 y += z, 4 y += gate * z, 5 gelu(gate) * up where the
// rows of W alternate between gate and up and y has n/2 columns.
struct LinearShape {
    u32 m, n, k, ld_x, epilogue, gate_stride;
};

KERNEL(TILE_THREADS)
linear(const bf16* __restrict__ x, const bf16* __restrict__ w, const float* __restrict__ bias, const float* __restrict__ gate,
       const u32* __restrict__ groups, act* y, LinearShape s) {
    DYNAMIC_SHARED(memory);
    const u32 shared = (shared_address(memory) + 127) & ~127u;
    u32 m, n;
    tile_of(blockIdx.x, (s.m + TILE_M - 1) / TILE_M, (s.n + TILE_N - 1) / TILE_N, m, n);
    m *= TILE_M, n *= TILE_N;
    float acc[4][4][4] = {};
    multiply(shared, MatrixRows{x, s.ld_x, m, s.m, s.k}, MatrixRows{w, s.k, n, s.n, s.k}, (s.k + TILE_K - 1) / TILE_K, acc);
    const u32 width = s.epilogue == 5 ? s.n / 2 : s.n;
    for_each_pair(m, n, acc, [&](u32 row, u32 column, float a, float b) {
        if (row >= s.m || column >= s.n) return;
        const u32 left = s.n - column;
        if (bias) a += bias[column], b += left > 1 ? bias[column + 1] : 0.f;
        if (s.epilogue == 5) return put(y + (u64)row * width + column / 2, gelu_tanh(a) * b);
        act* const at = y + (u64)row * width + column;
        if (s.epilogue == 1) a = gelu_tanh(a), b = gelu_tanh(b);
        if (s.epilogue == 2) a = silu(a), b = silu(b);
        if (s.epilogue == 4) {
            const float* const gates = gate + row_start(groups, s.gate_stride, row) + column;
            a *= gates[0], b *= left > 1 ? gates[1] : 0.f;
        }
        if (s.epilogue >= 3) a += to_float(at[0]), b += left > 1 ? to_float(at[1]) : 0.f;
        put_pair(at, left, width % 2 == 0, a, b);
    });
}
