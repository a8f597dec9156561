// What every kernel knows: short integer names, bf16 and groups of eight values.
// No header is included, so that NVRTC needs no include folder and the emulator no CUDA.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bf16 {
    u16 bits;
};
struct alignas(16) Quad {
    u32 x, y, z, w;
};

// A 128-byte descriptor that TMA reads; its content is the driver's (or the emulator's) own.
struct alignas(128) TensorMap {
    u64 words[16];
};

constexpr u32 WARP = 32;

DEVICE float to_float(float value) { return value; }
DEVICE float to_float(bf16 value) { return bits_to_float((u32)value.bits << 16); }
DEVICE void put(float* at, float value) { *at = value; }
DEVICE void put(bf16* at, float value) { at->bits = (u16)(pack_bf16(value, 0.f) & 0xffffu); }

DEVICE void load8(const float* at, float (&v)[8]) {
    const Quad a = ((const Quad*)at)[0], b = ((const Quad*)at)[1];
    v[0] = bits_to_float(a.x), v[1] = bits_to_float(a.y), v[2] = bits_to_float(a.z), v[3] = bits_to_float(a.w);
    v[4] = bits_to_float(b.x), v[5] = bits_to_float(b.y), v[6] = bits_to_float(b.z), v[7] = bits_to_float(b.w);
}
DEVICE void load8(const bf16* at, float (&v)[8]) {
    const Quad q = *(const Quad*)at;
    const u32 pairs[4] = {q.x, q.y, q.z, q.w};
    UNROLL for (u32 i = 0; i < 4; i++) {
        v[2 * i] = bits_to_float(pairs[i] << 16);
        v[2 * i + 1] = bits_to_float(pairs[i] & 0xffff0000u);
    }
}
DEVICE void store8(float* at, const float (&v)[8]) {
    Quad* out = (Quad*)at;
    out[0] = Quad{float_to_bits(v[0]), float_to_bits(v[1]), float_to_bits(v[2]), float_to_bits(v[3])};
    out[1] = Quad{float_to_bits(v[4]), float_to_bits(v[5]), float_to_bits(v[6]), float_to_bits(v[7])};
}
DEVICE void store8(bf16* at, const float (&v)[8]) {
    *(Quad*)at = Quad{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
}

// Up to eight values: one wide access where `count` is 8 or more and rows keep the alignment.
template <class T>
DEVICE void load_upto(const T* at, u32 count, bool wide, float (&v)[8]) {
    if (wide && count >= 8) return load8(at, v);
    UNROLL for (u32 i = 0; i < 8; i++) v[i] = i < count ? to_float(at[i]) : 0.f;
}
template <class T>
DEVICE void store_upto(T* at, u32 count, bool wide, const float (&v)[8]) {
    if (wide && count >= 8) return store8(at, v);
    UNROLL for (u32 i = 0; i < 8; i++)
        if (i < count) put(at + i, v[i]);
}

// Two values side by side, of which `left` exist; `wide` where pairs lie at multiples of their size.
template <class T>
DEVICE void put_pair(T* at, u32 left, bool wide, float a, float b) {
    if (wide && left > 1) {
        if constexpr (sizeof(T) == 2)
            *(u32*)at = pack_bf16(a, b);
        else
            ((u64*)at)[0] = (u64)float_to_bits(b) << 32 | float_to_bits(a);
    } else {
        put(at, a);
        if (left > 1) put(at + 1, b);
    }
}

DEVICE float sigmoid(float x) { return 1.f / (1.f + exp_of(-x)); }
DEVICE float silu(float x) { return x * sigmoid(x); }
// The tanh form: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
DEVICE float gelu_tanh(float x) { return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x)); }

// Sum over a warp in one fixed tree; every lane gets it.
DEVICE float warp_sum(float value) {
    UNROLL for (u32 step = 16; step > 0; step /= 2) value += shuffle_xor(value, step);
    return value;
}

// Sum over a block of at most 1024 threads in one fixed order; every thread gets it.
// `partials` holds 32 floats of shared memory; a barrier must lie between two uses of it.
DEVICE float block_sum(float value, float* partials) {
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) partials[threadIdx.x / WARP] = value;
    block_sync();
    float total = 0.f;
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++) total += partials[warp];
    return total;
}

// Which row of a modulation table a token reads; no groups means that all tokens share row 0.
DEVICE u64 row_start(const u32* groups, u32 group_stride, u32 token) {
    return groups ? (u64)groups[token] * group_stride : 0;
}
