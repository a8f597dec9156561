// A function of each value, in place: 0 leaky(a), 1 tanh, 2 clamp(a, b), 3 silu, 4 gelu (tanh form),
// 5 sigmoid. And `cast`, which rounds to nearest even. x: act [count].
KERNEL(256)
activation(act* __restrict__ x, u64 count, u32 kind, float a, float b) {
    const u64 at = ((u64)blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= count) return;
    const u32 left = count - at < 8 ? (u32)(count - at) : 8;
    float v[8];
    load_upto(x + at, left, true, v);
    UNROLL for (u32 j = 0; j < 8; j++) {
        const float x = v[j];
        switch (kind) {
            case 0: v[j] = x > 0.f ? x : x * a; break;
            case 1: v[j] = tanhf(x); break;
            case 2: v[j] = x < a ? a : x > b ? b : x; break;
            case 3: v[j] = silu(x); break;
            case 4: v[j] = gelu_tanh(x); break;
            default: v[j] = sigmoid(x);
        }
    }
    store_upto(x + at, left, true, v);
}
