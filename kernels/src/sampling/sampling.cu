// The sampler's arithmetic on float latents. Two launches a step: `guidance_sums` leaves partial sums
// in a fixed number of slots, `guidance_step` adds them in one order and applies. No atomics, no
// fast maths. 14 bytes an element with two passes, 18 with four.
constexpr u32 SAMPLING_THREADS = 256;

// Velocities of the passes; one that is off has weight 0 and may be null.
struct Passes {
    const act* conditional;
    const act* negative;
    const act* perturbed;
    const act* isolated;
    const float* sigmas;  // [2]: this step's level and the next, read anew when a recorded step runs again
    float negative_weight, perturbed_weight, isolated_weight, padding;
};

// The conditional and the guided x0 of element e.
DEVICE void clean(const Passes& p, float x, u64 e, float& base, float& guided) {
    const float sigma = p.sigmas[0];
    base = x - sigma * to_float(p.conditional[e]);
    guided = base;
    if (p.negative) guided += p.negative_weight * (base - (x - sigma * to_float(p.negative[e])));
    if (p.perturbed) guided += p.perturbed_weight * (base - (x - sigma * to_float(p.perturbed[e])));
    if (p.isolated) guided += p.isolated_weight * (base - (x - sigma * to_float(p.isolated[e])));
}

DEVICE double warp_sum_double(double value) {
    UNROLL for (u32 step = 16; step > 0; step /= 2) value += shuffle_xor(value, step);
    return value;
}

// slots: double [gridDim.x, 4] of sums of base, base^2, guided, guided^2.
KERNEL(SAMPLING_THREADS)
guidance_sums(const float* __restrict__ x, Passes passes, u64 count, double* __restrict__ slots) {
    SHARED double partials[SAMPLING_THREADS / WARP][4];
    double sums[4] = {0, 0, 0, 0};
    for (u64 e = (u64)blockIdx.x * SAMPLING_THREADS + threadIdx.x; e < count; e += (u64)gridDim.x * SAMPLING_THREADS) {
        float base, guided;
        clean(passes, x[e], e, base, guided);
        sums[0] += base, sums[1] += (double)base * base, sums[2] += guided, sums[3] += (double)guided * guided;
    }
    UNROLL for (u32 i = 0; i < 4; i++) {
        sums[i] = warp_sum_double(sums[i]);
        if (threadIdx.x % WARP == 0) partials[threadIdx.x / WARP][i] = sums[i];
    }
    block_sync();
    if (threadIdx.x < 4) {
        double total = 0;
        for (u32 warp = 0; warp < SAMPLING_THREADS / WARP; warp++) total += partials[warp][threadIdx.x];
        slots[(u64)blockIdx.x * 4 + threadIdx.x] = total;
    }
}

// x += (sigma_next - sigma) (x - x0) / sigma; `model_input` (null or act) gets the new x as well.
KERNEL(SAMPLING_THREADS)
guidance_step(float* __restrict__ x, act* __restrict__ model_input, Passes passes, float rescale, const double* __restrict__ slots,
              u32 slot_count, const float* __restrict__ strength, const float* __restrict__ held, u32 channels, u64 count) {
    SHARED float factor;
    if (threadIdx.x == 0) {
        factor = 1.f;
        if (rescale != 0.f) {
            double sums[4] = {0, 0, 0, 0};
            for (u32 slot = 0; slot < slot_count; slot++)
                for (u32 i = 0; i < 4; i++) sums[i] += slots[slot * 4 + i];
            const double base = sums[1] / count - (sums[0] / count) * (sums[0] / count);
            const double guided = sums[3] / count - (sums[2] / count) * (sums[2] / count);
            const float ratio = guided > 0 ? (float)sqrt((base > 0 ? base : 0) / guided) : 1.f;
            factor = rescale * ratio + (1.f - rescale);
        }
    }
    block_sync();
    const float slope = (passes.sigmas[1] - passes.sigmas[0]) / passes.sigmas[0];
    for (u64 e = (u64)blockIdx.x * SAMPLING_THREADS + threadIdx.x; e < count; e += (u64)gridDim.x * SAMPLING_THREADS) {
        float base, x0;
        clean(passes, x[e], e, base, x0);
        x0 *= factor;
        if (strength) {
            const float m = strength[e / channels];
            x0 = x0 * (1.f - m) + held[e] * m;
        }
        const float next = x[e] + slope * (x[e] - x0);
        x[e] = next;
        if (model_input) put(model_input + e, next);
    }
}

// x = a x + b y.
KERNEL(SAMPLING_THREADS)
axpby(float a, float* __restrict__ x, float b, const float* __restrict__ y, u64 count) {
    const u64 at = ((u64)blockIdx.x * SAMPLING_THREADS + threadIdx.x) * 8;
    if (at >= count) return;
    const u32 left = count - at < 8 ? (u32)(count - at) : 8;
    float u[8], v[8];
    load_upto(x + at, left, true, u);
    load_upto(y + at, left, true, v);
    UNROLL for (u32 j = 0; j < 8; j++) u[j] = a * u[j] + b * v[j];
    store_upto(x + at, left, true, u);
}

// slots[block] = how many of its elements are NaN or infinite.
KERNEL(SAMPLING_THREADS)
count_nonfinite(const act* __restrict__ x, u64 count, u32* __restrict__ slots) {
    SHARED float partials[32];
    float found = 0.f;  // at most 2^24 a block, so exact
    for (u64 e = (u64)blockIdx.x * SAMPLING_THREADS + threadIdx.x; e < count; e += (u64)gridDim.x * SAMPLING_THREADS)
        found += (float_to_bits(to_float(x[e])) & 0x7f800000u) == 0x7f800000u ? 1.f : 0.f;
    const float total = block_sum(found, partials);
    if (threadIdx.x == 0) slots[blockIdx.x] = (u32)total;
}
