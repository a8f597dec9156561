// Rows of adaptive norms and the gates that use them. All tables are float.
constexpr u32 FLAT_THREADS = 256;

// x += gate * y, the gate's row chosen by the token's group. x, y: act [rows, width].
KERNEL(FLAT_THREADS)
gated_residual(act* __restrict__ x, const act* __restrict__ y, const float* __restrict__ gate, const u32* __restrict__ groups, u32 group_stride,
               u32 width) {
    const u32 row = blockIdx.x;
    const bool wide = width % 8 == 0;
    x += (u64)row * width, y += (u64)row * width, gate += row_start(groups, group_stride, row);
    for (u32 at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        float a[8], b[8], g[8];
        load_upto(x + at, width - at, wide, a);
        load_upto(y + at, width - at, wide, b);
        load_upto(gate + at, width - at, wide, g);
        UNROLL for (u32 j = 0; j < 8; j++) a[j] += g[j] * b[j];
        store_upto(x + at, width - at, wide, a);
    }
}

// out[g, i] = table[i] + module[g, i]. One launch for all blocks' rows when they lie side by side.
KERNEL(FLAT_THREADS)
ada_table(const float* __restrict__ table, const float* __restrict__ module, float* __restrict__ out, u32 size) {
    const u32 at = (blockIdx.x * FLAT_THREADS + threadIdx.x) * 8;
    const bool wide = size % 8 == 0;
    if (at >= size) return;
    float a[8], b[8];
    load_upto(table + at, size - at, wide, a);
    load_upto(module + (u64)blockIdx.y * size + at, size - at, wide, b);
    UNROLL for (u32 j = 0; j < 8; j++) a[j] += b[j];
    store_upto(out + (u64)blockIdx.y * size + at, size - at, wide, a);
}

// out[r] = [cos(t w_i).., sin(t w_i)..], i < 128, t = timesteps[r] * multiplier. Exponent, frequency
// and angle are rounded to float, as the reference does.
KERNEL(128)
timestep_embed(const float* __restrict__ timesteps, float multiplier, float* __restrict__ out) {
    const u32 i = threadIdx.x;
    const float exponent = -9.210340371976184f * i / 128.f;
    const float frequency = (float)exp((double)exponent);
    const float angle = timesteps[blockIdx.x] * multiplier * frequency;
    // In half turns, because the reduction of large angles would need memory of the thread's own.
    const double turns = (double)angle * 0.3183098861837906715;
    out[(u64)blockIdx.x * 256 + i] = (float)cospi(turns);
    out[(u64)blockIdx.x * 256 + 128 + i] = (float)sinpi(turns);
}

// o[n, h] *= 2 sigmoid(logits[n, h]). o: act [tokens, heads * head_width].
KERNEL(FLAT_THREADS)
head_gate(act* __restrict__ o, const act* __restrict__ logits, u32 heads, u32 head_width) {
    const u32 row = blockIdx.x, width = heads * head_width;
    const bool wide = head_width % 8 == 0;
    o += (u64)row * width, logits += (u64)row * heads;
    for (u32 at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        float v[8];
        load_upto(o + at, width - at, wide, v);
        if (wide) {
            const float gate = 2.f * sigmoid(to_float(logits[at / head_width]));
            UNROLL for (u32 j = 0; j < 8; j++) v[j] *= gate;
        } else {
            UNROLL for (u32 j = 0; j < 8; j++)
                if (at + j < width) v[j] *= 2.f * sigmoid(to_float(logits[(at + j) / head_width]));
        }
        store_upto(o + at, width - at, wide, v);
    }
}
