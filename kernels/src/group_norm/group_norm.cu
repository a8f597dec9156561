// y = silu?((x - mean) / sqrt(variance + eps) * weight + bias + residual), mean and variance of each group of
// channels over all positions of a batch entry. x, y, residual: act [batch, positions, channels]. Three launches:
// sums of a fixed number of slots, one factor and mean a group, then the values. No atomics; sums in double.
DEVICE double warp_total(double value) {
    UNROLL for (u32 step = 16; step > 0; step /= 2) value += shuffle_xor(value, step);
    return value;
}

// slots: double [batch, groups, gridDim.x, 2] of sums and sums of squares. Grid: slots, groups, batch.
KERNEL(256)
group_sums(const act* __restrict__ x, u64 positions, u32 channels, double* __restrict__ slots) {
    SHARED double partials[256 / WARP][2];
    const u32 width = channels / gridDim.y;
    x += (u64)blockIdx.z * positions * channels + blockIdx.y * width;
    double sums[2] = {0, 0};
    for (u64 e = (u64)blockIdx.x * 256 + threadIdx.x; e < positions * width; e += (u64)gridDim.x * 256) {
        const float value = to_float(x[e / width * channels + e % width]);
        sums[0] += value, sums[1] += (double)value * value;
    }
    UNROLL for (u32 i = 0; i < 2; i++) {
        sums[i] = warp_total(sums[i]);
        if (threadIdx.x % WARP == 0) partials[threadIdx.x / WARP][i] = sums[i];
    }
    block_sync();
    if (threadIdx.x < 2) {
        double total = 0;
        for (u32 warp = 0; warp < 256 / WARP; warp++) total += partials[warp][threadIdx.x];
        slots[(((u64)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * 2 + threadIdx.x] = total;
    }
}

// statistics: float [batch * groups, 2] of means and factors.
KERNEL(32)
group_statistics(const double* __restrict__ slots, float* __restrict__ statistics, u32 slot_count, u32 group_count, double values, float eps) {
    const u32 group = blockIdx.x * 32 + threadIdx.x;
    if (group >= group_count) return;
    double sum = 0, squares = 0;
    for (u32 slot = 0; slot < slot_count; slot++) {
        sum += slots[((u64)group * slot_count + slot) * 2];
        squares += slots[((u64)group * slot_count + slot) * 2 + 1];
    }
    const double mean = sum / values, variance = squares / values - mean * mean;
    statistics[group * 2] = (float)mean;
    statistics[group * 2 + 1] = 1.f / sqrtf((variance > 0 ? (float)variance : 0.f) + eps);
}

KERNEL(256)
group_apply(const act* __restrict__ x, act* __restrict__ y, const float* __restrict__ statistics, const float* __restrict__ weight,
            const float* __restrict__ bias, const act* __restrict__ residual, u64 entry, u32 channels, u32 groups, u32 with_silu, u64 count) {
    const u64 e = (u64)blockIdx.x * 256 + threadIdx.x;
    if (e >= count) return;
    const u32 channel = (u32)(e % channels);
    const u32 group = (u32)(e / entry) * groups + channel / (channels / groups);
    float value = (to_float(x[e]) - statistics[group * 2]) * statistics[group * 2 + 1] * weight[channel] + bias[channel];
    if (residual) value += to_float(residual[e]);
    put(y + e, with_silu ? silu(value) : value);
}
