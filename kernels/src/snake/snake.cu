// Activations and filters of the vocoder on float sequences [batch, length, channel]. No fast maths:
// the argument of the sine is large.
// sin^2(x) for |x| below 2^20: multiples of pi are taken away in three exact steps, then a series to the
// power 11. `sinf` would keep a table in memory of the thread's own for larger arguments.
DEVICE float sine_squared(float x) {
    const float k = rintf(x * 0.318309886f);
    float r = fmaf(k, -3.140625f, x);
    r = fmaf(k, -9.67502593994140625e-4f, r);
    r = fmaf(k, -1.509957990978376e-7f, r);
    const float q = r * r;
    float p = fmaf(q, -2.50521084e-8f, 2.75573192e-6f);
    p = fmaf(p, q, -1.98412698e-4f);
    p = fmaf(p, q, 8.33333333e-3f);
    p = fmaf(p, q, -1.66666667e-1f);
    const float sine = fmaf(r * q, p, r);
    return sine * sine;
}

// y = x + gain * sin^2(x * frequency), in place.
KERNEL(256)
snake(float* __restrict__ x, const float* __restrict__ frequency, const float* __restrict__ gain, u32 channels, u64 count) {
    const u64 e = (u64)blockIdx.x * 256 + threadIdx.x;
    if (e >= count) return;
    const u32 c = (u32)(e % channels);
    x[e] += gain[c] * sine_squared(x[e] * frequency[c]);
}

DEVICE u64 nearest(i64 sample, u32 length) { return sample < 0 ? 0 : sample >= length ? length - 1 : (u64)sample; }

// y[n] = ratio * sum over j of x[(n + left - j) / ratio] taps[j], j where it divides; ends repeat.
KERNEL(256)
upsample1d(const float* __restrict__ x, float* __restrict__ out, const float* __restrict__ taps, u32 tap_count, u32 ratio, u32 left, u32 length,
           u32 channels, u64 count) {
    const u64 e = (u64)blockIdx.x * 256 + threadIdx.x;
    if (e >= count) return;
    const u32 c = (u32)(e % channels), out_length = length * ratio;
    const u64 sample = e / channels, batch = sample / out_length;
    const u32 at = (u32)(sample % out_length) + left;
    float sum = 0.f;
    for (u32 j = at % ratio; j < tap_count; j += ratio) {
        const i64 source = ((i64)at - j) / (i64)ratio;
        sum += x[(batch * length + nearest(source, length)) * channels + c] * (taps[j] * ratio);
    }
    out[e] = sum;
}

// y[m] = sum over j of x[m * ratio + j - left] taps[j]; ends repeat.
KERNEL(256)
downsample1d(const float* __restrict__ x, float* __restrict__ out, const float* __restrict__ taps, u32 tap_count, u32 ratio, u32 left, u32 length,
             u32 channels, u64 count) {
    const u64 e = (u64)blockIdx.x * 256 + threadIdx.x;
    if (e >= count) return;
    const u32 c = (u32)(e % channels), out_length = length / ratio;
    const u64 sample = e / channels, batch = sample / out_length;
    const i64 first = (i64)(sample % out_length) * ratio - left;
    float sum = 0.f;
    for (u32 j = 0; j < tap_count; j++) sum += x[(batch * length + nearest(first + j, length)) * channels + c] * taps[j];
    out[e] = sum;
}
